"""Files → columns of cells, each row with its number as an editor shows it. What cannot be read is named.

csv, tsv, jsonl, json, txt and parquet, all but the last also gzipped. Text is UTF-8 (or UTF-16 with its mark) unless an
encoding is given.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mapsto.checkpoint import write_atomic
from mapsto.errors import DataError, Finding, UsageError, near
from mapsto.kinds import no_text

ROW = re.compile(r"\r\n|\r|\n")
ROW_WITH_END = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
MOST_UNCLOSED = 100
LARGEST_CELL = 100 * 2**20
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
GUESSES = ("gb18030", "cp1252")


@dataclass(frozen=True)
class Part:
    """What one file holds: equally long columns, the row number of each entry, and the rows that could not be read."""

    file: str
    data: dict[str, list[Any]]
    rows: list[int]
    rejected: list[Finding]


def format_of(path: Path) -> str | None:
    """The format that a file's name says, such as "csv" for data.CSV.gz; None for any other name."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == "gz"
    name = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else None
    return None if name not in FORMATS or (packed and name == "parquet") else name


def read_file(path: Path, encoding: str | None = None) -> Part:
    """Everything in a file. Raises DataError when nothing of it can be read, UsageError for an unknown encoding."""
    kind = format_of(path)
    try:
        if not path.exists():
            neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(f"there is no file {path}{near(path.name, neighbours)}")
        if kind is None:
            formats = ", ".join(FORMATS)
            raise DataError(f"{path}: the name says no format; read are {formats}, and all but parquet also as .gz")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
        return FORMATS[kind](path, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def cell(value: Any) -> Any:
    """A cell as plain Python: None for nothing (empty text, NaN, missing values of any library)."""
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("datetime64[us]")  # of nanoseconds, item() makes an integer
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def from_records(file: str, records: Sequence[tuple[int, Mapping[str, Any]]], rejected: list[Finding]) -> Part:
    """Columns out of rows of named cells; a name that a row lacks is an empty cell there."""
    names = dict.fromkeys(str(name) for _, record in records for name in record)
    data: dict[str, list[Any]] = {name: [] for name in names}
    for _, record in records:
        for name, column in data.items():
            column.append(cell(record.get(name)))
    return Part(file, data, [row for row, _ in records], rejected)


def require_writable(path: Path) -> str:
    """The format in which rows are written to `path`. Raises UsageError for a name or a folder that takes none."""
    kind = format_of(path)
    if kind not in ("csv", "tsv", "jsonl", "parquet"):
        raise UsageError(f"{path.name}: rows are written as csv, tsv, jsonl or parquet")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    return kind


def write_file(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as csv, tsv, jsonl or parquet, whole or not at all. Raises UsageError, RunError.

    A row's cells outside `columns` are left out.
    """
    kind = require_writable(path)
    records = [{name: row.get(name) for name in columns} for row in rows]
    try:
        if kind == "parquet":
            content = _parquet(columns, records)
        elif kind == "jsonl":
            content = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records).encode()
        else:
            content = _separated(columns, records, "\t" if kind == "tsv" else ",").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path.name}: a cell holds {error.object[error.start]!r}, half a character") from error
    write_atomic(path, gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)


def _parquet(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    arrays = {}
    for name in columns:
        try:
            arrays[name] = pyarrow.array([record[name] for record in records])
        except pyarrow.ArrowException as error:
            raise UsageError(f"column {name!r} does not fit into parquet: {error}") from error
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(arrays), sink)
    return sink.getvalue()


def _separated(columns: Sequence[str], records: Sequence[Mapping[str, Any]], delimiter: str) -> str:
    # csv quotes a cell only for characters of the line's end: with "\n" alone, a CR in a cell would end a row.
    lines: list[str] = []
    sink = SimpleNamespace(write=lines.append)
    writer = csv.DictWriter(sink, columns, delimiter=delimiter, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(records)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _text(path: Path, encoding: str | None) -> str:
    """The characters of a file. Raises DataError naming line and byte of what cannot be decoded."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from error
    marked = next((name for mark, name in MARKS if content.startswith(mark)), None)
    chosen = encoding or marked or "utf-8"
    try:
        text = content.decode(chosen).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at, content = error.start, error.object  # the codec may have taken a mark off
        lines = ROW.split(content[:at].decode(chosen))
        offset = 1 + len(lines[-1].removeprefix("\ufeff").encode(chosen)) - len("".encode(chosen))
        reason = f"these bytes, from byte {offset} of the line on, are no {chosen}{'' if marked else _guess(content)}"
        fault = Finding(str(path), len(lines), None, content[at : at + 8].hex(" "), reason)
        raise DataError(f"{path} cannot be decoded:", [fault]) from error
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"there is no encoding {encoding!r}; common ones are utf-8, cp1252, gb18030, utf-16"
        ) from error
    if not text:
        raise DataError(f"{path} is empty")
    return text


def _guess(content: bytes) -> str:
    """An encoding that would read the bytes, as advice only."""
    for name in GUESSES:
        try:
            decoded = content.decode(name)
        except UnicodeDecodeError:
            continue
        # Most Chinese characters are two high bytes; an accented letter read as one takes the ASCII behind it along.
        high = sum(byte >= 0x80 for byte in content)
        if name != "gb18030" or high >= 1.5 * sum(not character.isascii() for character in decoded):
            return f"; if they are {name}, say --encoding {name}"
    return "; say which they are with --encoding"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(row number, line) for lines that hold something; only CR, LF and CRLF end a line."""
    for number, line in enumerate(ROW.split(text), 1):
        if line.strip():
            yield number, line


def _read_txt(path: Path, encoding: str | None) -> Part:
    file = str(path)
    good, bad = [], []
    for number, line in _lines(_text(path, encoding)):
        if "\0" in line:
            bad.append(Finding(file, number, "text", line, "the line holds a NUL character"))
        else:
            good.append((number, line))
    return Part(file, {"text": [line for _, line in good]}, [number for number, _ in good], bad)


def _read_jsonl(path: Path, encoding: str | None) -> Part:
    file = str(path)
    good: list[tuple[int, dict[str, Any]]] = []
    bad: list[Finding] = []
    for number, line in _lines(_text(path, encoding)):
        try:
            record = json.loads(line, parse_constant=lambda name: None)
        except (ValueError, RecursionError) as error:
            bad.append(Finding(file, number, None, line, f"this is no JSON: {error}"))
            continue
        _take_record(file, number, record, good, bad)
    return from_records(file, good, bad)


def _read_json(path: Path, encoding: str | None) -> Part:
    file = str(path)
    try:
        found = json.loads(_text(path, encoding), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if isinstance(found, dict) and found and all(isinstance(column, list) for column in found.values()):
        sizes = {name: len(column) for name, column in found.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{path} has columns of different lengths: {sizes}")
        found = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
    if not isinstance(found, list):
        raise DataError(f"{path} holds neither a list of objects nor an object of columns")
    good: list[tuple[int, dict[str, Any]]] = []
    bad: list[Finding] = []
    for number, record in enumerate(found, 1):
        _take_record(file, number, record, good, bad)
    return from_records(file, good, bad)


def _take_record(
    file: str, number: int, record: Any, good: list[tuple[int, dict[str, Any]]], bad: list[Finding]
) -> None:
    """File a JSON value under good rows or bad ones."""
    if not isinstance(record, dict):
        bad.append(Finding(file, number, None, json.dumps(record), "a row is an object of named cells"))
        return
    nested = [name for name, value in record.items() if isinstance(value, dict | list)]
    for name in nested:
        value = json.dumps(record[name], ensure_ascii=False)
        bad.append(
            Finding(file, number, name, value, "the value is nested; a cell holds one text, number or truth value")
        )
    for name, value in record.items():
        if isinstance(value, str) and (fault := no_text(value)) is not None:
            nested.append(name)
            shown = value.encode(errors="backslashreplace").decode()
            bad.append(Finding(file, number, name, shown, f"the cell holds {fault}"))
    if not nested:
        good.append((number, record))


def _read_separated(path: Path, encoding: str | None, delimiter: str) -> Part:
    file = str(path)
    csv.field_size_limit(LARGEST_CELL)
    lines = ROW_WITH_END.findall(_text(path, encoding))
    records = _records(lines, delimiter)
    _, header, fault = next(records, (1, [], None))
    if not header:
        raise DataError(f"{path} is empty")
    if fault is not None:
        raise DataError(f"{path}: the header cannot be read: {fault}")
    names = [name.strip() for name in header]
    _require_names(path, names)
    data: dict[str, list[Any]] = {name: [] for name in names}
    rows: list[int] = []
    bad: list[Finding] = []
    columns = list(data.values())
    for number, record, fault in records:
        if fault is None and len(record) != len(names):
            fault = f"this row has {len(record)} cells, the header has {len(names)}"
        if fault is None and any("\0" in value for value in record):
            fault = "the row holds a NUL character"
        if fault is not None:
            bad.append(Finding(file, number, None, delimiter.join(record), fault))
            continue
        for column, value in zip(columns, record, strict=True):
            column.append(value or None)
        rows.append(number)
    return Part(file, data, rows, bad)


def _records(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """(number of its first line, cells, what is wrong) for each record that is not blank.

    A quote that never closes would swallow the rest of the file; its line is reported and reading goes on behind it.
    """
    at = unclosed = 0
    while at < len(lines) and unclosed < MOST_UNCLOSED:
        start = at
        reader = csv.reader((lines[row] for row in range(start, len(lines))), delimiter=delimiter, strict=True)
        try:
            for record in reader:
                first, at = at, start + reader.line_num
                if record:
                    yield first + 1, record, None
            return
        except csv.Error as error:
            endless = "unexpected end" in str(error) or "field larger" in str(error)
            unclosed += endless
            reason = "a quote is opened and never closed" if endless else f"broken quotes: {error}"
            yield at + 1, [lines[at].rstrip("\r\n")], reason
            at += 1
    if at < len(lines):
        yield (
            at + 1,
            [],
            f"{MOST_UNCLOSED} quotes are never closed; the {len(lines) - at:,} lines from here on were not read",
        )


def _require_names(path: Path, names: list[str]) -> None:
    if any(not name for name in names):
        raise DataError(f"{path}: column {names.index('') + 1} of the header has no name: {names}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")


def _read_csv(path: Path, encoding: str | None) -> Part:
    return _read_separated(path, encoding, ",")


def _read_tsv(path: Path, encoding: str | None) -> Part:
    return _read_separated(path, encoding, "\t")


def _read_parquet(path: Path, encoding: str | None) -> Part:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole parquet file: {str(error).splitlines()[0]}") from error
    _require_names(path, list(table.column_names))
    bad: list[Finding] = []
    data = {name: _parquet_column(str(path), table.column(name), name, bad) for name in table.column_names}
    left_out = {finding.row for finding in bad}
    rows = [row for row in range(1, table.num_rows + 1) if row not in left_out]
    return Part(str(path), {name: [values[row - 1] for row in rows] for name, values in data.items()}, rows, bad)


def _parquet_column(file: str, column: Any, name: str, bad: list[Finding]) -> list[Any]:
    """The cells of an Arrow column; what is called text there and has bytes that are no UTF-8 is None, and in `bad`."""
    try:
        return [cell(value) for value in column.to_pylist()]
    except UnicodeDecodeError:
        pass
    found = []
    for row, value in enumerate(column, 1):
        try:
            found.append(cell(value.as_py()))
        except UnicodeDecodeError as error:
            found.append(None)
            reason = f"these bytes, from byte {error.start + 1} of the cell on, are no utf-8"
            bad.append(Finding(file, row, name, error.object[error.start : error.start + 8].hex(" "), reason))
    return found


FORMATS: dict[str, Callable[[Path, str | None], Part]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "txt": _read_txt,
}
