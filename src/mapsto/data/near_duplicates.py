"""Near-duplicates: pairs of values, as sets of hashes, of which most hashes are the same.

MinHash signatures with banding (Broder 1997) find the candidates in about linear time; the exact Jaccard similarity decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mapsto.text.shingles import Hashes

# With fewer hashes a similarity says nothing.
MIN_HASHES = 16
# Of 96 permutations the minima of 4 make a band; values that share a band are compared.
NUM_PERMUTATIONS, NUM_BANDS = 96, 24
# Values of one band that are compared, so that boilerplate does not make the search quadratic.
MAX_BUCKET = 50


def find_near_duplicates(
    references: Sequence[Hashes | None], queries: Sequence[Hashes | None], rows: Iterable[int], threshold: float
) -> list[tuple[int, int, float]]:
    """Return (row of `queries`, row of `references`, Jaccard similarity) of each query with a near-duplicate.

    references, queries: the hashes of each value; None for a value to leave out.
    rows: the queries to look for.
    threshold: the least similarity; of several references the most similar one is returned.
    """
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(NUM_BANDS)]
    for row, hashes in enumerate(references):
        if hashes is not None and len(hashes) >= MIN_HASHES:
            for bucket, key in zip(buckets, _bands(hashes), strict=True):
                members = bucket.setdefault(key, [])
                if len(members) < MAX_BUCKET:
                    members.append(row)
    duplicates = []
    for row in rows:
        query = queries[row]
        if query is None or len(query) < MIN_HASHES:
            continue
        candidates = {c for bucket, key in zip(buckets, _bands(query), strict=True) for c in bucket.get(key, ())}
        similarity, best = max(((_jaccard(query, references[c]), c) for c in candidates), default=(0.0, -1))
        if similarity >= threshold:
            duplicates.append((row, best, similarity))
    return duplicates


def _multipliers() -> Hashes:
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    return rng.integers(0, 2**63, size=(NUM_PERMUTATIONS, 2), dtype=np.uint64) | np.uint64(1)


MULTIPLIERS = _multipliers()


def _bands(hashes: Hashes) -> list[bytes]:
    """Return the smallest hash under each permutation, in bands; similar values probably share one."""
    mixed = (hashes[None, :] ^ (hashes[None, :] >> np.uint64(31))) * MULTIPLIERS[:, :1] + MULTIPLIERS[:, 1:]
    minima = (mixed >> np.uint64(16)).min(axis=1).reshape(NUM_BANDS, -1)
    return [band.tobytes() for band in minima]


def _jaccard(first: Hashes, second: Hashes | None) -> float:
    if second is None:
        return 0.0
    num_common = len(np.intersect1d(first, second, assume_unique=True))
    return num_common / (len(first) + len(second) - num_common)
