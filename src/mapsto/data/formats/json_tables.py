"""Read JSON lines, and JSON files: lists of objects, objects of columns, and what pandas, SQuAD and Label Studio write.

A file is read as what it holds, whatever its suffix: JSON lines in a .json file, an array in a .jsonl file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats import conll
from mapsto.data.formats.columns import name_columns
from mapsto.data.formats.folders import is_part_name
from mapsto.data.formats.text_lines import nonblank_lines, read_text
from mapsto.errors import DataError, Finding
from mapsto.options import TextFormat
from mapsto.text import label_studio, squad
from mapsto.text.characters import find_invalid_character

# Largest number of lists and objects within each other in a row.
MAX_DEPTH = 100
# Largest number of characters of a JSON file, which is read whole; JSON lines may be larger than memory.
LARGEST_JSON = 2**30


class RepeatedKeyError(ValueError):
    """The error for a JSON object in which a key stands twice."""


class RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key stands twice."""


def _mark_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict, as RepeatedKeys if a key occurs twice."""
    record = dict(pairs)
    return record if len(record) == len(pairs) else RepeatedKeys(record)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict. Raises ValueError if a key occurs twice, as one value would be lost."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for index, key in enumerate(keys) if key in keys[:index])
        raise RepeatedKeyError(f"the key {twice!r} stands twice in one object")
    return record


def _holds_repeated(value: Any) -> bool:
    """Return whether an object in a JSON value, or the value itself, has a key that stands twice."""
    level = [value]
    while level:
        if any(isinstance(item, RepeatedKeys) for item in level):
            return True
        items = chain.from_iterable(
            item.values() if isinstance(item, dict) else item for item in level if isinstance(item, list | dict)
        )
        level = [item for item in items if isinstance(item, list | dict)]
    return False


def _repeated_keys(file: str, number: int, record: Any) -> list[Finding]:
    """Return the finding about a row in which a key stands twice."""
    return [Finding(file, number, None, json.dumps(record)[:1000], "a key stands twice in one object of this row")]


# NaN and Infinity, which Python writes though they are no JSON, become empty cells. One decoder for all lines, as making one
# takes as long as reading a line.
DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=lambda name: None)
MARKING_DECODER = json.JSONDecoder(object_pairs_hook=_mark_repeated, parse_constant=lambda name: None)


def _decode(text: str, decoder: json.JSONDecoder = DECODER) -> Any:
    """Return a JSON value. Raises ValueError, with the reason in words."""
    try:
        return decoder.decode(text)
    except RecursionError as error:
        raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep") from error


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested more than MAX_DEPTH deep in a value."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        items = chain.from_iterable(item.values() if isinstance(item, dict) else item for item in level)
        level = [item for item in items if isinstance(item, list | dict)]
        if not level:
            return False
    return True


def stream_jsonl(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a JSON lines file in parts. Each line that is not blank is a row: an object of cells by column.

    An array of objects, as in a JSON file, is read as such.
    """
    first = next(nonblank_lines(path, text_format.encoding), (1, ""))[1]
    if first.lstrip().startswith("[") and _begins_array(first):
        yield from _with_remark(path, _stream_value(path, text_format), "this file is one JSON array, not JSON lines")
        return
    yield from _stream_lines(path, text_format)


def _begins_array(line: str) -> bool:
    """Return whether the first line of a file is, or begins, an array of rows, and is no row [text, {"entities": spans}]."""
    try:
        value = _decode(line)
    except ValueError:
        # A line of an array that goes on, as of one with a row a line; a broken line of nested lists alone is none.
        return line.strip() == "[" or line.lstrip().startswith("[{")
    return _name_cells(value) is value and all(isinstance(item, dict) for item in value)


