"""Which values are nearly the same: sets of hashes, of which near twins share most.

MinHash (Broder 1997) with banding finds those that may be, then the exact Jaccard similarity tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mapsto.text.shingles import Hashes

FEWEST = 16  # hashes; of fewer nothing can be said


PERMUTATIONS, BANDS = 96, 24


LARGEST_BUCKET = 50


def find_near_duplicates(
    known: Sequence[Hashes | None], wanted: Sequence[Hashes | None], rows: Iterable[int], alike: float
) -> list[tuple[int, int, float]]:
    """(row of `wanted`, row of `known`, Jaccard similarity) for those of `rows` with a twin that is `alike` at least; the nearest
    one."""
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
    for row, found in enumerate(known):
        if found is not None and len(found) >= FEWEST:
            for bucket, key in zip(buckets, _bands(found), strict=True):
                members = bucket.setdefault(key, [])
                if len(members) < LARGEST_BUCKET:
                    members.append(row)
    twins = []
    for row in rows:
        own = wanted[row]
        if own is None or len(own) < FEWEST:
            continue
        candidates = {c for bucket, key in zip(buckets, _bands(own), strict=True) for c in bucket.get(key, ())}
        best = max(((_jaccard(own, known[c]), c) for c in candidates), default=(0.0, -1))
        if best[0] >= alike:
            twins.append((row, best[1], best[0]))
    return twins


def _multipliers() -> Hashes:
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    return rng.integers(0, 2**63, size=(PERMUTATIONS, 2), dtype=np.uint64) | np.uint64(1)


MULTIPLIERS = _multipliers()


def _bands(values: Hashes) -> list[bytes]:
    """The smallest hash under each permutation, in bands: values that are alike share one."""
    mixed = (values[None, :] ^ (values[None, :] >> np.uint64(31))) * MULTIPLIERS[:, :1] + MULTIPLIERS[:, 1:]
    smallest = (mixed >> np.uint64(16)).min(axis=1).reshape(BANDS, -1)
    return [band.tobytes() for band in smallest]


def _jaccard(one: Hashes, other: Hashes | None) -> float:
    if other is None:
        return 0.0
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
