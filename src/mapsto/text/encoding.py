"""The tokens of one text, and where they stand in it.

Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mapsto.errors import shorten

Ids = NDArray[np.int32]


# First and last code points of scripts that are written without spaces.
UNSPACED = np.array(
    [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)]
    + [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)]
)


class Encoded:
    """The tokens of one text, without its frame; the arrays are made when first asked for.

    ids: (n,) int32. offsets: (n, 2) int32, start and end in characters of `text` as it was given; start == end
    marks a token that stands for nothing but space. words: (n,) int32, 0-based and without gaps.
    """

    def __init__(self, text: str, encoding: tokenizers.Encoding) -> None:
        self.text = text
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._encoding)

    def __repr__(self) -> str:
        return f"Encoded({shorten(self.text)!r}, {len(self)} tokens)"

    @cached_property
    def ids(self) -> Ids:
        return np.array(self._encoding.ids, dtype=np.int32)

    @cached_property
    def offsets(self) -> Ids:
        flat = chain.from_iterable(self._encoding.offsets)
        return np.fromiter(flat, dtype=np.int32, count=2 * len(self)).reshape(-1, 2)

    @cached_property
    def words(self) -> Ids:
        """The word each token is part of.

        A word is what the tokenizer keeps together before it looks for pieces. Where scripts leave no spaces (Chinese,
        Japanese, Thai, …) this may be a whole sentence, so there each token is a word, save that tokens of one
        character stay together.
        """
        if not len(self):
            return np.zeros(0, dtype=np.int32)
        kept_together = [-1 if word is None else word for word in self._encoding.word_ids]
        whole = np.array(kept_together, dtype=np.int32)
        begins = np.concatenate([[True], (whole[1:] != whole[:-1]) | (whole[1:] < 0)])
        if not self.text.isascii():
            apart = self._unspaced()
            begins[1:] |= (apart[1:] | apart[:-1]) & (self.offsets[1:, 0] >= self.offsets[:-1, 1])
        return (np.cumsum(begins) - 1).astype(np.int32)

    def _unspaced(self) -> NDArray[np.bool_]:
        """(n,) True where a token begins with a character of a script without spaces."""
        found = unspaced(self.text)
        return found[np.minimum(self.offsets[:, 0], len(found) - 1)]


def unspaced(text: str) -> NDArray[np.bool_]:
    """For each character whether it is of a script without spaces."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    row = np.searchsorted(UNSPACED[:, 0], codes, side="right") - 1
    inside: NDArray[np.bool_] = (row >= 0) & (codes <= UNSPACED[row, 1])
    return inside
