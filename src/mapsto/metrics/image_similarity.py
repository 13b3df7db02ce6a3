"""Similarity of two images: the peak signal-to-noise ratio (PSNR) and the structural similarity (SSIM).

SSIM takes its window means from cumulative sums, so that its cost does not depend on the size of the windows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# (h, w, 3) of bytes.
Pixels = NDArray[np.uint8]

# The largest pixel value.
MAX_VALUE = 255.0

# The mean squared error of rounding to bytes, which bounds the PSNR of equal images.
MIN_ERROR = 1 / 12

# Pixels to a side of SSIM's windows.
WINDOW = 7

# The constants C1 and C2 that keep the quotients of flat windows finite (Wang et al. 2004).
STABILISERS = (0.01 * MAX_VALUE) ** 2, (0.03 * MAX_VALUE) ** 2


def psnr(predicted: Pixels, truth: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two images (h, w, 3) in dB; 58.9 for equal images.

    It is 10 log₁₀(255² / mean squared error), over all pixels and channels. An error below 1/12, that of rounding to bytes,
    counts as 1/12.
    """
    error = float(((predicted.astype(np.float64) - truth) ** 2).mean())
    return float(10 * np.log10(MAX_VALUE**2 / max(error, MIN_ERROR)))


def ssim(predicted: Pixels, truth: Pixels) -> float:
    """Return the structural similarity (Wang et al. 2004) of two images (h, w, 3); 1 for equal images.

    It is the mean over channels and over all windows of 7 × 7 pixels with uniform weights. In an image with a side below 7
    pixels, windows have the length of that side.
    """
    x, y = predicted.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _window_means(x), _window_means(y)
    # Only the sum of both variances is needed.
    variances = _window_means(x * x) - mean_x**2 + _window_means(y * y) - mean_y**2
    covariance = _window_means(x * y) - mean_x * mean_y
    c1, c2 = STABILISERS
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((numerator / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())


def _window_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means over all windows of 7 × 7 pixels, by channel, (h, w, 3) → (h − 6, w − 6, 3).

    Along a side below 7, the window has the length of that side.
    """
    for axis in (0, 1):
        size = min(WINDOW, values.shape[axis])
        sums = np.cumsum(values, axis=axis)
        sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)
        n = sums.shape[axis]
        values = (sums.take(range(size, n), axis) - sums.take(range(n - size), axis)) / size
    return values
