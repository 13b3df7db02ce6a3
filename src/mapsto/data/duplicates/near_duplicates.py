"""Near-duplicates: pairs of values whose sets of hashes have a high Jaccard similarity.

MinHash signatures with banding (Broder 1997) find candidate pairs in linear time. Then the exact similarity of each candidate
pair is computed. Only the queries, such as test rows, are indexed, with 300 bytes each; references go past in batches and are
never all in memory.
Legend of shapes: n values of a batch, h hashes of a batch, b bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mapsto.task.shingles import Hashes

# Values with fewer hashes are skipped, as their similarity says little.
MIN_HASHES = 16
# The minima of 96 permutations are grouped into bands of 4. Values that agree in a whole band are compared.
NUM_BANDS, BAND_SIZE = 24, 4
# Queries compared with a reference per band, and references compared with a query, for each band that they share. Without limits,
# boilerplate shared by many values would make the search quadratic.
MAX_BUCKET, MAX_COMPARED = 50, 1000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HashBatch:
    """The hashes of a batch of values.

    rows: (n,), the number of each value.
    hashes: (h,), those of the first value, then those of the second, and so on, each in any order.
    counts: (n,), the number of hashes of each value.
    """

    rows: Ints
    hashes: Hashes
    counts: Ints


class _Index:
    """The band keys of all queries, by which a reference finds the queries that it may resemble."""

    def __init__(self, queries: Iterable[HashBatch]) -> None:
        parts = [_band_keys(batch) for batch in queries]
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in parts)])
        keys = np.concatenate([np.zeros((NUM_BANDS, 0), np.uint64), *(keys for _, keys in parts)], axis=1)
        orders = np.argsort(keys, axis=1)
        self.keys = np.take_along_axis(keys, orders, axis=1)
        self.queries = rows[orders].astype(np.int32)
        self.num_compared = np.zeros(int(rows.max(initial=-1)) + 1, np.int64)

    def candidates(self, batch: HashBatch) -> Ints:
        """Return (number of the reference, number of the query) of each pair that shares a band, (m, 2), each pair once."""
        rows, keys = _band_keys(batch)
        pairs = [np.zeros((0, 2), np.int64)]
        for band in range(NUM_BANDS if self.keys.size else 0):
            first = np.searchsorted(self.keys[band], keys[band])
            matches = np.flatnonzero(self.keys[band][np.minimum(first, self.keys.shape[1] - 1)] == keys[band])
            if len(matches):
                last = np.searchsorted(self.keys[band], keys[band, matches], side="right")
                counts = np.minimum(last - first[matches], MAX_BUCKET)
                offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                queries = self.queries[band][np.repeat(first[matches], counts) + offsets]
                pairs.append(np.stack([np.repeat(rows[matches], counts), queries], axis=1))
        # Near-duplicates share many bands; pairs that share one are many, and most of them by chance.
        unique, num_shared = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
        unique = unique[self.num_compared[unique[:, 1]] < MAX_COMPARED * num_shared]
        np.add.at(self.num_compared, unique[:, 1], 1)
        return unique


def find_near_duplicates(
    references: Iterable[HashBatch],
    queries: Iterable[HashBatch],
    reference_hashes: Callable[[int], Hashes],
    query_hashes: Callable[[int], Hashes],
    threshold: float,
) -> list[tuple[int, int, float]]:
    """Return (query, reference, Jaccard similarity) for each query that has a near-duplicate among the references, by query.

    Of several near-duplicates of a query only the most similar one is returned.
    references, queries: the hashes of the values, in batches.
    reference_hashes, query_hashes: return the sorted distinct hashes of the value with a number, for the exact similarity.
    threshold: the smallest similarity of a near-duplicate.
    """
    index = _Index(queries)
    recent_hashes = lru_cache(maxsize=4096)(query_hashes)
    # The candidates of a reference follow each other, and hashes of media files take a decoding each.
    last_hashes = lru_cache(maxsize=1)(reference_hashes)
    best: dict[int, tuple[float, int]] = {}
    for batch in references if index.keys.size else ():
        for reference, query in index.candidates(batch).tolist():
            similarity, _ = best.get(query, (0.0, -1))
            if similarity < 1 and (new := _jaccard(recent_hashes(query), last_hashes(reference))) > similarity:
                best[query] = (new, reference)
    return [
        (query, reference, similarity)
        for query, (similarity, reference) in sorted(best.items())
        if similarity >= threshold
    ]


def link_near_duplicates(sketches: Sequence[Hashes], threshold: float) -> list[int]:
    """Return a number for each value, equal for values that a chain of near-duplicates joins.

    sketches: the sorted distinct hashes of each value.
    threshold: the smallest similarity of near-duplicates.
    """
    groups = list(range(len(sketches)))

    def root(row: int) -> int:
        while groups[row] != row:
            groups[row] = groups[groups[row]]
            row = groups[row]
        return row

    counts = np.array([len(hashes) for hashes in sketches], np.int64)
    hashes = np.concatenate([np.zeros(0, np.uint64), *sketches])
    rows, keys = _band_keys(HashBatch(np.arange(len(sketches)), hashes, counts))
    buckets: list[dict[int, list[int]]] = [{} for _ in range(NUM_BANDS)]
    for row, row_keys in zip(rows.tolist(), keys.T.tolist(), strict=True):
        members_by_band = [bucket.setdefault(key, []) for bucket, key in zip(buckets, row_keys, strict=True)]
        for candidate in sorted({member for members in members_by_band for member in members}):
            # Members of one group need no comparison.
            if root(candidate) != root(row) and _jaccard(sketches[row], sketches[candidate]) >= threshold:
                groups[root(row)] = root(candidate)
        for members in members_by_band:
            if len(members) < MAX_BUCKET:
                members.append(row)
    return [root(row) for row in range(len(sketches))]


def _multipliers() -> NDArray[np.uint32]:
    """Return the random odd multiplier and offset of each MinHash permutation, (b, BAND_SIZE, 2), always the same.

    Linear permutations are nearly as good as random ones on numbers that are hashes (Bohman, Cooper and Frieze 2000).
    """
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    return rng.integers(0, 2**32, size=(NUM_BANDS, BAND_SIZE, 2), dtype=np.uint32) | np.uint32(1)


MULTIPLIERS = _multipliers()


def _band_keys(batch: HashBatch) -> tuple[Ints, NDArray[np.uint64]]:
    """Return the numbers of the values with at least MIN_HASHES hashes, (m,), and their MinHash signatures as keys, (b, m).

    A key stands for the minima under the permutations of a band. Two values are candidates if they share a key of one band; the
    more similar they are, the more probable that is.
    """
    starts = np.cumsum(batch.counts) - batch.counts
    is_long = batch.counts >= MIN_HASHES
    keys = np.zeros((NUM_BANDS, int(is_long.sum())), np.uint64)
    if not is_long.any():
        return batch.rows[is_long], keys
    if not is_long.all():
        hashes, counts = batch.hashes[np.repeat(is_long, batch.counts)], batch.counts[is_long]
        starts = np.cumsum(counts) - counts
    else:
        hashes = batch.hashes
    # The upper half of a hash: 32 bits take half the time.
    upper = (hashes >> np.uint64(32)).astype(np.uint32)
    for band in range(NUM_BANDS):
        for multiplier, offset in MULTIPLIERS[band]:
            minima = np.minimum.reduceat(upper * multiplier + offset, starts)
            keys[band] = (keys[band] ^ minima) * np.uint64(0x9E3779B97F4A7C15)
            keys[band] ^= keys[band] >> np.uint64(29)
    return batch.rows[is_long], keys


def _jaccard(first: Hashes, second: Hashes) -> float:
    """Return the Jaccard similarity of two sorted arrays of distinct hashes."""
    num_common = len(np.intersect1d(first, second, assume_unique=True))
    return num_common / max(1, len(first) + len(second) - num_common)
