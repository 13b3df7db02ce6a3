"""Write rows as csv, tsv, jsonl or parquet, also gzipped: streamed, and atomically."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import numpy as np

from mapsto.data.readers import file_format
from mapsto.errors import UsageError
from mapsto.files import replacing

WRITABLE_FORMATS = ("csv", "tsv", "jsonl", "parquet")
# Rows of a batch of parquet.
ROWS_PER_CHUNK = 4096
Row = Mapping[str, Any]


def require_writable(path: Path) -> str:
    """Return the format for writing rows to `path`, which its suffix names.

    Raises UsageError for a suffix of no known format, a missing parent folder, and a path that is a folder.
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
    """Raise UsageError if neither rows nor files can be written to `path`."""
    if path is not None and file_format(path) is not None:
        require_writable(path)
    elif path is not None and path.exists() and not path.is_dir():
        raise UsageError(
            f"{path} is a file; files need a folder, and rows are written as {', '.join(WRITABLE_FORMATS)}"
        )


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows in the format of the file name, atomically; return their number. Raises UsageError, RunError.

    rows: iterated once, for parquet twice, since its types are known at the end; never held in memory.
    columns: cells of other columns are left out.
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
    if path.suffix.lower() != ".gz":
        yield stream
        return
    with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packing:
        yield cast(BinaryIO, packing)


def to_text_cells(row: Row) -> dict[str, Any]:
    """Return a row as text cells: lists and dicts as JSON, and encoded files as their name or their size."""
    return {name: _nested_to_json(_describe_file(cell)) for name, cell in row.items()}


def _nested_to_json(cell: Any) -> Any:
    nested = isinstance(cell, list | tuple | dict | np.ndarray)
    return json.dumps(cell, ensure_ascii=False, default=_to_builtin) if nested else cell


def _to_builtin(value: Any) -> Any:
    """Convert an array or number of NumPy for JSON."""
    return value.tolist()


def _describe_file(cell: Any) -> Any:
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return cell.get("path") or _describe_file(cell["bytes"])
    return f"{len(cell):,} bytes" if isinstance(cell, bytes) else cell


def write_separated(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row], delimiter: str = ",") -> int:
    """Write a header and rows as csv in UTF-8; return the number of rows."""

    # csv quotes a cell only for characters of the line's end: with "\n" alone, a CR in a cell would end a row.
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
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        record = {name: _describe_file(row.get(name)) for name in columns}
        stream.write(f"{json.dumps(record, ensure_ascii=False, default=_to_builtin)}\n".encode())
    return count


def _write_parquet(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
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
    """Return the type that holds these cells and those before them. Raises UsageError."""
    import pyarrow

    try:
        schemas = [pyarrow.schema([(name, column_type)]), pyarrow.schema([(name, pyarrow.array(cells).type)])]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pyarrow.ArrowException as error:
        raise UsageError(f"column {name!r} does not fit into parquet: {error}") from error


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while chunk := list(islice(rest, ROWS_PER_CHUNK)):
        yield chunk
