"""Read files with a word and its tag in each line (CoNLL), and tables with lists of words and of their tags.

A blank line ends a sentence. The first column has the words and the last one the tags; columns between them are not read. In
CoNLL-U files (https://universaldependencies.org/format.html) the words are the second column and the parts of speech the
fourth. Each sentence becomes a row with the columns "text", in which words are separated by spaces, and "tags", a list of
{"start", "end", "label"} with start and end in characters of the text (see text/word_tags.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats.text_lines import nonblank_lines, read_lines
from mapsto.errors import DataError, Finding
from mapsto.text.characters import find_invalid_character
from mapsto.text.word_tags import OUTSIDE, PREFIXED, TagStyle, count_stray

COLUMNS = ("text", "tags")
SUFFIXES = ("conll", "conllu", "iob", "iob2", "bio", "bioes", "ner")

# Lines by which a text file is recognised as one of words and tags.
NUM_SNIFFED = 50
# Names of columns of tags, such as ner_tags and upos.
TAGS_NAME = re.compile(r"tag|pos$|^ner|chunk")
# The share of the rows with as many tags as words by which a column is one of tags; the other rows are faulty.
MATCHING_SHARE = 0.8
# Begins the line between two documents.
DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class _Layout:
    """The places of the word and of the tag among the cells of a line, and how many cells a line has."""

    word: int
    tag: int
    count: int


def stream_conll(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the sentences of a file of words and tags in parts. The first part has the remarks on the whole file."""
    # The file is read twice, since the last sentence may decide how the tags of the first are read.
    style = TagStyle.measure((words, tags) for _, words, tags in _sentences(path, encoding) if words)
    remarks = _describe_stray(path, encoding) if style.is_prefixed else []

    def rows() -> Iterator[Row]:
        for number, words, tags in _sentences(path, encoding):
            if isinstance(tags, Finding):
                yield [tags]
                continue
            if reason := style.find_fault(words, tags):
                yield [Finding(str(path), number, COLUMNS[1], " ".join(words), reason)]
                continue
            text, spans = style.to_text(words, tags)
            if (fault := find_invalid_character(text)) is not None:
                yield [Finding(str(path), number, COLUMNS[0], None, f"the sentence holds {fault}")]
            else:
                yield number, dict(zip(COLUMNS, (text, spans), strict=True)), len(text)

    for index, part in enumerate(group_rows(path, rows(), COLUMNS)):
        yield replace(part, remarks=[] if index else remarks)


def is_conll(path: Path, encoding: str | None) -> bool:
    """Return whether the first lines of a text file have as many cells each, and the last cell is a tag such as B-PER or O."""
    counts, tags = set(), []
    for index, (_, line) in enumerate(nonblank_lines(path, encoding)):
        if index == NUM_SNIFFED:
            break
        if not line.startswith(DOCUMENT):
            cells = _split(line)
            counts.add(len(cells))
            tags.append(cells[-1])
    are_tags = all(tag == "O" or PREFIXED.fullmatch(tag) for tag in tags)
    return are_tags and len(tags) > 1 and len(counts) == 1 and min(counts) > 1


def join_word_columns(part: FilePart) -> FilePart:
    """Return a part of a table with lists of words and lists of their tags as text and spans; any other part unchanged.

    The first column whose cells are all lists of text gets the texts. Each later column gets the spans if its cells are lists of
    as many texts, which are tags such as B-PER and O, or are called tags by its name. Words without tags stay lists.
    """
    lists = {name: cells for name, cells in part.data.items() if _are_lists(cells)}
    words_name = next((name for name, cells in lists.items() if _are_mostly_text(cells)), None)
    if words_name is None:
        return part
    words = lists.pop(words_name)
    data = dict(part.data)
    for name, cells in lists.items():
        pairs = [(list(row or []), list(tags or [])) for row, tags in _without_arrays(words, cells)]
        matching = [(row, tags) for row, tags in pairs if len(row) == len(tags)]
        # Equal lengths alone may be chance, as of a list of labels.
        if len(matching) < MATCHING_SHARE * len(pairs) or not (TAGS_NAME.search(name.lower()) or _are_prefixed(cells)):
            continue
        style = TagStyle.measure(
            (row, tags) for row, tags in matching if all(isinstance(i, str) for i in (*row, *tags))
        )
        faults = [style.find_fault(row, tags) for row, tags in pairs]
        data[words_name] = [None if row is None else style.join([str(word) for word in row])[0] for row in words]
        data[name] = [
            None if cell is None else {"fault": fault} if fault else style.to_text(row, tags)[1]
            for cell, fault, (row, tags) in zip(cells, faults, pairs, strict=True)
        ]
    return replace(part, data=data)


