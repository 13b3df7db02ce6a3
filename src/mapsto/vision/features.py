"""Classical image features, which need no training: edges and colours of parts of an image, and a hash for near-duplicates.

The edges are histograms of oriented gradients (HOG, Dalal & Triggs 2005). With the colours they are the features of linear
models, and take one to two milliseconds per image. The hash is the set of the strongest low frequencies of a small grey copy.
Changes of size, brightness or compression change few of them.
Legend of shapes: n images, s pixels of a side, k cells of a side, c cells of an image, f features of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import GREY_WEIGHTS, Pixels, load_pillow

# Pixels to a side of the square copy of an image that is described, and to a side of its cells.
DESCRIBED_SIDE, CELL_SIDE = 48, 8
CELLS_PER_SIDE = DESCRIBED_SIDE // CELL_SIDE
NUM_CELLS = CELLS_PER_SIDE**2

# The directions of edges that are told apart, and the cells to a side of a block, whose histograms are scaled together.
NUM_DIRECTIONS, CELLS_PER_BLOCK = 9, 2
# A cell has a histogram for each of its places in a block, and the mean and the deviation of three colours.
CELL_FEATURES = CELLS_PER_BLOCK**2 * NUM_DIRECTIONS + 6

# The largest value of a block of unit norm (L2-Hys), so that no single strong edge outweighs the others.
MAX_BLOCK_VALUE = 0.2
# Added to the norms of blocks, so that noise in flat areas is not scaled up. The pixels are from 0 to 1.
MIN_NORM = 0.01

# The norm of an image's colour features where that of its edge features is 1 (benchmarks/picture_features.py).
COLOUR_NORM = 0.7

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


def cell_features(images: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return the edge and colour features (n, c, f) of the 6 × 6 cells of n images, the cells row by row.

    They are computed from a copy of 48 × 48 pixels. All features of an image together have unit norm, unless it is of one colour.
    """
    return np.stack([_describe_cells(pixels) for pixels in images])


def joined_features(images: Sequence[Pixels], images_per_value: int = 1) -> NDArray[np.float32]:
    """Return the features of all cells of an image in one row of unit norm, (n, c·f).

    images_per_value: number of consecutive images whose features are joined to one row, such as 3 images of a video.
    """
    features = cell_features(images).reshape(len(images) // images_per_value, -1)
    return features / np.float32(images_per_value**0.5)


def _describe_cells(pixels: Pixels) -> NDArray[np.float32]:
    """Return the features (c, f) of the cells of an image (h, w, 3): first those of edges, then those of colours."""
    pillow = load_pillow()
    size = (DESCRIBED_SIDE, DESCRIBED_SIDE)
    resized = pillow.Image.fromarray(pixels).resize(size, pillow.Image.Resampling.BICUBIC)
    copy: NDArray[np.float32] = np.divide(resized, 255, dtype=np.float32)
    grey: NDArray[np.float32] = copy @ GREY_WEIGHTS
    edges, colours = _scale_to_unit(_gradient_histograms(grey)), _scale_to_unit(_cell_colours(copy))
    return _scale_to_unit(np.concatenate([edges, np.float32(COLOUR_NORM) * colours], axis=1))


def _scale_to_unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an array divided by its norm; unchanged if it is 0."""
    return values / np.float32(np.linalg.norm(values) or 1)


def _cell_colours(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return mean and standard deviation of each colour in each cell of an image (s, s, 3), as an array (c, 6).

    Pixels are from 0 to 1, and means are relative to mid-grey.
    """
    cells = pixels.reshape(CELLS_PER_SIDE, CELL_SIDE, CELLS_PER_SIDE, CELL_SIDE, 3)
    return np.concatenate([cells.mean((1, 3)) - 0.5, cells.std((1, 3))], axis=-1).reshape(NUM_CELLS, 6)


def _gradient_histograms(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the histograms of oriented gradients of a grey image (s, s) with values from 0 to 1, as an array (c, 4·9).

    A cell has a histogram of 9 directions. It is scaled to unit norm together with those of the other cells of a block of 2 × 2,
    and so stands there once for each of the cell's four places in a block; with zeros where a block would leave the image.
    """
    blocks = _normalise_blocks(_count_directions(grey))
    features = np.zeros((CELLS_PER_SIDE, CELLS_PER_SIDE, CELLS_PER_BLOCK**2, NUM_DIRECTIONS), np.float32)
    num_blocks = len(blocks)
    for place, (y, x) in enumerate(np.ndindex(CELLS_PER_BLOCK, CELLS_PER_BLOCK)):
        features[y : y + num_blocks, x : x + num_blocks, place] = blocks[:, :, place]
    return features.reshape(NUM_CELLS, -1)


def _count_directions(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the histogram of edge directions of each cell of a grey image (s, s), as an array (k, k, 9).

    Each pixel votes with the magnitude of its gradient, for the two nearest directions and for the four nearest cells, in each
    case the more the nearer (linear interpolation).
    """
    padded = np.pad(grey, 1, mode="edge")
    y, x = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    # Modulo π, because an edge from dark to bright counts as one from bright to dark. Direction i has its centre at i.
    angles = (np.arctan2(y, x) % np.pi) / np.pi * NUM_DIRECTIONS - 0.5
    distances = np.abs(angles[..., None] - np.arange(NUM_DIRECTIONS, dtype=np.float32))
    nearness = np.maximum(0, 1 - np.minimum(distances, NUM_DIRECTIONS - distances))
    votes = (np.hypot(y, x)[..., None] * nearness).astype(np.float32)
    weights = _cell_weights()
    histograms: NDArray[np.float32] = weights @ np.tensordot(weights, votes, 1)
    return histograms


@cache
def _cell_weights() -> NDArray[np.float32]:
    """Return the weight of each pixel of a row for each cell along it, (k, s): 1 at the cell's centre, 0 at the next one's."""
    centres = (np.arange(DESCRIBED_SIDE) + 0.5) / CELL_SIDE - 0.5
    distances = np.abs(centres - np.arange(CELLS_PER_SIDE)[:, None])
    weights: NDArray[np.float32] = np.maximum(0, 1 - distances).astype(np.float32)
    return weights


def _normalise_blocks(histograms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the histograms of all blocks of 2 × 2 cells, (k − 1, k − 1, 4, 9), scaled to unit norm with large values clipped.

    histograms: (k, k, 9), of the cells. The scaling is Dalal & Triggs' L2-Hys.
    """
    num_blocks = CELLS_PER_SIDE - CELLS_PER_BLOCK + 1
    places = np.ndindex(CELLS_PER_BLOCK, CELLS_PER_BLOCK)
    blocks = np.stack([histograms[y : y + num_blocks, x : x + num_blocks] for y, x in places], axis=2)
    clipped = np.minimum(_scale_blocks(blocks), MAX_BLOCK_VALUE)
    return _scale_blocks(clipped)


def _scale_blocks(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return blocks (k − 1, k − 1, 4, 9), each divided by its norm and a little more."""
    norms: NDArray[np.float32] = np.sqrt((blocks**2).sum((2, 3), keepdims=True) + np.float32(MIN_NORM**2))
    return blocks / norms
