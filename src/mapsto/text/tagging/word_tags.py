"""Tags of words, as data sets write them, and the labelled spans of characters that they stand for.

In a data set of entities each word has a tag: B-PER begins an entity, I-PER continues it, O is outside of all. Variants differ
in where they write B (IOB1 only between two entities that touch, IOB2 always), and may mark the last word (E or L) and the only
one (S, U or W) of an entity. All of them are read by one rule: B, S and their likes begin an entity, and I continues the entity
before it if that has the same label, else it begins one. In a data set of parts of speech each word has a tag without such a
prefix, and is a span of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mapsto.text.encoding import unspaced

PREFIXED = re.compile(r"([BIESLUMW])[-_](.+)", re.DOTALL | re.IGNORECASE)
SUFFIXED = re.compile(r"(.+)[-_]([BIESLUMW])", re.DOTALL)
WORD = re.compile(r"\w+|[^\w\s]")
# Tags of words outside of all spans.
OUTSIDE = frozenset(["O", "o", "_"])
# Further ones, where other tags have prefixes.
OUTSIDE_BESIDE_PREFIXES = OUTSIDE | frozenset(["OUT", "Out", "out", "OTHER", "-", "0"])
# The share of the words with a tag that must have a prefix for the others to be mistakes.
PREFIXED_SHARE = 0.5
# Prefixes that begin a span, and those that end one.
BEGINNING, ENDING = frozenset("BSUW"), frozenset("ESLUW")
# The share of words of one character from which a data set is taken for one with a character in each line.
CHARACTERS_SHARE = 0.95


class WordSpan(NamedTuple):
    """A labelled span of words: the index of its first word, of its last word, and its label."""

    first: int
    last: int
    label: str


@dataclass(frozen=True)
class TagStyle:
    """The facts about all tags and words of a data set by which the tags of a sentence become spans.

    is_prefixed: whether tags have prefixes (B-PER, I-PER).
    has_outside: whether some words are outside of all spans. Without prefixes, equal tags in a row are then one span.
    is_glued: whether words are joined without spaces, since each is a character of a text written without spaces.
    """

    is_prefixed: bool
    has_outside: bool
    is_glued: bool

    @classmethod
    def measure(cls, sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> TagStyle:
        """Return the style of the (words, tags) of all sentences of a data set."""
        tags: Counter[str] = Counter()
        num_words = num_characters = num_unspaced = 0
        for words, sentence_tags in sentences:
            tags.update(sentence_tags)
            num_words += len(words)
            num_characters += sum(len(word) == 1 for word in words)
            num_unspaced += int(unspaced("".join(words)).sum()) if any(words) else 0
        num_labelled = sum(count for tag, count in tags.items() if tag not in OUTSIDE_BESIDE_PREFIXES)
        num_prefixed = sum(count for tag, count in tags.items() if split_prefix(tag) is not None)
        return cls(
            is_prefixed=num_prefixed > PREFIXED_SHARE * num_labelled,
            has_outside=any(tag in OUTSIDE for tag in tags),
            is_glued=bool(num_unspaced) and num_characters >= CHARACTERS_SHARE * num_words,
        )

    def spans(self, tags: Sequence[str]) -> list[WordSpan]:
        """Return the spans that the tags of a sentence's words stand for, in order."""
        spans: list[WordSpan] = []
        continues = False  # whether the last span may go on with the next word
        for index, tag in enumerate(tags):
            if self.is_outside(tag):
                continues = False
                continue
            prefix, label = self.split(tag)
            if continues and prefix not in BEGINNING and spans[-1].label == label:
                spans[-1] = spans[-1]._replace(last=index)
            else:
                spans.append(WordSpan(index, index, label))
            continues = prefix not in ENDING
        return spans

    def split(self, tag: str) -> tuple[str, str]:
        """Return (prefix, label) of a tag that is not outside.

        Where tags have no prefix, it is "I", or "S" for parts of speech.
        """
        parts = split_prefix(tag) if self.is_prefixed else None
        return parts or (("I" if self.has_outside else "S"), tag)

    def is_outside(self, tag: str) -> bool:
        """Return whether a tag says that its word is outside of all spans."""
        return tag in (OUTSIDE_BESIDE_PREFIXES if self.is_prefixed else OUTSIDE)

    def find_fault(self, words: Sequence[Any], tags: Sequence[Any]) -> str:
        """Return why a sentence cannot be read, in words; "" if it can."""
        if len(words) != len(tags):
            return f"there are {len(words)} words and {len(tags)} tags"
        if not all(isinstance(word, str) for word in words):
            return "a word is no text"
        if odd := next((tag for tag in tags if not isinstance(tag, str)), None):
            return f"the tag {odd!r} is a number, whose name is not known"
        if None in tags or 0 in tags:
            return "a tag is no text"
        for tag in tags if self.is_prefixed else ():
            if not self.is_outside(tag) and split_prefix(tag) is None:
                return f"the tag {tag!r} has no prefix such as B- or I-, which other tags have"
        return ""

    def join(self, words: Sequence[str], unspaced: Collection[int] = ()) -> tuple[str, list[int]]:
        """Return the text of a sentence's words, and where each word begins in it, in characters.

        A space stands between two words, except between characters of scripts that are written without spaces.
        unspaced: the indices of further words behind which no space stands.
        """
        parts: list[str] = []
        starts: list[int] = []
        length = 0
        for index, word in enumerate(words):
            is_apart = index - 1 not in unspaced
            if (
                parts
                and is_apart
                and not self.is_glued
                and not (_is_unspaced(parts[-1][-1:]) and _is_unspaced(word[:1]))
            ):
                parts.append(" ")
                length += 1
            starts.append(length)
            parts.append(word)
            length += len(word)
        return "".join(parts), starts

    def to_text(
        self, words: Sequence[str], tags: Sequence[str], unspaced: Collection[int] = ()
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return the text of a sentence and its spans, each {"start", "end", "label"} with start and end in characters.

        unspaced: the indices of the words behind which the data says that no space stands.
        """
        text, starts = self.join(words, unspaced)
        return text, [
            {"start": starts[first], "end": starts[last] + len(words[last]), "label": label}
            for first, last, label in self.spans(tags)
        ]


def split_prefix(tag: str) -> tuple[str, str] | None:
    """Return (prefix in upper case, label) of a tag such as B-PER, b-per or PER-B; None for other tags."""
    if match := PREFIXED.fullmatch(tag):
        return match[1].upper(), match[2]
    return (match[2], match[1]) if (match := SUFFIXED.fullmatch(tag)) else None


def written_words(text: str) -> list[tuple[int, int]]:
    """Return start and end of each word and each other mark in a text; characters of scripts without spaces are words."""
    is_unspaced = unspaced(text) if text else np.zeros(0, np.bool_)
    words: list[tuple[int, int]] = []
    for match in WORD.finditer(text):
        start = match.start()
        for index in range(match.start() + 1, match.end()):
            if is_unspaced[index] or is_unspaced[index - 1]:
                words.append((start, index))
                start = index
        words.append((start, match.end()))
    return words


def count_stray(sentences: Iterable[Sequence[str]]) -> int:
    """Return how many entities of a data set begin with I- although others begin with B-; 0 if B- only parts touching entities.

    sentences: the tags of each sentence.
    """
    num_stray = num_parting = num_begins = 0
    for tags in sentences:
        previous_label = ""
        for tag in tags:
            prefix, label = split_prefix(tag) or ("", "")
            num_begins += prefix == "B"
            num_parting += prefix == "B" and previous_label == label
            num_stray += prefix == "I" and previous_label != label
            previous_label = label
    # In IOB1 every B- stands behind an entity of the same label, and I- begins all other entities.
    return 0 if num_parting == num_begins else num_stray


def _is_unspaced(character: str) -> bool:
    """Return whether a text, of one character or none, is a character of a script written without spaces."""
    return bool(character) and bool(unspaced(character)[0])
