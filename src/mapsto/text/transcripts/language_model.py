"""A language model of characters: how likely each is behind the ones before it, counted in some texts.

A transcript that is read along a sound spells what is heard. Such a model knows which spellings are usual in texts like the
expected ones, and prefix beam search adds its scores (shallow fusion, Hannun et al. 2014).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from mapsto.errors import DataError

# The number of characters of an n-gram, and the most characters that are counted: n-grams of more would fill the memory.
ORDER, MAX_CHARACTERS = 6, 2_000_000
# The weight of the model beside the probabilities of the sound.
WEIGHT = 0.5
# Stands before and behind each text.
EDGE = "\n"
CACHED = 2**16


class CharacterModel:
    """Interpolated n-grams of characters with the discount of Witten and Bell (1991).

    texts: the texts that are counted, spelt as transcripts are.
    Raises DataError for texts without characters, and for too many.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        num_characters = sum(map(len, texts))
        if not num_characters:
            raise DataError("the language model's texts are empty")
        if num_characters > MAX_CHARACTERS:
            raise DataError(
                f"the language model's texts have {num_characters:,} characters; the most are {MAX_CHARACTERS:,}: name a part of "
                "them that is like what is said"
            )
        # By n-gram its count; by context, of up to ORDER - 1 characters, the count and the number of different followers.
        self.counts: Counter[str] = Counter()
        for text in texts:
            framed = EDGE + text + EDGE
            for end in range(1, len(framed)):
                for start in range(max(0, end - ORDER + 1), end + 1):
                    self.counts[framed[start : end + 1]] += 1
        self.totals: Counter[str] = Counter()
        self.followers: Counter[str] = Counter()
        for ngram, count in self.counts.items():
            self.totals[ngram[:-1]] += count
            self.followers[ngram[:-1]] += 1
        # Characters that the texts lack share what is left for one.
        self.lowest = 1 / (1 + self.followers[""])
        self.log_probability = lru_cache(CACHED)(self._log_probability)
        entropies = [
            -self.log_probability(text[max(0, end - ORDER + 1) : end], text[end])
            for text in texts
            for end in range(len(text))
        ]
        # By this a character of the texts costs nothing on average, so that short transcripts are not preferred.
        self.mean_cost = sum(entropies) / len(entropies)

    def score(self, end: str, is_whole: bool) -> float:
        """Return the logarithm of the factor by which the last character of a text counts beside what is heard.

        end: the last characters of the text, at most ORDER. is_whole: whether they are all that there are.
        """
        known = EDGE + end if is_whole else end
        return WEIGHT * (self.log_probability(known[-ORDER:-1], known[-1]) + self.mean_cost)

    def _log_probability(self, context: str, character: str) -> float:
        """Return the log-probability of a character behind a context of up to ORDER - 1 characters."""
        probability = self.lowest
        for start in range(len(context), -1, -1):
            known = context[start:]
            total, kinds = self.totals[known], self.followers[known]
            if total:
                probability = (self.counts[known + character] + kinds * probability) / (total + kinds)
        return math.log(probability)


@lru_cache(2)
def make_language_model(texts: tuple[str, ...]) -> CharacterModel:
    """Return the model of some texts, which is made once for all batches of a prediction. Raises DataError as the class."""
    return CharacterModel(texts)
