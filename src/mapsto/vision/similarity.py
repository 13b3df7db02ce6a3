"""How like two pictures are: the peak signal-to-noise ratio and the structural similarity."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import Pixels

RANGE = 255.0


LEAST_ERROR = 1 / 12  # the mean squared one of rounding to bytes: pictures that are equal are no likelier than that


WINDOW = 7


STEADY = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2  # keep the quotients of flat windows finite (Wang et al. 2004)


def psnr(said: Pixels, truth: Pixels) -> float:
    """The peak signal-to-noise ratio of two pictures (h, w, 3) in dB, 10 log₁₀(255² / mean squared error) over all pixels and
    channels; 58.9 for equal ones."""
    error = float(((said.astype(np.float64) - truth) ** 2).mean())
    return float(10 * np.log10(RANGE**2 / max(error, LEAST_ERROR)))


def ssim(said: Pixels, truth: Pixels) -> float:
    """The structural similarity (Wang et al. 2004) of two pictures (h, w, 3), 1 for equal ones: the mean over channels and over
    all windows of 7 × 7 pixels, smaller ones where a picture is, with every pixel of a window weighing the same."""
    x, y = said.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _windows(x), _windows(y)
    spread = _windows(x * x) - mean_x**2 + _windows(y * y) - mean_y**2
    shared = _windows(x * y) - mean_x * mean_y
    light, contrast = STEADY
    like = (2 * mean_x * mean_y + light) * (2 * shared + contrast)
    return float((like / ((mean_x**2 + mean_y**2 + light) * (spread + contrast))).mean())


def _windows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The means of all windows of values (h, w, 3)."""
    for axis in (0, 1):
        size = min(WINDOW, values.shape[axis])
        sums = np.cumsum(values, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        n = sums.shape[axis]
        values = (sums.take(range(size, n), axis) - sums.take(range(n - size), axis)) / size
    return values
