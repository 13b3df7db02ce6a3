"""Log-mel frames: the energy of a sound in bands of frequency, 100 times a second, as Whisper reads it (Radford et al. 2022).

Bands are evenly spaced on Slaney's mel scale (Auditory Toolbox, 1998) from 0 to 8 kHz. The frames of a sound do not depend on
silence behind it, but where it is so quiet that the floor, 80 dB below its loudest band, lies below the smallest energy.
It takes about 0.1 % of the duration of the sound on one core.
Legend of shapes: n samples, m frames, b bands.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.float32]

# Samples a second, of a window, and from one frame to the next; and the number of bands.
RATE, WINDOW, HOP, NUM_BANDS = 16_000, 400, 160, 80

FRAMES_PER_SECOND = RATE // HOP

# The smallest energy; how far below the loudest band the floor lies, as a power of ten; and the scale of the result: (x + 4) / 4.
SMALLEST, FLOOR, OFFSET = 1e-10, 8.0, 4.0

# The value of silence in a sound whose loudest band has an energy of at most 10^-2.
SILENCE = (np.log10(SMALLEST) + OFFSET) / OFFSET

# The loudness of frames, their loudest band, below which a sound is silent: that of a sine 72 dB below full scale.
SILENT = -0.25

# Slaney's scale: linear below this frequency in Hz, with this many mels for 1 Hz; above it 27 mels for each factor of 6.4.
LINEAR_BELOW, MELS_PER_HZ, MELS_PER_FACTOR, FACTOR = 1000.0, 3 / 200, 27.0, 6.4


def to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies in Hz of places on Slaney's mel scale."""
    edge = LINEAR_BELOW * MELS_PER_HZ
    return np.where(mels < edge, mels / MELS_PER_HZ, LINEAR_BELOW * FACTOR ** ((mels - edge) / MELS_PER_FACTOR))


def to_mels(hertz: float) -> float:
    """Return the place of a frequency in Hz on Slaney's mel scale."""
    if hertz < LINEAR_BELOW:
        return hertz * MELS_PER_HZ
    return LINEAR_BELOW * MELS_PER_HZ + MELS_PER_FACTOR * float(np.log(hertz / LINEAR_BELOW) / np.log(FACTOR))


def band_edges(num_bands: int = NUM_BANDS) -> NDArray[np.float64]:
    """Return the frequencies in Hz between which bands lie, (b + 2,): band i rises from edge i to i + 1, and falls to i + 2."""
    return to_hertz(np.linspace(0.0, to_mels(RATE / 2), num_bands + 2))


@cache
def band_filters(num_bands: int) -> Tensor:
    """Return the weight of each frequency of a window in each band, (b, WINDOW / 2 + 1): triangles of equal area."""
    edges, frequencies = band_edges(num_bands), np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[:, None] - frequencies
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


def log_mel(samples: NDArray[np.float32], num_frames: int, num_bands: int = NUM_BANDS) -> Frames:
    """Return the log-mel frames (num_frames, b) of samples (n,) at RATE, with silence behind the samples where they end.

    num_frames: number of frames; those that begin behind the last sample are silent.
    """
    # Behind the last frame as much silence as a window reaches, so that nothing is mirrored at the end.
    padded = np.zeros(num_frames * HOP + WINDOW, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    spectrum = torch.stft(torch.from_numpy(padded), WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    energy = band_filters(num_bands) @ spectrum[:, :num_frames].abs() ** 2
    log_energy = energy.clamp(min=SMALLEST).log10()
    scaled = (torch.maximum(log_energy, log_energy.max() - FLOOR) + OFFSET) / OFFSET
    return scaled.T.contiguous().numpy()


def silence_beside(frames: Frames) -> float:
    """Return the value of silence in a sound with these frames, whose loudest band sets the floor."""
    return max(float(frames.max()) - FLOOR / OFFSET, float(SILENCE))
