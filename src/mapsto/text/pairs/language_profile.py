"""Compare texts with the character n-grams of two columns, to find the rows whose texts are written like the other column.

Each column has a profile: how often each n-gram of 1 to 3 characters occurs in it, as in language identification (Cavnar &
Trenkle 1994). A text is scored by the mean log-likelihood ratio of its n-grams under the two profiles (naive Bayes), with its own
n-grams taken out of its column's profile, so that no text supports itself. It takes about 2 µs a character.
Legend of shapes: n rows, g n-grams of some texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats

Ints = NDArray[np.int64]

ORDERS = (1, 2, 3)
# N-grams are counted by hashes, so that the profile of any column has this size.
NUM_BUCKETS = 2**18
# Added to each count, for n-grams that a column does not have.
PSEUDO_COUNT = 0.5
# Number of rows whose n-grams are in memory at once.
ROWS_AT_ONCE = 4096


def compare_columns(first: Sequence[str], second: Sequence[str]) -> tuple[Floats, Floats]:
    """Return for each text of both columns its mean log-likelihood ratio, (n,) each, in nats for each n-gram.

    It is positive for a text that is written like those of `first`, negative for one like those of `second`, and 0 for an empty
    text. first, second: the texts of the n rows.
    """
    columns = (first, second)
    counts = [_count(column) for column in columns]
    scores = []
    for column, texts in enumerate(columns):
        parts = [_score(part, counts, column) for part in _parts(texts)]
        scores.append(np.concatenate([np.zeros(0), *parts]))
    return scores[0], scores[1]


def _count(texts: Sequence[str]) -> Floats:
    """Return how often each n-gram occurs in a column, by bucket, (NUM_BUCKETS,)."""
    counts = np.zeros(NUM_BUCKETS, np.float64)
    for part in _parts(texts):
        counts += np.bincount(_ngrams(part)[1], minlength=NUM_BUCKETS)
    return counts


def _score(texts: Sequence[str], counts: Sequence[Floats], column: int) -> Floats:
    """Return the score of each text. counts: of both columns. column: the index of the texts' own column."""
    rows, buckets = _ngrams(texts)
    # How often each n-gram occurs in its own text.
    _, places, repeats = np.unique(rows * NUM_BUCKETS + buckets, return_inverse=True, return_counts=True)
    lengths = np.bincount(rows, minlength=len(texts))
    log_likelihoods = []
    for index, column_counts in enumerate(counts):
        is_own = index == column
        num_here = column_counts[buckets] - (repeats[places] if is_own else 0)
        total = column_counts.sum() - (lengths[rows] if is_own else 0)
        log_likelihoods.append(np.log((num_here + PSEUDO_COUNT) / (total + PSEUDO_COUNT * NUM_BUCKETS)))
    sums = np.bincount(rows, log_likelihoods[0] - log_likelihoods[1], minlength=len(texts))
    return sums / np.maximum(lengths, 1)


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), ROWS_AT_ONCE):
        yield texts[start : start + ROWS_AT_ONCE]


def _ngrams(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """Return the row and the bucket of each n-gram of some texts, (g,) each. A space is added at both ends of a text."""
    padded = [f" {' '.join(text.lower().split())} " if text.strip() else "" for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in padded])
    all_rows, all_buckets = [], []
    for order in ORDERS:
        num_ngrams = max(0, len(codes) - order + 1)
        hashed = np.full(num_ngrams, order, np.int64)
        for offset in range(order):
            hashed = (hashed * 0x9E3779B1 + codes[offset : offset + num_ngrams]) & 0xFFFFFFFF
        is_whole = rows[:num_ngrams] == rows[order - 1 :]
        all_rows.append(rows[:num_ngrams][is_whole])
        all_buckets.append((hashed * 0x85EBCA6B >> 14 & (NUM_BUCKETS - 1))[is_whole])
    return np.concatenate(all_rows), np.concatenate(all_buckets)
