"""Answers of a model to any number of rows, written in constant memory to a table, to files in a folder, or to the screen."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mapsto.cli.output import note_bytes, print_json, print_note, print_status
from mapsto.data.files import require_no_input
from mapsto.data.readers import file_format
from mapsto.data.table import stream_tables, write_rows
from mapsto.data.writers import defuse, style_of, to_text_cells
from mapsto.errors import DataError, UsageError, counted, place, printable
from mapsto.inference.table_engine import AnsweredRows, Engine, answer_all, is_stopped, is_withheld
from mapsto.options import TextFormat
from mapsto.progress import Lines, choose_progress
from mapsto.task.answer_cells import CellStyle
from mapsto.task.arrow import Arrow

if TYPE_CHECKING:
    from mapsto.inference.output_files import FileWriter

# Columns that a model writes, and a table of labels has not.
MADE_BY_A_MODEL = re.compile("^predicted_|(^|_)probability|(^|_)familiar$|(^|_)vector$|(^|_)ended$")


@dataclass(frozen=True)
class OutputStyle:
    """Say how answers are written to a table.

    list_formats: file formats in which an answer that is a list stays a list; in others it becomes JSON text.
    csv_safe: whether csv is written so that a spreadsheet computes nothing. scores: whether the probability of every class is
    written. overwrite: whether another file at the place of the output is replaced.
    """

    list_formats: Collection[str] = ("jsonl",)
    csv_safe: bool = False
    scores: bool = False
    overwrite: bool = False


DEFAULT_STYLE = OutputStyle()


@dataclass(frozen=True)
class InputRows:
    """The input of a prediction command: either a table, or texts from the command line.

    data: path of the table. texts: the texts. Raises UsageError unless exactly one of the two is given.
    text_format: how text files are read, where the user says it.
    """

    data: Path | None
    texts: list[str] | None
    text_format: TextFormat

    def __post_init__(self) -> None:
        if (self.data is None) == (not self.texts):
            raise UsageError("give a table, or one or more --text")

    def source(self, arrow: Arrow) -> Any:
        """Return the path of the table or, for texts, a list with one row each, in the column of the arrow's first source."""
        port = arrow.sources[0]
        return self.data if self.data is not None else [{port.column or port.kind: text} for text in self.texts or []]


class RowCounts(NamedTuple):
    """The number of input rows, and of those without an answer, with a blank one, and with one stopped at the longest length."""

    num_rows: int
    num_failed: int
    num_withheld: int = 0
    num_stopped: int = 0
    num_shortened: int = 0
    reasons: str = "; their cell says why"


def require_folder(out: Path | None) -> Path:
    """Return `out`, the folder for answers that are files. Raises UsageError if it is None, or named like a file."""
    from mapsto.inference.output_files import MEDIA_TYPES

    if out is None:
        raise UsageError("these answers are files: name a folder for them with --out")
    if file_format(out) is not None or out.suffix.lower() in MEDIA_TYPES:
        raise UsageError(f"--out {out}: these answers are files, one for each row; name a folder for them")
    return out


def write_answers(
    engine: Engine,
    inputs: InputRows,
    out: Path | None,
    as_json: bool,
    style: OutputStyle = DEFAULT_STYLE,
) -> RowCounts:
    """Answer every input row and write the rows with their answers to the table file `out`.

    engine: the model to answer with. out: None to print csv, or with `as_json` one JSON object per line.
    style: how the table is written.
    """
    if as_json and out is None:
        return _print_json_lines(engine, inputs)
    return _write_table(engine, inputs, out, style)


def _print_json_lines(engine: Engine, inputs: InputRows) -> RowCounts:
    """Answer every input row, and print each answer, or the reason why there is none, as a line of JSON."""
    num_rows = num_failed = num_withheld = num_stopped = 0
    # Plain lines of progress, since a live line would be redrawn between the answers.
    for _, answers in answer_all(engine, inputs.source(engine.arrow), inputs.text_format, Lines()):
        for answer in answers:
            print_json(answer)
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
        num_withheld += sum(map(is_withheld, answers))
        num_stopped += sum(map(is_stopped, answers))
    return RowCounts(num_rows, num_failed, num_withheld, num_stopped)


