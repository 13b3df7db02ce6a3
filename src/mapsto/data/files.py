"""Resolve a path to table files, or to media files with one example each, and list what is not read."""

from __future__ import annotations

import errno
import glob
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data import readers
from mapsto.data.formats import conll, folders
from mapsto.errors import DataError, Finding, UsageError
from mapsto.files import read_json, remote
from mapsto.task.target_capabilities import Located
from mapsto.text.pairs import parallel_lines
from mapsto.text.tagging import brat
from mapsto.vision import detection_annotations
from mapsto.vision.annotations.class_names import PART_FOLDER

LABEL = "label"  # the column that takes the names of folders
MAX_SHOWN = 5  # number of names that a remark lists


@dataclass(frozen=True)
class FileListing:
    """The files that a path stands for: either table files, or media files (images, videos) with one example each.

    files: the table files or the media files.
    data: for media files the cells by column: paths, labels from folder names, annotations; for texts with annotations beside
        them (brat) the texts and their tags. None for table files.
    remarks: notes on files and folders that are not read.
    parallel: the column of each file if all files together are one table, of which each holds a column, one value a line.
    """

    files: list[Path]
    data: dict[str, list[Any]] | None
    remarks: list[Finding]
    parallel: Sequence[str] = ()
    # False if `data` has names of columns that no file gave; see `FilePart`.
    names_columns: bool = True
    # For each table file the cells, by column, that the names of its folders give all of its rows.
    partitions: Mapping[Path, folders.Cells] = field(default_factory=dict)


@dataclass(frozen=True)
class FolderTree:
    """The contents of a folder and all its subfolders, each list sorted. Names that begin with a dot are left out.

    links: symbolic links to folders, which are not followed.
    empty: folders that hold nothing.
    special: pipes, sockets and devices, which are not read, since reading them might never end.
    """

    files: list[Path]
    links: list[Path]
    empty: list[Path]
    special: list[Path] = field(default_factory=list)


def is_path(source: Any) -> bool:
    """Return whether `source`, from which a table is to be read, is a path (str or PathLike) and no Python object of rows."""
    return isinstance(source, str | os.PathLike)


def require_no_input(out: Path | None, *inputs: Path | None) -> None:
    """Raise UsageError if the file that is to be written is one of the input's files, which it would replace.

    inputs: paths as for `list_files`; None for an input that is not there.
    """
    if out is None or not out.exists():
        return
    for path in inputs:
        if path is not None and any(file.samefile(out) for file in list_files(path).files if file.exists()):
            raise UsageError(f"{out} is the input itself; name another file to write")


def list_files(path: Path) -> FileListing:
    """Return the files that `path` stands for: a file, a folder of tables or of media files, a list as "a.en,a.de" or
    "a.csv,b.csv", or a pattern as "part-*.csv".

    An address such as s3://bucket/train.csv is fetched first (files/remote.py); a remark says what was fetched.
    Raises DataError if the path does not exist or cannot be listed, or if its folder has no file of a known format.
    """
    if remote.is_address(path):
        fetched = remote.fetch(path)
        local = list_files(fetched.path)
        note = Finding(remote.public_address(path), None, None, None, fetched.summary)
        return replace(local, remarks=[note, *local.remarks])
    # Several steps below list the same folder, which may be large.
    walk = cache(_walk)
    try:
        if files := table_files(path):
            return _list_matches(path, files)
        if files := parallel_files(path):
            return FileListing(files, None, [], _name_columns(files))
        if files := _saved_dataset(path):
            return FileListing(files, None, [])
        if (listing := _list_brat(path, walk) or _list_media(path, walk)) is not None:
            return listing
        if not path.is_dir():
            readers.require_exists(path)
            return FileListing([path], None, [])
        tree = walk(path)
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    files = [file for file in tree.files if readers.file_format(file) is not None]
    media = list(chain(*kinds.media().values()))
    media_files = [file for file in tree.files if file.suffix.lower() in media]  # a table may name them
    remarks = _describe_left_out(path, tree, {*files, *media_files})
    if not files:
        raise DataError(f"{path} holds no file of these kinds: {', '.join((*readers.READERS, *media))}", remarks)
    return _list_tables(path, files, remarks)


