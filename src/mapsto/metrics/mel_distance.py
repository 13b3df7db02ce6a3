"""Distances of two sounds by their log-mel frames: in decibels by band, and mel cepstral distortion (MCD, Kubichek 1993).

Frames stand beside each other by time: nothing is warped, so the two sounds are of equal length and in step.
Legend of shapes: m frames, b bands, c cepstral coefficients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Log-mel frames: (log10(energy) + 4) / 4, so that one is 40 dB.
Frames = NDArray[np.float32]
DECIBELS = 40.0

# Coefficients that count, from 1 on: the envelope of a spectrum without its loudness (0) and its fine structure.
NUM_COEFFICIENTS = 24


def log_mel_distance(answer: Frames, truth: Frames) -> float:
    """Return the mean absolute difference in dB over all bands and frames. answer, truth: (m, b)."""
    return DECIBELS * float(np.abs(answer.astype(np.float64) - truth).mean())


def mel_cepstral_distortion(answer: Frames, truth: Frames) -> float:
    """Return the mean over frames of (10 / ln 10) · √(2 Σ (c − c′)²), in dB; c are the cepstral coefficients 1 to 24.

    They are those of the cosine series of the logarithm of amplitudes over bands, so that a frame's distortion is the root mean
    square difference of two smooth spectra. Other tools use other bands, so their numbers cannot be compared with these.
    answer, truth: (m, b).
    """
    difference = (answer.astype(np.float64) - truth) @ _cosines(answer.shape[1])
    # From decibels of energy to the logarithm of amplitudes and back, the factors cancel but for √(1 / 2).
    return DECIBELS * float(np.sqrt((difference**2).sum(1) / 2).mean())


def _cosines(num_bands: int) -> NDArray[np.float64]:
    """Return the matrix (b, c) from the values of bands to the coefficients of their cosine series."""
    orders = np.arange(1, min(NUM_COEFFICIENTS, num_bands - 1) + 1)
    waves: NDArray[np.float64] = np.cos(np.pi * (np.arange(num_bands)[:, None] + 0.5) * orders / num_bands)
    return waves * (2 / num_bands)
