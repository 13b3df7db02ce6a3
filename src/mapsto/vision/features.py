"""Features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import GREY, Pixels, load_pillow

COLOURS, EDGES, CELLS = 4, 8, 4


ROUNDED = 6  # decimals of a pixel, so that what is meant to lie on its edge does


SMALL, LONG_WAVES = 16, 8  # to a side of a small picture: pixels, and waves that are looked at


WAVES = 32  # that tell it


FAINTEST = 8.0  # a wave of one grey value


def disturbed(pixels: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """As another camera would have it: noise, a blur of three pixels, half the light."""
    noise = rng.normal(0, 16, pixels.shape)
    wide = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    h, w = pixels.shape[:2]
    blurred = sum(wide[y : y + h, x : x + w] for y in range(3) for x in range(3)) / 9
    changed = {"noise": pixels + noise, "blurred": blurred, "darker": pixels * 0.5}
    return {name: np.clip(np.asarray(found), 0, 255).astype(np.uint8) for name, found in changed.items()}


def small(pixels: Pixels) -> bytes:
    """The picture in 16 × 16 grey values, row by row: enough to find others that are nearly the same."""
    pillow = load_pillow()
    grey = pillow.Image.fromarray(pixels).convert("L")
    found: bytes = grey.resize((SMALL, SMALL), pillow.Image.Resampling.BILINEAR).tobytes()
    return found


def strongest(values: bytes) -> NDArray[np.int64]:
    """Which long waves (of the cosine transform) of a `small` picture are the strongest, as many as WAVES, and their signs: size,
    light and what an encoder loses change few of them (as of wavelets, Jacobs et al. 1995). Shorter ones weigh more."""
    grey = np.frombuffer(values, np.uint8).reshape(SMALL, SMALL)
    found = (_cosines() @ grey @ _cosines().T).ravel()
    found[0] = 0  # how light it is
    numbers = np.arange(LONG_WAVES)
    ranked = np.argsort(-np.abs(found) * (1 + numbers[:, None] + numbers).ravel(), kind="stable")[:WAVES]
    chosen = ranked[np.abs(found[ranked]) > FAINTEST]
    return 2 * chosen + (found[chosen] > 0)


@cache
def _cosines() -> NDArray[np.float64]:
    """(8, 16): a wave a row, of length 1."""
    numbers = np.arange(LONG_WAVES)[:, None]
    found: NDArray[np.float64] = np.cos(np.pi * (np.arange(SMALL) + 0.5) * numbers / SMALL) * (2 / SMALL) ** 0.5
    found[0] /= 2**0.5
    return found


def counted(pictures: Sequence[Pixels]) -> NDArray[np.float32]:
    """(n, f) features that need no training: in each of 4 × 4 parts how often each of 4 × 4 × 4 colours stands there, and how
    strong its edges are in each of 8 directions (Dalal & Triggs 2005), each scaled to length 1."""
    return np.stack([np.concatenate([_colours(pixels), _edges(pixels)]) for pixels in pictures])


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [part for rows in np.array_split(values, CELLS, 0) for part in np.array_split(rows, CELLS, 1)]


def _colours(pixels: Pixels) -> NDArray[np.float32]:
    names = (pixels // (256 // COLOURS)).astype(np.int64) @ np.array([COLOURS**2, COLOURS, 1])
    return _unit([np.bincount(part.ravel(), minlength=COLOURS**3) for part in _parts(names)])


def _edges(pixels: Pixels) -> NDArray[np.float32]:
    grey = pixels.astype(np.float32) @ GREY
    y, x = (np.gradient(grey, axis=axis) if grey.shape[axis] > 1 else np.zeros_like(grey) for axis in (0, 1))
    strength = np.hypot(y, x)
    way = ((np.arctan2(y, x) % np.pi) / np.pi * EDGES).astype(np.int64) % EDGES
    found = [np.bincount(of.ravel(), by.ravel(), EDGES) for of, by in zip(_parts(way), _parts(strength), strict=True)]
    return _unit(found)


def _unit(found: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    values = np.sqrt(np.concatenate(found).astype(np.float32))
    return (values / (np.linalg.norm(values) or 1.0)).astype(np.float32)


def counting() -> Callable[..., Any]:
    """From pictures, or from values of so many pictures each, to sparse vectors (n, f) of length 1."""
    from scipy.sparse import csr_matrix  # a second to import

    def of(asked: Sequence[Pixels], each: int = 1) -> Any:
        found = counted(asked)
        return csr_matrix(found.reshape(len(found) // each, -1) / (2 * each) ** 0.5)

    return of
