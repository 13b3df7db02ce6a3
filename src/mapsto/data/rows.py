"""Rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data.table import Table
from mapsto.errors import BadCell, DataError, Finding
from mapsto.options import require_choice
from mapsto.sequence.piece import Ints
from mapsto.task.arrow import Arrow, Port, bind, require_kinds, restores
from mapsto.task.capabilities import FileBacked, is_located
from mapsto.task.source import Source
from mapsto.task.target import Target

FITTING_SAMPLE = 2000


MOST_SKIPPED = 0.01


PLAIN = str | int | float  # cells that a message can show


def bind_to(arrow: Arrow, table: Table, answers: bool = True) -> Arrow:
    """The arrow with a column of `table` for every port; without `answers` the targets' columns need not be there. Names of files
    that are a value each, such as pictures, are no text unless the arrow says so."""
    require_kinds(arrow, kinds.names("source"), kinds.names("target"))
    samples: dict[str, list[object]] = {}

    def fits(kind: str, column: str, role: str) -> bool:
        values = samples.setdefault(column, table.column(column)[:FITTING_SAMPLE])
        if kind not in kinds.media() and any(kinds.source(of).fits(values) for of in kinds.media()):
            return False
        return kinds.source(kind).fits(values) if role == "source" else kinds.target(kind).fits(values)

    if answers:
        return bind(arrow, table.columns, fits)
    read = bind(arrow.body, table.columns, fits)
    return replace(arrow, sources=read.sources)


@dataclass(frozen=True)
class Rows:
    """Values read from `table`: `sources[port]` and `targets[port]` are parallel to `rows`, numbers of its rows."""

    table: Table
    sources: list[list[Any]]
    targets: list[list[Any]]
    rows: Ints
    faults: list[Finding]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Ints) -> Rows:
        """The rows at `indices`."""
        chosen = [int(i) for i in indices]
        return Rows(
            self.table,
            [[column[i] for i in chosen] for column in self.sources],
            [[column[i] for i in chosen] for column in self.targets],
            self.rows[indices],
            self.faults,
        )

    def whole(self) -> Rows:
        """The rows without a cell that could not be read."""
        bad = {(fault.file, fault.row) for fault in self.faults}
        good = [i for i, row in enumerate(self.rows.tolist()) if self.table.origin(row) not in bad]
        return self.select(np.array(good, np.int64))


def read_cells(
    arrow: Arrow,
    table: Table,
    sources: Mapping[str, Source | type[Source]],
    targets: Sequence[Target | type[Target]],
    answers: bool = True,
) -> Rows:
    """Every cell the arrow reads, of all rows; each that cannot be read is None, and named in `faults`."""
    faults: dict[int, list[Finding]] = {}

    def blame(row: int, column: str | None, value: str | None, reason: object) -> None:
        faults.setdefault(row, []).append(Finding(*table.origin(row), column, value, str(reason)))

    def read_column(port: Port, kind: Source | type[Source] | Target | type[Target]) -> list[Any]:
        assert port.column is not None
        values = []
        cls = kind if isinstance(kind, type) else type(kind)
        locate = cls.locate if issubclass(cls, FileBacked) else None
        for row, cell in enumerate(table.column(port.column)):
            try:
                values.append(kind.read(cell if locate is None else locate(cell, table.beside(row))))
            except BadCell as bad:
                value = str(cell).encode(errors="backslashreplace").decode() if isinstance(cell, PLAIN) else None
                blame(row, port.column, value, bad)
                values.append(None)
        return values

    read_sources = [read_column(port, sources[port.kind]) for port in arrow.sources]
    wanted = list(zip(arrow.targets, targets, restores(arrow), strict=True)) if answers else []
    read_targets = [
        [None] * len(table) if restored is not None else read_column(port, target) for port, target, restored in wanted
    ]
    for (port, target, _), found in zip(wanted, read_targets, strict=True):
        if not is_located(target):
            continue
        for source, values in zip(arrow.sources, read_sources, strict=True):
            if source.kind == target.lies_in:
                for row, (answer, value) in enumerate(zip(found, values, strict=True)):
                    if answer is not None and value is not None and (reason := target.misplaced(answer, value)):
                        blame(row, port.column, None, reason)
    listed = list(chain(*(faults[row] for row in sorted(faults))))
    return Rows(table, read_sources, read_targets, np.arange(len(table)), listed)


def read_rows(
    arrow: Arrow,
    table: Table,
    sources: Mapping[str, Source | type[Source]],
    targets: Sequence[Target | type[Target]],
    answers: bool = True,
) -> Rows:
    """The rows of which every cell can be read; the faults of the others are named."""
    rows = read_cells(arrow, table, sources, targets, answers)
    return rows if not rows.faults else rows.whole()


def require_whole(rows: Rows, rejected: Sequence[Finding], total: int, bad_rows: str | None = None) -> list[Finding]:
    """The faults to write to rejected.csv. Raises DataError unless bad rows are to be skipped and are few enough; None where
    they never are."""
    if bad_rows is not None:
        require_choice("bad_rows", bad_rows)
    faults = [*rejected, *rows.faults]
    require_few(faults, len(faults), total + len(rejected) - len(rows), total + len(rejected), bad_rows)
    return faults


def require_some(rows: Rows, rejected: Sequence[Finding]) -> list[Finding]:
    """The faults of rows that cannot be read, where each costs itself alone. Raises DataError where no row is left."""
    faults = [*rejected, *rows.faults]
    if not len(rows):
        raise DataError("no row can be read:", faults)
    return faults


def require_few(shown: Sequence[Finding], faults: int, bad: int, total: int, bad_rows: str | None) -> None:
    """Raise DataError unless bad rows are to be skipped, are few enough, and leave some; `shown` are the first faults."""
    if faults and bad_rows != "skip":
        skip = "" if bad_rows is None else ", or drop them with --bad-rows skip"
        raise DataError(f"{faults} bad cells or rows; mend them{skip}:", shown, faults)
    if bad > MOST_SKIPPED * total:
        raise DataError(f"{bad} of {total} rows are bad, more than the 1 % that may be skipped:", shown, faults)
    if bad == total:
        raise DataError("no rows are left", shown, faults)
