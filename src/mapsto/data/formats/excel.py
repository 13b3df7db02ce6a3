"""Read the first sheet with rows of a workbook (xlsx, xlsm, xls, ods) with python-calamine (the extra `excel`).

It reads about ten times as fast as openpyxl, whose maintainers and pandas name it for reading. Formulas have the values that
the program stored that wrote the file; a cell with an error, or with a formula without a value, is unreadable. Merged cells
have the value of their first cell, as they show it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mapsto.data.file_part import FilePart, Row, UnreadableCell, group_rows
from mapsto.data.formats.columns import (
    REPEATED_HEADER,
    UnnamedColumn,
    name_columns,
    repeats_header,
    require_few_columns,
)
from mapsto.data.formats.sheet_faults import find_faults
from mapsto.errors import DataError, Finding, UsageError
from mapsto.options import TextFormat
from mapsto.text.characters import find_invalid_character

SUFFIXES = ("xlsx", "xlsm", "xls", "ods")
# Largest size in bytes of the unpacked parts of a workbook, which is read whole.
LARGEST_WORKBOOK = 2**30
# Largest number of cells of the area up to the last cell without a value, which are all held in memory.
MOST_CELLS = 10**8


def stream_excel(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a workbook in parts: those of the first sheet with a header and a row below; blank rows are skipped.

    text_format: unused; all readers have this parameter.
    Raises DataError if the file is damaged, too large, protected by a password or without rows, UsageError without the extra.
    """
    name, rows, unread_sheets = _read_sheet(path)
    if (start := _find_header(rows)) is None:
        raise DataError(f"{path} is empty")
    names = [_column_name(cell) for cell in rows[start]]
    require_few_columns(path, len(names))
    # Columns of a sheet that have neither a name nor cells are none.
    indices = [index for index, name in enumerate(names) if name or any(cells[index] != "" for cells in rows)]
    columns, remarks = name_columns(path, [names[index] for index in indices])
    is_named = [not isinstance(name, UnnamedColumn) for name in columns]
    remarks = [*_describe_blank(path, rows, start), *remarks]
    if unread_sheets:
        reason = f"only the sheet {name!r} is read, not {', '.join(map(repr, unread_sheets[:5]))}"
        remarks.insert(0, Finding(str(path), None, None, None, reason))

    def numbered() -> Iterator[Row]:
        for number, cells in enumerate(rows[start + 1 :], start + 2):
            values = [_clean(cells[index]) for index in indices]
            # Rows without any cell, as below the last one, are no rows; one with a cell that has no value is.
            if not any(value is not None for value in compress(values, is_named)) and not any(
                isinstance(cell, UnreadableCell) for cell in cells
            ):
                continue
            faults = [
                Finding(str(path), number, name, None, f"the cell holds {fault}")
                for name, value in zip(columns, values, strict=True)
                if isinstance(value, str) and (fault := find_invalid_character(value)) is not None
            ]
            if repeats_header([cells[index] for index in indices], columns):
                faults = [Finding(str(path), number, None, None, REPEATED_HEADER)]
            record = dict(zip(columns, values, strict=True))
            yield faults or (number, record, sum(len(str(value)) for value in values))

    for index, part in enumerate(group_rows(path, numbered(), columns)):
        yield part if index else replace(part, remarks=[*remarks, *part.remarks])


