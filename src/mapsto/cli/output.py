"""Printing and reading that commands share. Results go to standard output, notes and status lines to standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mapsto.data.table import Table, read_table
from mapsto.options import TextFormat
from mapsto.pretrained.model_folder import MANIFEST_FILE


def print_json(record: Any) -> None:
    """Print a result to standard output as one line of JSON."""
    print(json.dumps(record, ensure_ascii=False))


def print_status(text: str) -> None:
    """Print a line about what the command has done, which is no part of the result, to standard error."""
    print(text, file=sys.stderr)


def print_note(text: object) -> None:
    """Print a line that begins with "note:", about something that affects the result, to standard error."""
    print_status(f"note: {text}")


def read_table_with_notes(source: Any, text_format: TextFormat, answers: bool = False) -> Table:
    """Read a table, and print a note on each file or folder that was left out.

    source: a path or a Python object with rows. text_format: how text files are read, where the user says it.
    answers: True for a table with labels, to also print the notes on single columns.
    """
    table = read_table(source, text_format)
    for remark in table.remarks_on(table.columns if answers else ()):
        print_note(remark)
    return table


def read_manifest(model: str) -> dict[str, Any]:
    """Return the content of the manifest that mapsto saves in a model folder; an empty dict for other folders and hub names.

    model: a folder or a hub name.
    """
    path = Path(model) / MANIFEST_FILE
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return manifest