def _write_table(engine: Engine, inputs: InputRows, out: Path | None, style: OutputStyle) -> RowCounts:
    """Answer every input row and write the rows with their answers to the table file `out`, or print them as csv if None."""
    csv_safe, is_replaced = style.csv_safe, False
    if out is not None:
        require_no_input(out, inputs.data)
        is_replaced = out.exists()
        if is_replaced and not style.overwrite:
            _require_earlier_output(out, inputs.source(engine.arrow), inputs.text_format)
    # The temporary file of the answers stands beside the output, where there must be space for the answers anyway.
    folder = None if out is None else out.parent
    cells = CellStyle(out is not None and file_format(out) in style.list_formats, style.scores)
    rows = AnsweredRows(engine, inputs.source(engine.arrow), inputs.text_format, choose_progress(), folder, cells)
    note_bytes(list(rows.binary_columns), out)
    if out is not None:
        text_style = replace(style_of(inputs.data, inputs.text_format), csv_safe=csv_safe, escaped=rows.answer_columns)
        replaced = ", in place of those of before" if is_replaced else ""
        print_status(f"wrote {write_rows(out, rows.columns, rows, text_style)} rows to {out}{replaced}")
    else:
        writer = csv.DictWriter(sys.stdout, rows.columns)
        writer.writerow({name: _screen_cell(name, csv_safe) for name in rows.columns})
        for row in map(to_text_cells, rows):
            writer.writerow({name: _screen_cell(cell, csv_safe) for name, cell in row.items()})
    # Rows are answered while they are written, so their numbers are known only now.
    return RowCounts(rows.num_rows, rows.num_failed, rows.num_withheld, rows.num_stopped)


def _screen_cell(cell: Any, csv_safe: bool) -> Any:
    """Return a cell for the screen: control characters are escaped, and with `csv_safe` formulas too."""
    return defuse(cell) if csv_safe else printable(cell) if isinstance(cell, str) else cell


def _require_earlier_output(out: Path, source: Any, text_format: TextFormat) -> None:
    """Raise UsageError for an existing file that is no earlier output for this source, since it would be lost.

    An earlier output has the columns of the source and further ones, of which one is no label but says what a model gave. The
    table that a model was trained on has the columns of new rows and a label, too.
    """
    existing, given = (_columns(part, text_format) for part in (out, source))
    if not (given < existing and any(map(MADE_BY_A_MODEL.search, existing - given))):
        raise UsageError(f"{out} exists and is no output for these rows; name another file, or add --overwrite")


def require_no_other_table(out: Path | None) -> None:
    """Raise UsageError for an existing file that no model wrote, since it would be lost.

    It has no column, or is no table, in which a model gave something, such as a probability.
    """
    if out is not None and out.exists() and not any(map(MADE_BY_A_MODEL.search, _columns(out, TextFormat()))):
        raise UsageError(f"{out} exists and was written by no model; name another file, or delete it")


def _columns(source: Any, text_format: TextFormat) -> set[str]:
    """Return the names of the columns of a table; none for what is no readable table."""
    try:
        return set(next(table.columns for table in stream_tables(source, text_format)))
    except (DataError, UsageError, StopIteration):
        return set()


def write_answer_files(engine: FileWriter, inputs: InputRows) -> RowCounts:
    """Answer every input row with an engine that itself writes each answer to a file; return the counts of rows.

    A note with the reason is printed for each row that can be read but gets no file.
    """
    num_rows = num_failed = num_shortened = 0
    progress = choose_progress()
    for part, answers in answer_all(engine, inputs.source(engine.arrow), inputs.text_format, progress):
        for row, answer in zip(part.in_order(), answers, strict=True):
            if isinstance(row, int) and "error" in answer:
                progress.say(f"note: {place(*part.origin(row))}: {answer['error']}")
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
        num_shortened += sum("left_out" in answer for answer in answers)
    print_status(f"wrote {counted(num_rows - num_failed, 'file')} to {engine.folder}")
    return RowCounts(num_rows, num_failed, num_shortened=num_shortened, reasons=", for the reasons above")


def report_counts(counts: RowCounts, num_cut: int, hint: str = "") -> None:
    """Print how many rows got no answer, and how many were cut to the model's token limit, if any.

    num_cut: number of cut rows. hint: words to end the sentence about cut rows.
    Raises DataError if no row got an answer.
    """
    if counts.num_failed:
        print_note(f"{counts.num_failed} of {counts.num_rows} rows could not be answered{counts.reasons}")
    if counts.num_shortened:
        print_note(
            f"{counts.num_shortened} of {counts.num_rows} texts have characters that the voice has never heard; these are "
            "left out"
        )
    if counts.num_withheld:
        print_note(f"{counts.num_withheld} of {counts.num_rows} answers are left blank (--min-confidence, --reject)")
    if counts.num_stopped:
        print_note(
            f"{counts.num_stopped} of {counts.num_rows} answers were stopped at their longest length (--longest) and are "
            "unfinished"
        )
    if num_cut:
        print_note(f"{num_cut} rows are longer than the model takes and were cut{hint}")
    if counts.num_rows == counts.num_failed:
        raise DataError("no row could be answered")
