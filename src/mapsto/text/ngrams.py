"""N-grams of text and their TF-IDF weights (Salton & Buckley 1988), as scikit-learn's TfidfVectorizer defines them.

There are two vocabularies: runs of 1 to 4 characters within words, and runs of 1 to 2 words. Character n-grams serve
languages without spaces, such as Chinese. Each n-gram keeps its place in the text, so that its part in an answer can be
shown there.
Legend of shapes: t n-grams of one text, v n-grams of a vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mapsto.sequence.piece import Ints
from mapsto.text.encoding import unspaced

# The shortest and the longest n-grams.
CHARACTER_NGRAMS, WORD_NGRAMS = (1, 4), (1, 2)
# The most n-grams of a vocabulary; the most frequent ones are kept.
MAX_FEATURES = 100_000
# Words whose n-grams are kept in memory, since most words of a language are rare.
CACHED_WORDS = 2**16

WORD, WORD_WITH_MARKS = re.compile(r"\w+"), re.compile(r"\S+")

Floats = NDArray[np.float32]


class Analyzer(ABC):
    """One definition of the n-grams of a text; texts are given in lower case."""

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def ngrams(text: str) -> list[str]:
        """Return all n-grams of a text, as often as they occur."""

    @staticmethod
    @abstractmethod
    def places(text: str) -> Ints:
        """Return start and end in characters, (t, 2), of each n-gram of `ngrams`."""


class Characters(Analyzer):
    """Runs of 1 to 4 characters within a word, which has a space at both ends; a short word also counts once as a whole."""

    name = "characters"

    @staticmethod
    def ngrams(text: str) -> list[str]:
        """Return the character n-grams of each word in turn."""
        return list(chain.from_iterable(map(_ngrams_of_word, WORD_WITH_MARKS.findall(text))))

    @staticmethod
    def places(text: str) -> Ints:
        """Return the places without the added spaces; the place of a space alone is the character beside it."""
        words = WORD_WITH_MARKS.finditer(text)
        parts = [_places_in_word(match.end() - match.start()) + match.start() for match in words]
        return np.concatenate([np.zeros((0, 2), np.int64), *parts])


@lru_cache(CACHED_WORDS)
def _ngrams_of_word(word: str) -> tuple[str, ...]:
    """Return the character n-grams of a word with a space at both ends, by length and then by place."""
    padded = f" {word} "
    return tuple(padded[start : start + length] for length, start in _spans_of_word(len(word)))


@cache
def _spans_of_word(num_characters: int) -> tuple[tuple[int, int], ...]:
    """Return (length, start) of each character n-gram of a word; the starts count the space before the word."""
    shortest, longest = CHARACTER_NGRAMS
    padded = num_characters + 2
    lengths = range(shortest, min(longest, padded) + 1)
    return tuple((length, start) for length in lengths for start in range(padded - length + 1))


@lru_cache(CACHED_WORDS)
def _places_in_word(num_characters: int) -> Ints:
    """Return start and end, (t, 2), of each character n-gram of a word, counted from the word's first character."""
    lengths, starts = np.array(_spans_of_word(num_characters)).T
    first = np.clip(starts - 1, 0, num_characters - 1)
    return np.stack([first, np.clip(starts - 1 + lengths, first + 1, num_characters)], axis=1)


class Words(Analyzer):
    """Runs of 1 to 2 words; a word consists of letters, digits and underscores."""

    name = "words"

    @staticmethod
    def ngrams(text: str) -> list[str]:
        """Return the runs of one word, then those of two."""
        words = WORD.findall(text)
        shortest, longest = WORD_NGRAMS
        return [
            " ".join(words[start : start + length])
            for length in range(shortest, longest + 1)
            for start in range(len(words) - length + 1)
        ]

    @staticmethod
    def places(text: str) -> Ints:
        """Return the place of each run, from its first to its last word."""
        words = np.array([match.span() for match in WORD.finditer(text)], np.int64).reshape(-1, 2)
        shortest, longest = WORD_NGRAMS
        runs = (
            np.stack([words[: len(words) - length + 1, 0], words[length - 1 :, 1]], axis=1)
            for length in range(shortest, longest + 1)
            if length <= len(words)
        )
        return np.concatenate([np.zeros((0, 2), np.int64), *runs])


