"""Read the first sheet of a workbook (xlsx, xlsm, xls, ods) with python-calamine (the extra `excel`).

It reads about ten times as fast as openpyxl, whose maintainers and pandas name it for reading. Formulas have the values that
the program stored that wrote the file. Merged cells have the value of their first cell, as they show it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats.columns import REPEATED_HEADER, repeats_header, require_few_columns, select_named
from mapsto.errors import DataError, Finding, UsageError
from mapsto.options import TextFormat
from mapsto.text.characters import find_invalid_character

SUFFIXES = ("xlsx", "xlsm", "xls", "ods")
# Largest size in bytes of the unpacked parts of a workbook, which is read whole.
LARGEST_WORKBOOK = 2**30


def stream_excel(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of the first sheet of a workbook that has some in parts; the first row that is not blank is the header.

    text_format: unused; all readers have this parameter.
    Raises DataError if the file is damaged, too large, protected by a password or without rows, UsageError without the extra.
    """
    name, rows, unread_sheets = _read_sheet(path)
    start = next((index for index, cells in enumerate(rows) if any(cell != "" for cell in cells)), None)
    if start is None:
        raise DataError(f"{path} is empty")
    names = [_column_name(cell) for cell in rows[start]]
    require_few_columns(path, len(names))
    indices, remarks = select_named(path, names)
    columns = [names[index] for index in indices]
    if unread_sheets:
        reason = f"only the sheet {name!r} is read, not {', '.join(map(repr, unread_sheets[:5]))}"
        remarks.insert(0, Finding(str(path), None, None, None, reason))

    def numbered() -> Iterator[Row]:
        for number, cells in enumerate(rows[start + 1 :], start + 2):
            values = [_clean(cells[index]) for index in indices]
            # Rows without any cell, as below the last one, are no rows.
            if all(value is None for value in values):
                continue
            faults = [
                Finding(str(path), number, names[index], None, f"the cell holds {fault}")
                for index, value in zip(indices, values, strict=True)
                if isinstance(value, str) and (fault := find_invalid_character(value)) is not None
            ]
            if repeats_header([cells[index] for index in indices], columns):
                faults = [Finding(str(path), number, None, None, REPEATED_HEADER)]
            record = dict(zip(columns, values, strict=True))
            yield faults or (number, record, sum(len(str(value)) for value in values))

    for index, part in enumerate(group_rows(path, numbered(), columns)):
        yield part if index else replace(part, remarks=[*remarks, *part.remarks])


def _read_sheet(path: Path) -> tuple[str, list[list[Any]], list[str]]:
    """Return the name of the first sheet with cells, its rows, and the names of the other sheets with cells."""
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
            if not sheets:
                return "", [], []
            rows = sheets[0].to_python(skip_empty_area=False)
            for (top, first_column), (bottom, right) in sheets[0].merged_cell_ranges or ():
                for row in rows[top : bottom + 1]:
                    row[first_column : right + 1] = [rows[top][first_column]] * len(row[first_column : right + 1])
            return sheets[0].name, rows, [sheet.name for sheet in sheets[1:]]
    except python_calamine.PasswordError as error:
        raise DataError(f"{path} is protected by a password; save it without one") from error
    except python_calamine.CalamineError as error:
        raise DataError(f"{path} is no whole workbook: {error}") from error
    except BaseException as error:
        # The reader is written in Rust, whose panic is no Exception.
        if type(error).__name__ == "PanicException":
            raise DataError(f"{path} is no whole workbook") from error
        raise


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
    return str(_clean(cell) if cell != "" else "").strip()


def _clean(cell: Any) -> Any:
    """Return a cell with whole numbers as int, as workbooks hold all numbers as floats; None for an empty one."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return None if cell == "" else cell
