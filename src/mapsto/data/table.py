"""Tables of rows from files and Python objects. Each row knows its file and its row number there."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mapsto.data import readers, writers
from mapsto.data.file_part import FilePart, clean_cell, from_records, pair_answers
from mapsto.data.files import FileListing, is_path, join_paths, list_files, listed_files
from mapsto.data.formats import conll
from mapsto.data.formats.arrow_tables import name_classes, read_cells, read_features
from mapsto.data.formats.columns import UnnamedColumn, name_columns
from mapsto.data.formats.folders import add_partitions
from mapsto.data.formats.prodigy import leave_out_rejected
from mapsto.data.formats.sparse_rows import limit_memory
from mapsto.data.formats.text_lines import stream_parallel
from mapsto.data.origins import Origins
from mapsto.data.writers import PLAIN_STYLE, TextStyle
from mapsto.errors import DataError, Finding, UsageError
from mapsto.files import hash_file
from mapsto.options import DEFAULT_FORMAT, TextFormat

T = TypeVar("T")
Int64s = NDArray[np.int64]
# Largest number of media files in one table of a stream.
FILES_AT_ONCE = 1024


@dataclass(frozen=True)
class Table:
    """A table: named columns of equal length, whose rows know their place in a file.

    data: the cells of each column; None for an empty cell.
    origins: (file, row number) of each row. Numbers begin with 1; 0 if the whole file is one row, as an image is. Rows of a
        Python object have "data" as their file.
    rejected: findings about rows that could not be read and are not in `data`.
    remarks: notes on what else was not read, such as files of other types.
    """

    data: dict[str, list[Any]]
    origins: Sequence[tuple[str, int]]
    rejected: list[Finding]
    remarks: Sequence[Finding] = ()
    # False if no file names its columns, as those of words and tags do not; see `FilePart`.
    names_columns: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self.data)

    def __len__(self) -> int:
        return len(self.origins)

    def column(self, name: str) -> list[Any]:
        """Return the cells of column `name`; None for an empty cell."""
        return self.data[name]

    def origin(self, row: int) -> tuple[str, int]:
        """Return (file, row number in the file) of the row at index `row`, for messages."""
        return self.origins[row]

    @property
    def name(self) -> str:
        """The name, without folders, of the file that holds the rows; for several files that of their common folder.

        For a Python object it is "data".
        """
        files = list(dict.fromkeys(file for file, _ in self.origins))
        return Path(files[0] if len(files) == 1 else os.path.commonpath(files)).resolve().name

    @property
    def path(self) -> Path | None:
        """The file that holds the rows, for several files their common folder or their list; None for a Python object."""
        files = list(dict.fromkeys(file for file, _ in self.origins))
        is_object = any(
            line and readers.file_format(Path(file)) is None and not listed_files(Path(file).resolve())
            for file, line in self.origins[:1]
        )
        if is_object or not files:
            return None
        if len(files) == 1:
            return Path(files[0]).resolve()
        folder = Path(os.path.commonpath(files)).resolve()
        if any(line == 0 for _, line in self.origins[:1]):
            return folder
        # Some files of a folder are named one by one, as the others are no part of the table.
        paths = [Path(file).resolve() for file in files]
        return folder if folder.is_dir() and list_files(folder).files == paths else join_paths(paths)

    def beside(self, row: int) -> Path | None:
        """Return the folder of the table file that holds a row, beside which files named in the row are looked for.

        None for rows of Python objects and of media files.
        """
        file, line = self.origins[row]
        return Path(file).parent if line and readers.file_format(Path(file)) is not None else None

    def remarks_on(self, columns: Collection[str | None] = ()) -> list[Finding]:
        """Return the remarks about the whole table and, after `columns`, those about one of these columns.

        columns: names of columns; None among them is ignored. By default only remarks about the whole table are returned.
        """
        return [remark for remark in self.remarks if remark.column is None or remark.column in columns]

    def in_order(self) -> list[int | Finding]:
        """Return one entry for each row of the file or files, unreadable rows included, in the order of the files.

        An entry is the index of the row in this table or, for an unreadable row, the first finding about it.
        """
        if not self.rejected:
            return list(range(len(self)))
        faults: dict[tuple[str, int], Finding] = {}
        # A row with several faults has one entry, the first.
        for fault in self.rejected:
            faults.setdefault((fault.file, fault.row or 0), fault)
        places: list[tuple[tuple[str, int], int | Finding]] = [*zip(self.origins, range(len(self)), strict=True)]
        # Readable rows and faults are merged by file and row number.
        places += faults.items()
        return [place for _, place in sorted(places, key=lambda entry: (Path(entry[0][0]), entry[0][1]))]

    def select(self, rows: Iterable[int]) -> Table:
        """Return a table of the rows at these indices, in that order, with empty `rejected` and `remarks`."""
        indices = [int(row) for row in rows]
        data = {name: [values[row] for row in indices] for name, values in self.data.items()}
        return Table(data, [self.origins[row] for row in indices], [], names_columns=self.names_columns)

    @property
    def fingerprint(self) -> str:
        """The SHA-256, in hex, of the column names and of all cells in order."""
        digest = hashlib.sha256(json.dumps(list(self.data)).encode())
        for values in self.data.values():
            for value in values:
                # The repr of a long array omits its middle, and that of a Pillow picture omits all pixels.
                array = np.asarray(value) if hasattr(value, "__array_interface__") else None
                exact = value if array is None else (array.dtype.str, array.tolist())
                digest.update(repr(exact).encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()


def read_table(source: Any, text_format: TextFormat = DEFAULT_FORMAT) -> Table:
    """Return the rows of a file, of a folder's files or of a Python object as one table.

    source: a path, DataFrame, Arrow table, Hugging Face data set, dict of lists, list of dicts, list of paths, or Table. Parallel
        text files, in which the lines of one number belong together, are one path "a.en,a.de"; several tables with the same
        columns are one path "a.csv,b.csv" or "part-*.csv".
    text_format: how text files are read, where the user says it.
    Findings about unreadable rows are in `.rejected`. Raises DataError if no row can be read, UsageError for other objects.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, list | tuple) and source and all(map(is_table_file, source)):
        source = join_paths([Path(path) for path in source])
    if is_path(source):
        return _concatenate(list(stream_tables(source, text_format)))
    part = _read_object(source)
    if not part.rows:
        raise DataError(f"{part.file} has no rows")
    return _concatenate([replace(_table(pairs, pairs.data), remarks=pairs.remarks) for pairs in _restructure([part])])


