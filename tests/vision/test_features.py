"""Edges and colours of the cells of a picture."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra [image] is not here")

from mapsto.vision.features import (
    CELL_FEATURES,
    CELLS_PER_BLOCK,
    CELLS_PER_SIDE,
    NUM_DIRECTIONS,
    cell_features,
    joined_features,
)
from mapsto.vision.pixels import Pixels

NUM_EDGES = CELLS_PER_BLOCK**2 * NUM_DIRECTIONS


def random_picture(seed: int = 0, size: tuple[int, int] = (48, 48)) -> Pixels:
    return np.random.default_rng(seed).integers(60, 190, (*size, 3)).astype(np.uint8)


def edges(pixels: Pixels) -> np.ndarray:
    """Return the edge features of a picture by row, column, place in the block (two axes) and direction."""
    shape = (CELLS_PER_SIDE, CELLS_PER_SIDE, CELLS_PER_BLOCK, CELLS_PER_BLOCK, NUM_DIRECTIONS)
    found: np.ndarray = cell_features([pixels])[0, :, :NUM_EDGES].reshape(shape)
    return found


def reference_histograms(pixels: Pixels) -> np.ndarray:
    """Return the histograms (6, 6, 9) of edge directions, vote by vote: the definition of Dalal & Triggs."""
    grey = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    found = np.zeros((8, 8, NUM_DIRECTIONS))  # with a border that takes the votes for cells outside
    for y, x in np.ndindex(48, 48):
        dy = grey[min(y + 1, 47), x] - grey[max(y - 1, 0), x]
        dx = grey[y, min(x + 1, 47)] - grey[y, max(x - 1, 0)]
        places = [(np.arctan2(dy, dx) % np.pi) * 9 / np.pi - 0.5, (y + 0.5) / 8 - 0.5, (x + 0.5) / 8 - 0.5]
        lows = [int(np.floor(place)) for place in places]
        for corner in np.ndindex(2, 2, 2):
            share = np.prod([abs(1 - up - (place - low)) for up, place, low in zip(corner, places, lows, strict=True)])
            direction, row, column = (low + up for low, up in zip(lows, corner, strict=True))
            found[row + 1, column + 1, direction % 9] += share * np.hypot(dy, dx)
    return found[1:7, 1:7]


def test_edges_are_histograms_of_oriented_gradients() -> None:
    pixels = random_picture()
    histograms, found = reference_histograms(pixels), edges(pixels)
    block = histograms[2:4, 3:5]
    clipped = np.minimum(block / np.linalg.norm(block), 0.2)
    expected = clipped / np.linalg.norm(clipped)
    # The cells of the block whose first cell is at row 2 and column 3, each at its place in the block.
    given = np.array([[found[2 + y, 3 + x, y, x] for x in range(2)] for y in range(2)])
    np.testing.assert_allclose(given / np.linalg.norm(given), expected, atol=2e-3)


def test_a_mirrored_picture_has_mirrored_edges() -> None:
    pixels = random_picture()
    # A mirror maps an angle to its negative, and a cell on the left of its block to one on the right.
    expected = edges(pixels)[:, ::-1, :, ::-1, ::-1]
    np.testing.assert_allclose(edges(pixels[:, ::-1]), expected, atol=1e-5)


def test_edges_do_not_depend_on_contrast() -> None:
    pixels = random_picture()
    weaker = (pixels.astype(np.int64) // 2 + 40).astype(np.uint8)
    np.testing.assert_allclose(edges(weaker), edges(pixels), atol=0.01)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (48, 48), (30, 200)])
def test_pictures_of_any_size_have_features_of_unit_norm(size: tuple[int, int]) -> None:
    features = cell_features([random_picture(0, size), random_picture(1, size)])
    assert features.shape == (2, CELLS_PER_SIDE**2, CELL_FEATURES) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=(1, 2)), 1, atol=1e-5)
    joined = joined_features([random_picture(seed, size) for seed in range(6)], 3)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-5)


def test_a_flat_picture_has_no_edges() -> None:
    assert not edges(np.full((16, 16, 3), 100, np.uint8)).any()
    assert np.isfinite(cell_features([np.full((16, 16, 3), value, np.uint8) for value in (0, 127, 255)])).all()


def test_colours_and_edges_are_told_apart() -> None:
    flat = np.full((16, 16, 3), 100, np.uint8)
    red, striped = flat.copy(), flat.copy()
    red[:, :, 0], striped[:, ::4] = 250, 0
    first, reddish, stripes, again = joined_features([flat, red, striped, flat])
    assert np.array_equal(first, again)
    assert np.abs(first - reddish).max() > 0.01 and np.abs(first - stripes).max() > 0.01