ANALYZERS: dict[str, type[Analyzer]] = {analyzer.name: analyzer for analyzer in (Characters, Words)}


@dataclass(frozen=True)
class Vocabulary:
    """The n-grams that one analyzer found in training texts, with their numbers and their rarity.

    numbers: the number of each n-gram, from 0.
    rarity: (v,), the inverse document frequency of each n-gram: ln((1 + texts) / (1 + texts with the n-gram)) + 1.
    """

    numbers: dict[str, int]
    rarity: Floats

    @classmethod
    def learn(cls, texts: Sequence[str], analyzer: type[Analyzer]) -> Vocabulary:
        """Return the vocabulary of the most frequent n-grams of lower-case texts; their numbers follow the order of strings."""
        counts: Counter[str] = Counter()
        num_texts_with: Counter[str] = Counter()
        for text in texts:
            found = Counter(analyzer.ngrams(text))
            counts.update(found)
            num_texts_with.update(found.keys())
        # Equally frequent n-grams are ranked as strings, so that the order of the texts does not matter.
        kept = sorted(sorted(counts, key=lambda ngram: (-counts[ngram], ngram))[:MAX_FEATURES])
        rarity = [math.log((1 + len(texts)) / (1 + num_texts_with[ngram])) + 1 for ngram in kept]
        return cls({ngram: number for number, ngram in enumerate(kept)}, np.array(rarity, np.float32))


@dataclass(frozen=True)
class WeightedNgrams:
    """The n-grams of one text, without those that the vocabularies lack.

    numbers: (t,). weights: (t,), TF-IDF weights; the weight of an n-gram is divided equally among its occurrences.
    places: (t, 2), start and end in characters of the text; None unless asked for.
    """

    numbers: Ints
    weights: Floats
    places: Ints | None = None


