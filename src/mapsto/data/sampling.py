"""Reproducible random permutations and splits of rows, determined by a seed.

Each position of a permutation is computed by itself, so that shuffling a corpus of any size takes no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mapsto.data.table import Int64s

UInt64s = NDArray[np.uint64]
# Rounds of the Feistel network. With fewer than 4 its permutations do not look random.
ROUNDS = 6


def mix_bits(values: UInt64s, key: int) -> UInt64s:
    """Return a pseudo-random 64-bit number for each value, determined by that value and `key` alone.

    This is the mixing function of SplitMix64 (Steele et al. 2014).
    """
    mixed = values * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permute_positions(seed: int, epoch: int, n: int, positions: Int64s) -> Int64s:
    """Return the row numbers at `positions` of the random permutation of n rows that (seed, epoch) determines.

    A Feistel network permutes the numbers below a power of four that is at least n. Results of n or more are permuted again
    until they are below n (cycle walking, Black & Rogaway 2002).
    """
    # A Feistel network splits a number into two halves of equally many bits.
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.Generator(np.random.Philox(key=[seed, epoch])).integers(2**63, size=ROUNDS).tolist()
    rows = positions.astype(np.uint64)
    pending = np.arange(len(rows))
    while len(pending):
        left, right = rows[pending] >> half, rows[pending] & low
        for key in keys:
            left, right = right, left ^ (mix_bits(right, key) & low)
        rows[pending] = (left << half) | right
        pending = pending[rows[pending] >= np.uint64(n)]
    return rows.astype(np.int64)


def permute_rows(seed: int, epoch: int, n: int) -> Int64s:
    """Return the random permutation of the row numbers 0 to n − 1, (n,), that (seed, epoch) determines."""
    return permute_positions(seed, epoch, n, np.arange(n))


def rows_of_step(seed: int, step: int, batch: int, n: int) -> Int64s:
    """Return the numbers (batch,) of the rows that training step `step`, counted from 0, reads out of n rows.

    Each epoch visits all rows in a permutation of its own. A step that reaches an epoch's end goes on with the next epoch.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // n
    return np.concatenate([permute_positions(seed, int(e), n, positions[epochs == e] % n) for e in np.unique(epochs)])


def stratified_split(
    n: int, groups: Sequence[Hashable], strata: Sequence[Hashable] | None, share: float, seed: int
) -> tuple[Int64s, Int64s]:
    """Split n rows at random; return the sorted row indices of the training rows and of the held-out rows.

    groups: the group of each row, such as its text. All rows of a group are held out, or none.
    strata: the class of each row, so that about `share` of each class is held out; None to ignore classes.
    share: fraction of rows to hold out. A group counts to the class of its first row, and is held out only if the class has room.
    """
    order = permute_rows(seed, 0, n)
    members: dict[Hashable, list[int]] = {}
    for row in order.tolist():
        members.setdefault(groups[row], []).append(row)
    quota: dict[Hashable, float] = {}
    for row in range(n):
        stratum = strata[row] if strata is not None else None
        quota[stratum] = quota.get(stratum, 0.0) + share
    held_out: list[int] = []
    # Visit the groups in random order, and hold out each that fits into what is left of its class's quota.
    for rows in members.values():
        stratum = strata[rows[0]] if strata is not None else None
        # Half a row of tolerance rounds the quota to whole rows.
        if quota[stratum] >= len(rows) - 0.5:
            quota[stratum] -= len(rows)
            held_out.extend(rows)
    indices = np.array(sorted(held_out), np.int64)
    return np.setdiff1d(np.arange(n), indices), indices


def grouped_split(
    n: int, groups: Sequence[Hashable], strata: Sequence[Hashable] | None, share: float, seed: int
) -> tuple[Int64s, Int64s]:
    """Split n rows at random, as `stratified_split` does, where groups are large and have rows of several classes.

    A group is held out if there is room for all of its rows, and each of its classes still lacks rows. If none of several groups
    fits, the smallest one is held out. groups: of each row, such as its speaker. strata, share: as for `stratified_split`.
    """
    members: dict[Hashable, list[int]] = {}
    for row in permute_rows(seed, 0, n).tolist():
        members.setdefault(groups[row], []).append(row)
    classes = [None] * n if strata is None else list(strata)
    quota = {name: share * count for name, count in Counter(classes).items()}
    room, held_out = share * n, list[int]()
    for rows in members.values():
        counts = Counter(classes[row] for row in rows)
        # Half a row of tolerance rounds to whole rows.
        if room >= len(rows) - 0.5 and all(quota[name] >= 0.5 for name in counts):
            room -= len(rows)
            quota = {name: left - counts[name] for name, left in quota.items()}
            held_out += rows
    if not held_out and share and len(members) > 1:
        held_out = min(members.values(), key=len)
    indices = np.array(sorted(held_out), np.int64)
    return np.setdiff1d(np.arange(n), indices), indices


def deal_folds(
    n: int, groups: Sequence[Hashable], strata: Sequence[Hashable] | None, num_folds: int, seed: int
) -> list[Int64s]:
    """Deal n rows into folds of about equal size and about equal shares of each class; return the sorted row indices of each.

    All rows of a group are in one fold. The groups are dealt from the largest to the smallest, those of one size in random order,
    each to the fold that has the smallest share of its classes so far, or else the fewest rows. No fold is empty where there are
    at least as many groups as folds. groups, strata: as for `stratified_split`.
    """
    members: dict[Hashable, list[int]] = {}
    for row in permute_rows(seed, 0, n).tolist():
        members.setdefault(groups[row], []).append(row)
    names = {name: number for number, name in enumerate(dict.fromkeys(strata or ()))}
    classes = np.array([names[name] for name in strata], np.int64) if strata is not None else np.zeros(n, np.int64)
    totals = np.bincount(classes, minlength=1)
    counts, folds = np.zeros((num_folds, len(totals))), [list[int]() for _ in range(num_folds)]
    for rows in sorted(members.values(), key=len, reverse=True):
        of_group, class_counts = np.unique(classes[rows], return_counts=True)
        crowding = (counts[:, of_group] * class_counts / totals[of_group]).sum(1)
        fold = min(range(num_folds), key=lambda index: (crowding[index], len(folds[index])))
        counts[fold, of_group] += class_counts
        folds[fold] += rows
    return [np.array(sorted(rows), np.int64) for rows in folds]


def join_groups(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[int]:
    """Return one group for each row, such that rows are in one if a chain of rows with an equal group of either kind joins them.

    first, second: the groups of each row by two rules, such as its text and its dialogue. The result is the index of a row.
    """
    parents = list(range(len(first)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for groups in (first, second):
        first_rows: dict[Hashable, int] = {}
        for row, group in enumerate(groups):
            parents[root(row)] = root(first_rows.setdefault(group, row))
    return [root(row) for row in range(len(parents))]
