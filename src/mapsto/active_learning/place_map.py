"""A map of rows: the first two principal components of their vectors, so that a page can show which rows are alike.

Legend of shapes: n rows, d width, k selected rows, m other rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

MAX_MAPPED = 2000  # rows on the map


@dataclass(frozen=True)
class PlaceMap:
    """The places of rows on a map: of the selected ones, (k, 2), and of at most MAX_MAPPED others as their background, (m, 2)."""

    selected: Floats
    background: Floats


def map_rows(vectors: Floats, selected: NDArray[np.integer[Any]], seed: int = 0) -> PlaceMap | None:
    """Return the map of rows by their vectors (n, d), scaled to unit norm; None for fewer than three rows or one dimension.

    selected: (k,), the indices of the selected rows. seed: draws the other rows where there are more than MAX_MAPPED.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    if min(vectors.shape) < 2 or len(vectors) < 3:
        return None
    rng = np.random.Generator(np.random.Philox(key=[seed, len(vectors)]))
    rest = np.setdiff1d(np.arange(len(vectors)), selected)
    background = rest if len(rest) <= MAX_MAPPED else np.sort(rng.choice(rest, MAX_MAPPED, replace=False))
    rows = vectors[np.concatenate([selected, background])]
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    places = PCA(2, svd_solver="randomized", random_state=0).fit_transform(unit)
    return PlaceMap(places[: len(selected)], places[len(selected) :])
