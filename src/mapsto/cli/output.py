"""Printing and reading that commands share. Results go to standard output, notes and status lines to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.app import RESOURCES
from mapsto.data.readers import file_format
from mapsto.data.table import Table, read_table
from mapsto.distributed import read_ranks
from mapsto.errors import coloured, printable
from mapsto.files import announcing
from mapsto.metrics.intervals import to_json
from mapsto.options import TextFormat
from mapsto.pretrained import manifest
from mapsto.pretrained.exported.container import is_exported
from mapsto.pretrained.exported.opening import read_exported_manifest
from mapsto.pretrained.location import find_folder
from mapsto.progress.python import Recorder


def print_json(record: Any) -> None:
    """Print a result to standard output as one line of JSON."""
    # What `printable` makes of a character is its escape in JSON too.
    print_text(json.dumps(record, ensure_ascii=False))


def print_text(text: str = "") -> None:
    """Print a result to standard output, with control characters of names and texts in it escaped."""
    print(printable(text))


def print_status(text: str) -> None:
    """Print a line about what the command has done, which is no part of the result, to standard error."""
    print(coloured(printable(text), sys.stderr), file=sys.stderr)


def print_note(text: object) -> None:
    """Print a line that begins with "note:", about something that affects the result, to standard error."""
    print_status(f"note: {text}")


def note_bytes(columns: Sequence[str], out: Path | None) -> None:
    """Print a note if columns hold bytes, which all formats but parquet write as their number. out: None for the screen."""
    if columns and (out is None or file_format(out) != "parquet"):
        names = ", ".join(map(repr, map(str, columns)))
        print_note(f"the bytes in {names} are written as their number; --out FILE.parquet keeps them")


def announce_output(out: Path | None) -> None:
    """Announce that a command writes the file `out`, from now to the command's end: who writes it meanwhile is told.

    Nothing is announced for None and for a folder, nor outside of the command line.
    """
    resources = RESOURCES.get()
    if resources is not None and out is not None and out.suffix and not out.is_dir() and out.parent.is_dir():
        resources.enter_context(announcing(out))


def read_table_with_notes(source: Any, text_format: TextFormat, answers: bool = False) -> Table:
    """Read a table, and print a note on each file or folder that was left out.

    source: a path or a Python object with rows. text_format: how text files are read, where the user says it.
    answers: True for a table with labels, to also print the notes on single columns.
    """
    table = read_table(source, text_format)
    for remark in table.remarks_on(table.columns if answers else ()):
        print_note(remark)
    return table


def report_run(out: Path, recorder: Recorder, quiet: bool, as_json: bool, next_steps: list[str]) -> None:
    """Print what can be done with a finished run; as JSON its folder and scores, to standard output.

    next_steps: shell commands. Of several processes only the first prints.
    """
    if not read_ranks().is_main:
        return
    record = recorder.record
    if as_json:
        final = {
            "scores": dict(record.final.scores),
            "baseline": dict(record.final.baseline),
            "rows": record.final.rows,
        }
        folds = {} if record.folds is None else {"folds": record.folds.to_json()}
        print_json({"out": str(out), **to_json(final), **folds, "notes": record.notes})
    elif not quiet:
        if record.folds is not None and record.folds.answers_file is not None:
            print_status(
                f"answers of the folds, each by a model that did not see the row: {out / record.folds.answers_file}"
            )
        for number, command in enumerate(next_steps):
            print_status(f"{'next:' if not number else '  or:'} {command}")


def read_manifest(model: str) -> dict[str, Any]:
    """Return the content of the manifest that mapsto saves in a model folder; an empty dict for other models.

    model: a folder, an exported file or the name of a model of the hub.
    """
    if is_exported(model):
        return read_exported_manifest(Path(model))
    return manifest.read_manifest(find_folder(model)) or {}
