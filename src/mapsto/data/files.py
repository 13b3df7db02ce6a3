"""Resolve a path to table files, or to media files with one example each, and report what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data import readers
from mapsto.errors import DataError, Finding
from mapsto.task.capabilities import Located
from mapsto.vision import detection_annotations

LABEL = "label"  # the column of the names of folders


MAX_SHOWN = 5


@dataclass(frozen=True)
class FileListing:
    """The files that a path resolves to.

    files: tables, or media files such as images.
    data: the columns of media files: their paths, and what folders and annotations say of them; None for tables.
    remarks: what is left out.
    """

    files: list[Path]
    data: dict[str, list[Any]] | None
    remarks: list[Finding]


@dataclass(frozen=True)
class FolderTree:
    """The contents of a folder, sorted, without hidden files.

    links: links to folders, which are not entered.
    empty: folders without a file.
    """

    files: list[Path]
    links: list[Path]
    empty: list[Path]


def list_files(path: Path) -> FileListing:
    """Resolve a path to table files or media files. Raises DataError for a folder that has neither or cannot be listed."""
    walk = cache(_walked)
    try:
        if (found := _values(path, walk)) is not None:
            return found
        if not path.is_dir():
            readers.require_exists(path)
            return FileListing([path], None, [])
        walked = walk(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    files = [file for file in walked.files if readers.file_format(file) is not None]
    media = list(chain(*kinds.media().values()))
    named = [file for file in walked.files if file.suffix.lower() in media]  # a table may name them
    remarks = _aside(path, walked, {*files, *named})
    if not files:
        raise DataError(f"{path} holds no file of these kinds: {', '.join((*readers.READERS, *media))}", remarks)
    return FileListing(files, None, remarks)


def _walked(path: Path) -> FolderTree:
    """Walk a folder and its subfolders. Raises OSError."""
    files: list[Path] = []
    links: list[Path] = []
    empty: list[Path] = []
    for folder, inner, names in os.walk(path, onerror=_refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        here = [Path(folder, name) for name in names if not name.startswith(".")]
        files += [file for file in here if file.is_file() or _leads_nowhere(file)]
        links += [link for name in inner if (link := Path(folder, name)).is_symlink()]
        if not inner and not here:
            empty.append(Path(folder))
    return FolderTree(sorted(files), sorted(links), sorted(empty))


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be listed would otherwise be left out without a word


def _leads_nowhere(file: Path) -> bool:
    """Return whether a file is a broken link, which counts as a row that cannot be read."""
    return file.is_symlink() and not file.exists()


def _aside(root: Path, walk: FolderTree, taken: Collection[Path]) -> list[Finding]:
    """Return remarks on what is below a folder and is not read.

    taken: files that need no remark.
    """
    read = set(taken)
    endings = Counter(file.suffix.lower() or file.name for file in walk.files if file not in read)
    said = [
        ("links to folders are not followed: ", [str(link.relative_to(root)) for link in walk.links]),
        ("nothing stands in the folders ", [str(folder.relative_to(root)) for folder in walk.empty if folder != root]),
        ("left out by their endings: ", [f"{ending} ({count:,})" for ending, count in endings.most_common()]),
    ]
    return [Finding(str(root), None, None, None, f"{what}{_few(names)}") for what, names in said if names]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return f"{', '.join(names[:MAX_SHOWN])}{more}"


def _values(path: Path, walk: Callable[[Path], FolderTree]) -> FileListing | None:
    """Resolve a media file, or a folder of them, with annotations and with the names of subfolders as labels.

    Return None for tables. Raises DataError, OSError.
    """
    of = next((kind for kind, suffixes in kinds.media().items() if path.suffix.lower() in suffixes), None)
    if of is not None and path.is_file():
        return FileListing([path], {of: [str(path)]}, [])
    if told := _told(path, lambda folder: walk(folder).files):
        (of,) = {target.lies_in for target in _located_targets() if target.kind in told}
        remarks = _aside(path, walk(path), walk(path).files) if path.is_dir() else []
        return _named(of, path, sorted({name for found in told.values() for name in found}), told, remarks)
    if not path.is_dir():
        return None
    formats = list(filter(None, map(readers.file_format, walk(path).files)))
    if set(formats) - {"txt"}:
        return None
    for kind, suffixes in kinds.media().items():
        files = [file for file in walk(path).files if file.suffix.lower() in suffixes]
        # A few pictures among many texts belong to them, and a few texts to many pictures.
        if len(files) > len(formats):
            return _named(kind, path, list(map(str, files)), {}, _aside(path, walk(path), files))
    return None


def _named(
    kind: str, root: Path, files: list[str], told: dict[str, dict[str, Any]], remarks: Sequence[Finding]
) -> FileListing:
    """Names of files of a kind, the folders below `root` in which they stand, as labels, and what is told of them. Folders that
    but part files from what is told of them are no labels."""
    data: dict[str, list[Any]] = {kind: files}
    apart = detection_annotations.SPLIT_FOLDERS if told else ()
    inner = [
        [part for part in Path(file).relative_to(root).parts[:-1] if part.lower() not in apart]
        if Path(file).is_relative_to(root)
        else []
        for file in files
    ]
    if any(inner):
        data[LABEL] = [next(iter(parts), None) for parts in inner]
    data |= {answered: [found.get(file) for file in files] for answered, found in told.items()}
    return FileListing(list(map(Path, files)), data, [*remarks, *_deeper(root, inner)])


def _deeper(root: Path, inner: Iterable[Sequence[str]]) -> list[Finding]:
    """Return a remark if folders are nested, since then the outer ones are the labels."""
    deep = [parts for parts in inner if len(parts) > 1]
    if not deep:
        return []
    outer, others = (list(dict.fromkeys(parts[at] for parts in deep)) for at in (0, 1))
    reason = f"labels are the names of the outer folders ({_few(outer)}), not of those within ({_few(others)})"
    return [Finding(str(root), None, LABEL, None, reason)]


def _located_targets() -> list[type[Located]]:
    return [target for target in kinds.targets() if issubclass(target, Located)]


def _told(path: Path, within: Callable[[Path], list[Path]]) -> dict[str, dict[str, Any]]:
    """Return the annotations at a path, by target kind and media file."""
    told = ((target.kind, target.annotations(path, within)) for target in _located_targets())
    return {kind: found for kind, found in told if found}
