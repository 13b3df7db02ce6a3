"""Find the words that a text shares with a query, and how rare they are, to mark them where texts are shown.

In scripts without spaces, such as Chinese, two neighbouring characters count as a word: single ones are shared by chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from mapsto.text.encoding import unspaced
from mapsto.text.tagging.word_tags import written_words


class CommonWord(NamedTuple):
    """A part of a text that its query has too: start and end in characters, and its rarity from 0 (in all texts) to 1."""

    start: int
    end: int
    rarity: float


class Rarity:
    """The rarity of words among some texts: the inverse document frequency of BM25, divided by that of a word in one text.

    texts: the texts, of which a sample of some thousands is enough.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        words_by_text = [{word for word, _, _ in _words(text)} for text in texts]
        self.num_texts = max(1, len(words_by_text))
        self.counts: Mapping[str, int] = Counter(word for words in words_by_text for word in words)

    def of(self, word: str) -> float:
        """Return the rarity of a word in lower case, 0 to 1; 1 for a word that no text has."""
        count = max(1, self.counts.get(word, 1))
        frequency, single = (
            math.log1p((self.num_texts - number + 0.5) / (number + 0.5)) for number in (count, min(1, self.num_texts))
        )
        return min(1.0, frequency / single)


def find_common_words(query: str, text: str, rarity: Rarity) -> list[CommonWord]:
    """Return the parts of a text that are words of the query, in order and without overlap. Case is ignored."""
    words = {word for word, _, _ in _words(query)}
    common = [CommonWord(start, end, rarity.of(word)) for word, start, end in _words(text) if word in words]
    # Pairs of characters overlap: each begins where the one before it ends, and a part has the rarity of its rarest pair.
    merged: list[CommonWord] = []
    for part in common:
        if merged and part.start < merged[-1].end:
            last = merged.pop()
            part = CommonWord(last.start, part.end, max(last.rarity, part.rarity))
        merged.append(part)
    return merged


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield the words of a text in lower case, with start and end; in scripts without spaces pairs of neighbouring characters."""
    is_unspaced = unspaced(text).tolist() if text else []
    regions = [(start, end) for start, end in written_words(text) if any(map(str.isalnum, text[start:end]))]
    for start, end in regions:
        if not is_unspaced[start] or len(regions) == 1:
            yield text[start:end].lower(), start, end
    for (start, middle), (beginning, end) in pairwise(regions):
        if middle == beginning and is_unspaced[start] and is_unspaced[beginning]:
            yield text[start:end].lower(), start, end
