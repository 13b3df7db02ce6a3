"""Hints on labels that are probably no classes: ids, of which nearly each row has its own, and decimal numbers."""

from __future__ import annotations

import re
from collections import Counter

from mapsto.data.table import Table
from mapsto.errors import Finding

# From this number of rows, and with more than this share of different ones, labels are ids.
MIN_IDS, ID_SHARE = 10, 0.9
MAX_COLUMNS_SHOWN = 10
# A label that is a number.
NUMERAL = re.compile(r"[-+]?\d+(?:\.\d+)?")


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