class NgramEncoder:
    """An encoder of texts as n-grams with TF-IDF weights.

    vocabularies: learnt from training texts, by name of the analyzer; their n-grams are numbered one after the other.
    """

    def __init__(self, vocabularies: dict[str, Vocabulary]) -> None:
        self.vocabularies = vocabularies

    @classmethod
    def learn(cls, texts: Sequence[str]) -> NgramEncoder:
        """Return the encoder of training texts. An analyzer that finds nothing in them, such as words in emoji, is left out."""
        lowered = [text.lower() for text in texts]
        learnt = {name: Vocabulary.learn(lowered, analyzer) for name, analyzer in ANALYZERS.items()}
        return cls({name: vocabulary for name, vocabulary in learnt.items() if vocabulary.numbers})

    @property
    def size(self) -> int:
        """The number of n-grams of all vocabularies."""
        return sum(len(vocabulary.numbers) for vocabulary in self.vocabularies.values())

    @cached_property
    def ngrams(self) -> list[str]:
        """All n-grams in the order of their numbers."""
        return list(chain.from_iterable(vocabulary.numbers for vocabulary in self.vocabularies.values()))

    def encode(self, text: str, with_places: bool = False) -> WeightedNgrams:
        """Return the n-grams of a text with their weights.

        A weight is (1 + ln(count in the text)) · rarity. The weights of each vocabulary are scaled to unit norm and
        divided by the root of the number of vocabularies, so that all weights of a text together have unit norm.
        """
        lowered = text.lower()
        numbers, weights, places, first = [], [], [], 0
        for name, vocabulary in self.vocabularies.items():
            found = np.array([vocabulary.numbers.get(ngram, -1) for ngram in ANALYZERS[name].ngrams(lowered)], np.int64)
            is_known = found >= 0
            numbers.append(found[is_known] + first)
            weights.append(_weigh(found[is_known], vocabulary.rarity) / np.float32(len(self.vocabularies) ** 0.5))
            if with_places:
                places.append(ANALYZERS[name].places(lowered)[is_known])
            first += len(vocabulary.numbers)
        places_in_text = _restore_case(text, lowered, np.concatenate(places)) if with_places else None
        return WeightedNgrams(np.concatenate(numbers), np.concatenate(weights), places_in_text)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the vocabularies in plain JSON: n-grams and rarity, by name of the analyzer."""
        return {
            name: {"ngrams": list(vocabulary.numbers), "rarity": vocabulary.rarity.tolist()}
            for name, vocabulary in self.vocabularies.items()
        }

    @classmethod
    def from_json(cls, content: dict[str, dict[str, Any]]) -> NgramEncoder:
        """Return the encoder that `to_json` wrote. Raises AttributeError, KeyError, TypeError or ValueError for other content."""
        vocabularies = {}
        for name, entry in content.items():
            numbers = {str(ngram): number for number, ngram in enumerate(entry["ngrams"])}
            rarity = np.array(entry["rarity"], np.float32)
            if name not in ANALYZERS or not len(numbers) == len(entry["ngrams"]) == rarity.size or rarity.ndim != 1:
                raise ValueError(f"{name} is no vocabulary of different n-grams, each with its rarity")
            vocabularies[name] = Vocabulary(numbers, rarity)
        if not vocabularies:
            raise ValueError("there is no vocabulary")
        return cls(vocabularies)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hex, of all that determines how a text is encoded."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()


def _weigh(numbers: Ints, rarity: Floats) -> Floats:
    """Return the weights (t,) of n-grams found in a text, scaled so that the weights of different n-grams have unit norm."""
    different, index, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    weights = (1 + np.log(counts)) * rarity[different]
    norm = float(np.linalg.norm(weights)) or 1.0
    weights_per_occurrence: Floats = (weights / norm / counts)[index].astype(np.float32)
    return weights_per_occurrence


def _restore_case(text: str, lowered: str, places: Ints) -> Ints:
    """Return places (t, 2) in the lower-cased text as places in the text."""
    if len(lowered) == len(text):
        return places
    # A few letters, such as İ, become two characters in lower case.
    index = np.repeat(np.arange(len(text)), [len(character.lower()) for character in text])
    return np.stack([index[places[:, 0]], index[places[:, 1] - 1] + 1], axis=1)


def sparse_features(tokens: Sequence[Floats], size: int) -> Any:
    """Return weighted n-grams of n texts as a sparse matrix (n, size); equal n-grams of a text are added up.

    tokens: for each text an array (t, 2) of numbers and weights.
    """
    from scipy.sparse import csr_matrix  # imported here since it takes a second

    rows = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    numbers, weights = np.concatenate([np.zeros((0, 2), np.float32), *tokens]).T
    return csr_matrix((weights, (rows, numbers.astype(np.int64))), shape=(len(tokens), size))


def split_into_units(text: str, ngrams: WeightedNgrams) -> tuple[WeightedNgrams, Ints]:
    """Divide the weight of each n-gram equally among the units of text that it touches.

    A unit is a word, or one character of a script without spaces such as Chinese. Return the parts of the n-grams,
    sorted by unit, each with the place of its unit; and the number of the unit of each part, from 0.
    """
    assert ngrams.places is not None
    unit_of_character, unit_places = _find_units(text)
    first = unit_of_character[ngrams.places[:, 0]]
    num_units = unit_of_character[ngrams.places[:, 1] - 1] - first + 1
    index = np.repeat(np.arange(len(first)), num_units)
    units = np.arange(len(index)) - np.repeat(np.cumsum(num_units) - num_units - first, num_units)
    order = np.argsort(units, kind="stable")
    index, units = index[order], units[order]
    weights = (ngrams.weights / np.maximum(num_units, 1).astype(np.float32))[index]
    return WeightedNgrams(ngrams.numbers[index], weights, unit_places[units]), units


def _find_units(text: str) -> tuple[Ints, Ints]:
    """Return the unit of each character (one in a space is the unit before it), and start and end of each unit, (u, 2)."""
    is_space = np.array([character.isspace() for character in text], np.bool_)
    is_alone = unspaced(text) & ~is_space
    begins = ~is_space & (is_alone | np.r_[True, is_space[:-1] | is_alone[:-1]])
    unit_of_character = np.cumsum(begins) - 1
    characters = np.flatnonzero(~is_space)
    starts = np.flatnonzero(begins)
    last = np.searchsorted(unit_of_character[characters], np.arange(len(starts)), side="right") - 1
    return unit_of_character, np.stack([starts, characters[last] + 1], axis=1)
