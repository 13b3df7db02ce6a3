"""Hold out the latest rows (`--time`): a model is used on rows of later times than those it learnt from."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from mapsto.data.rows import Rows
from mapsto.data.table import Int64s
from mapsto.errors import UsageError, near, shorten


def split_by_time(rows: Rows, share: float, column: str, say: Callable[[str], None]) -> tuple[Int64s, Int64s]:
    """Return the indices of training rows and of held-out rows, the latest ones by a column of dates or numbers.

    Rows of one time are on the same side. share: fraction to hold out, about. say: prints where the rows are divided.
    Raises UsageError for a column that the table lacks or that has other values, and for one time in all rows.
    """
    columns = rows.table.columns
    if column not in columns:
        names = ", ".join(map(repr, columns))
        raise UsageError(f"--time: no column {column!r}{near(column, columns)}; the columns are: {names}")
    cells = [rows.table.column(column)[index] for index in rows.indices.tolist()]
    times = np.array(_read_times(cells, column))
    boundary = np.sort(times)[-max(1, round(share * len(times)))]
    # Where the rows of the boundary have no earlier ones, those behind it are held out.
    is_later = times >= boundary if (times < boundary).any() else times > boundary
    if not is_later.any():
        raise UsageError(f"--time {column}: all rows have the same time, {cells[0]!r}")
    later = np.flatnonzero(is_later)
    earliest = cells[int(later[times[later].argmin()])]
    say(f"note: {len(later):,} of {len(rows):,} rows are held out, those from {column} {earliest} on")
    return np.flatnonzero(~is_later), later


def _read_times(cells: Sequence[object], column: str) -> list[float]:
    """Return cells as numbers that grow with time: numbers, or dates such as 2024-05-31 or 2024-05-31T12:00.

    Raises UsageError for a cell that is neither, and for numbers and dates in one column.
    """
    for convert in (_to_number, _to_seconds):
        with suppress(ValueError, TypeError):
            return [convert(cell) for cell in cells]
    wrong = next((cell for cell in cells if not _is_date(cell)), cells[0])
    raise UsageError(f"--time {column}: {shorten(str(wrong))!r} is no number and no date such as 2024-05-31")


def _to_number(cell: object) -> float:
    """Return the number in a cell. Raises ValueError or TypeError for any other cell."""
    number = float(cell)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError
    return number


def _to_seconds(cell: object) -> float:
    """Return a date, or the text of one, as seconds since 1970. Raises ValueError for other texts."""
    date = cell if isinstance(cell, datetime.date) else datetime.datetime.fromisoformat(str(cell).strip())
    moment = date if isinstance(date, datetime.datetime) else datetime.datetime(date.year, date.month, date.day)
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _is_date(cell: object) -> bool:
    """Return whether a cell is a date, or the text of one."""
    try:
        return math.isfinite(_to_seconds(cell))
    except (ValueError, TypeError):
        return False
