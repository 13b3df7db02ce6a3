"""Shingles: hashes of all substrings of five characters, to find near-duplicates (Broder 1997)."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

SHINGLE_LENGTH = 5  # characters
MAX_SHINGLES = 2000  # per text. The smallest hashes are kept: a random sample, but the same one for equal texts

Hashes = NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """Return sorted distinct hashes of all substrings of five characters; if there are more than MAX_SHINGLES, the smallest ones.

    Case, and the amount of white space, are ignored. A text of fewer than five characters has no hashes.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(folded) < SHINGLE_LENGTH:
        return np.zeros(0, np.uint64)
    codes = np.frombuffer(folded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    rolling = np.zeros(len(codes) - SHINGLE_LENGTH + 1, np.uint64)
    for i in range(SHINGLE_LENGTH):
        # A polynomial hash of the five characters from each position on (mod 2^64).
        rolling = rolling * np.uint64(1_099_511_628_211) + codes[i : len(codes) - SHINGLE_LENGTH + 1 + i]
    return hashes(rolling)[:MAX_SHINGLES]


def hashes(numbers: Hashes) -> Hashes:
    """Return the sorted distinct hashes of these integers: each is scrambled, so that the smallest hashes are a random sample."""
    return np.unique((numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
