"""Read table files in parts of bounded size. Each row keeps its row number in the file; unreadable rows become findings.

Formats are csv, tsv, jsonl, json, txt and parquet, all but parquet also gzipped. Text is UTF-8, or UTF-16 with a byte order
mark, unless an encoding is named. Files may be larger than memory, except for json, which is read whole.
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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from mapsto.errors import DataError, Finding, UsageError, near
from mapsto.text.characters import find_invalid_character

# Line ends.
ROW = re.compile(r"\r\n|\r|\n")
ROW_BEFORE_END = re.compile(r"\r\n|\r(?!\Z)|\n")  # a CR at the end may be half of a CRLF

# Largest number of rows and of characters of a part.
PART_ROWS, PART_CHARACTERS = 4096, 2**20
# Bytes of a file that are read at once.
BLOCK = 2**20
# Number of unclosed quotes after which the rest of a file is not read.
MOST_UNCLOSED = 100
# Largest number of characters of a cell.
LARGEST_CELL = 100 * 2**20
# Byte order marks, and the encodings to suggest for a file that has no mark and is not UTF-8.
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
GUESSES = ("gb18030", "cp1252")

# (row number, cells by column, number of characters) of a row; for an unreadable row the findings about it.
Row = tuple[int, Mapping[str, Any], int] | list[Finding]


@dataclass(frozen=True)
class FilePart:
    """Consecutive rows of one file.

    data: the cells of each column; all columns have the same length.
    rows: the number of each row of `data` in the file: the line where it begins, or for json and parquet its number from 1.
    rejected: findings about rows of this part that could not be read. These rows are not in `data`.
    """

    file: str
    data: dict[str, list[Any]]
    rows: list[int]
    rejected: list[Finding]

    def column(self, name: str) -> list[Any]:
        """Return the cells of column `name`, one for each row; all None if this part does not have the column."""
        return self.data.get(name) or [None] * len(self.rows)


def file_format(path: Path) -> str | None:
    """Return the table format that a file's suffix names, such as "csv" for data.CSV.gz; None if it names none."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == "gz"
    name = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else None
    # Parquet compresses its columns itself and is read out of order, so it is not gzipped.
    return None if name not in READERS or (packed and name == "parquet") else name


def read_file(path: Path, encoding: str | None = None) -> FilePart:
    """Return all rows of a file as one part.

    encoding: encoding of a text file; None for the one that its byte order mark names, or else UTF-8.
    Raises DataError if the file cannot be read, UsageError for an unknown encoding.
    """
    parts = list(stream_file(path, encoding))
    names = dict.fromkeys(name for part in parts for name in part.data)
    return FilePart(
        str(path),
        {name: [value for part in parts for value in part.column(name)] for name in names},
        [row for part in parts for row in part.rows],
        [finding for part in parts for finding in part.rejected],
    )


def stream_file(path: Path, encoding: str | None = None) -> Iterator[FilePart]:
    """Yield the rows of a file in parts of at most PART_ROWS rows.

    encoding: encoding of a text file; None for the one that its byte order mark names, or else UTF-8.
    Raises DataError if the file cannot be read, UsageError for an unknown encoding.
    """
    kind = file_format(path)
    try:
        require_exists(path)
        if kind is None:
            formats = ", ".join(READERS)
            raise DataError(f"{path}: the name says no format; read are {formats}, and all but parquet also as .gz")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
        yield from READERS[kind](path, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def require_exists(path: Path) -> None:
    """Raise DataError if a file or folder does not exist. The message suggests a similar name in the same folder."""
    if not path.exists():
        neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}{near(path.name, neighbours)}")


def clean_cell(value: Any) -> Any:
    """Return a cell with NumPy scalars made Python values; None for empty text, NaN, and NumPy's or pandas' NaT and NA."""
    if isinstance(value, np.datetime64):
        value = None if np.isnat(value) else value.astype("datetime64[us]")  # item() makes an integer of nanoseconds
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and math.isnan(value)):
        return None
    # Compare names of types, so that pandas need not be imported.
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def from_records(
    file: str, records: Sequence[tuple[int, Mapping[str, Any]]], rejected: list[Finding], names: Iterable[str] = ()
) -> FilePart:
    """Build a part from rows that are dicts. Where a row lacks a column, its cell is None.

    file: the file that the rows come from.
    records: (row number, cells by column) of each row.
    rejected: findings about rows that are not in `records`.
    names: columns that come first, even if no row has them.
    """
    columns = dict.fromkeys([*names, *(str(name) for _, record in records for name in record)])
    data = {name: [clean_cell(record.get(name)) for _, record in records] for name in columns}
    return FilePart(file, data, [row for row, _ in records], rejected)