def _without_arrays(*columns: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the cells of each row, with arrays as lists."""
    for cells in zip(*columns, strict=True):
        yield tuple(cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells)


def _are_lists(cells: Sequence[Any]) -> bool:
    """Return whether all cells of a column are lists (or arrays) or None, and some have items."""
    lists = [cell for cell in cells if cell is not None]
    return all(isinstance(cell, list | tuple | np.ndarray) for cell in lists) and any(len(cell) for cell in lists)


def _are_mostly_text(cells: Sequence[Sequence[Any]]) -> bool:
    """Return whether most of the lists in a column hold nothing but text, and they have 1.5 items or more on average."""
    num_text = sum(cell is not None and all(isinstance(item, str) for item in cell) for cell in cells)
    num_items = sum(len(cell) for cell in cells if cell is not None)
    return num_text >= MATCHING_SHARE * len(cells) and num_items >= 1.5 * len(cells)


def _are_prefixed(cells: Sequence[Any]) -> bool:
    """Return whether all items of lists are tags such as B-PER or O. Lists without such prefixes may be anything else."""
    items = [item for (cell,) in _without_arrays(cells) for item in cell or ()]
    return all(isinstance(item, str) and (item in OUTSIDE or PREFIXED.fullmatch(item)) for item in items)


def _sentences(path: Path, encoding: str | None) -> Iterator[tuple[int, list[str], Any]]:
    """Yield (number of the first line, words, tags) of each sentence; a faulty one has no words and a finding for tags."""
    is_conllu = path.name.lower().removesuffix(".gz").endswith(".conllu")
    layout = _Layout(1, 3, 10) if is_conllu else _find_layout(path, encoding)
    first, words, tags, fault = 0, [], [], None  # type: ignore[var-annotated]
    for number, raw in enumerate(read_lines(path, encoding), 1):
        line = raw.rstrip("\r\n")
        cells = _split(line)
        if not cells or line.startswith(DOCUMENT):
            if words or fault:
                yield first, ([] if fault else words), fault or tags
            first, words, tags, fault = 0, [], [], None
            continue
        if line.startswith("#") and (len(cells) != layout.count or _is_comment(cells)):
            continue
        first = first or number
        if len(cells) != layout.count:
            reason = f"this line has {len(cells)} cells, most others {layout.count}: a word and its tag stand in each"
            fault = fault or Finding(str(path), number, None, line, reason)
        # In CoNLL-U 3-4 repeats two words as one written word, and 5.1 is a word that is not written.
        elif not (is_conllu and not cells[0].isdigit()):
            words.append(cells[layout.word])
            tags.append(cells[layout.tag])
    if words or fault:
        yield first, ([] if fault else words), fault or tags


def _find_layout(path: Path, encoding: str | None) -> _Layout:
    """Return the layout that most of the first lines have. Raises DataError if they have no more than a word."""
    counts: Counter[int] = Counter()
    for _, line in islice(nonblank_lines(path, encoding), NUM_SNIFFED):
        if not line.startswith(DOCUMENT) and not _is_comment(cells := _split(line)):
            counts[len(cells)] += 1
    count = counts.most_common(1)[0][0] if counts else 0
    if count < 2:
        raise DataError(f"{path}: a line of such a file holds a word and its tag, separated by a tab or spaces")
    return _Layout(0, count - 1, count)


def _split(line: str) -> list[str]:
    """Return the cells of a line, separated by tabs, or by spaces if it has no tab; none for a blank line."""
    if not line.strip():
        return []
    # Other spaces, as that of Chinese, may be words.
    return [cell.strip() for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))


def _is_comment(cells: Sequence[str]) -> bool:
    """Return whether a line is a comment: it begins with # and does not end with a tag."""
    return cells[0].startswith("#") and not (cells[-1] in OUTSIDE or PREFIXED.fullmatch(cells[-1]))


def _describe_stray(path: Path, encoding: str | None) -> list[Finding]:
    """Return a remark on entities that begin with I- in a file where others begin with B-; an empty list if there are none."""
    count = count_stray(tags for _, words, tags in _sentences(path, encoding) if words)
    reason = f"{count:,} entities begin with I- where others begin with B-; they are read as if with B-"
    return [Finding(str(path), None, COLUMNS[1], None, reason)] if count else []
