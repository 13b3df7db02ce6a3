"""What several commands print: notes, counts, and tables read with their findings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mapsto.errors import DataError, Finding

if TYPE_CHECKING:
    from mapsto.data.table import Table


def print_note(text: str | Finding) -> None:
    """Print a note on standard error."""
    print(f"note: {text}", file=sys.stderr)


def count_of(count: int, noun: str) -> str:
    """Return "1 row", "2 rows", …"""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def read_table_with_notes(source: Any, encoding: str | None, with_answers: bool = False) -> Table:
    """Read a table and print what was left aside beside it; `with_answers` also what concerns the answers' columns."""
    from mapsto.data.table import read_table

    table = read_table(source, encoding=encoding)
    for remark in table.remarks_on(table.columns if with_answers else ()):
        print_note(remark)
    return table


def print_counts(num_rows: int, num_failed: int, num_cut: int, advice: str = "") -> None:
    """Print how many rows have no answer and how many were cut. Raises DataError where no row has an answer."""
    if num_failed:
        print_note(f"{num_failed} of {num_rows} rows could not be answered; their answers say why")
    if num_cut:
        print_note(f"{num_cut} rows are longer than the model takes and were cut{advice}")
    if num_rows == num_failed:
        raise DataError("no row could be answered")