def _list_tables(root: Path, files: list[Path], remarks: Sequence[Finding]) -> FileListing:
    """Return the listing of table files below `root`, with the columns that the names of folders give.

    remarks: notes on what is not read, to which those on partitions and on parts of a data set are added.
    """
    partitions = folders.read_partitions(root, files)
    columns = dict.fromkeys(chain(*partitions.values()))
    notes = [*_describe_partitions(root, columns), *_describe_parts(root, folders.name_parts(root, files))]
    return FileListing(files, None, [*remarks, *notes], partitions=partitions)


def join_paths(paths: Sequence[Path]) -> Path:
    """Return one path that stands for several table files, such as "data/a.csv,b.csv"; see `table_files`. Addresses are fetched.

    Raises UsageError if one of several is no table file, or if its name has a comma.
    """
    if len(paths) == 1:
        return paths[0]
    for path in paths:
        if readers.file_format(path) is None or path.is_dir():
            raise UsageError(f"several inputs are table files, such as a.csv b.csv, but {path} is none")
        if "," in str(path):
            raise UsageError(f"{path}: of several inputs none may have a comma in its name")
    paths = [remote.fetch(path).path if remote.is_address(path) else path for path in paths]
    first, *rest = paths
    names = [path.name if path.parent == first.parent else str(path.resolve()) for path in rest]
    return Path(",".join([str(first), *names]))


def listed_files(path: Path) -> list[Path]:
    """Return the files of a path that names several ones, tables or parallel texts; [] for any other path."""
    return table_files(path) or parallel_files(path)


def table_files(path: Path) -> list[Path]:
    """Return the table files of a list as "data/a.csv,b.csv", or the files of a pattern as "data/part-*.csv"; [] for other paths.

    A later file of a list may stand beside the first one. Files whose lines belong together (texts) are no such list.
    Raises DataError if no file matches a pattern, OSError if the path is no valid file name.
    """
    names = str(path).split(",")
    patterns = [name for name in names if glob.has_magic(name)]
    if (len(names) == 1 and not patterns) or not all(names) or any(name != name.strip() for name in names):
        return []
    if _exists(path):
        return []
    if any(not glob.has_magic(name) and readers.file_format(Path(name)) in (None, "txt") for name in names):
        return []
    folder, files = Path(names[0]).parent, list[Path]()
    for name in names:
        if not glob.has_magic(name) or _exists(Path(name)):
            files.append(Path(name) if _exists(Path(name)) else folder / Path(name))
            continue
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        if not matches and len(patterns) == len(names) == 1 and not _is_pattern_of_files(name):
            return []
        if not matches:
            raise DataError(f"no file matches {name}")
        files += [match for match in matches if match.is_file()]
    return files


def _is_pattern_of_files(name: str) -> bool:
    """Return whether a name that matches nothing was meant as a pattern of files, by its suffix or folder."""
    return readers.file_format(Path(name)) is not None or (os.sep in name and " " not in name)


