"""Write rows as csv, tsv, jsonl, parquet or xlsx, texts also gzipped. Rows are streamed, and a file is replaced atomically."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, BinaryIO, cast

import numpy as np

from mapsto.data.file_part import UnreadableCell
from mapsto.data.files import is_path, list_files
from mapsto.data.formats.separated import NUM_SNIFFED, find_layout
from mapsto.data.formats.text_lines import encoding_of_mark, read_lines
from mapsto.data.readers import file_format
from mapsto.errors import UsageError, printable
from mapsto.files import replacing
from mapsto.options import TextFormat
from mapsto.text.characters import find_invalid_character

WRITABLE_FORMATS = ("csv", "tsv", "jsonl", "parquet", "xlsx")
WRITABLE = f"{', '.join(WRITABLE_FORMATS[:-1])} or {WRITABLE_FORMATS[-1]}"
# The largest sheet of a workbook.
MAX_SHEET_ROWS, MAX_SHEET_COLUMNS, MAX_SHEET_CELL = 2**20, 2**14, 32_767
# Number of rows that are written to parquet at once.
ROWS_PER_CHUNK = 4096
# The first characters of a cell that a spreadsheet may compute; and cells that are numbers although they begin so.
FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)*|\.\d+)([eE][+-]?\d+)?%?")
# Characters that the XML of a workbook cannot hold.
ESCAPED_IN_SHEETS = re.compile("[\0-\b\v\f\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class TextStyle:
    """Describe how a csv or tsv file is written.

    encoding: its encoding. has_mark: whether a byte order mark stands at its beginning, without which Excel takes UTF-8 for
        another encoding. delimiter: the character between the cells; None for that of the format.
    csv_safe: whether cells are written so that a spreadsheet computes nothing, see `defuse`.
    escaped: columns in whose cells control characters are written by their numbers.
    """

    encoding: str = "utf-8"
    has_mark: bool = False
    delimiter: str | None = None
    csv_safe: bool = False
    escaped: Collection[str] = ()


# UTF-8 without a mark, as all formats but Excel's own have it.
PLAIN_STYLE = TextStyle()


def style_of(path: Any, text_format: TextFormat) -> TextStyle:
    """Return the style of the csv or tsv files at a path, so that rows are written as they were read; the usual one for others.

    Of several files the first one counts. text_format: how the files are read.
    """
    files = (
        [file for file in list_files(Path(path)).files if file_format(file) in ("csv", "tsv")] if is_path(path) else []
    )
    if not files:
        return PLAIN_STYLE
    mark = encoding_of_mark(files[0])
    default = "\t" if file_format(files[0]) == "tsv" else ","
    lines = list(islice(read_lines(files[0], text_format.encoding), NUM_SNIFFED))
    delimiter = find_layout(files[0], lines, default, text_format.delimiter).delimiter
    return TextStyle(mark or "utf-8", mark is not None, None if delimiter == default else delimiter)


def require_writable(path: Path) -> str:
    """Return the table format that the suffix of `path` names, after checking that rows can be written to `path`.

    Raises UsageError for a suffix of no writable format, for a missing parent folder, and if `path` is a folder.
    """
    kind = file_format(path)
    if kind not in WRITABLE_FORMATS:
        raise UsageError(f"{path.name}: rows are written as {WRITABLE}")
    require_folder(path)
    return kind


def require_folder(path: Path) -> None:
    """Raise UsageError if a file cannot be at `path`: for a missing parent folder, and if `path` is a folder."""
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")


def require_output_path(path: Path | None) -> None:
    """Raise UsageError if answers cannot be written to `path`, the value of `--out`.

    A path with the suffix of a table format must be a file to which rows can be written. Any other path becomes a folder with
    one file per answer, so it must not be an existing file. None is standard output, which is always possible.
    """
    if path is not None and file_format(path) is not None:
        require_writable(path)
    elif path is not None and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; files need a folder, and rows are written as {WRITABLE}")


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Row], style: TextStyle = PLAIN_STYLE) -> int:
    """Write rows atomically in the format that the suffix of `path` names; return the number of rows.

    columns: the columns to write; cells of other columns are left out.
    rows: never all in memory. They are iterated once, but for parquet twice, as its header needs the types of all cells.
    style: how a csv or tsv file is written.
    What no format can hold, as half a character in the name of a file, is written as an escape such as \\udce9. A parquet
    column whose cells have no common type is written as text.
    Raises UsageError if `require_writable` refuses `path`, or rows do not fit into a sheet; RunError for a failed write.
    """
    kind = require_writable(path)
    with replacing(path) as stream, _compress(stream, path) as target:
        if kind == "parquet":
            return _write_parquet(target, columns, rows)
        if kind == "xlsx":
            return _write_excel(path, target, columns, rows)
        if kind == "jsonl":
            return _write_jsonl(target, columns, rows)
        delimiter = style.delimiter or ("\t" if kind == "tsv" else ",")
        return write_separated(target, columns, rows, delimiter, style)


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


def find_binary(data: Mapping[str, Sequence[Any]]) -> list[str]:
    """Return the columns whose first cells that are not empty are bytes without a path, which only parquet keeps.

    data: the cells by column.
    """
    return [
        name for name, cells in data.items() if _is_binary(next((cell for cell in cells if cell is not None), None))
    ]


def _is_binary(cell: Any) -> bool:
    """Return whether a cell is bytes, or a dict of `bytes` without a `path`."""
    return isinstance(cell, bytes) or (
        isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes) and not cell.get("path")
    )


def defuse(cell: Any) -> Any:
    """Return a cell that a spreadsheet takes for text: one that begins like a formula gets a quote in front (`--csv-safe`).

    Numbers are left as they are; control characters are written by their numbers.
    """
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) and not NUMBER.fullmatch(text) else text


def write_separated(
    stream: BinaryIO,
    columns: Sequence[str],
    rows: Iterable[Row],
    delimiter: str = ",",
    style: TextStyle = PLAIN_STYLE,
) -> int:
    """Write a header and rows, the cells separated by `delimiter`; return the number of rows without the header.

    columns: the columns to write; cells of other columns are left out. style: the encoding, whether a mark names it, and which
    cells are escaped.
    """
    stream.write("\ufeff".encode(style.encoding) if style.has_mark else b"")

    # A CR in a cell must be quoted, as readers end a row there. csv only does so if the line end has a CR too. So its line
    # end is CRLF, which is shortened to LF here.
    def write(line: str) -> None:
        text = f"{line.removesuffix(chr(13) + chr(10))}\n"
        stream.write(text.encode(style.encoding, errors="backslashreplace"))

    writer = csv.DictWriter(
        SimpleNamespace(write=write), columns, extrasaction="ignore", delimiter=delimiter, lineterminator="\r\n"
    )
    writer.writerow({name: defuse(name) if style.csv_safe else name for name in columns})
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        cells = to_text_cells(row)
        for name in columns if style.csv_safe else style.escaped:
            if isinstance(cell := cells.get(name), str):
                cells[name] = defuse(cell) if style.csv_safe else printable(cell)
        writer.writerow(cells)
    return count


def _write_jsonl(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write each row as a line with a JSON object of the cells in `columns`; return the number of rows."""
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        record = {name: _describe_file(row.get(name)) for name in columns}
        line = json.dumps(record, ensure_ascii=False, default=_to_builtin)
        stream.write(f"{line}\n".encode(errors="backslashreplace"))  # JSON has the same escapes for half a character
    return count


