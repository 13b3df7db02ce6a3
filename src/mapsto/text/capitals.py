"""The capitals of words, for vocabularies that fold case: beside each token, how its word is written.

Names are easier to find by their capitals, which a vocabulary in small letters does not show. So each token is read with one of
four patterns of its word, as features beside tokens (Sennrich & Haddow 2016). The number of a token in a piece is then
id + v × pattern, and its embedding the sum of two vectors. A word without capitals has pattern 0, whose vector is zero, so a
text in small letters is read as by the published model.
Legend of shapes: n tokens of one text, v vocabulary, d width.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.text.encoding import Encoded

# The patterns: no capital (or no letter with case), the first letter alone, all letters of several, and any other.
NONE, FIRST, ALL, MIXED = range(4)


def pattern_of(word: str) -> int:
    """Return the pattern of the capitals of a word."""
    letters = [letter for letter in word if letter.lower() != letter.upper()]
    is_capital = [letter != letter.lower() for letter in letters]
    if not any(is_capital):
        return NONE
    if is_capital[0] and not any(is_capital[1:]):
        return FIRST
    return ALL if all(is_capital) else MIXED


def patterns(encoded: Encoded) -> NDArray[np.int64]:
    """Return for each token of a text the pattern of its word, (n,)."""
    if not len(encoded):
        return np.zeros(0, np.int64)
    begins = np.flatnonzero(np.diff(encoded.words, prepend=-1))
    starts, ends = encoded.regions[begins, 0], np.maximum.reduceat(encoded.regions[:, 1], begins)
    of_words = [pattern_of(encoded.text[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return np.repeat(of_words, np.diff([*begins.tolist(), len(encoded)]))


class CapitalsEmbedding(nn.Embedding):
    """An embedding table (v, d) with a vector for each pattern of capitals but the first, (3, d), at first zero."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__(vocabulary, width)
        # Pattern 0 has none: MIXED is the last of the others.
        self.capitals = nn.Parameter(torch.zeros(MIXED, width))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the embeddings (m, d) of tokens with their patterns. numbers: id + v × pattern, (m,)."""
        vectors = torch.cat([torch.zeros_like(self.capitals[:1]), self.capitals])
        numbers = numbers.long()
        tokens = super().forward(numbers % self.num_embeddings)
        return tokens + F.embedding(numbers // self.num_embeddings, vectors)
