"""Log filter-bank energies as Kaldi computes them (Povey et al. 2011), 100 frames a second, as AST reads them.

Each frame of 25 ms is computed alone: its mean is taken off, high frequencies are emphasised, a Hann window is applied, and bands
are triangles that are evenly spaced from 20 Hz to 8 kHz on the mel scale. A frame lies within the sound, so there are two fewer
than hundredths of a second. It takes about 0.3 % of the duration of the sound on one core.
Legend of shapes: n samples, m frames, b bands.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.log_mel import HOP, RATE, WINDOW, Frames

# Samples of the Fourier transform, the lowest frequency of a band in Hz, and the coefficient of the emphasis.
TRANSFORM, LOWEST, EMPHASIS = 512, 20.0, 0.97

# The smallest energy: the distance from 1 to the next number in fp32.
SMALLEST = 1.192092955078125e-07

# Frames that are computed at once, so that long recordings take little memory.
BLOCK = 4096


def to_mels(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the places of frequencies in Hz on Kaldi's mel scale."""
    return 1127.0 * np.log(1.0 + hertz / 700.0)


@cache
def mel_triangles(num_bands: int) -> NDArray[np.float64]:
    """Return the weight of each frequency of a window in each band, (TRANSFORM / 2 + 1, b), triangles on the mel scale."""
    low, high = to_mels(np.array([LOWEST, RATE / 2], np.float64))
    edges = np.linspace(low, high, num_bands + 2)
    places = to_mels(RATE / TRANSFORM * np.arange(TRANSFORM // 2 + 1, dtype=np.float64))
    widths, slopes = np.diff(edges), edges - places[:, None]
    triangles: NDArray[np.float64] = np.maximum(
        0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:])
    )
    return triangles


def log_fbank(samples: Samples, num_bands: int) -> Frames:
    """Return the log energies (m, b) of samples (n,) at RATE, with zeros behind them if they are shorter than a frame."""
    padded = np.pad(samples, (0, max(0, WINDOW - len(samples)))).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    blocks = [_log_energies(windows[first : first + BLOCK], num_bands) for first in range(0, len(windows), BLOCK)]
    return np.concatenate(blocks)


def _log_energies(windows: NDArray[np.float64], num_bands: int) -> Frames:
    """Return the log energies (m, b) of windows of samples (m, WINDOW)."""
    centred = windows - windows.mean(1, keepdims=True)
    emphasised = centred.copy()
    emphasised[:, 1:] -= EMPHASIS * centred[:, :-1]
    emphasised[:, 0] *= 1 - EMPHASIS
    # In 32 bits, as the reference stores its spectrum.
    spectrum = np.fft.rfft(emphasised * np.hanning(WINDOW), TRANSFORM).astype(np.complex64)
    energies = np.abs(spectrum, dtype=np.float64) ** 2 @ mel_triangles(num_bands)
    return np.log(np.maximum(SMALLEST, energies)).astype(np.float32)
