"""Mark in a generated text and in its reference what the other one lacks, by a longest common subsequence of words.

A word of a script with spaces is one unit; in a script without spaces, such as Chinese, each character is one.
The matching blocks are those of Ratcliff and Obershelp (difflib), which takes milliseconds for a thousand words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from html import escape
from itertools import groupby
from typing import NamedTuple

from mapsto.text.encoding import unspaced

# Words with the marks inside them (don't, 3.14), single other characters, and the white space behind either.
UNIT = re.compile(r"(\w+(?:[.,'’-]\w+)*|\S)(\s*)|(\s+)")


class Unit(NamedTuple):
    """A word or a single character, and the white space behind it, which is not compared."""

    text: str
    space: str


class Run(NamedTuple):
    """A part of a text. is_common: whether the other text has it too, in the same order."""

    text: str
    is_common: bool


def split_units(text: str) -> list[Unit]:
    """Return the units of a text, in order; joined with their white space they are the text."""
    units = []
    for word, space, leading in UNIT.findall(text):
        characters = [word] if not word or not unspaced(word).any() else _split_word(word)
        units += [Unit(part, "") for part in characters[:-1]] + [Unit(characters[-1], space or leading)]
    return units


def _split_word(word: str) -> list[str]:
    """Return the characters of scripts without spaces one by one, and what stands between them as a whole."""
    flags = unspaced(word).tolist()
    groups = groupby(zip(word, flags, strict=True), key=lambda pair: pair[1])
    parts = [(is_unspaced, "".join(character for character, _ in group)) for is_unspaced, group in groups]
    return [unit for is_unspaced, part in parts for unit in (part if is_unspaced else [part])]


def find_differences(answer: str, reference: str) -> tuple[list[Run], list[Run]]:
    """Return the two texts as runs that the other text has too or lacks."""
    units = split_units(answer), split_units(reference)
    answer_words, reference_words = ([unit.text for unit in side] for side in units)
    matcher = SequenceMatcher(None, answer_words, reference_words, autojunk=False)
    is_common = [[False] * len(side) for side in units]
    for first, second, size in matcher.get_matching_blocks():
        is_common[0][first : first + size] = is_common[1][second : second + size] = [True] * size
    answer_runs, reference_runs = (list(_runs(*side)) for side in zip(units, is_common, strict=True))
    return answer_runs, reference_runs


def _runs(units: Sequence[Unit], is_common: Sequence[bool]) -> Iterator[Run]:
    """Yield the runs of units that are all common or all not; the white space behind a run is a common run of its own."""
    for common, group in groupby(zip(units, is_common, strict=True), key=lambda pair: pair[1]):
        members = [unit for unit, _ in group]
        text = "".join(unit.text + unit.space for unit in members)
        content = text.rstrip() if not common else text
        if content:
            yield Run(content, common)
        if content != text:
            yield Run(text[len(content) :], True)


def mark_runs(runs: Sequence[Run], element: str, limit: int) -> str:
    """Return runs as HTML, those that the other text lacks in an element such as `del`.

    limit: number of characters after which the text is cut with "…".
    """
    parts, room = [], limit
    for run in runs:
        if shown := escape(run.text[:room]):
            parts.append(shown if run.is_common else f"<{element}>{shown}</{element}>")
        room = max(0, room - len(run.text))
    return "".join(parts) + "…" * (sum(len(run.text) for run in runs) > limit)
