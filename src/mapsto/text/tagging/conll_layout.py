"""The places of words and tags among the columns of a file with a word in each line (CoNLL), found by the cells alone.

The columns between a word and its tag differ from data set to data set: CoNLL-2003 has part of speech and chunk, GermEval 2014 a
number before the word and nested entities behind the tag, CoNLL-2012 (OntoNotes) the tag in brackets amid a dozen columns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.text.tagging.word_tags import OUTSIDE, PREFIXED, split_prefix

# The label of a chunk, as in B-NP (Tjong Kim Sang & Buchholz 2000), which is no entity.
CHUNKS = frozenset(["NP", "VP", "PP", "ADJP", "ADVP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"])
# A tag in brackets: (PERSON* begins an entity, * goes on, *) ends it, (PERSON) is one of a word.
BRACKETED = re.compile(r"\(?([\w.\-/]*)\*?\)?")
# The fewest columns of CoNLL-2012 (https://conll.cemantix.org/2012/data.html). A sentence has a further one for each predicate.
MIN_BRACKET_COLUMNS = 11
# The column of words there, behind the document, its part, and the number of the word.
BRACKETED_WORD = 3
# The share of the lines with a tag in a column by which it is one of tags; a line with a word alone is faulty.
TAGS_SHARE = 0.95


@dataclass(frozen=True)
class Layout:
    """The places of the word and of the tag among the cells of a line.

    count: how many cells each line has; None if they differ from sentence to sentence.
    is_bracketed: whether tags are in brackets.
    """

    word: int
    tag: int
    count: int | None
    is_bracketed: bool = False

    def fits(self, cells: Sequence[str]) -> bool:
        """Return whether a line has a word and a tag in their places."""
        return len(cells) > self.tag if self.count is None else len(cells) == self.count


def find_layout(lines: Sequence[Sequence[str]]) -> Layout | None:
    """Return the layout that most of the lines have, each a list of cells; None if most have a word alone."""
    counts = Counter(map(len, lines))
    if counts and min(counts) >= MIN_BRACKET_COLUMNS and (layout := _find_brackets(lines)) is not None:
        return layout
    count = counts.most_common(1)[0][0] if counts else 0
    if count < 2:
        return None
    columns = list(zip(*(line for line in lines if len(line) == count), strict=True))
    tag = _tag_column(columns)
    return Layout(_word_column(columns, tag), tag, count)


def _tag_column(columns: Sequence[Sequence[str]]) -> int:
    """Return the index of the column of tags: the one with most tags of entities, or else the last one."""
    tagged: dict[int, int] = {}
    for index, cells in enumerate(columns[1:], 1):
        parts = [split_prefix(cell) if PREFIXED.fullmatch(cell) else None for cell in cells]
        num_outside = sum(cell in OUTSIDE for cell in cells)
        labels = {part[1] for part in parts if part is not None}
        num_tags = sum(part is not None for part in parts)
        if num_tags + num_outside >= TAGS_SHARE * len(cells) and not (labels and labels <= CHUNKS):
            tagged[index] = num_tags
    # A column of "_" alone says nothing.
    tagged = {index: count for index, count in tagged.items() if count or "O" in columns[index]}
    return max(tagged, key=lambda index: (tagged[index], index), default=len(columns) - 1)


def _word_column(columns: Sequence[Sequence[str]], tag: int) -> int:
    """Return the index of the column of words: the first before the tag that has neither numbers alone nor one value alone."""
    for index, cells in enumerate(columns[:tag]):
        if not all(cell.isdecimal() for cell in cells) and (len(set(cells)) > 1 or len(cells) == 1):
            return index
    return 0


def _find_brackets(lines: Sequence[Sequence[str]]) -> Layout | None:
    """Return the layout of CoNLL-2012, whose first column with a single bracket at most in each cell has the entities."""
    shortest = min(map(len, lines))
    columns = [[line[index] for line in lines] for index in range(shortest)]
    for index, cells in enumerate(columns[1:], 1):
        is_bracketed = all(cell != "-" and BRACKETED.fullmatch(cell) and ("*" in cell or "(" in cell) for cell in cells)
        if is_bracketed and "*" in cells:
            return Layout(BRACKETED_WORD, index, None, is_bracketed=True)
    return None


def prefix_brackets(tags: Sequence[str]) -> list[str]:
    """Return the tags of a sentence with prefixes, such as B-PERSON, for those in brackets, such as (PERSON*."""
    prefixed, label = [], ""
    for tag in tags:
        match = BRACKETED.fullmatch(tag)
        if tag.startswith("(") and match is not None:
            label = match[1]
            prefixed.append(f"B-{label}")
        else:
            prefixed.append(f"I-{label}" if label else "O")
        if tag.endswith(")"):
            label = ""
    return prefixed
