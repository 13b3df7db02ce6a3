"""Parts of table files: some consecutive rows of a file, of bounded size, with the findings about its unreadable rows.

Rows that are instructions or dialogues (see text/pairs/dialogues.py) become pairs of a prompt and its answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.errors import Finding
from mapsto.text.pairs import dialogues
from mapsto.text.pairs.dialogues import ANSWER, DIALOGUE, MESSAGES, PROMPT

# The column of translations in data sets of Hugging Face.
TRANSLATION = "translation"
# Largest number of rows and of characters of a part.
PART_ROWS, PART_CHARACTERS = 4096, 2**20
# Number of cells from which a part whose rows hardly share their columns is split, as most of its cells would be empty.
SPARSE_CELLS = 2**20

# The share of the cells that are dialogues from which a column has dialogues; its other cells are faulty.
MIN_DIALOGUES = 0.5
# Number of cells at the beginning of a column, of which one must be a dialogue.
NUM_SNIFFED = 100

# (row number, cells, number of characters) of a row, the cells by column or in the order of the columns; for an unreadable row
# the findings about it.
Row = tuple[int, Any, int] | list[Finding]
# A function such as `from_records`, which makes a part of a file's name, numbered rows, findings and names of columns.
BuildPart = Callable[[str, Sequence[tuple[int, Any]], list[Finding], Sequence[str]], "FilePart"]


@dataclass(frozen=True)
class FilePart:
    """Consecutive rows of one file.

    data: the cells of each column; all columns have the same length.
    rows: the number of each row of `data` in the file: the line where it begins, or for json and parquet its number from 1.
    rejected: findings about rows of this part that could not be read. These rows are not in `data`.
    remarks: notes on the whole file, such as on the way in which it was read.
    size: number of characters that the rows take in the file; 0 where that is not known.
    """

    file: str
    data: dict[str, list[Any]]
    rows: list[int]
    rejected: list[Finding]
    remarks: list[Finding] = field(default_factory=list)
    # False if the file names no columns, as one of words and tags; then a model's columns are found by their kinds.
    names_columns: bool = True
    size: int = field(default=0, compare=False)

    def column(self, name: str) -> list[Any]:
        """Return the cells of column `name`, one for each row; all None if this part does not have the column."""
        return self.data.get(name) or [None] * len(self.rows)


@dataclass(frozen=True)
class UnreadableCell:
    """A cell that has no Python value, such as a date beyond the year 9999. It is a fault only where its column is used.

    text: the cell as text; None if it cannot be printed. reason: the fault in words.
    """

    text: str | None
    reason: str


def clean_cell(value: Any) -> Any:
    """Return a cell with NumPy scalars made Python values; None for empty text, NaN, and NumPy's or pandas' NaT and NA."""
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("datetime64[us]")  # item() makes an integer of nanoseconds
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return None
    # Compare names of types, so that pandas need not be imported.
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def from_records(
    file: str, records: Sequence[tuple[int, Mapping[str, Any]]], rejected: list[Finding], names: Iterable[str] = ()
) -> FilePart:
    """Build a part from rows that are dicts. Where a row lacks a column, its cell is None.

    file: the file that the rows come from.
    records: (row number, cells by column) of each row.
    rejected: findings about rows that are not in `records`.
    names: columns that come first, even if no row has them.
    """
    columns = dict.fromkeys([*names, *(str(name) for _, record in records for name in record)])
    data = {name: share_texts([clean_cell(record.get(name)) for _, record in records]) for name in columns}
    return FilePart(file, data, [row for row, _ in records], rejected)


def from_cells(
    file: str, records: Sequence[tuple[int, Sequence[str]]], rejected: list[Finding], names: Sequence[str]
) -> FilePart:
    """Build a part from rows that are lists of texts, one for each of `names`; see `from_records`."""
    columns: Iterable[Sequence[str]] = (
        zip(*(cells for _, cells in records), strict=True) if records else [()] * len(names)
    )
    data = {name: share_texts([cell or None for cell in column]) for name, column in zip(names, columns, strict=True)}
    return FilePart(file, data, [row for row, _ in records], rejected)


def share_texts(cells: list[Any]) -> list[Any]:
    """Return the cells of a column with one object for equal texts, if most repeat others, as labels do: they take no memory."""
    texts = {cell: cell for cell in cells if type(cell) is str}
    if 2 * len(texts) > len(cells):
        return cells
    return [texts[cell] if type(cell) is str else cell for cell in cells]


def group_rows(
    path: Path, rows: Iterable[Row], names: Sequence[str] = (), build: BuildPart = from_records
) -> Iterator[FilePart]:
    """Group rows into parts of at most PART_ROWS rows, and about PART_CHARACTERS characters; yield the parts.

    A file without rows gives one empty part, which carries the names of its columns.
    names: the columns of the file's header, if it has one. build: makes a part of rows.
    """
    good: list[tuple[int, Any]] = []
    bad: list[Finding] = []
    size = count = 0
    has_parts = False
    for row in rows:
        count += 1
        if isinstance(row, list):
            bad += row
            size += sum(len(finding.value or "") for finding in row)
        else:
            good.append(row[:2])
            size += row[2]
        if count >= PART_ROWS or size >= PART_CHARACTERS:
            yield from _build_parts(path, good, bad, names, build, size)
            good, bad, size, count, has_parts = [], [], 0, 0, True
    if count or not has_parts:
        yield from _build_parts(path, good, bad, names, build, size)


def _build_parts(
    path: Path,
    rows: Sequence[tuple[int, Any]],
    bad: list[Finding],
    names: Sequence[str],
    build: BuildPart,
    size: int,
) -> Iterator[FilePart]:
    """Yield rows as one part, or as several if they hardly share their columns. size: number of characters of the rows."""
    num_columns = 0 if names else len(set().union(*(record for _, record in rows)))
    if num_columns * len(rows) <= SPARSE_CELLS or len(rows) < 2:
        yield replace(build(str(path), rows, bad, names), size=size)
        return
    middle = len(rows) // 2
    yield from _build_parts(path, rows[:middle], bad, names, build, size // 2)
    yield from _build_parts(path, rows[middle:], [], names, build, size - size // 2)


def pair_answers(parts: Iterable[FilePart]) -> Iterator[FilePart]:
    """Yield the parts of a file with a row for each pair of a prompt and its answer, if it has instructions or dialogues.

    Translations as Hugging Face has them, {"en": …, "de": …} in one column, get a column for each language.
    Alpaca's rows get the columns "prompt" and "answer". A dialogue becomes a row for each turn of the assistant, which all have
    its row number, with "messages" (the turns before), "prompt" (the same as text), "answer" and "dialogue" (its name). A
    last turn of the user is a row without an answer, for prediction; where no dialogue ends with an answer, each is one row.
    """
    pairing: _DialoguePairing | None = None
    has_instructions = False
    last: FilePart | None = None
    for part in map(_spread_translations, parts):
        if last is not None:
            yield last
        # Once a file has dialogues or instructions in a column, all of its parts are read so, also one with faulty cells alone.
        column = next((name for name, cells in part.data.items() if _are_dialogues(cells)), None)
        pairing = _DialoguePairing(column) if pairing is None and column is not None else pairing
        has_instructions = has_instructions or dialogues.is_alpaca(tuple(part.data))
        last = pairing.pair(part) if pairing is not None else _pair_instructions(part) if has_instructions else part
    if last is not None:
        # Only after the last part is it known how many turns are not used.
        yield last if pairing is None else replace(last, remarks=[*last.remarks, *pairing.remarks(last.file)])


def _spread_translations(part: FilePart) -> FilePart:
    """Return a part whose column "translation" is replaced by one for each language, if its cells are dicts of texts."""
    cells = part.data.get(TRANSLATION, [])
    texts_of = [cell for cell in cells if cell is not None]
    if not texts_of or not all(
        isinstance(texts, dict) and all(text is None or isinstance(text, str) for text in texts.values())
        for texts in texts_of
    ):
        return part
    languages = dict.fromkeys(language for texts in texts_of for language in texts)
    columns = {language: [None if texts is None else texts.get(language) for texts in cells] for language in languages}
    others = {name: values for name, values in part.data.items() if name != TRANSLATION and name not in columns}
    return replace(part, data={**others, **columns})


def _are_dialogues(cells: Sequence[Any]) -> bool:
    """Return whether most cells of a column that are not empty are dialogues."""
    cells = [cell for cell in cells if cell is not None]
    # Most columns are told by their first cells, which saves looking into each vector of a column of vectors.
    if not any(map(dialogues.is_dialogue, cells[:NUM_SNIFFED])):
        return False
    return sum(map(dialogues.is_dialogue, cells)) > MIN_DIALOGUES * len(cells)


def _pair_instructions(part: FilePart) -> FilePart:
    """Return a part of rows of Alpaca with columns "prompt" and "answer"."""
    columns = (part.column(dialogues.INSTRUCTION), part.column(dialogues.INPUT))
    prompts = [dialogues.join_instruction(*cells) for cells in zip(*columns, strict=True)]
    return replace(part, data={PROMPT: prompts, ANSWER: part.column(dialogues.OUTPUT), **part.data})


@dataclass
class _DialoguePairing:
    """The conversion of the dialogues of a file to rows, with the counts that are reported at its end.

    column: the column with the dialogues.
    num_open: dialogues that end with a turn of another than the assistant. num_greetings: those that begin with the assistant's.
    num_calls: turns of the assistant that call a tool.
    num_unanswered: dialogues in parts where none ends with an answer. has_answers: whether one did in an earlier part.
    """

    column: str
    num_open: int = 0
    num_greetings: int = 0
    num_calls: int = 0
    num_unanswered: int = 0
    has_answers: bool = False

    def pair(self, part: FilePart) -> FilePart:
        """Return a part with a row for each answer in its dialogues."""
        values = [
            dialogues.read_dialogue(cell, instructions if isinstance(instructions, str) else None)
            for cell, instructions in zip(part.column(self.column), part.column(dialogues.SYSTEM), strict=True)
        ]
        sound = [(index, value) for index, value in enumerate(values) if not value.faults]
        self.has_answers = self.has_answers or any(value.is_answered for _, value in sound)
        self.num_greetings += sum(value.begins_with_answer for _, value in sound)
        self.num_calls += sum(len(value.calls) for _, value in sound)
        examples: list[tuple[int, dialogues.Turns, str | None]] = []
        if self.has_answers:
            self.num_open += sum(not value.is_answered for _, value in sound)
            for index, value in sound:
                examples += [(index, *example) for example in value.examples()]
                examples += [(index, value.turns, None)] if value.is_question else []
        else:
            self.num_unanswered += len(sound)
            examples = [(index, value.turns, None) for index, value in sound]
        faults = [
            Finding(part.file, row, self.column, None, reason)
            for row, value in zip(part.rows, values, strict=True)
            for reason in value.faults
        ]
        return self._build_part(part, examples, faults)

    def _build_part(
        self,
        part: FilePart,
        examples: Sequence[tuple[int, dialogues.Turns, str | None]],
        faults: list[Finding],
    ) -> FilePart:
        """Return a part with a row for each example: (index of its row in `part`, turns before the answer, answer)."""
        rows = [part.rows[index] for index, _, _ in examples]
        data: dict[str, list[Any]] = {
            PROMPT: [dialogues.Prompt.of(turns) for _, turns, _ in examples],
            ANSWER: [answer for _, _, answer in examples],
            MESSAGES: [turns for _, turns, _ in examples],
            DIALOGUE: [f"{Path(part.file).name}:{row}" for row in rows],
        }
        if not self.has_answers:
            del data[ANSWER]
        for name, cells in part.data.items():
            if name != self.column:
                kept_name = f"raw_{name}" if name in (PROMPT, ANSWER, MESSAGES, DIALOGUE) else name
                data[kept_name] = [cells[index] for index, _, _ in examples]
        return FilePart(part.file, data, rows, [*part.rejected, *faults], part.remarks)

    def remarks(self, file: str) -> list[Finding]:
        """Return the remarks on turns that are not used as answers or have none."""
        counts = (
            (
                self.num_open,
                "dialogues that end with a turn of another than the assistant: it is no example to learn or to score, "
                "but predict answers it",
            ),
            (self.num_calls, "turns that call a tool, which later turns read, but which are not learnt as answers"),
            (self.num_greetings, "dialogues that begin with a turn of the assistant, which answers nothing"),
            (
                self.num_unanswered,
                "dialogues without an answer to their last turn, as all before them; each is one row",
            ),
        )
        return [Finding(file, None, None, None, f"{reason}: {count:,}") for count, reason in counts if count]