def _read_sheet(path: Path) -> tuple[str, list[list[Any]], list[str]]:
    """Return the name of the first sheet with a header and rows, its rows, and the names of the other sheets with cells.

    If no sheet has rows below its header, it is the first one with cells.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise UsageError(f"{path}: workbooks need the extra `excel`: pip install 'mapsto[excel]'") from error
    _require_small(path)
    try:
        with python_calamine.CalamineWorkbook.from_path(path) as book:
            visible_names = [
                sheet.name
                for sheet in book.sheets_metadata
                if sheet.typ == python_calamine.SheetTypeEnum.WorkSheet
                and sheet.visible == python_calamine.SheetVisibleEnum.Visible
            ]
            sheets = [sheet for sheet in map(book.get_sheet_by_name, visible_names) if sheet.height]
            tables = ((index, _read_rows(path, sheet)) for index, sheet in enumerate(sheets))
            # A sheet that only says what the workbook is has no row below its first one.
            index, rows = next(((index, rows) for index, rows in tables if _has_rows(rows)), (0, []))
            if not sheets:
                return "", [], []
            rows = rows or _read_rows(path, sheets[0])
            return sheets[index].name, rows, [sheet.name for sheet in sheets if sheet is not sheets[index]]
    except python_calamine.PasswordError as error:
        raise DataError(f"{path} is protected by a password; save it without one") from error
    except (python_calamine.CalamineError, zipfile.BadZipFile, ElementTree.ParseError, KeyError) as error:
        raise DataError(f"{path} is no whole workbook: {error}") from error
    except BaseException as error:
        # The reader is written in Rust, whose panic is no Exception.
        if type(error).__name__ == "PanicException":
            raise DataError(f"{path} is no whole workbook") from error
        raise


def _read_rows(path: Path, sheet: Any) -> list[list[Any]]:
    """Return the rows of a sheet of python-calamine, with merged cells filled and an UnreadableCell for each without a value."""
    rows: list[list[Any]] = sheet.to_python(skip_empty_area=False)
    faults = find_faults(path, sheet.name)
    last_row, last_column = (max((place[axis] for place in faults), default=0) for axis in (0, 1))
    if (last_row + 1) * (last_column + 1) > MOST_CELLS:
        raise DataError(f"{path}: a sheet has at most {MOST_CELLS:,} cells, and one without a value stands far outside")
    for (row, column), cell in faults.items():
        # The area that was read ends at the last cell with a value.
        rows += [[""] * sheet.total_width for _ in range(row + 1 - len(rows))]
        rows[row] += [""] * (column + 1 - len(rows[row]))
        rows[row][column] = cell
    width = max(map(len, rows), default=0)
    for cells in rows:
        cells += [""] * (width - len(cells))
    for (top, first_column), (bottom, right) in sheet.merged_cell_ranges or ():
        for cells in rows[top : bottom + 1]:
            cells[first_column : right + 1] = [rows[top][first_column]] * len(cells[first_column : right + 1])
    return rows


def _find_header(rows: Sequence[Sequence[Any]]) -> int | None:
    """Return the index of the first row that is not blank; None if all are."""
    return next((index for index, cells in enumerate(rows) if any(cell != "" for cell in cells)), None)


def _has_rows(rows: Sequence[Sequence[Any]]) -> bool:
    """Return whether a sheet has a row that is not blank below its header."""
    start = _find_header(rows)
    return start is not None and _find_header(rows[start + 1 :]) is not None


def _describe_blank(path: Path, rows: Sequence[Sequence[Any]], start: int) -> list[Finding]:
    """Return a remark on blank rows in the middle of a sheet of a format that shows errors as blank cells, else []."""
    if path.suffix.lower() not in (".xls", ".ods"):
        return []
    blank = [number for number, cells in enumerate(rows[start:], start + 1) if all(cell == "" for cell in cells)]
    if not blank:
        return []
    reason = (
        f"rows without a value are skipped: {len(blank):,}, first row {blank[0]}; errors and unsaved formulas look so too: "
        "save as xlsx"
    )
    return [Finding(str(path), None, None, None, reason)]


def _require_small(path: Path) -> None:
    """Raise DataError if the unpacked parts of a workbook take more than LARGEST_WORKBOOK bytes."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, ValueError) as error:
            raise DataError(f"{path} is no whole workbook: {error}") from error
    if size > LARGEST_WORKBOOK:
        raise DataError(f"{path}: the workbook takes {size:,} bytes, more than {LARGEST_WORKBOOK:,}; write it as csv")


def _column_name(cell: Any) -> str:
    """Return the name of a column in the header."""
    if isinstance(cell, UnreadableCell):
        return str(cell.text)
    return str(_clean(cell) if cell != "" else "").strip()


def _clean(cell: Any) -> Any:
    """Return a cell with whole numbers as int, as workbooks hold all numbers as floats; None for an empty one."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return None if cell == "" else cell
