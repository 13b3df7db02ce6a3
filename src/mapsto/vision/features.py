"""Classical image features, which need no training: histograms of colours and edges, and a hash for near-duplicates.

The histograms are the features of a simple baseline in comparisons, and take about a millisecond per image. The hash is the
set of the strongest low frequencies of a small grey copy. Changes of size, brightness or compression change few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import GREY_WEIGHTS, Pixels, load_pillow

# The bins of histograms: shades of each colour channel, directions of edges, and parts along each side of an image.
NUM_SHADES, NUM_DIRECTIONS, PARTS_PER_SIDE = 4, 8, 4

# Decimals to which pixel coordinates are rounded, so that a rounding error does not move them across a pixel's edge.
COORDINATE_DECIMALS = 6

# The side of the grey copy in pixels, and the number of low frequencies along each axis that are ranked.
THUMBNAIL_SIDE, WAVES_PER_AXIS = 16, 8

# The number of strongest frequencies that describe an image.
NUM_WAVES = 32

# The least coefficient that counts: that of a cosine with an amplitude of one grey value.
MIN_AMPLITUDE = 8.0


def perturb_image(pixels: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """Return variants of an image (h, w, 3) as if another camera had taken it, by name, to test a model's robustness.

    They are "noise" (normal, with a standard deviation of 16), "blurred" (mean of 3 × 3 pixels) and "darker" (half as
    bright).
    """
    noise = rng.normal(0, 16, pixels.shape)
    padded = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = pixels.shape[:2]
    blurred = sum(padded[y : y + h, x : x + w] for y in range(3) for x in range(3)) / 9
    variants = {"noise": pixels + noise, "blurred": blurred, "darker": pixels * 0.5}
    return {name: np.clip(np.asarray(values), 0, 255).astype(np.uint8) for name, values in variants.items()}


def grey_thumbnail(pixels: Pixels) -> bytes:
    """Return a 16 × 16 grey copy of an image as 256 bytes, row by row, from which `strongest_waves` finds near-duplicates."""
    pillow = load_pillow()
    grey = pillow.Image.fromarray(pixels).convert("L")
    thumbnail: bytes = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), pillow.Image.Resampling.BILINEAR).tobytes()
    return thumbnail


def strongest_waves(thumbnail: bytes) -> NDArray[np.int64]:
    """Return the strongest low frequencies of a grey thumbnail as at most 32 integers, a hash for near-duplicates.

    Frequency i = 8 · row + column of the cosine transform's 8 × 8 lowest gives 2·i + 1 if its amplitude is positive, else 2·i.
    They are ranked by amplitude times a weight that rises with the frequency (as with the wavelets of Jacobs et al. 1995). The
    constant, frequency 0, and amplitudes below one grey value do not count.
    thumbnail: 256 bytes from `grey_thumbnail`.
    """
    grey = np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    # The two-dimensional cosine transform, of which only low frequencies are computed.
    amplitudes = (_cosines() @ grey @ _cosines().T).ravel()
    amplitudes[0] = 0  # the brightness
    frequencies = np.arange(WAVES_PER_AXIS)
    weights = (1 + frequencies[:, None] + frequencies).ravel()
    ranked = np.argsort(-np.abs(amplitudes) * weights, kind="stable")[:NUM_WAVES]
    strong = ranked[np.abs(amplitudes[ranked]) > MIN_AMPLITUDE]
    return 2 * strong + (amplitudes[strong] > 0)


@cache
def _cosines() -> NDArray[np.float64]:
    """Return the cosines of the 8 lowest frequencies at 16 equally spaced points (DCT-II), (8, 16), each row of unit norm."""
    frequencies = np.arange(WAVES_PER_AXIS)[:, None]
    scale = (2 / THUMBNAIL_SIDE) ** 0.5
    basis: NDArray[np.float64] = (
        np.cos(np.pi * (np.arange(THUMBNAIL_SIDE) + 0.5) * frequencies / THUMBNAIL_SIDE) * scale
    )
    basis[0] /= 2**0.5  # the constant cosine would have the norm √2
    return basis


def histogram_features(images: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return features (n, f) of n images: histograms of colours and of edge directions in each of 4 × 4 parts of an image.

    Colours are counted in 4 × 4 × 4 shades, edges in 8 directions and weighted by strength (Dalal & Triggs 2005). The colour
    features of an image together have unit norm, and so have its edge features.
    """
    return np.stack([np.concatenate([_colours(pixels), _edges(pixels)]) for pixels in images])


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut an array (h, w, …) into a grid of 4 × 4 parts of about equal size, and return these 16 parts row by row."""
    rows = np.array_split(values, PARTS_PER_SIDE, 0)
    return [part for row in rows for part in np.array_split(row, PARTS_PER_SIDE, 1)]


def _colours(pixels: Pixels) -> NDArray[np.float32]:
    """Return the colour histograms of the 4 × 4 parts of an image as one vector of unit norm."""
    # One number for each combination of the three shades.
    colours = (pixels // (256 // NUM_SHADES)).astype(np.int64) @ np.array([NUM_SHADES**2, NUM_SHADES, 1])
    return _normalise([np.bincount(part.ravel(), minlength=NUM_SHADES**3) for part in _parts(colours)])


def _edges(pixels: Pixels) -> NDArray[np.float32]:
    """Return the histograms of edge directions in the 4 × 4 parts of an image as one vector of unit norm.

    Each pixel counts in the bin of its grey gradient's direction (8 bins, modulo π), weighted by the gradient's magnitude.
    """
    grey = pixels.astype(np.float32) @ GREY_WEIGHTS
    y, x = (np.gradient(grey, axis=axis) if grey.shape[axis] > 1 else np.zeros_like(grey) for axis in (0, 1))
    strength = np.hypot(y, x)
    # Modulo π, because an edge from dark to bright counts as one from bright to dark.
    directions = ((np.arctan2(y, x) % np.pi) / np.pi * NUM_DIRECTIONS).astype(np.int64) % NUM_DIRECTIONS
    parts = zip(_parts(directions), _parts(strength), strict=True)
    return _normalise([np.bincount(bins.ravel(), weights.ravel(), NUM_DIRECTIONS) for bins, weights in parts])


def _normalise(histograms: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Concatenate histograms, take the square root of each count, and scale the vector to unit norm."""
    # Square roots keep large counts, such as a plain background's, from dominating.
    values = np.sqrt(np.concatenate(histograms).astype(np.float32))
    return (values / (np.linalg.norm(values) or 1.0)).astype(np.float32)


def histogram_extractor() -> Callable[..., Any]:
    """Return a function (images, images_per_value=1) → sparse matrix (n, f) of histogram features with rows of unit norm.

    images_per_value: number of consecutive images whose features are concatenated to one row, such as 3 images of a video.
    """
    from scipy.sparse import csr_matrix  # a second to import

    def extract(images: Sequence[Pixels], images_per_value: int = 1) -> Any:
        # An image's colours and edges have unit norm each, so that a row of i images has the norm √(2i).
        features = histogram_features(images)
        return csr_matrix(features.reshape(len(features) // images_per_value, -1) / (2 * images_per_value) ** 0.5)

    return extract
