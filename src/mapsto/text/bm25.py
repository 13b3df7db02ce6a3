"""BM25 (Robertson & Zaragoza 2009): ranks passages by the words that they share with a query, without training.

A word that few passages have counts more, a word that a passage repeats counts little more, and long passages are not favoured.
In scripts without spaces, such as Chinese, each character and each pair of neighbouring characters is a term.
Legend of shapes: q queries, c passages, v terms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.text.encoding import unspaced
from mapsto.text.tagging.word_tags import written_words

# Saturation of repeated terms, and how much the length of a passage counts: Robertson's usual values.
K1, B = 1.2, 0.75


def terms(text: str) -> list[str]:
    """Return the terms of a text in lower case: its words, and in scripts without spaces its characters and pairs of them."""
    lower = text.lower()
    regions = [(start, end) for start, end in written_words(lower) if any(map(str.isalnum, lower[start:end]))]
    words = [lower[start:end] for start, end in regions]
    if lower.isascii():
        return words
    is_unspaced = unspaced(lower)
    pairs = [
        lower[first[0] : second[1]]
        for first, second in pairwise(regions)
        if first[1] == second[0] and is_unspaced[first[0]] and is_unspaced[second[0]]
    ]
    return words + pairs


class BM25:
    """An index of passages by their terms.

    passages: the texts to rank.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        from scipy.sparse import csr_matrix  # imported here since it takes a second

        counts = [Counter(terms(passage)) for passage in passages]
        self.numbers = {term: number for number, term in enumerate(dict.fromkeys(t for count in counts for t in count))}
        lengths = np.array([count.total() for count in counts], np.float64)
        rows = np.repeat(np.arange(len(counts)), [len(count) for count in counts])
        columns = np.array([self.numbers[term] for count in counts for term in count], np.int64)
        frequencies = np.array([number for count in counts for number in count.values()], np.float64)
        num_passages_with = np.bincount(columns, minlength=len(self.numbers))
        # Always positive, as in Lucene: a term that most passages have must not speak against them.
        rarity = np.log1p((len(counts) - num_passages_with + 0.5) / (num_passages_with + 0.5))
        relative_length = lengths / max(lengths.mean(), 1e-9) if len(counts) else lengths
        saturation = frequencies + K1 * (1 - B + B * relative_length[rows])
        weights = rarity[columns] * frequencies * (K1 + 1) / saturation
        self.weights = csr_matrix((weights, (rows, columns)), shape=(len(counts), len(self.numbers))).T.tocsr()

    def scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the score of every passage for every query, (q, c)."""
        from scipy.sparse import csr_matrix

        counts = [Counter(term for term in terms(query) if term in self.numbers) for query in queries]
        rows = np.repeat(np.arange(len(counts)), [len(count) for count in counts])
        columns = [self.numbers[term] for count in counts for term in count]
        values = [number for count in counts for number in count.values()]
        matrix = csr_matrix((values, (rows, columns)), shape=(len(counts), len(self.numbers)), dtype=np.float64)
        scores: Any = (matrix @ self.weights).toarray()
        return np.asarray(scores, np.float64)
