"""Read files with a word and its tag in each line (CoNLL), and tables with lists of words and of their tags.

A blank line ends a sentence. The columns of words and of tags are found by their cells (see text/tagging/conll_layout.py).
In CoNLL-U files (https://universaldependencies.org/format.html) the words are the second column and the parts of speech the
fourth, and SpaceAfter=No says that no space stands behind a word. Each sentence becomes a row with the columns "text", in which
words are separated by spaces, and "tags", a list of {"start", "end", "label"} with start and end in characters of the text (see
text/tagging/word_tags.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats.text_lines import nonblank_lines, read_lines
from mapsto.errors import DataError, Finding
from mapsto.task.printed_lists import is_printed_list, parse_list
from mapsto.text.characters import find_invalid_character
from mapsto.text.tagging import gliner
from mapsto.text.tagging.conll_layout import Layout, find_layout, prefix_brackets
from mapsto.text.tagging.word_tags import OUTSIDE, PREFIXED, TagStyle, count_stray

COLUMNS = ("text", "tags")
SUFFIXES = ("conll", "conllu", "iob", "iob2", "bio", "bioes", "ner", "v4_gold_conll", "v4_auto_conll")
# The column of CoNLL-U with further facts on a word, and the one that no space stands behind it.
MISCELLANEOUS, NO_SPACE = 9, "SpaceAfter=No"
# Lines by which the columns of words and of tags are found.
NUM_MEASURED = 5000

# Lines by which a text file is recognised as one of words and tags.
NUM_SNIFFED = 50
# Names of columns of tags, such as ner_tags and upos.
TAGS_NAME = re.compile(r"tag|pos$|^ner|chunk")
# The share of the rows with as many tags as words by which a column is one of tags; the other rows are faulty.
MATCHING_SHARE = 0.8
# Begins the line between two documents.
DOCUMENT = "-DOCSTART-"


class Sentence(NamedTuple):
    """The words of a sentence with their tags, and the number of its first line.

    unspaced: the indices of the words behind which no space stands. fault: why it cannot be read; None if it can.
    """

    line: int
    words: list[str]
    tags: list[str]
    unspaced: list[int]
    fault: Finding | None = None


def stream_conll(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the sentences of a file of words and tags in parts. The first part has the remarks on the whole file."""
    # The file is read twice, since the last sentence may decide how the tags of the first are read.
    readable = (sentence for sentence in _sentences(path, encoding) if sentence.fault is None)
    style = TagStyle.measure((sentence.words, sentence.tags) for sentence in readable)
    remarks = _describe_stray(path, encoding) if style.is_prefixed else []

    def rows() -> Iterator[Row]:
        for line, words, tags, unspaced, fault in _sentences(path, encoding):
            if fault is not None:
                yield [fault]
                continue
            if reason := style.find_fault(words, tags):
                yield [Finding(str(path), line, COLUMNS[1], " ".join(words), reason)]
                continue
            text, spans = style.to_text(words, tags, unspaced)
            if (character := find_invalid_character(text)) is not None:
                yield [Finding(str(path), line, COLUMNS[0], None, f"the sentence holds {character}")]
            else:
                yield line, dict(zip(COLUMNS, (text, spans), strict=True)), len(text)

    for index, part in enumerate(group_rows(path, rows(), COLUMNS)):
        yield replace(part, remarks=[] if index else remarks, names_columns=False)


def is_conll(path: Path, encoding: str | None) -> bool:
    """Return whether the first lines of a text file have as many cells each, and the last cell is a tag such as B-PER or O."""
    counts, tags = set(), []
    for index, (_, line) in enumerate(nonblank_lines(path, encoding)):
        if index == NUM_SNIFFED:
            break
        cells = _split(line)
        if not line.startswith(DOCUMENT) and not _is_comment(cells):
            counts.add(len(cells))
            tags.append(cells[-1])
    are_tags = all(tag == "O" or PREFIXED.fullmatch(tag) for tag in tags)
    return are_tags and len(tags) > 1 and len(counts) == 1 and min(counts) > 1


