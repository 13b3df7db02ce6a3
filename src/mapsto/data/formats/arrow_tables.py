"""Cells of Arrow columns of any type as Python values, and the names of classes that Hugging Face writes beside the types."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mapsto.data.file_part import UnreadableCell, clean_cell

# The features of a table by column, as `datasets` writes them: {"_type": "ClassLabel", "names": […]}, lists and dicts of these.
Features = Mapping[str, Any]
LISTS = ("Sequence", "List", "LargeList")


def read_cells(column: Any) -> list[Any]:
    """Return the cells of an Arrow array of any type as Python values, an UnreadableCell for each that has none.

    Equal texts of a dictionary column are one object, so that it takes no more memory than the dictionary.
    """
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        indices, values = column.indices, column.dictionary
        # Only the values that occur, as a batch may have the dictionary of the whole file.
        if len(values) > len(indices):
            used = indices.unique().drop_null()
            texts = dict(zip(used.to_pylist(), read_cells(values.take(used)), strict=True))
        else:
            texts = dict(enumerate(read_cells(values)))
        return [None if index is None else texts[index] for index in indices.to_pylist()]
    try:
        cells: list[Any] = column.to_pylist()
        # Most columns are of types with little or nothing to clean.
        if pyarrow.types.is_integer(column.type) or pyarrow.types.is_boolean(column.type):
            return cells
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            return [cell or None for cell in cells]
        return [clean_cell(cell) for cell in cells]
    # Each type fails with an error of its own: of Python, of Arrow, of pandas.
    except Exception:
        return [_read_cell(value) for value in column]


def _read_cell(value: Any) -> Any:
    """Return an Arrow scalar as a Python value, or as an UnreadableCell if Python has none for it."""
    try:
        return clean_cell(value.as_py())
    except UnicodeDecodeError as error:
        quoted = error.object[error.start : error.start + 8].hex(" ")
        return UnreadableCell(quoted, f"these bytes, from byte {error.start + 1} of the cell on, are no utf-8")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UnreadableCell(_print_scalar(value), f"a value of type {value.type} that cannot be read: {reason}")


def _print_scalar(value: Any) -> str | None:
    """Return an Arrow scalar as text; None if Arrow cannot print it."""
    try:
        text: str = value.cast("string").as_py()
    except Exception:
        return None
    return text


def read_features(metadata: bytes | None) -> Features:
    """Return the features by column that `datasets` writes into the metadata of an Arrow schema; {} without them.

    metadata: JSON under the key "huggingface".
    """
    try:
        features = json.loads(metadata or b"{}")["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def name_classes(cells: Sequence[Any], feature: Any) -> list[Any]:
    """Return the cells of a column with the names of classes in place of their numbers, also within lists and dicts.

    −1, which stands for no class, becomes None. Cells with numbers that have no name are unchanged.
    feature: the feature of the column, see Features.
    """
    name = _namer(feature)
    return list(cells) if name is None else [name(cell) for cell in cells]


def _namer(feature: Any) -> Callable[[Any], Any] | None:
    """Return a function that puts names into a cell of a feature; None if the feature has no named classes."""
    if isinstance(feature, list):
        return _list_namer(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if isinstance(names, list) and feature.get("_type", "ClassLabel") == "ClassLabel":
        return lambda cell: _name_class(cell, names)
    if "feature" in feature and feature.get("_type", LISTS[0]) in LISTS:
        return _list_namer(feature["feature"])
    if isinstance(feature.get("_type"), str):
        return None
    inner = {key: namer for key, value in feature.items() if (namer := _namer(value)) is not None}
    return (lambda cell: _map_values(cell, inner)) if inner else None


def _list_namer(feature: Any) -> Callable[[Any], Any] | None:
    """Return a function that puts names into lists of a feature's values, or into a dict of such lists."""
    namer = _namer(feature)
    if namer is None:
        return None
    # A sequence of dicts is stored as a dict of lists.
    lists = (
        {key: inner for key, value in feature.items() if (inner := _list_namer(value))} if _is_struct(feature) else {}
    )

    def name(cell: Any) -> Any:
        if isinstance(cell, dict):
            return _map_values(cell, lists)
        return [namer(item) for item in cell] if isinstance(cell, list | tuple) else cell

    return name


def _is_struct(feature: Any) -> bool:
    """Return whether a feature is a dict of features."""
    return isinstance(feature, dict) and not isinstance(feature.get("_type"), str)


def _map_values(cell: Any, namers: Mapping[str, Callable[[Any], Any]]) -> Any:
    """Return a dict with the functions applied to the values of their keys; any other cell unchanged."""
    if not isinstance(cell, dict):
        return cell
    return {key: namers[key](value) if key in namers else value for key, value in cell.items()}


def _name_class(cell: Any, names: Sequence[Any]) -> Any:
    """Return the name of a class; None for −1. Cells that are no number of a class are unchanged."""
    if isinstance(cell, bool) or not isinstance(cell, int) or not -1 <= cell < len(names):
        return cell
    return str(names[cell]) if cell >= 0 else None