def _exists(path: Path) -> bool:
    """Return whether a path exists; a list of many files may be too long for a name."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def _list_matches(path: Path, files: list[Path]) -> FileListing:
    """Return the listing of several files, all of them tables, or all media files of one kind.

    Raises DataError for files of other types, and for both together.
    """
    if all(readers.file_format(file) is not None for file in files):
        reason = f"{len(files):,} files are read as one table: {_shorten_list(list(map(str, files)))}"
        root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
        listing = _list_tables(root, files, [Finding(str(path), None, None, None, reason)])
        # Files that are listed one by one may be those of all parts.
        return listing if glob.has_magic(str(path)) else replace(listing, remarks=listing.remarks[:1])
    for kind, suffixes in kinds.media().items():
        if all(file.suffix.lower() in suffixes for file in files):
            root = Path(os.path.commonpath([file.parent for file in files]))
            return _build_listing(kind, root, list(map(str, files)), {}, [])
    unknown = next(file for file in files if readers.file_format(file) is None)
    raise DataError(f"{path}: these are tables, or all pictures or all videos, but {unknown} is not like the others")


def _saved_dataset(path: Path) -> list[Path]:
    """Return the Arrow files of a data set in a folder, as Hugging Face's `save_to_disk` writes it; [] for other folders.

    Raises DataError for a folder with several splits, and for a damaged one.
    """
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / "state.json").is_file())
        raise DataError(
            f"{path} holds the splits {', '.join(splits)}: name one, such as {path / (splits or ['train'])[0]}"
        )
    if not ((path / "state.json").is_file() and (path / "dataset_info.json").is_file()):
        return []
    state = read_json(path / "state.json")
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path / 'state.json'} names no files of rows") from error
    if state.get("_indices_data_files"):
        raise DataError(f"{path} holds a selection of rows as indices; save it again with a newer version of datasets")
    files = [path / str(name) for name in names]
    for file in files:
        if file.parent != path:
            raise DataError(f"{path / 'state.json'} names a file outside of its folder: {file}")
        readers.require_exists(file)
    return files


def parallel_files(path: Path) -> list[Path]:
    """Return the files of a list as "data/a.en,a.de", in which the lines of one number belong together; [] for other paths.

    A later file without a folder may stand beside the first one. A single file counts if its suffix names a language or a side
    (a.en, a.src). Raises OSError if the path is no valid file name.
    """
    names = str(path).split(",")
    first = Path(names[0])
    if _exists(path) or len(names) == 1 or any(name != name.strip() or not name for name in names):
        is_side = (
            _exists(path)
            and path.is_file()
            and readers.file_format(path) is None
            and parallel_lines.side_name(path) is not None
        )
        return [path] if is_side else []
    files = [path if (path := Path(name)).exists() else first.parent / name for name in names[1:]]
    return [first, *files] if any(file.is_file() for file in (first, *files)) else []


def _name_columns(files: Sequence[Path]) -> list[str]:
    """Return the names of the columns of parallel files.

    Raises DataError if a file does not exist or is a table of another format, or if the names of two files do not differ.
    """
    for file in files:
        readers.require_exists(file)
        if readers.file_format(file) not in (None, "txt"):
            raise DataError(f"{file}: a list of files has texts with one value on a line, not tables")
    names = parallel_lines.column_names(files)
    if not names:
        raise DataError(f"the columns cannot be named by these files, which differ in their folders alone: {files}")
    return names


def _walk(path: Path) -> FolderTree:
    """Return the contents of a folder and its subfolders. Raises OSError if one of them cannot be listed."""
    files: list[Path] = []
    links: list[Path] = []
    empty: list[Path] = []
    special: list[Path] = []
    for folder, inner, names in os.walk(path, onerror=_refuse):
        # Changed in place, since os.walk descends into the folders that remain in this list.
        inner[:] = [name for name in inner if not name.startswith(".")]
        visible = [Path(folder, name) for name in names if not name.startswith(".")]
        for file in visible:
            (files if file.is_file() or _leads_nowhere(file) else special).append(file)
        links += [link for name in inner if (link := Path(folder, name)).is_symlink()]
        if not inner and not visible:
            empty.append(Path(folder))
    return FolderTree(sorted(files), sorted(links), sorted(empty), sorted(special))


def _refuse(error: OSError) -> None:
    """Raise `error`. Passed to os.walk, which would otherwise skip a folder that it cannot list."""
    raise error


def _leads_nowhere(file: Path) -> bool:
    """Return whether a file is a broken symbolic link. `_walk` keeps such files, to report them as rows that cannot be read."""
    return file.is_symlink() and not file.exists()


def _describe_left_out(root: Path, tree: FolderTree, without_remark: Collection[Path]) -> list[Finding]:
    """Return remarks on what is not read below `root`: linked and empty folders, pipes, and files of other types by suffix.

    tree: the contents of `root`. without_remark: files that are read or need no remark.
    """
    read = set(without_remark)
    endings = Counter(file.suffix.lower() or file.name for file in tree.files if file not in read)
    remarks = [
        ("links to folders are not followed: ", [str(link.relative_to(root)) for link in tree.links]),
        ("pipes and devices are not read: ", [str(file.relative_to(root)) for file in tree.special]),
        ("nothing stands in the folders ", [str(folder.relative_to(root)) for folder in tree.empty if folder != root]),
        ("left out by their endings: ", [f"{ending} ({count:,})" for ending, count in endings.most_common()]),
    ]
    return [
        Finding(str(root), None, None, None, f"{message}{_shorten_list(names)}") for message, names in remarks if names
    ]


def _shorten_list(names: Sequence[str]) -> str:
    """Return the first MAX_SHOWN names as text, followed by the number of the other names if there are more."""
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return f"{', '.join(names[:MAX_SHOWN])}{more}"


def _list_brat(path: Path, walk: Callable[[Path], FolderTree]) -> FileListing | None:
    """Return the listing of texts with brat's annotations beside them, doc.txt and doc.ann, as texts and tags; None without any.

    path: a folder, or one of the two files. walk: function that returns the contents of a folder.
    Raises DataError for a file that is no UTF-8, or annotations without their text; OSError for one that cannot be read.
    """
    is_annotated = path.suffix.lower() in (brat.SUFFIX, ".txt") and path.with_suffix(brat.SUFFIX).is_file()
    tree = walk(path) if path.is_dir() else FolderTree([path.with_suffix(brat.SUFFIX)] if is_annotated else [], [], [])
    annotation_files = [file for file in tree.files if file.suffix.lower() == brat.SUFFIX]
    if not annotation_files:
        return None
    texts = [file.with_suffix(".txt") for file in annotation_files]
    if missing := next((file for file in texts if not file.is_file()), None):
        raise DataError(f"{missing.with_suffix(brat.SUFFIX)} annotates {missing.name}, which is not beside it")
    documents = [
        brat.read_document(_read_text(text), _read_text(file).splitlines())
        for text, file in zip(texts, annotation_files, strict=True)
    ]
    num_left_out = sum((document.num_left_out for document in documents), Counter[str]())
    alone = sorted({file for file in tree.files if file.suffix.lower() == ".txt"} - set(texts))
    remarks = _describe_left_out(path, tree, {*texts, *annotation_files, *alone}) if path.is_dir() else []
    if alone:
        listing = _shorten_list([f"{file.name} ({file.with_suffix(brat.SUFFIX).name} is missing)" for file in alone])
        reason = f"documents left out, since no annotations stand beside them: {listing}"
        remarks.append(Finding(str(path), None, None, None, reason))
    if num_left_out:
        names = ", ".join(f"{count:,} {name}" for name, count in num_left_out.most_common())
        remarks.append(Finding(str(path), None, None, None, f"left out, since they are no tags: {names}"))
    remarks += _describe_parts(path, folders.name_parts(path, texts)) if path.is_dir() else []
    cells = ([document.text for document in documents], [document.cell for document in documents])
    data: dict[str, list[Any]] = dict(zip(conll.COLUMNS, cells, strict=True))
    return FileListing(texts, data, remarks, names_columns=False)


def _read_text(path: Path) -> str:
    """Return the text of a UTF-8 file with its line ends as they are, which count. Raises DataError for another encoding."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8: {error.reason} at byte {error.start}") from error


