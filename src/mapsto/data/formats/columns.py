"""Names of the columns of a file: those without a name are marked, and a file with far too many columns is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.errors import DataError, Finding, free_name

# Largest number of columns of a table. Each costs memory in every part of a file.
MAX_COLUMNS = 10_000
# The names that pandas gives to columns without a name, and to the index of a DataFrame in a parquet file.
UNNAMED = re.compile(r"|Unnamed: \d+(_level_\d+|\.\d+)*|__index_level_\d+__")
# The problem of a row that `repeats_header`.
REPEATED_HEADER = "this row is the header once more, as where files were joined"
# Number of unnamed columns that a remark lists.
MAX_LISTED = 5


def is_unnamed(name: str) -> bool:
    """Return whether a column has no name, or one that pandas gives to such a column, such as "Unnamed: 0"."""
    return UNNAMED.fullmatch(name) is not None


class UnnamedColumn(str):
    """The name under which a column without a name is written again. A port gets such a column only if the arrow names it."""


def name_columns(file: str | Path, names: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Return a name for each column, an UnnamedColumn such as "column 1" for those without one, and a remark on these.

    file: the file that messages name. names: the names of its columns, in order.
    Raises DataError if no column has a name, if two have the same one, and for more than MAX_COLUMNS columns.
    """
    require_few_columns(file, len(names))
    proper = [name for name in names if not is_unnamed(name)]
    if not proper:
        raise DataError(
            f"{file}: no column of the header has a name: {list(names[:MAX_LISTED])}; the first row names the columns"
        )
    duplicates = sorted(name for name, count in Counter(proper).items() if count > 1)
    if duplicates:
        raise DataError(f"{file}: the header names {', '.join(map(repr, duplicates))} more than once")
    unnamed = [number for number, name in enumerate(names, 1) if is_unnamed(name)]
    if not unnamed:
        return list(names), []
    used_names, columns = set(proper), list(names)
    for number in unnamed:
        columns[number - 1] = UnnamedColumn(free_name(names[number - 1] or f"column {number}", used_names))
        used_names.add(columns[number - 1])
    ellipsis = ", …" if len(unnamed) > MAX_LISTED else ""
    numbers = ", ".join(map(str, unnamed[:MAX_LISTED])) + ellipsis
    listing = ", ".join(repr(str(columns[number - 1])) for number in unnamed[:MAX_LISTED]) + ellipsis
    reason = (
        f"column{'s' * (len(unnamed) > 1)} {numbers} without a name: left aside, and written again as {listing} (pandas writes "
        "its index so; to_csv(index=False) does not)"
    )
    return columns, [Finding(str(file), None, None, None, reason)]


def repeats_header(cells: Sequence[Any], names: Sequence[str]) -> bool:
    """Return whether a row is the header once more, as where files were joined; a single cell may be a value of its column."""
    if len(names) < 2 or len(cells) != len(names) or str(cells[-1]).strip() != names[-1]:
        return False
    # A joined file may begin with a byte order mark.
    return [str(cell).removeprefix("\ufeff").strip() for cell in cells] == list(names)


def require_few_columns(file: str | Path, count: int) -> None:
    """Raise DataError for more than MAX_COLUMNS columns."""
    if count > MAX_COLUMNS:
        raise DataError(
            f"{file} has {count:,} columns; a table has at most {MAX_COLUMNS:,}: write numbers that belong together as one "
            "list, and rows with keys of their own as one object in a column"
        )
