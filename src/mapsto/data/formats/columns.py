"""Names of the columns of a file: those without a name are left aside, and a file with far too many columns is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mapsto.errors import DataError, Finding

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


def select_named(file: str | Path, names: Sequence[str]) -> tuple[list[int], list[Finding]]:
    """Return the indices of the columns that have a name, and a remark on those that have none.

    file: the file that messages name. names: the names of its columns, in order.
    Raises DataError if no column has a name, if two have the same one, and for more than MAX_COLUMNS columns.
    """
    require_few_columns(file, len(names))
    indices = [index for index, name in enumerate(names) if not is_unnamed(name)]
    unnamed = [index + 1 for index, name in enumerate(names) if is_unnamed(name)]
    if not indices:
        raise DataError(
            f"{file}: no column of the header has a name: {list(names[:MAX_LISTED])}; the first row names the columns"
        )
    duplicates = sorted(name for name, count in Counter(names[index] for index in indices).items() if count > 1)
    if duplicates:
        raise DataError(f"{file}: the header names {', '.join(map(repr, duplicates))} more than once")
    if not unnamed:
        return indices, []
    numbers = ", ".join(map(str, unnamed[:MAX_LISTED])) + (", …" if len(unnamed) > MAX_LISTED else "")
    plural = "s" if len(unnamed) > 1 else ""
    reason = f"column{plural} {numbers} without a name: left aside (pandas writes its index so; to_csv(index=False) does not)"
    return indices, [Finding(str(file), None, None, None, reason)]


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
