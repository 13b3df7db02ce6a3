"""Parts of table files: some consecutive rows of a file, of bounded size, with the findings about its unreadable rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.errors import Finding

# Largest number of rows and of characters of a part.
PART_ROWS, PART_CHARACTERS = 4096, 2**20

# (row number, cells by column, number of characters) of a row; for an unreadable row the findings about it.
Row = tuple[int, Mapping[str, Any], int] | list[Finding]


@dataclass(frozen=True)
class FilePart:
    """Consecutive rows of one file.

    data: the cells of each column; all columns have the same length.
    rows: the number of each row of `data` in the file: the line where it begins, or for json and parquet its number from 1.
    rejected: findings about rows of this part that could not be read. These rows are not in `data`.
    remarks: notes on the whole file, such as on the way in which it was read.
    """

    file: str
    data: dict[str, list[Any]]
    rows: list[int]
    rejected: list[Finding]
    remarks: list[Finding] = field(default_factory=list)

    def column(self, name: str) -> list[Any]:
        """Return the cells of column `name`, one for each row; all None if this part does not have the column."""
        return self.data.get(name) or [None] * len(self.rows)


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
    data = {name: [clean_cell(record.get(name)) for _, record in records] for name in columns}
    return FilePart(file, data, [row for row, _ in records], rejected)


def group_rows(path: Path, rows: Iterable[Row], names: Sequence[str] = ()) -> Iterator[FilePart]:
    """Group rows into parts of at most PART_ROWS rows, and about PART_CHARACTERS characters; yield the parts.

    A file without rows gives one empty part, which carries the names of its columns.
    names: the columns of the file's header, if it has one.
    """
    good: list[tuple[int, Mapping[str, Any]]] = []
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
            yield from_records(str(path), good, bad, names)
            good, bad, size, count, has_parts = [], [], 0, 0, True
    if count or not has_parts:
        yield from_records(str(path), good, bad, names)