def join_word_columns(part: FilePart) -> FilePart:
    """Return a part of a table with lists of words and lists of their tags as text and spans; any other part unchanged.

    The first column whose cells are all lists of text gets the texts. Each later column gets the spans if its cells are lists of
    as many texts, which are tags such as B-PER and O, or are called tags by its name. Words without tags stay lists. GLiNER's
    columns of words and of entities by the numbers of their words are read too.
    """
    columns = {name: _parse_printed(cells) for name, cells in part.data.items()}
    lists = {name: cells for name, cells in columns.items() if _are_lists(cells)}
    words_name = next((name for name, cells in lists.items() if _are_mostly_text(cells)), None)
    if words_name is None:
        return part
    words = lists.pop(words_name)
    data = dict(part.data)
    if words_name == gliner.WORDS and gliner.SPANS in lists:
        data[words_name], data[gliner.SPANS] = gliner.join_token_spans(words, lists.pop(gliner.SPANS))
        return replace(part, data=data)
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


def _parse_printed(cells: list[Any]) -> list[Any]:
    """Return the cells of a column as lists, if all are lists of words or of tags that a text table holds as text.

    Any other column is unchanged.
    """
    texts = [cell for cell in cells if cell is not None]
    if not texts or not all(isinstance(cell, str) and is_printed_list(cell) for cell in texts):
        return cells
    try:
        # Most columns of other lists, such as vectors, are told by their first cell.
        if not _is_word_list(parse_list(texts[0])):
            return cells
        lists = [None if cell is None else parse_list(cell) for cell in cells]
    except ValueError:
        return cells
    return lists if all(cell is None or _is_word_list(cell) for cell in lists) else cells


def _is_word_list(value: Any) -> bool:
    """Return whether a value is a list of nothing but texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


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


def _sentences(path: Path, encoding: str | None) -> Iterator[Sentence]:
    """Yield each sentence, also a faulty one."""
    is_conllu = path.name.lower().removesuffix(".gz").endswith(".conllu")
    layout = Layout(1, 3, 10) if is_conllu else _find_layout(path, encoding)
    sentence = Sentence(0, [], [], [])
    range_end = (
        ""  # the last word of the written word that several words of CoNLL-U stand for, if no space stands behind it
    )
    for number, raw in enumerate(read_lines(path, encoding), 1):
        line = raw.rstrip("\r\n")
        cells = _split(line)
        if not cells or line.startswith(DOCUMENT):
            if sentence.line:
                yield _finish(sentence, layout)
            sentence, range_end = Sentence(0, [], [], []), ""
            continue
        if line.startswith("#") and (not layout.fits(cells) or _is_comment(cells)):
            continue
        if not sentence.line:
            sentence = sentence._replace(line=number)
        if not layout.fits(cells):
            expected = f"most others {layout.count}" if layout.count else f"the tag is in cell {layout.tag + 1}"
            reason = f"this line has {len(cells)} cells, {expected}: a word and its tag stand in each"
            sentence = sentence._replace(fault=sentence.fault or Finding(str(path), number, None, line, reason))
            continue
        is_last = is_conllu and NO_SPACE in cells[MISCELLANEOUS].split("|")
        # In CoNLL-U 3-4 repeats two words as one written word, and 5.1 is a word that is not written.
        if is_conllu and not cells[0].isdigit():
            range_end = cells[0].partition("-")[2] if is_last else range_end
            continue
        sentence.words.append(cells[layout.word])
        sentence.tags.append(cells[layout.tag])
        if is_last or (is_conllu and cells[0] == range_end):
            sentence.unspaced.append(len(sentence.words) - 1)
    if sentence.line:
        yield _finish(sentence, layout)


def _finish(sentence: Sentence, layout: Layout) -> Sentence:
    """Return a sentence whose lines have all been read, with tags that have prefixes for those in brackets."""
    is_readable = layout.is_bracketed and sentence.fault is None
    return sentence._replace(tags=prefix_brackets(sentence.tags)) if is_readable else sentence


def _find_layout(path: Path, encoding: str | None) -> Layout:
    """Return the layout that most of the first lines have. Raises DataError if they have no more than a word."""
    lines = (_split(line) for _, line in nonblank_lines(path, encoding) if not line.startswith(DOCUMENT))
    layout = find_layout(list(islice((cells for cells in lines if not _is_comment(cells)), NUM_MEASURED)))
    if layout is None:
        raise DataError(f"{path}: a line of such a file holds a word and its tag, separated by a tab or spaces")
    return layout


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
    count = count_stray(sentence.tags for sentence in _sentences(path, encoding) if sentence.fault is None)
    reason = f"{count:,} entities begin with I- where others begin with B-; they are read as if with B-"
    return [Finding(str(path), None, COLUMNS[1], None, reason)] if count else []
