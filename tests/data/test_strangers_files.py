"""Ordinary files of newcomers: what they hold is read, or the message says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mapsto.data.file_part import UnreadableCell
from mapsto.data.table import read_table
from mapsto.errors import DataError


def write_sheets(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_formulas_without_a_value_and_errors_are_rows(tmp_path: Path) -> None:
    rows = [["text", "label", "n"], ["a", "x", 1], ["=A2", "=B2", None], [None, "#N/A", 2], ["d", "y", 3], ["#REF!"]]
    table = read_table(write_sheets(tmp_path / "a.xlsx", {"Daten 1": rows}))
    assert [row for _, row in table.origins] == [2, 3, 4, 5, 6]
    formula, error = table.column("text")[1], table.column("label")[2]
    assert isinstance(formula, UnreadableCell) and formula.text == "=A2" and "paste values" in formula.reason
    assert isinstance(error, UnreadableCell) and "#N/A" in error.reason
    assert table.column("n") == [1, None, 2, 3, None]


def test_the_first_sheet_with_rows_is_read(tmp_path: Path) -> None:
    sheets = {"Info": [["About this file"]], "Data": [["text", "label"], ["a", "x"]], "更多": [["b"], ["c"]]}
    table = read_table(write_sheets(tmp_path / "a.xlsx", sheets))
    assert table.column("text") == ["a"]
    assert "only the sheet 'Data' is read, not 'Info', '更多'" in table.remarks[0].reason
    with pytest.raises(DataError, match="has no rows"):
        read_table(write_sheets(tmp_path / "b.xlsx", {"Info": sheets["Info"], "B": [["text"]]}))
