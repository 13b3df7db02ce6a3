"""Write rows as csv, tsv, jsonl or parquet, also gzipped. Rows are streamed, and a file is replaced atomically."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import numpy as np

from mapsto.data.file_part import UnreadableCell
from mapsto.data.readers import file_format
from mapsto.errors import UsageError
from mapsto.files import replacing

WRITABLE_FORMATS = ("csv", "tsv", "jsonl", "parquet")
# Number of rows that are written to parquet at once.
ROWS_PER_CHUNK = 4096
Row = Mapping[str, Any]


def require_writable(path: Path) -> str:
    """Return the table format that the suffix of `path` names, after checking that rows can be written to `path`.

    Raises UsageError for a suffix of no writable format, for a missing parent folder, and if `path` is a folder.
    """
    kind = file_format(path)
    if kind not in WRITABLE_FORMATS:
        raise UsageError(f"{path.name}: rows are written as csv, tsv, jsonl or parquet")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file for the rows")
    return kind


def require_output_path(path: Path | None) -> None:
    """Raise UsageError if answers cannot be written to `path`, the value of `--out`.

    A path with the suffix of a table format must be a file to which rows can be written. Any other path becomes a folder with
    one file per answer, so it must not be an existing file. None is standard output, which is always possible.
    """
    if path is not None and file_format(path) is not None:
        require_writable(path)
    elif path is not None and path.exists() and not path.is_dir():
        raise UsageError(
            f"{path} is a file; files need a folder, and rows are written as {', '.join(WRITABLE_FORMATS)}"
        )


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows atomically in the format that the suffix of `path` names; return the number of rows.

    columns: the columns to write; cells of other columns are left out.
    rows: never all in memory. They are iterated once, but for parquet twice, as its header needs the types of all cells.
    Raises UsageError if `require_writable` refuses `path`, if the cells of a parquet column have no common type, or if a cell
    holds half a character (a lone surrogate); RunError if the file cannot be written.
    """
    kind = require_writable(path)
    try:
        with replacing(path) as stream, _compress(stream, path) as target:
            if kind == "parquet":
                return _write_parquet(target, columns, rows)
            if kind == "jsonl":
                return _write_jsonl(target, columns, rows)
            return write_separated(target, columns, rows, "\t" if kind == "tsv" else ",")
    except UnicodeEncodeError as error:
        raise UsageError(f"{path.name}: a cell holds {error.object[error.start]!r}, half a character") from error


@contextmanager
def _compress(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Yield a stream that compresses what it writes into `stream` if `path` ends in .gz, else `stream` itself."""
    if path.suffix.lower() != ".gz":
        yield stream
        return
    # Without a name and a time in the header, equal rows give equal bytes.
    with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packing:
        yield cast(BinaryIO, packing)


def to_text_cells(row: Row) -> dict[str, Any]:
    """Return a row with cells fit for csv: lists, dicts and arrays as JSON, other cells unchanged.

    A cell with the bytes of a file becomes the path that it gives beside the bytes or, without one, their size as text.
    """
    return {name: _nested_to_json(_describe_file(cell)) for name, cell in row.items()}


def _nested_to_json(cell: Any) -> Any:
    """Return a list, tuple, dict or array as JSON text; any other cell unchanged."""
    nested = isinstance(cell, list | tuple | dict | np.ndarray)
    return json.dumps(cell, ensure_ascii=False, default=_to_builtin) if nested else cell


def _to_builtin(value: Any) -> Any:
    """Return a value that JSON does not have: NumPy's as Python's, a decimal as a number, a set as a list, all others as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, bytes | UnreadableCell):
        return _describe_file(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _describe_file(cell: Any) -> Any:
    """Return the path of a cell that is a dict of `bytes` and `path`, or the size, as text, of bytes without a path.

    Any other cell is returned unchanged.
    """
    if isinstance(cell, UnreadableCell):
        return cell.text
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return cell.get("path") or _describe_file(cell["bytes"])
    return f"{len(cell):,} bytes" if isinstance(cell, bytes) else cell


def write_separated(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row], delimiter: str = ",") -> int:
    """Write a header and rows in UTF-8, the cells separated by `delimiter`; return the number of rows without the header.

    columns: the columns to write; cells of other columns are left out.
    """

    # A CR in a cell must be quoted, as readers end a row there. csv only does so if the line end has a CR too. So its line
    # end is CRLF, which is shortened to LF here.
    def write(line: str) -> None:
        stream.write(f"{line.removesuffix(chr(13) + chr(10))}\n".encode())

    writer = csv.DictWriter(
        SimpleNamespace(write=write), columns, extrasaction="ignore", delimiter=delimiter, lineterminator="\r\n"
    )
    writer.writeheader()
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        writer.writerow(to_text_cells(row))
    return count


def _write_jsonl(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write each row as a line with a JSON object of the cells in `columns`; return the number of rows."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        record = {name: _describe_file(row.get(name)) for name in columns}
        stream.write(f"{json.dumps(record, ensure_ascii=False, default=_to_builtin)}\n".encode())
    return count


def _write_parquet(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows as parquet; return the number of rows. A first pass finds the types of the columns, a second one writes."""
    import pyarrow
    import pyarrow.parquet

    assert iter(rows) is not rows, "parquet goes through the rows twice"
    types = {name: pyarrow.null() for name in columns}
    for chunk in _chunks(rows):
        for name in columns:
            types[name] = _unify_type(name, types[name], [row.get(name) for row in chunk])
    count = 0
    with pyarrow.parquet.ParquetWriter(stream, pyarrow.schema(list(types.items()))) as writer:
        for chunk in _chunks(rows):
            arrays = {name: pyarrow.array([row.get(name) for row in chunk], kind) for name, kind in types.items()}
            writer.write_table(pyarrow.table(arrays))
            count += len(chunk)
    return count


def _unify_type(name: str, column_type: Any, cells: list[Any]) -> Any:
    """Return an Arrow type that holds the earlier and the next cells of a column. Raises UsageError if no type holds all of them.

    name: the column. column_type: the type of the earlier cells; Arrow's null type if there are none. cells: the next cells.
    """
    import pyarrow

    try:
        schemas = [pyarrow.schema([(name, column_type)]), pyarrow.schema([(name, pyarrow.array(cells).type)])]
        # Permissive promotion lets a column begin with empty cells, or have integers before floats.
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pyarrow.ArrowException as error:
        raise UsageError(f"column {name!r} does not fit into parquet: {error}") from error


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists of up to ROWS_PER_CHUNK."""
    rest = iter(rows)
    while chunk := list(islice(rest, ROWS_PER_CHUNK)):
        yield chunk