def _read_object(source: Any) -> FilePart:
    """Return the rows of a Python object as a part; see `read_table`."""
    if hasattr(source, "collect") and hasattr(source, "collect_schema"):  # a query of polars
        source = source.collect()
    if hasattr(source, "column_names") and hasattr(source, "to_dict"):  # a Hugging Face data set
        return _columns({name: _name_classes(source, name) for name in source.column_names})
    if hasattr(source, "to_pylist") and hasattr(source, "schema"):  # an Arrow table
        _require_once(source.schema.names)
        return _columns(_arrow_cells(source))
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a DataFrame
        _require_once([str(name) for name in source.columns])
        return _columns({str(name): list(source[name]) for name in source.columns})
    if isinstance(source, Mapping):
        for name, values in source.items():
            if isinstance(values, str | bytes) or hasattr(values, "column_names") or not isinstance(values, Iterable):
                raise UsageError(
                    f"a dict is read as lists of cells by column, but {name!r} is {type(values).__name__}; "
                    "give one row as a list of one dict, and one split of a data set"
                )
        return _columns({str(name): list(values) for name, values in source.items()})
    if isinstance(source, Iterable):
        return _records(list(source))
    raise UsageError(f"rows come from a path, a table or a list of dicts, not from {type(source).__name__}")


def is_table_file(item: Any) -> bool:
    """Return whether an item of a list, where rows should be, is the path of a table file."""
    return is_path(item) and readers.file_format(Path(item)) is not None


def _arrow_cells(source: Any) -> dict[str, list[Any]]:
    """Return the cells by column of an Arrow table or record batch, with the names of classes that its metadata has."""
    features = read_features((source.schema.metadata or {}).get(b"huggingface"))
    cells = {}
    for name, column in zip(source.schema.names, source.columns, strict=True):
        values = list(chain.from_iterable(map(read_cells, column.chunks if hasattr(column, "chunks") else [column])))
        cells[name] = name_classes(values, features.get(name))
    return cells


