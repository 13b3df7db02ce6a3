"""Table cells that hold a picture, a video or a sound: as a file name, or as the bytes of a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mapsto.errors import BadCell

# Keys of a cell as Hugging Face's data sets have it: those that hold the content, and all.
CONTENT_KEYS = {"bytes", "array"}
CELL_KEYS = {*CONTENT_KEYS, "path", "sampling_rate"}


class Unreadable(ValueError):
    """The error for a picture, a video or a sound that cannot be decoded; the message says why."""


def require_file(path: str | Path) -> None:
    """Raise Unreadable if the path exists but is no regular file, since reading a pipe or a device might never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise Unreadable("this is no file")


def require_readable(path: str | None) -> None:
    """Raise OSError if `path` cannot be opened, and Unreadable if it is no regular file; do nothing if it is None."""
    if path is not None:
        require_file(path)
        with open(path, "rb"):
            return


def is_media_cell(value: object) -> bool:
    """Return whether a dict is one cell, such as Hugging Face's of a picture ("bytes") or a sound ("array"), and not a row."""
    return isinstance(value, Mapping) and bool(CONTENT_KEYS & set(value)) and set(value) <= CELL_KEYS


def why_not_local(name: str) -> str:
    """Return the reason, in words for an error message, why `name` cannot be the name of a local file; "" if it can.

    The reasons are a NUL character and a URL.
    """
    if "\0" in name:
        return "whose name has no NUL character"
    return "and no address: nothing is fetched from the network" if "://" in name else ""


def are_media(values: Sequence[object], suffixes: tuple[str, ...], axes: int | None) -> bool:
    """Return whether all cells of a column look like files of one medium. Cells that are None do not count.

    Such a cell is a file name that ends in one of `suffixes`, encoded bytes (also in a dict), or an array with `axes` axes; no
    array is one if `axes` is None. A column with nothing but None gives False.
    """
    cells = [value for value in values if value is not None]
    return bool(cells) and all(_may_be_media(cell, suffixes, axes) for cell in cells)


def _may_be_media(cell: object, suffixes: tuple[str, ...], axes: int | None) -> bool:
    """Return whether a cell looks like one value of a medium, as `are_media` describes it."""
    if isinstance(cell, str | os.PathLike):
        return str(cell).lower().endswith(suffixes)
    is_array = axes is not None and hasattr(cell, "__array__") and getattr(cell, "ndim", axes) == axes
    return isinstance(cell, bytes) or (isinstance(cell, dict) and "bytes" in cell) or is_array


def read_media_cell(cell: object, noun: str, array_noun: str) -> tuple[str | None, bytes | None]:
    """Return (file name, None) or (None, encoded bytes) from a cell.

    cell: a file name, bytes, or a dict of either (Hugging Face). noun: word for the value in error messages, such as "picture".
    array_noun: word for its form as an array in error messages, such as "pixels".
    Raises BadCell for another type, a blank cell or a file name that is an address on the network.
    """
    path, content = None, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        path = None if content else path
    elif isinstance(cell, bytes):
        content = cell
    elif isinstance(cell, str | os.PathLike):
        path = os.fspath(cell).strip()
    elif cell is not None:
        raise BadCell(f"a {noun} is a file's name, bytes or {array_noun}, not {type(cell).__name__}")
    if not content and not path:
        raise BadCell(f"the {noun} is blank")
    if path and (reason := why_not_local(path)):
        raise BadCell(f"a {noun} is a file here, {reason}")
    return path, content
