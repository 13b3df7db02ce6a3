"""Values in Python objects that are no table: a list, a Series, an array, a column of Arrow, an iterator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.media.cells import is_media_cell

# An array of so many axes is one of pictures, or of other values that are arrays themselves: (n, height, width, …).
AXES_OF_ARRAYS = 3


def list_values(data: Any) -> list[Any] | None:
    """Return the values of a list or of an object that holds one column of values; None for a table in any form.

    Lists of dicts are tables, but for dicts that are one value, such as the bytes of a picture. Arrays of three and more axes are
    lists of pictures. Iterators are no tables: see `collect`.
    """
    if is_column(data) and not isinstance(data, list | tuple):
        data = to_list(data)
    if not isinstance(data, list | tuple):
        return None
    is_row = bool(data) and isinstance(data[0], Mapping) and not is_media_cell(data[0])
    return None if is_row else list(data)


def collect(data: Any) -> Any:
    """Return the items of an iterator as a list, since it can be read only once; return other data unchanged."""
    return list(data) if isinstance(data, Iterator) else data


def is_column(data: Any) -> bool:
    """Return whether an object is a column of values, such as a pandas Series, a NumPy array or a column of Arrow."""
    if isinstance(data, np.ndarray):
        return data.ndim == 1 or data.ndim >= AXES_OF_ARRAYS
    is_series = hasattr(data, "to_list") or hasattr(data, "to_pylist") or isinstance(data, Sequence)
    if not is_series or isinstance(data, str | bytes):
        return False
    return not any(hasattr(data, name) for name in ("columns", "column_names", "schema"))


def to_list(column: Any) -> list[Any]:
    """Return the values of a column; those of NumPy and Arrow as values of Python."""
    if isinstance(column, np.ndarray) and column.ndim == 1:
        return list(column.tolist())
    return list(column.to_pylist()) if hasattr(column, "to_pylist") else list(column)