def _parts(path: Path, rows: Iterable[Row], names: Sequence[str] = ()) -> Iterator[FilePart]:
    """Group rows into parts of at most PART_ROWS rows, and about PART_CHARACTERS characters; yield the parts.

    A file without rows gives one empty part, which carries the names of its columns.
    names: the columns of the file's header, if it has one.
    """
    good: list[tuple[int, Mapping[str, Any]]] = []
    bad: list[Finding] = []
    size = count = 0
    has_parts = False
    for row in rows:
        count += 1
        if isinstance(row, list):
            bad += row
            size += sum(len(finding.value or "") for finding in row)
        else:
            good.append(row[:2])
            size += row[2]
        if count >= PART_ROWS or size >= PART_CHARACTERS:
            yield from_records(str(path), good, bad, names)
            good, bad, size, count, has_parts = [], [], 0, 0, True
    if count or not has_parts:
        yield from_records(str(path), good, bad, names)


def _lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a text file, each with its line end (CR, LF or CRLF), without the byte order mark.

    encoding: None for the one that the byte order mark names, or else UTF-8.
    Raises DataError for an empty file, a damaged .gz file, and bytes that cannot be decoded, whose line and offset it names;
    UsageError for an unknown encoding.
    """
    codec = encoding or _encoding_of_mark(path) or "utf-8"
    empty = True
    try:
        # newline="" keeps the line ends, since quoted cells of csv may contain them.
        with _open_binary(path) as stream, io.TextIOWrapper(stream, encoding=codec, newline="") as text:
            for line in text:
                content = line.removeprefix("\ufeff") if empty else line
                if content or not empty:
                    empty = False
                    yield content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be decoded:", [_undecodable(path, codec, encoding)]) from error
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"there is no encoding {encoding!r}; common ones are utf-8, cp1252, gb18030, utf-16"
        ) from error
    if empty:
        raise DataError(f"{path} is empty")


def _open_binary(path: Path) -> BinaryIO:
    """Open a file for reading bytes; return the stream, which decompresses a .gz file."""
    stream = path.open("rb")
    if path.suffix.lower() != ".gz":
        return stream
    unpacking = gzip.GzipFile(fileobj=stream)
    unpacking.myfileobj = stream  # type: ignore[assignment]  # so that closing it also closes the file
    return cast(BinaryIO, io.BufferedReader(unpacking, BLOCK))


def _encoding_of_mark(path: Path) -> str | None:
    """Return the encoding that a file's byte order mark names; None for a file without a mark."""
    with _open_binary(path) as stream:
        try:
            start = stream.read(3)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from error
    return next((name for mark, name in MARKS if start.startswith(mark)), None)