def _stream_lines(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of JSON lines in parts."""

    def rows() -> Iterator[Row]:
        for number, line in nonblank_lines(path, text_format.encoding):
            try:
                record = _decode(line)
            except ValueError as error:
                yield [Finding(str(path), number, None, line, f"this is no JSON: {error}")]
                continue
            is_deep = line.count("[") + line.count("{") > MAX_DEPTH and _is_deep(record)
            yield _check_record(str(path), number, _name_cells(record), len(line), is_deep)

    return _mark_unnamed(path, group_rows(path, rows()))


def stream_json(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a JSON file in parts.

    The file holds a list of objects, one a row, an object of lists of cells by column, one of the orients of pandas, or questions
    in SQuAD's format; or JSON lines. Raises DataError for other content.
    """
    first_lines = [line for _, line in islice(nonblank_lines(path, text_format.encoding), 2)]
    if len(first_lines) > 1 and _is_record(first_lines[0]):
        return _with_remark(path, _stream_lines(path, text_format), "this file holds JSON lines, one object a line")
    return _stream_value(path, text_format)


def _is_record(line: str) -> bool:
    """Return whether a line is a JSON object by itself."""
    try:
        # A key that stands twice is a fault of the row, not of the file.
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _with_remark(path: Path, parts: Iterable[FilePart], reason: str) -> Iterator[FilePart]:
    """Yield the parts of a file, the first with a further remark on the whole file."""
    for index, part in enumerate(parts):
        remark = Finding(str(path), None, None, None, reason)
        yield part if index else replace(part, remarks=[remark, *part.remarks])


def _stream_value(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a file that is one JSON value in parts."""
    text = read_text(path, text_format.encoding, LARGEST_JSON)
    has_repeats = False
    try:
        try:
            value = _decode(text)
        except RepeatedKeyError:
            # It costs its row only, which another decoder marks.
            value, has_repeats = _decode(text, MARKING_DECODER), True
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if squad.is_squad(value):
        value = list(squad.squad_rows(value))
    value, reasons = _to_records(path, value)
    reasons = [*reasons, *label_studio.describe_annotators(value)]
    records = [_name_cells(record) for record in label_studio.read_tasks(value)]
    # Only rows with something nested can be deep, which spares looking into flat ones.
    has_nested = text.count("[") + text.count("{") > MAX_DEPTH + len(records)
    size = len(text) // max(1, len(records))
    del text
    parts = group_rows(
        path,
        (
            _repeated_keys(str(path), number, record)
            if has_repeats and _holds_repeated(record)
            else _check_record(str(path), number, record, size, has_nested and _is_deep(record))
            for number, record in enumerate(records, 1)
        ),
    )
    remarks = [Finding(str(path), None, None, None, reason) for reason in reasons]
    for index, part in enumerate(_mark_unnamed(path, parts)):
        yield part if index else replace(part, remarks=[*remarks, *part.remarks])


def _to_records(path: Path, value: Any) -> tuple[list[Any], list[str]]:
    """Return the rows of a JSON value as a list, and notes on the way in which they are read. Raises DataError if it has none."""
    if isinstance(value, dict) and value:
        if {"columns", "data"} <= value.keys() <= {"columns", "data", "index", "index_names", "column_names"}:
            return _zip_rows(value["columns"], value["data"]), []  # pandas' orients split and tight
        if all(map(is_part_name, value)) and all(
            isinstance(part, dict) or _are_records(part) for part in value.values()
        ):
            raise DataError(
                f"{path} holds the parts {', '.join(map(repr, value))} of a data set; write the rows of each to a file of its "
                f"own, such as {path.with_name(next(iter(value)) + '.jsonl')}"
            )
        if all(isinstance(column, list) for column in value.values()):
            return _zip_columns(path, value), []
        if all(isinstance(column, dict) for column in value.values()):
            return _nested_records(value)
        if not any(isinstance(cell, list | dict) for cell in value.values()):
            return [value], []  # one row
        tables = [name for name, cell in value.items() if cell and _are_records(cell)]
        if len(tables) == 1:
            rest = [name for name in value if name != tables[0]]
            return _without_index(value, value[tables[0]]), [
                f"the rows are those of the key {tables[0]!r}, beside {rest}"
            ]
    if not isinstance(value, list):
        raise DataError(f"{path} holds neither a list of objects nor an object of columns")
    if value and all(isinstance(row, list) and _name_cells(row) is row for row in value):
        return _zip_rows(range(len(value[0])), value), [
            "the rows are lists, without names of columns: they are called 0, 1, …"
        ]
    return value, []


def _are_records(value: Any) -> bool:
    """Return whether a JSON value is a list of objects."""
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def _zip_rows(columns: Any, rows: Any) -> list[Any]:
    """Return lists of cells as rows of named cells; a row of another length is left as it is, to be refused by its number."""
    names = [str(name) for name in columns] if isinstance(columns, Sequence) else []
    return [
        dict(zip(names, row, strict=True)) if isinstance(row, list) and len(row) == len(names) else row
        for row in (rows if isinstance(rows, list) else [])
    ]


def _zip_columns(path: Path, columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the rows of an object of columns. Raises DataError for columns of different lengths."""
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{path} has columns of different lengths: {sizes}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _nested_records(value: Mapping[str, dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """Return the rows of an object of objects, and a note on the way in which it is read.

    It is an object of rows (pandas' orient index) or of columns (orient columns, the usual one of pandas).
    """
    inner = dict.fromkeys(name for cells in value.values() for name in cells)
    are_rows = all(key.isdigit() for key in value) and not all(name.isdigit() for name in inner)
    if are_rows or (len(value) > len(inner) and not all(name.isdigit() for name in inner)):
        return list(value.values()), ["an object of rows; their keys are left aside"]
    rows = [{name: cells[key] for name, cells in value.items() if key in cells} for key in inner]
    return rows, ["an object of columns; the keys of the rows are left aside"]


def _without_index(value: Mapping[str, Any], records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without the columns that a table schema (pandas' orient table) calls the index."""
    schema = value.get("schema")
    keys = schema.get("primaryKey", []) if isinstance(schema, dict) else []
    index = set(keys if isinstance(keys, list) else [keys])
    return (
        [{name: cell for name, cell in record.items() if name not in index} for record in records] if index else records
    )


def _mark_unnamed(path: Path, parts: Iterable[FilePart]) -> Iterator[FilePart]:
    """Yield the parts of a file with the columns that have no name marked, on which the first of these parts has a remark."""
    has_remark = False
    for part in parts:
        names, remarks = name_columns(path, list(part.data)) if part.data else ([], [])
        if remarks:
            part = replace(
                part,
                data=dict(zip(names, part.data.values(), strict=True)),
                remarks=[*part.remarks, *([] if has_remark else remarks)],
            )
            has_remark = True
        yield part


def _name_cells(record: Any) -> Any:
    """Return a row [text, {"entities": spans}], as spaCy has it, with names of columns; any other row unchanged."""
    if isinstance(record, list) and len(record) == 2 and isinstance(record[0], str) and isinstance(record[1], dict):
        return {conll.COLUMNS[0]: record[0], conll.COLUMNS[1]: record[1].get("entities", [])}
    return record


def _check_record(file: str, number: int, record: Any, size: int, is_deep: bool) -> Row:
    """Return a JSON object as a readable row, or, as an unreadable row, a list of findings about it.

    A row is unreadable if `record`, the JSON value, is no object or has a cell with invalid characters.
    number: the row number. size: number of characters that the row took in the file. is_deep: whether it is nested too deeply.
    """
    if is_deep:
        return [Finding(file, number, None, None, f"lists and objects are nested more than {MAX_DEPTH} deep")]
    if not isinstance(record, dict):
        return [Finding(file, number, None, json.dumps(record), "a row is an object of named cells")]
    bad: list[Finding] = []
    for name, value in record.items():
        if isinstance(value, str) and (fault := find_invalid_character(value)) is not None:
            quoted = value.encode(errors="backslashreplace").decode()
            bad.append(Finding(file, number, name, quoted, f"the cell holds {fault}"))
    return bad or (number, record, size)