def _write_parquet(stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows as parquet; return the number of rows. A first pass finds the types of the columns, a second one writes."""
    import pyarrow
    import pyarrow.parquet

    assert iter(rows) is not rows, "parquet goes through the rows twice"
    # The type of each column; None for one whose cells have no common type, which is written as text.
    types = {name: pyarrow.null() for name in columns}
    for chunk in _chunks(rows):
        for name in columns:
            if types[name] is not None:
                types[name] = _unify_type(name, types[name], [_parquet_cell(row.get(name)) for row in chunk])
    count = 0
    schema = pyarrow.schema([(name, kind or pyarrow.string()) for name, kind in types.items()])
    with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        for chunk in _chunks(rows):
            arrays = {
                name: pyarrow.array([_as_type(row.get(name), kind) for row in chunk], kind or pyarrow.string())
                for name, kind in types.items()
            }
            writer.write_table(pyarrow.table(arrays))
            count += len(chunk)
    return count


def _write_excel(path: Path, stream: BinaryIO, columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows as the only sheet of a workbook (the extra `excel`); return the number of rows without the header.

    Raises UsageError without the extra, and for more rows, columns or text in a cell than a sheet holds.
    """
    try:
        import openpyxl
        from openpyxl.cell import WriteOnlyCell
    except ImportError as error:
        raise UsageError(f"{path.name}: workbooks need the extra `excel`: pip install 'mapsto[excel]'") from error
    if len(columns) > MAX_SHEET_COLUMNS:
        raise UsageError(f"{path.name}: a sheet holds {MAX_SHEET_COLUMNS:,} columns, not {len(columns):,}; write csv")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("rows")

    def cell(value: Any) -> Any:
        value = _nested_to_json(_describe_file(value))
        if not isinstance(value, bool | int | float | Decimal | date | time | timedelta | NoneType):
            text = ESCAPED_IN_SHEETS.sub(lambda match: f"\\u{ord(match[0]):04x}", str(value))
            if len(text) > MAX_SHEET_CELL:
                raise UsageError(
                    f"{path.name}: a cell of a sheet holds {MAX_SHEET_CELL:,} characters; write csv or jsonl"
                )
            value = WriteOnlyCell(sheet, text)
            value.data_type = "s"  # a text that begins with "=" is no formula
        elif isinstance(value, datetime | time) and value.tzinfo is not None:
            value = value.isoformat()  # sheets have no time zones
        return value

    sheet.append([cell(name) for name in columns])
    count = 0
    for count, row in enumerate(rows, 1):
        if count >= MAX_SHEET_ROWS:
            raise UsageError(f"{path.name}: a sheet holds {MAX_SHEET_ROWS:,} rows; write csv, jsonl or parquet")
        sheet.append([cell(row.get(name)) for name in columns])
    book.save(stream)
    return count


def _parquet_cell(cell: Any) -> Any:
    """Return a cell that Arrow can hold: a text without half characters, and the text of an unreadable cell."""
    if isinstance(cell, UnreadableCell):
        return cell.text
    if isinstance(cell, str) and find_invalid_character(cell) is not None:
        return cell.encode(errors="backslashreplace").decode()
    return cell


def _as_type(cell: Any, column_type: Any) -> Any:
    """Return a cell of a parquet column, as text where the column has no type of its own (None)."""
    cell = _parquet_cell(cell)
    if column_type is not None or cell is None or isinstance(cell, str):
        return cell
    cell = _nested_to_json(_describe_file(cell))
    return cell if isinstance(cell, str) else str(cell)


def _unify_type(name: str, column_type: Any, cells: list[Any]) -> Any:
    """Return an Arrow type that holds the earlier and the next cells of a column; None if no type holds all of them.

    name: the column. column_type: the type of the earlier cells; Arrow's null type if there are none. cells: the next cells.
    """
    import pyarrow

    try:
        schemas = [pyarrow.schema([(name, column_type)]), pyarrow.schema([(name, pyarrow.array(cells).type)])]
        # Permissive promotion lets a column begin with empty cells, or have integers before floats.
        column_type = pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pyarrow.ArrowException, OverflowError):
        return None
    return None if pyarrow.types.is_interval(column_type) else column_type  # parquet has no intervals


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yield the rows in lists of up to ROWS_PER_CHUNK."""
    rest = iter(rows)
    while chunk := list(islice(rest, ROWS_PER_CHUNK)):
        yield chunk
