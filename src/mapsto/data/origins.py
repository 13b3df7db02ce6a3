"""The places of a table's rows in their files, held in runs: a run of consecutive rows takes no memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import Any, overload

import numpy as np

# The row numbers of a run: consecutive, ascending, or with line numbers that know their record.
Numbers = range | np.ndarray[Any, np.dtype[np.int64]] | list[int]


class Origins(Sequence[tuple[str, int]]):
    """A sequence of (file, row number), one for each row of a table.

    runs: the rows in order, as (file, row numbers) of neighbouring rows of one file.
    """

    def __init__(self, runs: Iterable[tuple[str, Sequence[int]]]) -> None:
        self._set_runs([(file, _compress(rows)) for file, rows in runs if len(rows)])

    @classmethod
    def join(cls, parts: Iterable[Sequence[tuple[str, int]]]) -> Sequence[tuple[str, int]]:
        """Return the places of the rows of several tables, one after the other."""
        parts = list(parts)
        if not all(isinstance(part, Origins) for part in parts):
            return list(chain.from_iterable(parts))
        origins = cls(())
        origins._set_runs([run for part in parts if isinstance(part, Origins) for run in part._runs])
        return origins

    def _set_runs(self, runs: list[tuple[str, Numbers]]) -> None:
        merged: list[tuple[str, Numbers]] = []
        for file, rows in runs:
            previous = merged[-1][1] if merged and merged[-1][0] == file else None
            if isinstance(previous, range) and isinstance(rows, range) and previous.stop == rows.start:
                merged[-1] = file, range(previous.start, rows.stop)
            else:
                merged.append((file, rows))
        self._runs = merged
        self._starts = [0, *accumulate(len(rows) for _, rows in merged)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, int] | list[tuple[str, int]]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        run = bisect_right(self._starts, position) - 1
        file, rows = self._runs[run]
        row = rows[position - self._starts[run]]
        return file, int(row) if isinstance(row, np.integer) else row

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for file, rows in self._runs:
            yield from zip(repeat(file), rows.tolist() if isinstance(rows, np.ndarray) else rows, strict=False)

    def __eq__(self, value: object) -> bool:
        return isinstance(value, Sequence) and len(self) == len(value) and all(map(_equal, self, value))

    __hash__ = None  # type: ignore[assignment]  # equal to a list, which has no hash

    def __repr__(self) -> str:
        return f"Origins({self._runs!r})"


def _equal(first: object, second: object) -> bool:
    return first == second


def _compress(rows: Sequence[int]) -> Numbers:
    """Return row numbers in the form that takes the least memory and keeps what they know."""
    if isinstance(rows, range):
        return rows
    numbers = list(rows)
    if numbers[-1] - numbers[0] == len(numbers) - 1 and all(type(number) is int for number in numbers):
        consecutive = range(numbers[0], numbers[-1] + 1)
        if numbers == list(consecutive):
            return consecutive
    if all(type(number) is int for number in numbers):
        return np.array(numbers, np.int64)
    return numbers
