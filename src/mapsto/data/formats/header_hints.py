"""Hints for a table in which the columns of an arrow are missing: where its header probably is, or what its format holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Number of rows in which the header is looked for.
NUM_SNIFFED = 20
FASTTEXT_LABEL = "__label__"


def describe_header(
    names: Collection[str], columns: Mapping[str, Sequence[Any]], origins: Sequence[tuple[str, int]]
) -> str:
    """Return a hint on where the columns `names` are, if the first rows or the format of the file tell it; else "".

    columns: the cells of the table by column. origins: (file, row number) of each row.
    """
    for index, (file, row) in enumerate(origins[:NUM_SNIFFED]):
        cells = [cell.strip() for cells in columns.values() if isinstance(cell := cells[index], str)]
        if row and any(cell in names for cell in cells):
            listing = ", ".join(map(repr, cells[:5]))
            return f". Row {row} of {file} looks like the header ({listing}): delete the rows above it"
    if list(columns) == ["text"] and origins and origins[0][0].lower().removesuffix(".gz").endswith(".txt"):
        return _describe_lines([str(cell) for cell in columns["text"][:NUM_SNIFFED]])
    return ""


def _describe_lines(lines: Sequence[str]) -> str:
    """Return a hint that a .txt file holds one text a line, and what to do where its lines hold more."""
    advice = ""
    if any(FASTTEXT_LABEL in line for line in lines):
        advice = (
            f"; lines of fastText ({FASTTEXT_LABEL}…) are read once they are a table with the columns text and label"
        )
    elif lines and all("\t" in line for line in lines):
        advice = "; these lines hold tabs: rename the file to .tsv, and let its first line name the columns"
    return f". A .txt file is one text a line{advice}"
