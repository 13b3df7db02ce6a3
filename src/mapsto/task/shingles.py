"""Shingles: hashes of all substrings of five characters, to find near-duplicates (Broder 1997)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SHINGLE_LENGTH = 5  # characters
MAX_SHINGLES = 2000  # per text. The smallest hashes are kept: a random sample, but the same one for equal texts

Hashes = NDArray[np.uint64]


def shingles(text: str) -> Hashes:
    """Return sorted distinct hashes of all substrings of five characters; if there are more than MAX_SHINGLES, the smallest ones.

    Case, and the amount of white space, are ignored. A text of fewer than five characters has no hashes.
    """
    return hashes(_rolling(_fold(text)))[:MAX_SHINGLES]


def shingle_batch(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Return the hashes of each text, as `shingles` but in any order and with repetitions, one text after the other.

    Also the number of each text's hashes, (n,). All texts are hashed together, which is several times faster.
    """
    folded = [_fold(text) for text in texts]
    lengths = np.fromiter(map(len, folded), np.int64, len(folded))
    if lengths.max(initial=0) >= MAX_SHINGLES + SHINGLE_LENGTH:
        parts = [hashes(_rolling(text))[:MAX_SHINGLES] for text in folded]
        return np.concatenate(parts), np.fromiter(map(len, parts), np.int64, len(parts))
    rolling = _rolling("".join(folded))
    # The last four positions of a text begin substrings that reach into the next text.
    is_within = np.ones(len(rolling), dtype=bool)
    ends = np.cumsum(lengths)
    for i in range(1, SHINGLE_LENGTH):
        positions = ends[lengths >= i] - i
        is_within[positions[positions < len(rolling)]] = False
    return _scramble(rolling[is_within]), np.maximum(lengths - SHINGLE_LENGTH + 1, 0)


def _fold(text: str) -> str:
    """Return a text with case, compatible characters and the amount of white space made equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _rolling(folded: str) -> Hashes:
    """Return a polynomial hash of the five characters from each position of a folded text on (mod 2^64)."""
    if len(folded) < SHINGLE_LENGTH:
        return np.zeros(0, np.uint64)
    # A lone surrogate is half a character; it is hashed as it is.
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    rolling = np.zeros(len(codes) - SHINGLE_LENGTH + 1, np.uint64)
    for i in range(SHINGLE_LENGTH):
        rolling = rolling * np.uint64(1_099_511_628_211) + codes[i : len(codes) - SHINGLE_LENGTH + 1 + i]
    return rolling


def hashes(numbers: Hashes) -> Hashes:
    """Return the sorted distinct hashes of these integers: each is scrambled, so that the smallest hashes are a random sample."""
    return np.unique(_scramble(numbers))


def _scramble(numbers: Hashes) -> Hashes:
    """Return each integer scrambled, one to one."""
    return (numbers ^ (numbers >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
