"""YOLO's class names: the entry `names` of a YAML file, or a text with a name on each line.

A class number is looked up under its own number, and a name stays as it is written: YAML's types would turn `no` into false
and 1.0 into a float. Anchors and aliases are refused, since a few nested ones stand for gigabytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import DataError

# Files that name the classes.
CLASS_FILES = ("classes.txt", "obj.names", "labels.txt", "data.yaml", "dataset.yaml", "data.yml")
YAML_SUFFIXES = (".yaml", ".yml")

# Folders that hold a part of a data set, so that its class names may be in the folder above.
PART_FOLDER = re.compile(r"(train|val|valid|validation|test|images|labels)(ing)?[-_]?\d*", re.IGNORECASE)

# The most bytes of a file of class names, and levels of nesting in a YAML file. Parsing is slow: half a second for 100 KiB.
MAX_CLASS_BYTES, MAX_DEPTH = 256 * 2**10, 16


@dataclass(frozen=True)
class ClassNames:
    """The names of YOLO's classes by class number.

    file: the file that names them; None if none does, so that a class has its number as name.
    keypoints: how many numbers of a pose stand behind each box.
    """

    names: dict[int, str]
    file: Path | None = None
    keypoints: int = 0

    def label(self, number: int) -> str:
        """Return the name of a class. Raises ValueError if the file names others and not this one."""
        if self.file is None:
            return str(number)
        if number not in self.names:
            raise ValueError(f"there is no class {number} among the {len(self.names)} that {self.file.name} names")
        return self.names[number]


def read_class_names(root: Path, files: Sequence[Path]) -> ClassNames:
    """Return the class names of a data set; names without a file if nothing names them.

    root: the folder of the data set; if none of its `files` names classes, one in the folders above it may.
    Raises DataError for a damaged file, and if two files name the classes differently.
    """
    readings = [names for file in files if (names := _read(file)) is not None]
    readings = readings or list(_read_above(root.absolute()))[:1]
    if not readings:
        return ClassNames({})
    # Of equal ones the last is a YAML file, which may also tell of keypoints.
    readings.sort(key=lambda reading: _rank(reading.file))
    for reading in readings:
        if reading.names != readings[-1].names:
            raise DataError(
                f"{readings[-1].file} and {reading.file} name the classes differently; remove the one that is not meant"
            )
    return readings[-1]


def _rank(file: Path | None) -> tuple[bool, str]:
    """Return a key that sorts YAML files behind others."""
    return file is not None and file.suffix.lower() in YAML_SUFFIXES, str(file)


def _read(file: Path) -> ClassNames | None:
    """Return the classes that a file names; None if it is no such file. Raises DataError if it is damaged."""
    is_yaml, is_usual = file.suffix.lower() in YAML_SUFFIXES, file.name.lower() in CLASS_FILES
    if not is_yaml and not is_usual:
        return None
    try:
        text = _read_text(file)
        if not is_yaml:
            return ClassNames(_names_by_line(text), file)
        # A YAML file of another name may be about anything.
        return _yaml_names(text, file) if is_usual or re.search(r"^names[ \t]*:", text, re.MULTILINE) else None
    except (OSError, ValueError) as error:
        if not is_usual and isinstance(error, OSError):
            return None
        raise DataError(f"{file} does not name the classes: {error}") from error


def _read_text(file: Path) -> str:
    """Return the text of a file. Raises OSError, and ValueError if it is too large, no regular file or not UTF-8."""
    if not file.is_file():
        raise ValueError("this is no file")
    if (size := file.stat().st_size) > MAX_CLASS_BYTES:
        raise ValueError(f"{size:,} bytes are more than the {MAX_CLASS_BYTES:,} that are read")
    # "utf-8-sig", because files written on Windows may start with a byte-order mark.
    return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _names_by_line(text: str) -> dict[int, str]:
    """Return the class names of a text with a name on each line; the number of a class is that of its line, from 0."""
    return {number: line.strip() for number, line in enumerate(text.split("\n")) if line.strip()}


def _read_above(root: Path) -> Iterator[ClassNames]:
    """Yield the classes that files in the folders above a data set name, the nearest first.

    root: an absolute path. In the folder above a part such as `train` any usual file counts; else the YAML file must name the
    data set by its entries `path`, `train`, `val` or `test`.
    """
    folder = root
    while folder.parent != folder:
        is_part = PART_FOLDER.fullmatch(folder.name) is not None
        folder = folder.parent
        try:
            files = sorted(file for file in folder.iterdir() if file.is_file())
        except OSError:
            return
        for file in files:
            if is_part and file.name.lower() in CLASS_FILES and (names := _names_above(file)) is not None:
                yield names
            elif file.suffix.lower() in YAML_SUFFIXES and _refers_to(file, root):
                names = _read(file)
                if names is not None:
                    yield names
        if not is_part:
            return


def _names_above(file: Path) -> ClassNames | None:
    """Return the classes that a file above the data set names; None for a YAML file of other things."""
    if file.suffix.lower() in YAML_SUFFIXES and "names" not in _read_text(file):
        return None
    return _read(file)


def _refers_to(file: Path, root: Path) -> bool:
    """Return whether the entries of a YAML file name the data set at `root`: its parts or the last folder of its path."""
    try:
        entries = {key: node for key, node, _ in _entries(_root_node(_read_text(file)))}
    except (OSError, ValueError):
        return False
    scalars = {key: str(entries[key].value) for key in ("path", "train", "val", "test") if _is_scalar(entries.get(key))}
    data_set = next(folder for folder in (root, *root.parents) if not PART_FOLDER.fullmatch(folder.name))
    if "path" in scalars and Path(scalars["path"]).name == data_set.name:
        return True
    base, above, real = file.parent / scalars.pop("path", ""), os.path.realpath(file.parent), os.path.realpath(root)
    parts = [os.path.realpath(base / value) for value in scalars.values() if "\0" not in f"{base}{value}"]
    # A part that contains the folder of the YAML file itself would tell of all that is below.
    return any(Path(part).is_relative_to(real) or (part != above and Path(real).is_relative_to(part)) for part in parts)


def parts_of_data_set(file: Path) -> dict[str, str]:
    """Return the entries train, val and test of a YAML file that names YOLO's classes; empty for any other file.

    Raises DataError if the names cannot be read.
    """
    if file.suffix.lower() not in YAML_SUFFIXES or not file.is_file() or _read(file) is None:
        return {}
    entries = {key: node for key, node, _ in _entries(_root_node(_read_text(file)))}
    return {part: str(entries[part].value) for part in ("train", "val", "test") if _is_scalar(entries.get(part))}


def _root_node(text: str) -> Any:
    """Return the node at the root of a YAML text, whose scalars stay as they are written; None for an empty text.

    Raises ValueError for damaged YAML, anchors, aliases and deep nesting.
    """
    import yaml  # a dependency of huggingface-hub

    depth = 0
    try:
        # Checked on the events, since building the nodes is recursive.
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            if getattr(event, "anchor", None) is not None:
                raise ValueError(f"line {event.start_mark.line + 1}: anchors and aliases (& and *) are not read")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError(f"line {event.start_mark.line + 1}: more than {MAX_DEPTH} levels of nesting")
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _entries(node: Any) -> list[tuple[str, Any, int]]:
    """Return (key, node, line) for each entry of a YAML mapping. Raises ValueError for other nodes or keys."""
    if not _is_mapping(node):
        raise ValueError("this is no list of entries `key: value`")
    for key, _ in node.value:
        if not _is_scalar(key):
            raise ValueError(f"line {key.start_mark.line + 1}: a key is text or a number")
    return [(key.value, value, key.start_mark.line + 1) for key, value in node.value]


def _is_mapping(node: Any) -> bool:
    """Return whether a YAML node is a mapping."""
    return type(node).__name__ == "MappingNode"


def _is_sequence(node: Any) -> bool:
    """Return whether a YAML node is a sequence."""
    return type(node).__name__ == "SequenceNode"


def _is_scalar(node: Any) -> bool:
    """Return whether a YAML node is a scalar."""
    return type(node).__name__ == "ScalarNode"


def _yaml_names(text: str, file: Path) -> ClassNames:
    """Return the classes that a YAML text names. Raises ValueError if it names none, or does not hold together."""
    entries: dict[str, Any] = {}
    for key, node, line in _entries(_root_node(text)):
        if key in entries and key in ("names", "nc"):
            raise ValueError(f"line {line}: {key} is there twice")
        entries[key] = node
    if "names" not in entries:
        raise ValueError("there is no entry `names`")
    names = _names(entries["names"])
    count = str(entries["nc"].value).strip() if "nc" in entries else ""
    # The number of classes is meant, or that of class numbers, some of which may have no name.
    if count and count not in (str(len(names)), str(max(names, default=-1) + 1)):
        raise ValueError(f"nc is {count[:40]}, and names has {len(names)} entries")
    shape = entries.get("kpt_shape")
    sizes = [item.value for item in shape.value] if shape is not None and _is_sequence(shape) else []
    is_pose = len(sizes) == 2 and all(re.fullmatch(r"\d{1,4}", str(size), re.ASCII) for size in sizes)
    return ClassNames(names, file, int(sizes[0]) * int(sizes[1]) if is_pose else 0)


def _names(node: Any) -> dict[int, str]:
    """Return the class names in the entry `names`, a list, or a mapping by class number in any order.

    A blank name is left out. Raises ValueError for another entry.
    """
    if _is_sequence(node):
        items = [(str(number), item, item.start_mark.line + 1) for number, item in enumerate(node.value)]
    elif _is_mapping(node):
        items = _entries(node)
    else:
        raise ValueError(f"line {node.start_mark.line + 1}: `names` is a list, or has a name for each class number")
    names: dict[int, str] = {}
    for key, item, line in items:
        if not re.fullmatch(r"\d{1,9}", key.strip(), re.ASCII):
            raise ValueError(f"line {line}: {key[:40]!r} is no class number")
        if not _is_scalar(item):
            raise ValueError(f"line {line}: the name of class {key} is no text")
        if int(key) in names:
            raise ValueError(f"line {line}: class {int(key)} has two names, {names[int(key)]!r} and {item.value!r}")
        names[int(key)] = item.value.strip()
    return {number: name for number, name in names.items() if name}
