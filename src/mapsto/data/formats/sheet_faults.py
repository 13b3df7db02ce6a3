"""Find the cells of an xlsx sheet that have no value: errors such as #N/A, and formulas whose result was not saved.

python-calamine reads both as empty cells. The elements are those of ECMA-376, part 1, section 18.3.1: a cell `c` has its place in
`r`, the type `e` for an error, its formula in `f` and its value in `v`.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

from mapsto.data.file_part import UnreadableCell

# Begins a formula or an error cell in the XML of a sheet, in whichever namespace.
SUSPECT = re.compile(rb"<(\w+:)?f[ />]|\bt=[\"']e[\"']")
PLACE = re.compile(r"([A-Z]+)(\d+)")
Faults = dict[tuple[int, int], UnreadableCell]


def find_faults(path: Path, sheet: str) -> Faults:
    """Return the cells of a sheet without a value, by (row, column) from 0; {} for a workbook that is no zip archive of XML.

    sheet: the name of the sheet.
    Raises zipfile.BadZipFile, ElementTree.ParseError or KeyError for a damaged workbook.
    """
    if not zipfile.is_zipfile(path):
        return {}
    with zipfile.ZipFile(path) as archive:
        parts = {name.lower(): name for name in archive.namelist()}
        if "xl/workbook.xml" not in parts:
            return {}  # an ods or xlsb workbook
        name = parts[_part_of_sheet(archive, parts, sheet).lower()]
        # Most sheets are values alone, whose XML need not be parsed.
        return _read_faults(archive, name) if SUSPECT.search(archive.read(name)) else {}


def _part_of_sheet(archive: zipfile.ZipFile, parts: dict[str, str], sheet: str) -> str:
    """Return the name of the part of a workbook that holds a sheet. parts: the names in the archive by their lower-case form."""
    book = ElementTree.fromstring(archive.read(parts["xl/workbook.xml"]))
    links = ElementTree.fromstring(archive.read(parts["xl/_rels/workbook.xml.rels"]))
    targets = {link.get("Id"): link.get("Target", "") for link in links}
    keys = {
        element.get("name"): next((value for name, value in element.attrib.items() if name.endswith("}id")), None)
        for element in book.iter()
        if _local(element) == "sheet"
    }
    return posixpath.normpath(posixpath.join("/xl", targets[keys[sheet]])).lstrip("/")


def _read_faults(archive: zipfile.ZipFile, name: str) -> Faults:
    """Return the cells without a value of the part `name`, which holds a sheet."""
    faults: Faults = {}
    row = column = -1
    with archive.open(name) as stream:
        for event, element in ElementTree.iterparse(stream, ("start", "end")):
            tag = _local(element)
            if event == "start" and tag == "row":
                row, column = int(element.get("r", row + 2)) - 1, -1
            elif event == "start" and tag == "c":
                match = PLACE.fullmatch(element.get("r", ""))
                row, column = (int(match[2]) - 1, _column_index(match[1])) if match else (row, column + 1)
            elif event == "end" and tag == "c" and (fault := _fault(element)) is not None:
                faults[row, column] = fault
            elif event == "end" and tag == "row":
                element.clear()
    return faults


def _fault(cell: ElementTree.Element) -> UnreadableCell | None:
    """Return the fault of a cell; None if it has a value, or is empty."""
    texts = {_local(element): element.text or "" for element in cell}
    value = texts.get("v", "")
    if cell.get("t") == "e":
        error = value or "an error"
        return UnreadableCell(error, f"the cell holds the error {error}; correct its formula or clear the cell")
    # A formula whose result is the empty text is saved with an empty value of the type `str`.
    if "f" not in texts or value or (cell.get("t") == "str" and "v" in texts):
        return None
    reason = "a formula without a saved value; open and save the workbook in a spreadsheet program, or paste values"
    return UnreadableCell(f"={texts['f']}", reason)


def _local(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _column_index(letters: str) -> int:
    """Return the index from 0 of a column by its letters: 0 for A, 26 for AA."""
    index = 0
    for letter in letters:
        index = 26 * index + ord(letter) - ord("A") + 1
    return index - 1
