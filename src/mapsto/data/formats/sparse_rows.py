"""A limit of memory for rows that hardly share their columns, as each would have an empty cell for all keys of the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mapsto.data.file_part import FilePart
from mapsto.data.formats.columns import require_few_columns
from mapsto.errors import DataError

# Memory of a table's cells in bytes for each character of its files, beyond SPARSE_BYTES. Only rows that hardly share their
# columns take more, as each lacks the cells of all others.
BYTES_PER_CHARACTER, SPARSE_BYTES, BYTES_PER_CELL = 12, 2**26, 8


def limit_memory(path: Path, parts: Iterable[FilePart]) -> Iterator[FilePart]:
    """Yield the parts of a file. Raises DataError if the rows hardly share columns, and so take far more than their text."""
    columns: dict[str, None] = {}
    num_rows = size = 0
    for part in parts:
        columns |= dict.fromkeys(part.data)
        require_few_columns(path, len(columns))
        num_rows, size = num_rows + len(part.rows), size + part.size
        if BYTES_PER_CELL * num_rows * len(columns) > BYTES_PER_CHARACTER * size + SPARSE_BYTES:
            raise DataError(
                f"{path}: the first {num_rows:,} rows have {len(columns):,} different columns, nearly all of them empty; write "
                "keys that only a few rows have as one object in a column"
            )
        yield part
