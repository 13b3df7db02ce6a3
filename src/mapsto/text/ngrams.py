"""N-grams of text and their TF-IDF weights (Salton & Buckley 1988), as scikit-learn's TfidfVectorizer defines them.

There are two vocabularies: one of 1 to 4 characters within a word, and one of 1 to 2 words. Character n-grams serve
languages without spaces, such as Chinese. The place of each n-gram in the text is recorded, so that its contribution to an
answer can be shown in the text.
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
from mapsto.text.characters import canonical, canonical_places, grapheme_starts
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
    """A rule that splits a text into n-grams. The texts are in lower case."""

    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def ngrams(text: str) -> list[str]:
        """Return all n-grams of a text; one that occurs several times is listed several times."""

    @staticmethod
    @abstractmethod
    def places(text: str) -> Ints:
        """Return start and end in the text, in characters, (t, 2), of each n-gram that `ngrams` returns, in its order."""


class Characters(Analyzer):
    """The rule for n-grams of 1 to 4 consecutive characters within a word, to which a space is added at both ends.

    A word is everything between white space.
    """

    name = "characters"

    @staticmethod
    def ngrams(text: str) -> list[str]:
        """Return the character n-grams of the words in the text: all of the first word, then all of the second, and so on."""
        return list(chain.from_iterable(map(_ngrams_of_word, WORD_WITH_MARKS.findall(text))))

    @staticmethod
    def places(text: str) -> Ints:
        """Return start and end in the text of each n-gram of `ngrams`, (t, 2), not counting the spaces added to words.

        An added space alone gets the place of the character next to it.
        """
        words = WORD_WITH_MARKS.finditer(text)
        parts = [_places_in_word(match.end() - match.start()) + match.start() for match in words]
        return np.concatenate([np.zeros((0, 2), np.int64), *parts])


@lru_cache(CACHED_WORDS)
def _ngrams_of_word(word: str) -> tuple[str, ...]:
    """Return the character n-grams of a word with a space added at both ends, sorted by length and then by start."""
    padded = f" {word} "
    return tuple(padded[start : start + length] for length, start in _spans_of_word(len(word)))


@cache
def _spans_of_word(num_characters: int) -> tuple[tuple[int, int], ...]:
    """Return (length, start) of each character n-gram of a word, in the order of `_ngrams_of_word`.

    num_characters: length of the word without the spaces added at both ends. Start 0 is the space added in front.
    """
    shortest, longest = CHARACTER_NGRAMS
    padded = num_characters + 2
    lengths = range(shortest, min(longest, padded) + 1)
    return tuple((length, start) for length in lengths for start in range(padded - length + 1))


@lru_cache(CACHED_WORDS)
def _places_in_word(num_characters: int) -> Ints:
    """Return start and end of each character n-gram in the word, (t, 2), not counting the spaces added at both ends.

    num_characters: length of the word without these spaces. Start 0 is the word's first character.
    """
    lengths, starts = np.array(_spans_of_word(num_characters)).T
    first = np.clip(starts - 1, 0, num_characters - 1)
    return np.stack([first, np.clip(starts - 1 + lengths, first + 1, num_characters)], axis=1)


class Words(Analyzer):
    """The rule for n-grams of 1 or 2 consecutive words. A word consists of letters, digits and underscores."""

    name = "words"

    @staticmethod
    def ngrams(text: str) -> list[str]:
        """Return all words of the text, then all pairs of consecutive words, joined by a space."""
        words = WORD.findall(text)
        shortest, longest = WORD_NGRAMS
        return [
            " ".join(words[start : start + length])
            for length in range(shortest, longest + 1)
            for start in range(len(words) - length + 1)
        ]

    @staticmethod
    def places(text: str) -> Ints:
        """Return for each n-gram of `ngrams` the start of its first word and the end of its last word, (t, 2), in characters."""
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
    """The n-grams that one analyzer gives for training texts, with their indices and inverse document frequencies.

    numbers: {n-gram: its index}, from 0.
    rarity: (v,), the inverse document frequency of each n-gram: ln((1 + number of texts) / (1 + number of texts with it)) + 1.
    """

    numbers: dict[str, int]
    rarity: Floats

    @classmethod
    def learn(cls, texts: Sequence[str], analyzer: type[Analyzer]) -> Vocabulary:
        """Return the vocabulary of the MAX_FEATURES n-grams that occur most often in the texts, indexed in sorted order.

        texts: in lower case. analyzer: the rule that splits them into n-grams.
        """
        counts: Counter[str] = Counter()
        num_texts_with: Counter[str] = Counter()
        for text in texts:
            ngram_counts = Counter(analyzer.ngrams(text))
            counts.update(ngram_counts)
            num_texts_with.update(ngram_counts.keys())
        # Equally frequent n-grams are ranked as strings, so that the order of the texts does not matter.
        frequent = sorted(sorted(counts, key=lambda ngram: (-counts[ngram], ngram))[:MAX_FEATURES])
        rarity = [math.log((1 + len(texts)) / (1 + num_texts_with[ngram])) + 1 for ngram in frequent]
        return cls({ngram: number for number, ngram in enumerate(frequent)}, np.array(rarity, np.float32))


@dataclass(frozen=True)
class WeightedNgrams:
    """The n-grams of one text that are in the vocabularies, with their TF-IDF weights.

    numbers: (t,), index of each n-gram. weights: (t,); the weight of an n-gram is divided equally among its occurrences.
    places: (t, 2), start and end of each n-gram in characters of the text; None if they were not requested.
    """

    numbers: Ints
    weights: Floats
    places: Ints | None = None


class NgramEncoder:
    """An encoder of texts as n-grams with TF-IDF weights.

    vocabularies: by name of the analyzer. The indices of the second vocabulary follow those of the first.
    """

    def __init__(self, vocabularies: dict[str, Vocabulary]) -> None:
        self.vocabularies = vocabularies

    @classmethod
    def learn(cls, texts: Sequence[str]) -> NgramEncoder:
        """Return an encoder with a vocabulary of each analyzer, learnt from the training texts.

        An analyzer without n-grams in these texts is left out, such as that of words if all texts are emoji.
        """
        lowered = [canonical(text).lower() for text in texts]
        vocabularies = {name: Vocabulary.learn(lowered, analyzer) for name, analyzer in ANALYZERS.items()}
        return cls({name: vocabulary for name, vocabulary in vocabularies.items() if vocabulary.numbers})

    @property
    def size(self) -> int:
        """The number of n-grams in all vocabularies together."""
        return sum(len(vocabulary.numbers) for vocabulary in self.vocabularies.values())

    @cached_property
    def ngrams(self) -> list[str]:
        """The n-grams of all vocabularies, in the order of their indices."""
        return list(chain.from_iterable(vocabulary.numbers for vocabulary in self.vocabularies.values()))

    def encode(self, text: str, with_places: bool = False) -> WeightedNgrams:
        """Return the n-grams of a text with their weights. with_places: whether to return their places in the text too.

        The weight of an n-gram is (1 + ln(its count in the text)) · its inverse document frequency. The weights are scaled to
        equal norms for the vocabularies, and to unit norm for the whole text.
        """
        composed = canonical(text)
        lowered = composed.lower()
        numbers, weights, places, first = [], [], [], 0
        for name, vocabulary in self.vocabularies.items():
            ngram_numbers = np.array(
                [vocabulary.numbers.get(ngram, -1) for ngram in ANALYZERS[name].ngrams(lowered)], np.int64
            )
            is_known = ngram_numbers >= 0
            numbers.append(ngram_numbers[is_known] + first)
            weights.append(
                _weigh(ngram_numbers[is_known], vocabulary.rarity) / np.float32(len(self.vocabularies) ** 0.5)
            )
            if with_places:
                places.append(ANALYZERS[name].places(lowered)[is_known])
            first += len(vocabulary.numbers)
        places_in_text = _restore_case(composed, lowered, np.concatenate(places)) if with_places else None
        if places_in_text is not None and composed != text:
            original = canonical_places(text)
            starts, ends = original[places_in_text[:, 0], 0], original[places_in_text[:, 1] - 1, 1]
            places_in_text = np.stack([starts, ends], axis=1)
        return WeightedNgrams(np.concatenate(numbers), np.concatenate(weights), places_in_text)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return {name of the analyzer: {"ngrams", "rarity"}} in JSON types: both lists in the order of the indices."""
        return {
            name: {"ngrams": list(vocabulary.numbers), "rarity": vocabulary.rarity.tolist()}
            for name, vocabulary in self.vocabularies.items()
        }

    @classmethod
    def from_json(cls, content: dict[str, dict[str, Any]]) -> NgramEncoder:
        """Return the encoder whose `to_json` returned `content`.

        Raises AttributeError, KeyError, TypeError or ValueError for any other content.
        """
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
        """The SHA-256, in hex, of the vocabularies. Encoders with equal hashes encode a text in the same way."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()


def _weigh(numbers: Ints, rarity: Floats) -> Floats:
    """Return the weight (t,) of each occurrence of an n-gram in a text.

    The weights of different n-grams have unit norm; that of an n-gram is divided equally among its occurrences.
    numbers: (t,), index of the n-gram of each occurrence. rarity: (v,), inverse document frequencies.
    """
    different, index, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    weights = (1 + np.log(counts)) * rarity[different]
    norm = float(np.linalg.norm(weights)) or 1.0
    weights_per_occurrence: Floats = (weights / norm / counts)[index].astype(np.float32)
    return weights_per_occurrence


def _restore_case(text: str, lowered: str, places: Ints) -> Ints:
    """Convert places in `lowered` to places in `text`, (t, 2) each, since a few letters become two characters in lower case.

    lowered: the text in lower case.
    """
    if len(lowered) == len(text):
        return places
    # A few letters, such as İ, become two characters in lower case.
    index = np.repeat(np.arange(len(text)), [len(character.lower()) for character in text])
    return np.stack([index[places[:, 0]], index[places[:, 1] - 1] + 1], axis=1)


def sparse_features(tokens: Sequence[Floats], size: int) -> Any:
    """Return the features of n texts, a sparse matrix (n, size): the summed weights of each n-gram in each text.

    tokens: for each text an array (t, 2) with an n-gram's index and weight in each row. size: number of n-grams.
    """
    from scipy.sparse import csr_matrix  # imported here since it takes a second

    rows = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    numbers, weights = np.concatenate([np.zeros((0, 2), np.float32), *tokens]).T
    return csr_matrix((weights, (rows, numbers.astype(np.int64))), shape=(len(tokens), size))


def split_into_units(text: str, ngrams: WeightedNgrams) -> tuple[WeightedNgrams, Ints]:
    """Divide each n-gram into one n-gram for each unit of text that it touches, and its weight equally among them.

    A unit is a word, or one character of a script without spaces such as Chinese. Return the new n-grams, sorted by unit, each
    with the place of its unit, and the index of each one's unit.
    ngrams: the n-grams of the text, with their places.
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
    """Return the index of the unit of each character, and start and end of each unit in characters, (u, 2).

    A unit is a word, or one character of a script without spaces. White space belongs to the unit before it.
    """
    is_space = np.array([character.isspace() for character in text], np.bool_)
    is_alone = unspaced(text) & ~is_space
    begins = ~is_space & (is_alone | np.r_[True, is_space[:-1] | is_alone[:-1]])
    is_cluster_start = np.zeros(len(text), np.bool_)
    is_cluster_start[grapheme_starts(text)] = True
    begins &= is_cluster_start
    unit_of_character = np.cumsum(begins) - 1
    characters = np.flatnonzero(~is_space)
    starts = np.flatnonzero(begins)
    last = np.searchsorted(unit_of_character[characters], np.arange(len(starts)), side="right") - 1
    return unit_of_character, np.stack([starts, characters[last] + 1], axis=1)
