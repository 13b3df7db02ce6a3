"""Filters of the rows that a model was fitted to, to recognise them among the rows that it is scored on.

A filter is a set of short hashes, one a row, and holds no value. It recognises every row that it was made of, and takes one
in 16,384 others (0.006 %) for one of them: a false alarm. The hashes of n rows are numbers below 16,384 n; sorted, they take
exactly 2 bytes a row in the code of Elias (1974) and Fano (1971): the lowest 14 bits of each as they are, and the rest as
2 n bits, in which a one at place h + i says that the i-th number has the high part h. A Bloom filter of the same size has
seven times as many false alarms. Making a filter and looking rows up takes about 2 µs a row.
Legend of shapes: n distinct rows of the filter, k rows to look up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Bits of a hash that are stored as they are; a false alarm has the probability 2 to the power of minus this.
LOW_BITS = 14
# Two bits more for the high part make 16 bits, two bytes.
BYTES_PER_ROW = 2


@dataclass(frozen=True)
class RowFilter:
    """The filter of the rows that one fit learned from: those that it trained on, and those held out to choose weights.

    Filters are equal if they are of the same arrow, data and rows.
    """

    # The arrow of the fit, the name of its data, and its number of rows, of which some may be equal.
    arrow: str
    data: str
    num_rows: int
    # The encoded hashes of the distinct rows.
    hashes: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"{self.data} ({self.arrow})"

    @classmethod
    def from_keys(cls, keys: Iterable[str], arrow: str, data: str) -> RowFilter:
        """Return the filter of the rows with these keys, one key a row; the keys of equal rows are equal."""
        all_keys = list(keys)
        distinct = list(dict.fromkeys(all_keys))
        return cls(arrow, data, len(all_keys), _encode(np.sort(_hash(distinct, len(distinct)))))

    @property
    def false_alarm_rate(self) -> float:
        """The share of other rows that the filter takes for its own."""
        num_distinct = len(self.hashes) // BYTES_PER_ROW
        return len(np.unique(_decode(self.hashes))) / max(num_distinct << LOW_BITS, 1)

    def contains(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Return for each key, (k,), whether the filter is of a row with this key; true for a few other keys too."""
        hashes = _hash(keys, len(self.hashes) // BYTES_PER_ROW)
        return np.isin(hashes, _decode(self.hashes))


def _hash(keys: Sequence[str], num_distinct: int) -> NDArray[np.int64]:
    """Return the hash of each key, (k,), a number below 2 ** LOW_BITS times the number of distinct rows of the filter."""
    # surrogatepass: half a character, as in a damaged text, has no UTF-8.
    encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in encoded)
    return (np.frombuffer(digests, "<u8") % np.uint64(max(num_distinct, 1) << LOW_BITS)).astype(np.int64)


def _encode(hashes: NDArray[np.int64]) -> bytes:
    """Return sorted hashes (n,) in Elias–Fano code, BYTES_PER_ROW bytes each."""
    low_bits = np.unpackbits((hashes << (16 - LOW_BITS)).astype(">u2").view(np.uint8)).reshape(len(hashes), 16)[
        :, :LOW_BITS
    ]
    high_bits = np.zeros(2 * len(hashes), np.uint8)
    high_bits[(hashes >> LOW_BITS) + np.arange(len(hashes))] = 1
    return np.packbits(np.concatenate([low_bits.ravel(), high_bits])).tobytes()


def _decode(content: bytes) -> NDArray[np.int64]:
    """Return the sorted hashes (n,) that `_encode` has encoded."""
    num_distinct = len(content) // BYTES_PER_ROW
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    low_bits = np.zeros((num_distinct, 16), np.uint8)
    low_bits[:, 16 - LOW_BITS :] = bits[: LOW_BITS * num_distinct].reshape(num_distinct, LOW_BITS)
    low = np.packbits(low_bits, axis=1).view(">u2")[:, 0].astype(np.int64)
    high = np.flatnonzero(bits[LOW_BITS * num_distinct :]) - np.arange(num_distinct)
    return (high << LOW_BITS) + low
