"""Hints on columns that are probably misread: labels that are ids or decimal numbers, and a first row taken as the header."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mapsto.data.formats import excel
from mapsto.data.readers import file_format
from mapsto.data.table import Table
from mapsto.errors import Finding
from mapsto.task.arrow import Arrow

# From this number of rows, and with more than this share of different ones, labels are ids.
MIN_IDS, ID_SHARE = 10, 0.9
MAX_COLUMNS_SHOWN = 10
# A label that is a number.
NUMERAL = re.compile(r"[-+]?\d+(?:\.\d+)?")

# What programs write for a missing cell, which is a class of its own where it stands as text.
MISSING_TEXTS = {"nan", "NaN", "None", "NA", "N/A", "<NA>", "null", "NULL", "NaT", "nil"}
# Formats whose first row is the header.
WITH_HEADER = ("csv", "tsv", *excel.SUFFIXES)
# A name of so many words, of which so large a share stands in the cells below, is probably a cell itself.
MIN_WORDS, WORD_SHARE = 3, 0.8
# A word, or one letter of a script that does not separate words.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
NUM_HEADER_CELLS = 2000


def are_ids(counts: Counter[str]) -> bool:
    """Return whether nearly every row has a label of its own, as an id is. counts: the number of rows of each label."""
    return counts.total() >= MIN_IDS and len(counts) > ID_SHARE * counts.total()


def label_hints(counts: Counter[str], table: Table, column: str | None) -> list[Finding]:
    """Return warnings on labels that are probably no classes. counts: the rows of each label in the column of a table."""
    if not counts:
        return []
    file = table.origin(0)[0]
    if len(counts) > 2 and all(map(NUMERAL.fullmatch, counts)) and any("." in label for label in counts):
        reason = (
            f"{len(counts):,} decimal numbers as classes, of which each is as far from all others; if they are a quantity, learn "
            f"it as `-> {column}:number`"
        )
        return [Finding(file, None, column, None, reason)]
    if are_ids(counts):
        columns = ", ".join(map(repr, table.columns[:MAX_COLUMNS_SHOWN]))
        reason = (
            f"{len(counts):,} different labels in {counts.total():,} rows, as an id has; name the column of the labels in the "
            f"arrow, such as `-> COLUMN:label`; there are {columns}"
        )
        return [Finding(file, None, column, None, reason)]
    return []


def missing_hints(counts: Counter[str], table: Table, column: str | None) -> list[Finding]:
    """Return a warning for labels that are texts of missing cells, as pandas' astype(str) writes them."""
    names = [name for name in counts if name in MISSING_TEXTS]
    if not names or len(names) == len(counts):
        return []
    shares = ", ".join(f"{name!r} ({counts[name]:,})" for name in names)
    reason = f"labels that look like missing cells written as text: {shares}; if they are, leave these cells blank"
    return [Finding(table.origin(0)[0], None, column, None, reason)]


def score_hints(arrow: Arrow, table: Table) -> list[Finding]:
    """Return a warning if pairs without a score have beside them a column of zeros and ones, which may say which are right."""
    bound = {port.column for port in (*arrow.sources, *arrow.targets)}
    for name in table.columns:
        cells = (
            {str(cell).strip().lower() for cell in table.column(name)[:NUM_HEADER_CELLS]} if name not in bound else ()
        )
        if cells in ({"0", "1"}, {"0.0", "1.0"}):
            reason = f"the column holds 0 and 1; if they say which pairs are right, add it to the arrow, as `, {name}:number`"
            return [Finding(table.origin(0)[0], None, name, None, f"{reason}; now every pair counts as right")]
    return []


def header_hints(table: Table, source: str | None, target: str | None, labels: Iterable[str]) -> list[Finding]:
    """Return a warning if the names of the bound columns look like cells, as where a file has no header.

    source, target: the names of the first source column and of the column of the labels. labels: the different labels.
    """
    file = table.origin(0)[0]
    if file_format(Path(file)) not in WITH_HEADER:
        return []
    advice = "the first row names the columns; if the file has no header, write one above it"
    if target is not None and target in labels:
        return [Finding(file, 1, target, None, f"{target!r} is the name of the column and a label in it: {advice}")]
    if source is not None and _is_like_cells(source, table.column(source)[:NUM_HEADER_CELLS]):
        return [Finding(file, 1, source, None, f"the name of the column reads as the texts below it: {advice}")]
    return []


def _is_like_cells(name: str, cells: Sequence[object]) -> bool:
    """Return whether most words of a column's name stand in its cells, and the name has several."""
    words = WORD.findall(name.casefold())
    if len(words) < MIN_WORDS:
        return False
    vocabulary = {word for cell in cells if isinstance(cell, str) for word in WORD.findall(cell.casefold())}
    return sum(word in vocabulary for word in words) >= WORD_SHARE * len(words)
