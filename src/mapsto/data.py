"""Tables of rows from files and Python objects, each row knowing where it came from; and the order rows are read in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto import readers
from mapsto.errors import DataError, Finding, UsageError
from mapsto.readers import Part

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Named columns of equal length. `origins` gives (file, row as an editor shows it) for each row."""

    data: dict[str, list[Any]]
    origins: Sequence[tuple[str, int]]
    rejected: list[Finding]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.data)

    def __len__(self) -> int:
        return len(self.origins)

    def column(self, name: str) -> list[Any]:
        """The values of a column; None where a cell is empty."""
        return self.data[name]

    def origin(self, row: int) -> tuple[str, int]:
        """File and row number, for messages."""
        return self.origins[row]

    def in_order(self) -> list[int | Finding]:
        """Every row of the source: its index here, or, for one that could not be read, its (first) fault."""
        if not self.rejected:
            return list(range(len(self)))
        faults: dict[tuple[str, int], Finding] = {}
        for fault in self.rejected:
            faults.setdefault((fault.file, fault.row or 0), fault)
        places: list[tuple[tuple[str, int], int | Finding]] = [*zip(self.origins, range(len(self)), strict=True)]
        places += faults.items()
        return [place for _, place in sorted(places, key=lambda entry: (Path(entry[0][0]), entry[0][1]))]

    def select(self, rows: Iterable[int]) -> Table:
        """A table of the rows at these indices; what could not be read stays behind."""
        chosen = [int(row) for row in rows]
        data = {name: [values[row] for row in chosen] for name, values in self.data.items()}
        return Table(data, [self.origins[row] for row in chosen], [])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the columns and their values, in order."""
        digest = hashlib.sha256(json.dumps(list(self.data)).encode())
        for values in self.data.values():
            for value in values:
                # The repr of a long array leaves its middle out.
                exact = (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else value
                digest.update(repr(exact).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()


def read(source: Any, encoding: str | None = None) -> Table:
    """A table from a path, a DataFrame, an Arrow table, a data set of Hugging Face, or a list of dicts.

    Rows that cannot be read are in `.rejected`. Raises DataError for a file of which nothing can be read.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, str | os.PathLike):
        parts = [readers.read_file(path, encoding) for path in _files(Path(source))]
    elif hasattr(source, "column_names") and hasattr(source, "to_dict"):  # a Hugging Face data set
        parts = [_columns({name: list(source[name]) for name in source.column_names})]
    elif hasattr(source, "to_pylist"):
        _require_once(getattr(source, "column_names", ()))
        parts = [_records(source.to_pylist())]
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):
        _require_once([str(name) for name in source.columns])
        parts = [_columns({str(name): list(source[name]) for name in source.columns})]
    elif isinstance(source, Mapping):
        for name, values in source.items():
            if isinstance(values, str | bytes) or hasattr(values, "column_names") or not isinstance(values, Iterable):
                raise UsageError(
                    f"a dict is read as lists of cells by column, but {name!r} is {type(values).__name__}; "
                    "give one row as a list of one dict, and one split of a data set"
                )
        parts = [_columns({str(name): list(values) for name, values in source.items()})]
    elif isinstance(source, Iterable):
        parts = [_records(list(source))]
    else:
        raise UsageError(f"rows come from a path, a table or a list of dicts, not from {type(source).__name__}")
    return _joined(parts)


def _files(path: Path) -> list[Path]:
    found: list[Path] = []
    try:
        if not path.is_dir():
            return [path]
        for folder, inner, names in os.walk(path, onerror=_refuse):
            inner[:] = [name for name in inner if not name.startswith(".")]
            here = [Path(folder, name) for name in names if not name.startswith(".")]
            found += [file for file in here if file.is_file() and readers.format_of(file)]
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    found.sort()
    if not found:
        raise DataError(f"{path} holds no file of these kinds: {', '.join(readers.FORMATS)}")
    return found


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be listed would otherwise be left out without a word


def _require_once(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"the table names {', '.join(map(repr, twice))} more than once")


def _columns(data: dict[str, list[Any]]) -> Part:
    lengths = {len(values) for values in data.values()}
    if len(lengths) > 1:
        raise DataError(f"columns of different lengths: { {name: len(v) for name, v in data.items()} }")
    rows = range(1, 1 + (lengths.pop() if lengths else 0))
    clean = {name: [readers.cell(value) for value in values] for name, values in data.items()}
    return Part("data", clean, list(rows), [])


def _records(records: list[Any]) -> Part:
    for row, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise UsageError(f"row {row} is {type(record).__name__}, not a dict of columns")
    named = [(row, {str(name): value for name, value in record.items()}) for row, record in enumerate(records, 1)]
    return readers.from_records("data", named, [])


def _joined(parts: list[Part]) -> Table:
    names = list(dict.fromkeys(name for part in parts for name in part.data))
    for part in parts:
        if part.rows and set(part.data) != set(names):
            missing = sorted(set(names) - set(part.data))
            raise DataError(f"{part.file} has no column {', '.join(map(repr, missing))}, which other files have")
    rejected = [finding for part in parts for finding in part.rejected]
    origins = [(part.file, row) for part in parts for row in part.rows]
    if not origins:
        raise DataError(f"{parts[0].file} has no rows" if parts else "no rows", rejected)
    return Table({name: [v for part in parts for v in part.data.get(name, [])] for name in names}, origins, rejected)


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as csv, tsv, jsonl or parquet, by the name of `path`. Raises UsageError, RunError."""
    readers.write_file(path, columns, rows)


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, n: int) -> Ints:
    """The order of n rows in an epoch: a function of (seed, epoch) alone."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    order.setflags(write=False)
    return order


def rows_of_step(seed: int, step: int, batch: int, n: int) -> Ints:
    """permute(seed, epoch)[step × batch + i] for i < batch, running on into the next epochs."""
    places = np.arange(step * batch, (step + 1) * batch)
    epochs = places // n
    return np.concatenate([permutation(seed, int(e), n)[places[epochs == e] % n] for e in np.unique(epochs)])


def split(
    n: int, groups: Sequence[Hashable], strata: Sequence[Hashable] | None, share: float, seed: int
) -> tuple[Ints, Ints]:
    """(kept, held out) row indices in order: about `share` of each stratum, equal groups never on both sides."""
    order = permutation(seed, 0, n)
    members: dict[Hashable, list[int]] = {}
    for row in order.tolist():
        members.setdefault(groups[row], []).append(row)
    wanted: dict[Hashable, float] = {}
    for row in range(n):
        stratum = strata[row] if strata is not None else None
        wanted[stratum] = wanted.get(stratum, 0.0) + share
    held: list[int] = []
    for rows in members.values():
        stratum = strata[rows[0]] if strata is not None else None
        if wanted[stratum] >= len(rows) - 0.5:
            wanted[stratum] -= len(rows)
            held.extend(rows)
    aside = np.array(sorted(held), np.int64)
    return np.setdiff1d(np.arange(n), aside), aside
