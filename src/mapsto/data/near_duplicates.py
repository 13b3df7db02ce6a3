"""Near-duplicates: pairs of values whose sets of hashes have a high Jaccard similarity.

MinHash signatures with banding (Broder 1997) find candidate pairs in about linear time. Then the exact similarity of each
candidate pair is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mapsto.task.shingles import Hashes

# Values with fewer hashes are skipped, as their similarity says little.
MIN_HASHES = 16
# The minima of 96 permutations are grouped into bands of 4. Values that agree in a whole band are compared.
NUM_PERMUTATIONS, NUM_BANDS = 96, 24
# References compared per band. Without a limit, boilerplate shared by many values would make the search quadratic.
MAX_BUCKET = 50


def find_near_duplicates(
    references: Sequence[Hashes | None], queries: Sequence[Hashes | None], rows: Iterable[int], threshold: float
) -> list[tuple[int, int, float]]:
    """Return (query index, reference index, Jaccard similarity) for each query that has a near-duplicate in `references`.

    Of several near-duplicates of a query only the most similar one is returned.
    references, queries: the sorted distinct hashes of each value; None for a value to skip.
    rows: indices of the queries to search for.
    threshold: the smallest similarity of a near-duplicate.
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


def link_near_duplicates(sketches: Sequence[Hashes | None], threshold: float) -> list[int]:
    """Return a number for each value, equal for values that a chain of near-duplicates joins.

    sketches: the sorted distinct hashes of each value; None for a value that is joined with no other.
    threshold: the smallest similarity of near-duplicates.
    """
    groups = list(range(len(sketches)))

    def root(row: int) -> int:
        while groups[row] != row:
            groups[row] = groups[groups[row]]
            row = groups[row]
        return row

    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(NUM_BANDS)]
    for row, hashes in enumerate(sketches):
        if hashes is None or len(hashes) < MIN_HASHES:
            continue
        members_by_band = [bucket.setdefault(key, []) for bucket, key in zip(buckets, _bands(hashes), strict=True)]
        for candidate in sorted({member for members in members_by_band for member in members}):
            # Members of one group need no comparison.
            if root(candidate) != root(row) and _jaccard(hashes, sketches[candidate]) >= threshold:
                groups[root(row)] = root(candidate)
        for members in members_by_band:
            if len(members) < MAX_BUCKET:
                members.append(row)
    return [root(row) for row in range(len(sketches))]


def _multipliers() -> Hashes:
    """Return the random odd multiplier and offset of each MinHash permutation, (NUM_PERMUTATIONS, 2), always the same."""
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    return rng.integers(0, 2**63, size=(NUM_PERMUTATIONS, 2), dtype=np.uint64) | np.uint64(1)


MULTIPLIERS = _multipliers()


def _bands(hashes: Hashes) -> list[bytes]:
    """Return the MinHash signature of a set of hashes as one key per band: the minima under the band's permutations.

    Two values are candidates if they share a key; the more similar they are, the more probable that is.
    """
    mixed = (hashes[None, :] ^ (hashes[None, :] >> np.uint64(31))) * MULTIPLIERS[:, :1] + MULTIPLIERS[:, 1:]
    minima = (mixed >> np.uint64(16)).min(axis=1).reshape(NUM_BANDS, -1)
    return [band.tobytes() for band in minima]


def _jaccard(first: Hashes, second: Hashes | None) -> float:
    """Return the Jaccard similarity of two sorted arrays of distinct hashes; 0 if `second` is None."""
    if second is None:
        return 0.0
    num_common = len(np.intersect1d(first, second, assume_unique=True))
    return num_common / (len(first) + len(second) - num_common)