def _list_media(path: Path, walk: Callable[[Path], FolderTree]) -> FileListing | None:
    """Return the listing of a media file, a folder of media files, or annotation files; None if `path` is to be read as tables.

    Annotations become columns, and names of subfolders become labels.
    walk: function that returns the contents of a folder.
    Raises DataError for annotations that cannot be understood, OSError for a file or folder that cannot be read.
    """
    medium = next((kind for kind, suffixes in kinds.media().items() if path.suffix.lower() in suffixes), None)
    # A pipe with the name of a picture or a sound is a value that cannot be read, and no table.
    if medium is not None and path.exists() and not path.is_dir():
        return FileListing([path], {medium: [str(path)]}, [], names_columns=False)
    if annotations := _read_annotations(path, lambda folder: walk(folder).files):
        (medium,) = {target.lies_in for target in _located_targets() if target.kind in annotations}
        remarks = _describe_left_out(path, walk(path), walk(path).files) if path.is_dir() else []
        return _build_listing(
            medium, path, sorted({name for values in annotations.values() for name in values}), annotations, remarks
        )
    if not path.is_dir():
        return None
    formats = list(filter(None, map(readers.file_format, walk(path).files)))
    # Media files beside tables are values that the tables name. Text files are often mere notes.
    if set(formats) - {"txt"}:
        return None
    for kind, suffixes in kinds.media().items():
        files = [file for file in walk(path).files if file.suffix.lower() in suffixes]
        # Of text files and media files the more frequent ones are the data, and the others belong to them.
        if len(files) > len(formats):
            return _build_listing(kind, path, list(map(str, files)), {}, _describe_left_out(path, walk(path), files))
    return None


