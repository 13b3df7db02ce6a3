"""Hold out the latest rows (`--time`): a model is used on rows of later times than those it learnt from."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence

import numpy as np

from mapsto.data.rows import Rows
from mapsto.data.table import Int64s
from mapsto.errors import DataError, Finding, UsageError, counted, near


def split_by_time(rows: Rows, share: float, column: str, say: Callable[[str], None]) -> tuple[Int64s, Int64s]:
    """Return the indices of training rows and of held-out rows, the latest ones by a column of dates or numbers.

    Rows of one time are on the same side. share: fraction to hold out, about. say: prints where the rows are divided.
    Raises UsageError for a column that the table lacks or that holds no times, and for one time in all rows, and
    DataError with file, row and column of each cell that is no time.
    """
    columns = rows.table.columns
    if column not in columns:
        names = ", ".join(map(repr, columns))
        raise UsageError(f"--time: no column {column!r}{near(column, columns)}; the columns are: {names}")
    cells = [rows.table.column(column)[index] for index in rows.indices.tolist()]
    times = np.array(_read_times(rows, cells, column))
    boundary = np.sort(times)[-max(1, round(share * len(times)))]
    # Where the rows of the boundary have no earlier ones, those behind it are held out.
    is_later = times >= boundary if (times < boundary).any() else times > boundary
    if not is_later.any():
        raise UsageError(f"--time {column}: all rows have the same time, {cells[0]!r}")
    later = np.flatnonzero(is_later)
    earliest = cells[int(later[times[later].argmin()])]
    say(f"note: {len(later):,} of {len(rows):,} rows are held out, those from {column} {earliest} on")
    return np.flatnonzero(~is_later), later


def _read_times(rows: Rows, cells: Sequence[object], column: str) -> list[float]:
    """Return cells as numbers that grow with time: numbers, or dates such as 2024-05-31 or 2024-05-31T12:00.

    cells: of each of the rows. Raises UsageError for a column without any, and DataError, with their places, for cells that are
    neither, and for those of the rarer sort where numbers and dates are in one column.
    """
    numbers, dates = ([_convert(convert, cell) for cell in cells] for convert in (_to_number, _to_seconds))
    times = max(numbers, dates, key=lambda values: sum(value is not None for value in values))
    faults = [
        Finding(
            *rows.origin(index), column, None if _is_blank(cell) else str(cell), _describe_fault(cell, numbers[index])
        )
        for index, cell in enumerate(cells)
        if times[index] is None
    ]
    if len(faults) == len(cells):
        raise UsageError(f"--time {column!r}: no cell holds a time; the first: {faults[0]}")
    if faults:
        raise DataError(f"--time {column!r}: {counted(len(faults), 'cell')} without a time:", faults)
    return [time for time in times if time is not None]


def _describe_fault(cell: object, number: float | None) -> str:
    """Return why a cell is no time, in words. number: the cell as a number; None if it is none."""
    if _is_blank(cell):
        return "the time is missing"
    if number is not None:
        return "this is a number, where most rows have dates"
    if _convert(_to_seconds, cell) is not None:
        return "this is a date, where most rows have numbers"
    return "this is no number and no date such as 2024-05-31"


def _is_blank(cell: object) -> bool:
    """Return whether a cell is empty, or NaN as pandas has it for an empty one."""
    return (
        cell is None or (isinstance(cell, float) and math.isnan(cell)) or (isinstance(cell, str) and not cell.strip())
    )


def _convert(convert: Callable[[object], float], cell: object) -> float | None:
    """Return a cell as `convert` reads it; None for a cell that it cannot read."""
    try:
        number = convert(cell)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _to_number(cell: object) -> float:
    """Return the number in a cell. Raises ValueError or TypeError for any other cell."""
    return float(cell)  # type: ignore[arg-type]


def _to_seconds(cell: object) -> float:
    """Return a date, or the text of one, as seconds since 1970. Raises ValueError for other texts."""
    date = cell if isinstance(cell, datetime.date) else datetime.datetime.fromisoformat(str(cell).strip())
    moment = date if isinstance(date, datetime.datetime) else datetime.datetime(date.year, date.month, date.day)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
