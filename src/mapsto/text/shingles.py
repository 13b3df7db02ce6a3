"""Shingles."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

SHINGLE = 5


MOST_SHINGLES = 2000


Hashes = NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """Sorted hashes of the different runs of SHINGLE characters."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(folded) < SHINGLE:
        return np.zeros(0, np.uint64)
    codes = np.frombuffer(folded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashed = np.zeros(len(codes) - SHINGLE + 1, np.uint64)
    for i in range(SHINGLE):
        hashed = hashed * np.uint64(1_099_511_628_211) + codes[i : len(codes) - SHINGLE + 1 + i]
    return hashes(hashed)[:MOST_SHINGLES]


def hashes(numbers: Hashes) -> Hashes:
    """Sorted hashes of the different numbers."""
    return np.unique((numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
