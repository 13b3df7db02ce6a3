"""Capabilities: abilities that some kinds of values have beyond the contract of a source or a target.

This module holds those of both, `source_capabilities` and `target_capabilities` hold the others.
A kind inherits from its capabilities. Callers check for one by `isinstance` (object) or `issubclass` (class), or call
`require`, which raises a readable error. No caller compares the names of kinds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from mapsto.errors import BadCell, UsageError
from mapsto.media.cells import why_not_local
from mapsto.task.source import Kind

if TYPE_CHECKING:
    pass

Capability = TypeVar("Capability", bound=Kind)


@overload
def require(kind: type[Kind], capability: type[Capability], ability: str) -> type[Capability]: ...


@overload
def require(kind: Kind, capability: type[Capability], ability: str) -> Capability: ...


def require(kind: Any, capability: type[Kind], ability: str) -> Any:
    """Return `kind` unchanged, for the type checker as an instance or subclass of `capability`. Raises UsageError if it is not.

    kind: a source or target, as object or class.
    ability: participle for the error message: "explained" gives "'number' cannot be explained".
    """
    if not (issubclass(kind, capability) if isinstance(kind, type) else isinstance(kind, capability)):
        raise UsageError(f"{kind.kind!r} cannot be {ability}")
    return kind


# Capabilities of sources and targets


class FileBacked(Kind):
    """A kind whose values can be stored as files, one value a file. A cell may then be a file name.

    Such a file can also be given to a model directly, without a table.
    """

    # The suffixes of such files in lower case, with the dot.
    suffixes: ClassVar[tuple[str, ...]]
    # The packages that decode such files: what is read may change with their versions.
    decoders: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def locate(cell: object, folder: Path | None) -> object:
        """Return a cell with its file name resolved: beside the table if the file exists there, else in the working directory.

        cell: a file name, also with the separators of Windows, or a dict with a "path" (Hugging Face). Any other cell, such as
        bytes, decoded samples or a URL, is returned unchanged.
        folder: the folder of the table; None if the table is not a file, which leaves the cell unchanged.
        Raises BadCell if the file is missing, or lies outside both folders, since a table from a stranger may name private files.
        """
        if isinstance(cell, dict) and not cell.get("bytes") and cell.get("array") is None:
            return {**cell, "path": FileBacked.locate(cell.get("path"), folder)}
        if folder is None or not isinstance(cell, str) or not (name := cell.strip()) or why_not_local(name):
            return cell
        if "\\" in name and not os.path.exists(folder / name) and not os.path.exists(name):
            name = name.replace("\\", "/")  # of a table that was written on Windows
        path = str(folder / name) if os.path.exists(folder / name) else name
        if not any(Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)) for root in (folder, Path())):
            raise BadCell(
                "a table names files below its own folder, or below the one that mapsto is run in, and no others"
            )
        if not os.path.exists(path):
            raise BadCell(f"there is no such file below {folder}, nor below the folder that mapsto is run in")
        return path
