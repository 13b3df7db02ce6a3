"""Answers of a model to many rows, written to a table, to files in a folder, or to the screen, in constant memory."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mapsto.cli.output import print_json, print_note, print_status
from mapsto.data.readers import file_format
from mapsto.data.table import write_rows
from mapsto.data.writers import to_text_cells
from mapsto.errors import DataError, UsageError, place
from mapsto.inference.table_engine import AnsweredRows, Engine, answer_all
from mapsto.progress import Lines, choose_progress
from mapsto.task.arrow import Arrow


@dataclass(frozen=True)
class InputRows:
    """Rows to answer: either the rows of a table, or texts from the command line.

    Raises UsageError unless exactly one of both is given.
    """

    data: Path | None
    texts: list[str] | None
    encoding: str | None

    def __post_init__(self) -> None:
        if (self.data is None) == (not self.texts):
            raise UsageError("give a table, or one or more --text")

    def source(self, arrow: Arrow) -> Any:
        """Return the path of the table; for texts, a list of rows with the column that the arrow reads."""
        port = arrow.sources[0]
        return self.data if self.data is not None else [{port.column or port.kind: text} for text in self.texts or []]


class RowCounts(NamedTuple):
    """The number of all rows, and the number of rows that could not be answered."""

    num_rows: int
    num_failed: int


def require_folder(out: Path | None) -> Path:
    """Return `out`, the folder for answer files. Raises UsageError if it is missing or has the name of a table."""
    if out is None or file_format(out) is not None:
        raise UsageError("these answers are files: name a folder for them with --out")
    return out


def write_answers(
    engine: Engine, inputs: InputRows, out: Path | None, as_json: bool, list_formats: Collection[str] = ("jsonl",)
) -> RowCounts:
    """Write every row with its answer to the table `out`; without `out`, print csv or JSON lines.

    list_formats: file formats in which lists stay lists; in other formats they become JSON text.
    """
    if as_json and out is None:
        return _print_json_lines(engine, inputs)
    return _write_table(engine, inputs, out, keep_lists=out is not None and file_format(out) in list_formats)


def _print_json_lines(engine: Engine, inputs: InputRows) -> RowCounts:
    """Print every answer as a line of JSON."""
    num_rows = num_failed = 0
    # Plain lines of progress, since a live line would be redrawn between the answers.
    for _, answers in answer_all(engine, inputs.source(engine.arrow), inputs.encoding, Lines()):
        for answer in answers:
            print_json(answer)
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
    return RowCounts(num_rows, num_failed)


def _write_table(engine: Engine, inputs: InputRows, out: Path | None, keep_lists: bool) -> RowCounts:
    """Write every row with its answer to the table `out`; without `out`, print csv.

    keep_lists: keep lists as lists instead of JSON text.
    """
    # The temporary file of the answers stands beside the output, where there must be space for the answers anyway.
    folder = None if out is None else out.parent
    rows = AnsweredRows(engine, inputs.source(engine.arrow), inputs.encoding, choose_progress(), folder, keep_lists)
    if out is not None:
        print_status(f"wrote {write_rows(out, rows.columns, rows)} rows to {out}")
    else:
        writer = csv.DictWriter(sys.stdout, rows.columns)
        writer.writeheader()
        writer.writerows(map(to_text_cells, rows))
    return RowCounts(rows.num_rows, rows.num_failed)


def write_answer_files(engine: Engine, inputs: InputRows) -> RowCounts:
    """Answer every row with an engine that writes the answers to files; print a note for each row without a file."""
    num_rows = num_failed = 0
    progress = choose_progress()
    for part, answers in answer_all(engine, inputs.source(engine.arrow), inputs.encoding, progress):
        for row, answer in zip(part.in_order(), answers, strict=True):
            if isinstance(row, int) and "error" in answer:
                progress.say(f"note: {place(*part.origin(row))}: {answer['error']}")
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
    print_status(f"wrote {num_rows - num_failed:,} files")
    return RowCounts(num_rows, num_failed)


def report_counts(counts: RowCounts, num_cut: int, hint: str = "") -> None:
    """Print how many rows have no answer, and how many were cut. Raises DataError if no row has an answer.

    hint: text after the number of cut rows.
    """
    if counts.num_failed:
        print_note(f"{counts.num_failed} of {counts.num_rows} rows could not be answered; their cell says why")
    if num_cut:
        print_note(f"{num_cut} rows are longer than the model takes and were cut{hint}")
    if counts.num_rows == counts.num_failed:
        raise DataError("no row could be answered")