def _name_classes(source: Any, column: str) -> list[Any]:
    """Return the cells of a column of a Hugging Face data set, with the names that it has for the numbers of classes."""
    features: Any = getattr(source, "features", None)
    described = features.to_dict() if hasattr(features, "to_dict") else {}
    return name_classes(list(source[column]), described.get(column))


def is_table_name(text: str, folders: bool = False) -> bool:
    """Return whether a command-line argument names a table, rather than being itself a value to answer, such as a text.

    A table is an existing file or folder, or a name without spaces that has the suffix of a table format.
    folders: whether any folder's name counts. If False, a bare word counts as a value even if a folder has that name.
    """
    path = Path(text)
    try:
        is_folder = path.is_dir() and (folders or len(path.parts) > 1 or text.endswith(os.sep))
        exists = path.is_file() or is_folder or bool(listed_files(path))
        return exists or (readers.file_format(path) is not None and " " not in text)
    except (OSError, ValueError, DataError):  # the text is too long for a name, contains NUL, or is no pattern of files
        return False


def stream_tables(source: Any, text_format: TextFormat = DEFAULT_FORMAT) -> Iterator[Table]:
    """Yield the rows of a path in order, as tables that fit into memory; yield a Python object as one table.

    source, text_format: as for `read_table`. Each table has at least the columns of the tables before it.
    Raises DataError if a file cannot be read, if files differ in their columns, or at the end if there was no row.
    """
    if not is_path(source):
        yield read_table(source, text_format)
        return
    listing = list_files(Path(source))
    if listing.data is not None:
        origins = [(str(file), 0) for file in listing.files]
        table = Table(listing.data, origins, [], names_columns=listing.names_columns)
        for start in range(0, len(table), FILES_AT_ONCE):
            chunk = table.select(range(start, min(start + FILES_AT_ONCE, len(table))))
            yield replace(chunk, remarks=[] if start else listing.remarks)
        return
    columns: dict[str, None] = {}
    file_columns: list[tuple[str, set[str]]] = []
    rejected: list[Finding] = []
    remarks = listing.remarks
    for path, file_parts in _stream_files(Path(source), listing, text_format):
        found_columns: set[str] = set()
        has_rows = False
        for part in _restructure(limit_memory(path, file_parts)):
            found_columns |= set(part.data)
            columns |= dict.fromkeys(part.data)
            has_rows = has_rows or bool(part.rows)
            rejected = rejected or part.rejected
            yield replace(_table(part, columns), remarks=[*remarks, *part.remarks])
            remarks = []  # they concern the whole source and are reported once
        if has_rows:
            file_columns = [*file_columns[:1], (str(path), found_columns)]
        # Columns only grow, so comparing the first and the newest file with all columns is enough.
        needed = {name for name in columns if not isinstance(name, UnnamedColumn)}
        differences = [(file, sorted(needed - names)) for file, names in file_columns]
        if missing := [f"{file} has no column {', '.join(map(repr, names))}" for file, names in differences if names]:
            raise DataError(f"{'; '.join(missing)}, which other files have")
    if not file_columns:
        raise DataError(f"{path} has no rows", rejected)


def _stream_files(
    source: Path, listing: FileListing, text_format: TextFormat
) -> Iterator[tuple[Path, Iterator[FilePart]]]:
    """Yield each table file of a listing with its parts; parallel files are one. source: the path that was listed."""
    if listing.parallel:
        yield source, stream_parallel(listing.files, listing.parallel, text_format.encoding, source)
    else:
        for path in listing.files:
            yield path, add_partitions(readers.stream_file(path, text_format), listing.partitions.get(path, {}))


def _restructure(parts: Iterable[FilePart]) -> Iterator[FilePart]:
    """Yield the parts of a file with words and tags as texts and spans, and with dialogues as prompts and answers.

    Rows that an annotator rejected are left out.
    """
    return pair_answers(map(conll.join_word_columns, leave_out_rejected(parts)))


