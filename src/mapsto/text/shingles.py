"""Shingles: hashes of all runs of five characters, by which near-duplicates are found (Broder 1997)."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

SHINGLE_LENGTH = 5  # characters
MAX_SHINGLES = 2000  # of a text: the smallest hashes, a random sample that equal texts share

Hashes = NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """Return the sorted hashes of the distinct shingles of a text, without regard to case and spacing."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(folded) < SHINGLE_LENGTH:
        return np.zeros(0, np.uint64)
    codes = np.frombuffer(folded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    rolling = np.zeros(len(codes) - SHINGLE_LENGTH + 1, np.uint64)
    for i in range(SHINGLE_LENGTH):
        rolling = rolling * np.uint64(1_099_511_628_211) + codes[i : len(codes) - SHINGLE_LENGTH + 1 + i]
    return hashes(rolling)[:MAX_SHINGLES]


def hashes(numbers: Hashes) -> Hashes:
    """Return the sorted hashes of the distinct numbers."""
    return np.unique((numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