def _build_listing(
    kind: str, root: Path, files: list[str], annotations: dict[str, dict[str, Any]], remarks: Sequence[Finding]
) -> FileListing:
    """Return the listing of media files with their annotations and, as labels, the names of their folders below `root`.

    kind: the source kind of the files, which names their column. files: their paths.
    annotations: answers by target kind and file. With annotations, folders that only sort files, such as "images" or "xmls",
        are no labels.
    remarks: notes on what is not read, to which one on nested folders may be added.
    """
    data: dict[str, list[Any]] = {kind: files}
    split_folders = detection_annotations.SPLIT_FOLDERS if annotations else ()
    partitions = [
        folders.read_partitions(root, [Path(file)])[Path(file)] if _is_below(root, file) else {} for file in files
    ]
    columns = dict.fromkeys(chain(*partitions))
    data |= {name: [cells.get(name) for cells in partitions] for name in columns if name != kind}
    inner = [
        [
            part
            for part in Path(file).relative_to(root).parts[:-1]
            if part.lower() not in split_folders and not folders.PARTITION.fullmatch(part)
        ]
        if _is_below(root, file)
        else []
        for file in files
    ]
    if any(inner) and LABEL not in columns:
        data[LABEL] = [next(iter(parts), None) for parts in inner]
    data |= {target_kind: [values.get(file) for file in files] for target_kind, values in annotations.items()}
    outer = dict.fromkeys(parts[0] for parts in inner if parts)
    parts = _describe_parts(root, [name for name in outer if PART_FOLDER.fullmatch(name)]) if annotations else []
    parts = [*_describe_partitions(root, columns), *parts]
    notes = [*remarks, *parts, *_describe_nesting(root, inner)]
    # The column of the files is named after their kind, and an arrow may name it otherwise, as in `noisy:sound -> clean:sound`.
    return FileListing(list(map(Path, files)), data, notes, names_columns=False)


def _is_below(root: Path, file: str) -> bool:
    """Return whether a file lies below a folder by its path."""
    return Path(file).is_relative_to(root)


def _describe_partitions(root: Path, columns: Collection[str]) -> list[Finding]:
    """Return a list of one remark on the columns that the names of folders give, if there are any, else []."""
    if not columns:
        return []
    reason = f"the names of folders give the columns {_shorten_list(list(map(repr, columns)))}"
    return [Finding(str(root), None, None, None, reason)]


def _describe_parts(root: Path, parts: Sequence[str]) -> list[Finding]:
    """Return a list of one remark if files are in several parts of a data set, such as train and valid, else [].

    parts: the names of the folders or files of each part.
    """
    if len(parts) < 2:
        return []
    reason = f"the parts {_shorten_list(parts)} are read as one; name one of them to keep them separate"
    return [Finding(str(root), None, None, None, reason)]


def _describe_nesting(root: Path, inner: Iterable[Sequence[str]]) -> list[Finding]:
    """Return a list of one remark if folders are nested, since only the outermost become labels; else an empty list.

    inner: for each file the names of its folders below `root`, the outermost first.
    """
    deep = [parts for parts in inner if len(parts) > 1]
    if not deep:
        return []
    outer, nested = (list(dict.fromkeys(parts[depth] for parts in deep)) for depth in (0, 1))
    reason = f"labels are the names of the outer folders ({_shorten_list(outer)}), not of those within ({_shorten_list(nested)})"
    return [Finding(str(root), None, LABEL, None, reason)]


def _located_targets() -> list[type[Located]]:
    """Return the target kinds whose answers are in raw coordinates of a source, such as boxes.

    Only answers of these kinds are read from annotation files.
    """
    return [target for target in kinds.targets() if issubclass(target, Located)]


def _read_annotations(path: Path, list_folder: Callable[[Path], list[Path]]) -> dict[str, dict[str, Any]]:
    """Return the answers in annotation files at a path, by target kind and then by media file; empty if there are none.

    list_folder: function that returns the files of a folder and its subfolders.
    """
    annotations = ((target.kind, target.annotations(path, list_folder)) for target in _located_targets())
    return {kind: values for kind, values in annotations if values}
