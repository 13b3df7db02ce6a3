"""Output shared by commands: results go to standard output, notes and status lines to standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mapsto.data.table import Table, read_table
from mapsto.pretrained.model_folder import MANIFEST_FILE


def print_json(record: Any) -> None:
    """Print a result as one line of JSON."""
    print(json.dumps(record, ensure_ascii=False))


def print_status(text: str) -> None:
    """Print a status line, which is not part of the result, to standard error."""
    print(text, file=sys.stderr)


def print_note(text: object) -> None:
    """Print a note that the user should read beside the result, to standard error."""
    print_status(f"note: {text}")


def read_table_with_notes(source: Any, encoding: str | None, answers: bool = False) -> Table:
    """Read a table, and print a note on everything that was left out.

    answers: print notes on the columns too, because the table has labels.
    """
    table = read_table(source, encoding=encoding)
    for remark in table.remarks_on(table.columns if answers else ()):
        print_note(remark)
    return table


def read_manifest(model: str) -> dict[str, Any]:
    """Return the manifest of a model folder saved by mapsto; an empty dict for other folders and for hub names."""
    path = Path(model) / MANIFEST_FILE
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return manifest
