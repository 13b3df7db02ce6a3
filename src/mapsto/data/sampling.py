"""Sampling."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mapsto.data.table import Int64s

UInt64s = NDArray[np.uint64]


ROUNDS = 6


def mix_bits(values: UInt64s, key: int) -> UInt64s:
    """Numbers that look random, a function of (value, key) alone (SplitMix64, Steele et al. 2014)."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permute_positions(seed: int, epoch: int, n: int, places: Int64s) -> Int64s:
    """The rows at `places` in the order of an epoch over n rows: a permutation that is a function of (seed, epoch) alone.

    It is computed place by place, so that any number of rows takes no memory: a Feistel network over the next power of
    four, walked until the number is one of a row (Black & Rogaway 2002).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.Generator(np.random.Philox(key=[seed, epoch])).integers(2**63, size=ROUNDS).tolist()
    found = places.astype(np.uint64)
    walking = np.arange(len(found))
    while len(walking):
        left, right = found[walking] >> half, found[walking] & low
        for key in keys:
            left, right = right, left ^ (mix_bits(right, key) & low)
        found[walking] = (left << half) | right
        walking = walking[found[walking] >= np.uint64(n)]
    return found.astype(np.int64)


def permute_rows(seed: int, epoch: int, n: int) -> Int64s:
    """The whole order of n rows in an epoch."""
    return permute_positions(seed, epoch, n, np.arange(n))


def rows_of_step(seed: int, step: int, batch: int, n: int) -> Int64s:
    """permute(seed, epoch)[step × batch + i] for i < batch, running on into the next epochs."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs = places // n
    return np.concatenate([permute_positions(seed, int(e), n, places[epochs == e] % n) for e in np.unique(epochs)])


def stratified_split(
    n: int, groups: Sequence[Hashable], strata: Sequence[Hashable] | None, share: float, seed: int
) -> tuple[Int64s, Int64s]:
    """(kept, held out) row indices in order: about `share` of each stratum, equal groups never on both sides."""
    order = permute_rows(seed, 0, n)
    members: dict[Hashable, list[int]] = {}
    for row in order.tolist():
        members.setdefault(groups[row], []).append(row)
    wanted: dict[Hashable, float] = {}
    for row in range(n):
        stratum = strata[row] if strata is not None else None
        wanted[stratum] = wanted.get(stratum, 0.0) + share
    held: list[int] = []
    for rows in members.values():
        stratum = strata[rows[0]] if strata is not None else None
        if wanted[stratum] >= len(rows) - 0.5:
            wanted[stratum] -= len(rows)
            held.extend(rows)
    aside = np.array(sorted(held), np.int64)
    return np.setdiff1d(np.arange(n), aside), aside