def _undecodable(path: Path, codec: str, encoding: str | None) -> Finding:
    """Read a file again to find the first bytes that cannot be decoded; return a finding with their line and their offset in it.

    codec: the encoding that failed. encoding: the encoding that the user named, or None.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    # Decode block by block to know the line and byte, which the error of TextIOWrapper does not tell.
    number, line = 1, ""
    with _open_binary(path) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                line += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset_in_block, content = error.start, error.object  # the codec may have taken a mark off
                lines = ROW.split(line + content[:offset_in_block].decode(codec))
                offset = 1 + len(lines[-1].removeprefix("\ufeff").encode(codec)) - len("".encode(codec))
                advice = (
                    ""
                    if encoding is None and _encoding_of_mark(path)
                    else _guess(content, is_whole_file=len(content) < BLOCK)
                )
                reason = f"these bytes, from byte {offset} of the line on, are no {codec}{advice}"
                return Finding(
                    str(path),
                    number + len(lines) - 1,
                    None,
                    content[offset_in_block : offset_in_block + 8].hex(" "),
                    reason,
                )
            assert block, "the bytes could not be decoded before"
            *complete_lines, line = ROW_BEFORE_END.split(line)
            number += len(complete_lines)


def _guess(content: bytes, is_whole_file: bool) -> str:
    """Return the advice that ends the error message about undecodable bytes: to name the encoding with `--encoding`.

    The advice proposes the first of GUESSES that decodes `content` plausibly, and no encoding if none does.
    content: bytes of the file. is_whole_file: False if the file goes on after them, so that the last character may be cut.
    """
    for name in GUESSES:
        try:
            decoded = codecs.getincrementaldecoder(name)().decode(content, final=is_whole_file)
        except UnicodeDecodeError:
            continue
        # A Chinese character is mostly two high bytes. In Western text a high byte is a single letter. Read as gb18030, it
        # forms a character with the ASCII letter after it, so there is only about one high byte for each character.
        high = sum(byte >= 0x80 for byte in content)
        if name != "gb18030" or high >= 1.5 * sum(not character.isascii() for character in decoded):
            return f"; if they are {name}, say --encoding {name}"
    return "; say which they are with --encoding"


def _nonblank_lines(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) for each line of a text file that is not blank."""
    for number, line in enumerate(_lines(path, encoding), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def _stream_txt(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a txt file in parts: each line that is not blank is a row with the single column "text"."""

    def rows() -> Iterator[Row]:
        for number, line in _nonblank_lines(path, encoding):
            if "\0" in line:
                yield [Finding(str(path), number, "text", line, "the line holds a NUL character")]
            else:
                yield number, {"text": line}, len(line)

    return _parts(path, rows(), ("text",))


def _stream_jsonl(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a JSON lines file in parts. Each line that is not blank is a row: an object of cells by column."""

    def rows() -> Iterator[Row]:
        for number, line in _nonblank_lines(path, encoding):
            try:
                # NaN and Infinity, which Python writes though they are no JSON, become empty cells.
                record = json.loads(line, parse_constant=lambda name: None)
            except (ValueError, RecursionError) as error:
                yield [Finding(str(path), number, None, line, f"this is no JSON: {error}")]
                continue
            yield _check_record(str(path), number, record, len(line))

    return _parts(path, rows())


def _stream_json(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a JSON file in parts.

    The file holds a list of objects, one a row, or one object of lists of cells by column. Raises DataError for other content.
    """
    text = "".join(_lines(path, encoding))
    try:
        value = json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    # An object of columns becomes a list of rows.
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        sizes = {name: len(column) for name, column in value.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{path} has columns of different lengths: {sizes}")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError(f"{path} holds neither a list of objects nor an object of columns")
    return _parts(path, (_check_record(str(path), number, _task(record), 0) for number, record in enumerate(value, 1)))


def _task(record: Any) -> Any:
    """Return a task from a Label Studio export as a row (cells by column); return any other record unchanged.

    The row holds the task's data and the answers of the first annotation that was not cancelled. Each answer (a choice, a list
    of choices, a number or a rating) is in a column named as the Label Studio control that asked for it.
    """
    if not (isinstance(record, dict) and isinstance(record.get("data"), dict)):
        return record
    annotations = record.get("annotations") or record.get("completions") or []
    answers: dict[str, Any] = {}
    for annotation in annotations if isinstance(annotations, list) else []:
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            for result in annotation.get("result") or []:
                value = result.get("value", {}) if isinstance(result, dict) else {}
                answer: Any = next((value[name] for name in ("choices", "number", "rating") if name in value), [])
                if answer != []:
                    # A single choice is a label, not a list of labels.
                    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
                    answers.setdefault(str(result.get("from_name")), answer)
            break
    return {**record["data"], **answers}


def _check_record(file: str, number: int, record: Any, size: int) -> Row:
    """Return a JSON object as a readable row, or, as an unreadable row, a list of findings about it.

    A row is unreadable if `record`, the JSON value, is no object or has a cell with invalid characters.
    number: the row number. size: number of characters that the row took in the file.
    """
    if not isinstance(record, dict):
        return [Finding(file, number, None, json.dumps(record), "a row is an object of named cells")]
    bad: list[Finding] = []
    for name, value in record.items():
        if isinstance(value, str) and (fault := find_invalid_character(value)) is not None:
            quoted = value.encode(errors="backslashreplace").decode()
            bad.append(Finding(file, number, name, quoted, f"the cell holds {fault}"))
    return bad or (number, record, size)


def _stream_separated(path: Path, encoding: str | None, delimiter: str) -> Iterator[FilePart]:
    """Yield the rows of a csv or tsv file, whose first line is the header, in parts.

    Raises DataError if the file or its header cannot be read; a bad row only becomes a finding.
    """
    # Python's own limit of 131,072 characters is too small for long documents.
    csv.field_size_limit(LARGEST_CELL)
    records = _records(_lines(path, encoding), delimiter)
    _, header, fault = next(records, (1, [], None))
    if not header:
        raise DataError(f"{path} is empty")
    if fault is not None:
        raise DataError(f"{path}: the header cannot be read: {fault}")
    names = [name.strip() for name in header]
    _require_names(path, names)

    def rows() -> Iterator[Row]:
        for number, record, fault in records:
            if fault is None and len(record) != len(names):
                fault = f"this row has {len(record)} cells, the header has {len(names)}"
            if fault is None and any("\0" in value for value in record):
                fault = "the row holds a NUL character"
            if fault is not None:
                yield [Finding(str(path), number, None, delimiter.join(record), fault)]
            else:
                yield number, dict(zip(names, record, strict=True)), sum(map(len, record))

    return _parts(path, rows(), names)


def _records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (number of its first line, cells, fault) for each record of a csv or tsv file; blank lines are skipped.

    fault: the reason, in words, why the record is invalid; None for a valid one.
    A quote that never closes would swallow the rest of the file. So its line is reported as a fault, and reading continues
    at the next line.
    """
    pending: deque[str] = deque()  # lines to read before the next ones of the file
    record_lines: list[str] = []  # lines of the record at hand
    line_number = unclosed = 0

    def feed() -> Iterator[str]:
        """Yield lines to the csv reader, and store them in `record_lines` to be read again if a quote never closes."""
        while (line := pending.popleft() if pending else next(lines, None)) is not None:
            record_lines.append(line)
            yield line

    while unclosed < MOST_UNCLOSED:
        # Only a strict reader raises an error for a quote that never closes.
        reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        try:
            for record in reader:
                first, line_number = line_number, line_number + len(record_lines)
                record_lines.clear()
                if record:
                    yield first + 1, record, None
            return
        except csv.Error as error:
            endless = "unexpected end" in str(error) or "field larger" in str(error)
            unclosed += endless
            reason = "a quote is opened and never closed" if endless else f"broken quotes: {error}"
            # Report the first line of the record, and read the others again.
            pending.extendleft(reversed(record_lines[1:]))
            line = record_lines[0].rstrip("\r\n")
            record_lines.clear()
            yield line_number + 1, [line], reason
            line_number += 1
    if num_rest := len(pending) + sum(1 for _ in lines):
        yield (
            line_number + 1,
            [],
            f"{MOST_UNCLOSED} quotes are never closed; the {num_rest:,} lines from here on were not read",
        )


def _require_names(path: Path, names: list[str]) -> None:
    """Raise DataError if a column of the header has an empty name, or if two columns have the same name."""
    if any(not name for name in names):
        raise DataError(f"{path}: column {names.index('') + 1} of the header has no name: {names}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} more than once")


def _stream_csv(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a file with comma-separated cells in parts."""
    return _stream_separated(path, encoding, ",")


def _stream_tsv(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a file with tab-separated cells in parts."""
    return _stream_separated(path, encoding, "\t")


def _stream_parquet(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a parquet file in parts. Raises DataError if the file is damaged.

    encoding: unused, as parquet is UTF-8; all readers have this parameter.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _require_names(path, names)
            count, num_read = file.metadata.num_rows, 0
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            # The average size of a row gives the number of rows that fit into a part.
            batch_size = max(1, min(PART_ROWS, 4 * PART_CHARACTERS * count // max(1, size)))
            for batch in file.iter_batches(batch_size):
                yield _parquet_part(path, batch, names, num_read + 1)
                num_read += len(batch)
            # A file without rows still has columns.
            if not num_read:
                yield FilePart(str(path), {name: [] for name in names}, [], [])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole parquet file: {str(error).splitlines()[0]}") from error


def _parquet_part(path: Path, batch: Any, names: Sequence[str], first: int) -> FilePart:
    """Return the rows of an Arrow record batch as a part. Rows with text that is not UTF-8 become findings.

    names: the names of the columns. first: the number in the file of the batch's first row.
    """
    bad: list[Finding] = []
    data = {name: _parquet_column(str(path), batch.column(name), name, first, bad) for name in names}
    left_out = {finding.row for finding in bad}
    rows = [row for row in range(first, first + len(batch)) if row not in left_out]
    if left_out:
        data = {name: [values[row - first] for row in rows] for name, values in data.items()}
    return FilePart(str(path), data, rows, bad)


def _parquet_column(file: str, column: Any, name: str, first: int, bad: list[Finding]) -> list[Any]:
    """Return the cells of an Arrow column; None for text that is not UTF-8, about which a finding is added to `bad`.

    name: name of the column. first: the number in the file of the column's first row.
    """
    try:
        return [clean_cell(value) for value in column.to_pylist()]
    except UnicodeDecodeError:
        pass  # one bad cell fails the whole column; the cells are converted one by one below
    cells = []
    for row, value in enumerate(column, first):
        try:
            cells.append(clean_cell(value.as_py()))
        except UnicodeDecodeError as error:
            cells.append(None)
            reason = f"these bytes, from byte {error.start + 1} of the cell on, are no utf-8"
            bad.append(Finding(file, row, name, error.object[error.start : error.start + 8].hex(" "), reason))
    return cells


READERS: dict[str, Callable[[Path, str | None], Iterator[FilePart]]] = {
    "csv": _stream_csv,
    "tsv": _stream_tsv,
    "jsonl": _stream_jsonl,
    "ndjson": _stream_jsonl,
    "json": _stream_json,
    "parquet": _stream_parquet,
    "txt": _stream_txt,
}
