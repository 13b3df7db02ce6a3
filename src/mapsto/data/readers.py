"""Read table files in parts of bounded size. Each row keeps its row number in the file; unreadable rows become findings.

Formats are csv, tsv, jsonl, json, txt, CoNLL and parquet, all but parquet also gzipped. Text is UTF-8, or UTF-16 with a byte
order mark, unless an encoding is named. Files may be larger than memory, except for json, which is read whole.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto.data import conll, file_part
from mapsto.data.file_part import FilePart, Row, clean_cell, group_rows
from mapsto.data.text_lines import nonblank_lines, read_lines
from mapsto.errors import DataError, Finding, near
from mapsto.text import label_studio, squad
from mapsto.text.characters import find_invalid_character

# Number of unclosed quotes after which the rest of a file is not read.
MOST_UNCLOSED = 100
# Largest number of characters of a cell.
LARGEST_CELL = 100 * 2**20


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
        [finding for part in parts for finding in part.remarks],
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
            raise DataError(
                f"{path}: the name says no format; read are {formats}, and all but parquet also as .gz; "
                "texts with one value on a line are named by their language, as a.en or a.en,a.de"
            )
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


def _stream_txt(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a txt file in parts: each line that is not blank is a row with the single column "text".

    A file of words and their tags (CoNLL) is read as such.
    """
    if conll.is_conll(path, encoding):
        return conll.stream_conll(path, encoding)

    def rows() -> Iterator[Row]:
        for number, line in nonblank_lines(path, encoding):
            if "\0" in line:
                yield [Finding(str(path), number, "text", line, "the line holds a NUL character")]
            else:
                yield number, {"text": line}, len(line)

    return group_rows(path, rows(), ("text",))


def _stream_jsonl(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a JSON lines file in parts. Each line that is not blank is a row: an object of cells by column."""

    def rows() -> Iterator[Row]:
        for number, line in nonblank_lines(path, encoding):
            try:
                # NaN and Infinity, which Python writes though they are no JSON, become empty cells.
                record = json.loads(line, parse_constant=lambda name: None)
            except (ValueError, RecursionError) as error:
                yield [Finding(str(path), number, None, line, f"this is no JSON: {error}")]
                continue
            yield _check_record(str(path), number, _name_cells(record), len(line))

    return group_rows(path, rows())


def _stream_json(path: Path, encoding: str | None) -> Iterator[FilePart]:
    """Yield the rows of a JSON file in parts.

    The file holds a list of objects, one a row, one object of lists of cells by column, or questions in SQuAD's format. Raises
    DataError for other content.
    """
    text = "".join(read_lines(path, encoding))
    try:
        value = json.loads(text, parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if squad.is_squad(value):
        value = list(squad.squad_rows(value))
    # An object of columns becomes a list of rows.
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        sizes = {name: len(column) for name, column in value.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"{path} has columns of different lengths: {sizes}")
        value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        raise DataError(f"{path} holds neither a list of objects nor an object of columns")
    records = [_name_cells(record) for record in label_studio.read_tasks(value)]
    remarks = [Finding(str(path), None, None, None, remark) for remark in label_studio.describe_annotators(value)]
    rows = (_check_record(str(path), number, record, 0) for number, record in enumerate(records, 1))
    for index, part in enumerate(group_rows(path, rows)):
        yield replace(part, remarks=[] if index else remarks)


def _name_cells(record: Any) -> Any:
    """Return a row [text, {"entities": spans}], as spaCy has it, with names of columns; any other row unchanged."""
    if isinstance(record, list) and len(record) == 2 and isinstance(record[0], str) and isinstance(record[1], dict):
        return {conll.COLUMNS[0]: record[0], conll.COLUMNS[1]: record[1].get("entities", [])}
    return record


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
    records = _records(read_lines(path, encoding), delimiter)
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

    return group_rows(path, rows(), names)


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
    """Yield the rows of a file with tab-separated cells in parts. A file of words and their tags (CoNLL) is read as such."""
    if conll.is_conll(path, encoding):
        return conll.stream_conll(path, encoding)
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
            batch_size = max(1, min(file_part.PART_ROWS, 4 * file_part.PART_CHARACTERS * count // max(1, size)))
            tag_names = _tag_names((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
            for batch in file.iter_batches(batch_size):
                part = _parquet_part(path, batch, names, num_read + 1)
                for name in tag_names.keys() & part.data.keys():
                    part.data[name] = [name_items(cell, tag_names[name]) for cell in part.data[name]]
                yield part
                num_read += len(batch)
            # A file without rows still has columns.
            if not num_read:
                yield FilePart(str(path), {name: [] for name in names}, [], [])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is no whole parquet file: {str(error).splitlines()[0]}") from error


def _tag_names(metadata: bytes) -> dict[str, list[str]]:
    """Return by column the names of the numbers in lists, from what a Hugging Face data set writes into its parquet files."""
    try:
        features = json.loads(metadata)["info"]["features"]
        items = {name: feature.get("feature") for name, feature in features.items() if isinstance(feature, dict)}
        return {name: item["names"] for name, item in items.items() if isinstance(item, dict) and "names" in item}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def name_items(cell: Any, names: Sequence[str]) -> Any:
    """Return a list of numbers as the list of their names; None for −1, which stands for no tag. Other cells are unchanged."""
    if not isinstance(cell, list | tuple) or not all(isinstance(item, int) and item < len(names) for item in cell):
        return cell
    return [names[item] if item >= 0 else None for item in cell]


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
    **dict.fromkeys(conll.SUFFIXES, conll.stream_conll),
}
