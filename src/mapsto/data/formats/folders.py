"""Read what the names of folders and files say about rows: partitions as Hive writes them, and parts of a data set.

Below `year=2024/label=pos` all rows have "2024" in the column `year` and "pos" in `label`; the values are percent-encoded
(https://arrow.apache.org/docs/python/dataset.html, partitioning). Files named train and test are parts of a data set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from mapsto.data.file_part import FilePart

PARTITION = re.compile(r"(?P<name>[^=]+)=(?P<value>.*)")
# The value of a row that has none in the column of the partition.
EMPTY_VALUE = "__HIVE_DEFAULT_PARTITION__"
# The words in names that tell a part of a data set, by the part.
PART_WORDS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "holdout": "test", "unlabeled": "unlabelled",
    "unlabelled": "unlabelled",
}  # fmt: skip
Cells = dict[str, str | None]


def read_partitions(root: Path, files: Iterable[Path]) -> dict[Path, Cells]:
    """Return for each file the cells, by column, that the names of its folders below `root` give all of its rows."""
    return {file: _partition_cells(_names_below(root, file)[:-1]) for file in files}


def _names_below(root: Path, file: Path) -> tuple[str, ...]:
    """Return the names of the folders below `root` in which a file lies, and its own."""
    return Path(os.path.abspath(file)).relative_to(os.path.abspath(root)).parts


def _partition_cells(folders: Iterable[str]) -> Cells:
    """Return the cells by column that the names of nested folders give."""
    matches = filter(None, map(PARTITION.fullmatch, folders))
    return {
        unquote(match["name"]): None if match["value"] in ("", EMPTY_VALUE) else unquote(match["value"])
        for match in matches
    }


def add_partitions(parts: Iterator[FilePart], cells: Cells) -> Iterator[FilePart]:
    """Yield the parts of a file with the columns of its partition; a column that the file itself has is unchanged."""
    for part in parts:
        columns = {name: [cell] * len(part.rows) for name, cell in cells.items() if name not in part.data}
        yield replace(part, data={**part.data, **columns}) if columns else part


def name_parts(root: Path, files: Iterable[Path]) -> list[str]:
    """Return the names below `root` by which files are in two or more parts of a data set, such as train.csv and test; else [].

    Of the folders and files of one part the first is named.
    """
    names: dict[str, str] = {}
    for file in files:
        inner = _names_below(root, file)
        for place, name in enumerate(inner):
            stem = name.partition(".")[0] if place == len(inner) - 1 else name
            if (part := _part_of(re.split(r"[^a-z]+", stem.lower()))) is not None:
                names.setdefault(part, name)
                break
    return list(names.values()) if len(names) > 1 else []


def is_part_name(name: str) -> bool:
    """Return whether a name is that of a part of a data set alone, such as "train" and "Validation"."""
    return name.lower() in PART_WORDS


def _part_of(words: Sequence[str]) -> str | None:
    """Return the part of a data set that the words of a name tell; None for another name."""
    return next((PART_WORDS[word] for word in words if word in PART_WORDS), None)
