"""Answers to questions that stand in a passage: find their places, and compare their words as SQuAD's script does.

Two answers are compared by their words without case, punctuation and English articles (Rajpurkar et al. 2016). In scripts
without spaces between words each character is a word, as in the scripts of Chinese data sets (Cui et al. 2019).
"""

from __future__ import annotations

from collections import Counter

from mapsto.text.tagging.word_tags import written_words

ARTICLES = frozenset(["a", "an", "the"])


def find_all(passage: str, text: str) -> list[int]:
    """Return all places in a passage where a text begins, in characters. They may overlap."""
    starts, start = [], passage.find(text)
    while start >= 0:
        starts.append(start)
        start = passage.find(text, start + 1)
    return starts


def nearest(places: list[int], start: int) -> int:
    """Return the place that is nearest to `start`; of two as near the first. places: not empty."""
    return min(places, key=lambda place: abs(place - start))


def words_of(text: str) -> list[str]:
    """Return the words of an answer that are compared: in lower case, without punctuation and English articles."""
    lower = text.lower()
    words = [lower[start:end] for start, end in written_words(lower)]
    return [word for word in words if any(map(str.isalnum, word)) and word not in ARTICLES]


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """Return 1 if a predicted text has the words of one of the true answers, else 0. Both are empty if there is no answer."""
    return float(any(words_of(prediction) == words_of(answer) for answer in answers or ("",)))


def f1(prediction: str, answers: tuple[str, ...]) -> float:
    """Return the F1 of the words of a predicted text and of the true answer that it fits best, from 0 to 1."""
    return max(_f1(words_of(prediction), words_of(answer)) for answer in answers or ("",))


def _f1(predicted: list[str], true: list[str]) -> float:
    if not predicted or not true:
        return float(predicted == true)
    num_common = (Counter(predicted) & Counter(true)).total()
    return 2 * num_common / (len(predicted) + len(true))


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence of a text, which ends at a full stop, question mark or line end.

    A full stop between digits or letters, as in 3.5, ends no sentence.
    """
    places, start = [], 0
    for index, character in enumerate(text):
        is_end = character in "。！？!?\n" or (character == "." and text[index + 1 : index + 2].strip() == "")
        if is_end or index == len(text) - 1:
            inner = text[start : index + 1]
            if inner.strip():
                places.append((start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())))
            start = index + 1
    return places