def fingerprint_source(source: Any) -> str:
    """Return a SHA-256, in hex, that identifies the data: of all files at a path or, for a Python object, of its cells."""
    if not is_path(source):
        return read_table(source).fingerprint
    hashes = _map_files(Path(source), hash_file)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_signatures(source: Any) -> list[tuple[str, int, int]]:
    """Return (path, size in bytes, modification time in ns) of each file at a path; an empty list for a Python object.

    Comparing the result with an earlier one shows whether a file has changed, without reading it.
    """

    def sign(path: Path) -> tuple[str, int, int]:
        status = path.stat()
        return str(path), status.st_size, status.st_mtime_ns

    return _map_files(Path(source), sign) if is_path(source) else []


def _map_files(source: Path, call: Callable[[Path], T]) -> list[T]:
    """Return `call(file)` for each table or media file at a path, in order. Raises DataError if a file cannot be read."""
    try:
        return [call(path) for path in list_files(source).files]
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read: {error.strerror or error}") from error


def _table(part: FilePart, names: Iterable[str]) -> Table:
    """Return a part of a file as a table with the columns `names`; a column that the part lacks is filled with None."""
    data, origins = {name: part.column(name) for name in names}, Origins([(part.file, part.rows)])
    return Table(data, origins, part.rejected, part.remarks, names_columns=part.names_columns)


def _require_once(names: Sequence[str]) -> None:
    """Raise DataError if a name occurs twice among the column names."""
    duplicates = sorted(name for name, count in Counter(names).items() if count > 1)
    if duplicates:
        raise DataError(f"the table names {', '.join(map(repr, duplicates))} more than once")


def _columns(data: dict[str, list[Any]]) -> FilePart:
    """Return lists of cells by column as a part with row numbers from 1. Raises DataError for lists of unequal length."""
    lengths = {len(values) for values in data.values()}
    if len(lengths) > 1:
        raise DataError(f"columns of different lengths: { {name: len(v) for name, v in data.items()} }")
    rows = range(1, 1 + (lengths.pop() if lengths else 0))
    names, remarks = name_columns("data", list(data)) if data else ([], [])
    clean = {name: [clean_cell(value) for value in values] for name, values in zip(names, data.values(), strict=True)}
    return FilePart("data", clean, list(rows), [], remarks)


def _records(records: list[Any]) -> FilePart:
    """Return a list of rows, each a dict of cells by column, as a part with row numbers from 1.

    Raises UsageError if an item is no dict.
    """
    for row, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            hint = (
                f"; parallel files are one path: '{','.join(map(str, records))}'" if all(map(_is_file, records)) else ""
            )
            hint = hint or '; columns of values are given as {"text": [...], "label": [...]}'
            raise UsageError(f"row {row} is {type(record).__name__}, not a dict of columns{hint}")
    numbered = [(row, {str(name): value for name, value in record.items()}) for row, record in enumerate(records, 1)]
    return from_records("data", numbered, [])


def _is_file(item: Any) -> bool:
    """Return whether an item of a list, where rows should be, is the path of a file."""
    try:
        return is_path(item) and Path(item).is_file()
    except (OSError, ValueError):  # the text is too long for a name or contains NUL
        return False


def _concatenate(parts: list[Table]) -> Table:
    """Return the rows, findings and remarks of all tables yielded by `stream_tables` as one table."""
    # The last table has the columns of all tables before it.
    data: dict[str, list[Any]] = {name: [] for name in parts[-1].columns}
    for part in parts:
        for name, column in data.items():
            column += part.data.get(name) or [None] * len(part)
    origins = Origins.join(part.origins for part in parts)
    rejected, remarks = (
        list(chain.from_iterable(findings)) for findings in zip(*((p.rejected, p.remarks) for p in parts), strict=True)
    )
    return Table(data, origins, rejected, remarks, any(part.names_columns for part in parts))


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], style: TextStyle = PLAIN_STYLE
) -> int:
    """Write rows in the format that the suffix of `path` names: csv, tsv, jsonl, parquet or xlsx. Return the number of rows.

    columns: the columns to write. rows: the cells of each row by column; iterated twice for parquet, else once.
    style: how a csv or tsv file is written.
    Raises UsageError for any other suffix, RunError if the file cannot be written.
    """
    return writers.write_file(path, columns, rows, style)
