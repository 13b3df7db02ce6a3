"""The tokens of one text, with their character offsets and words.

Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

from functools import cached_property
from itertools import chain

import numpy as np
import tokenizers
from numpy.typing import NDArray

from mapsto.errors import shorten
from mapsto.text.characters import grapheme_starts, widen
from mapsto.text.spm.marian import Pieces

Ids = NDArray[np.int32]

# The first and last code points of scripts that are written without spaces, such as Thai and Chinese.
UNSPACED = np.array(
    [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF)]
    + [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)]
)


class Encoded:
    """The tokens of one text, without special tokens. Each array is computed when it is first accessed.

    ids: (n,) int32, token ids.
    offsets: (n, 2) int32, start and end of each token in characters of the original text; both are equal for white space only.
    words: (n,) int32, for each token the index of its word in the text, from 0 without gaps.
    """

    def __init__(self, text: str, encoding: tokenizers.Encoding | Pieces) -> None:
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
    def regions(self) -> NDArray[np.int64]:
        """Return the offsets, (n, 2), moved outwards to the ends of grapheme clusters: no letter is parted from its marks."""
        return widen(self.offsets, self._starts, len(self.text))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first character of each grapheme cluster of the text."""
        return grapheme_starts(self.text)

    @cached_property
    def words(self) -> Ids:
        """Return for each token the index of its word in the text, (n,).

        A word is a unit of the tokenizer's pre-tokenization. In scripts without spaces (Chinese, Japanese, Thai, …), where such a
        unit may be a whole sentence, each token is a word instead; byte tokens of one character together are one word.
        """
        if not len(self):
            return np.zeros(0, dtype=np.int32)
        word_ids = [-1 if word is None else word for word in self._encoding.word_ids]
        words = np.array(word_ids, dtype=np.int32)
        begins = np.concatenate([[True], (words[1:] != words[:-1]) | (words[1:] < 0)])
        if not self.text.isascii():
            is_unspaced = self._starts_unspaced()
            # Byte tokens of the same character have overlapping offsets and stay in one word.
            begins[1:] |= (is_unspaced[1:] | is_unspaced[:-1]) & (self.offsets[1:, 0] >= self.offsets[:-1, 1])
            if len(self._starts) < len(self.text):
                # So do the tokens of a letter and its marks.
                begins[1:] &= np.isin(self.offsets[1:, 0], self._starts)
        return (np.cumsum(begins) - 1).astype(np.int32)

    def _starts_unspaced(self) -> NDArray[np.bool_]:
        """Return for each token whether its first character belongs to a script without spaces, (n,)."""
        is_unspaced = unspaced(self.text)
        return is_unspaced[np.minimum(self.offsets[:, 0], len(is_unspaced) - 1)]


def unspaced(text: str) -> NDArray[np.bool_]:
    """Return for each character of a text whether it belongs to a script written without spaces, such as Chinese.

    Shape: (len(text),).
    """
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    script = np.searchsorted(UNSPACED[:, 0], codes, side="right") - 1
    is_unspaced: NDArray[np.bool_] = (script >= 0) & (codes <= UNSPACED[script, 1])
    return is_unspaced
