"""Boxes as data sets keep them beside their pictures: COCO's JSON, Pascal VOC's XML, YOLO's text.

All become lists of {"label", "box": [left, top, right, bottom]} in pixels, one list for each picture; what cannot be read
becomes {"fault": why}, so that it is one bad cell and not the end of a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mapsto import pictures
from mapsto.errors import DataError

Cell = list[dict[str, Any]] | dict[str, str] | None
Cells = dict[str, Cell]
APART = {
    "annotations",
    "jpegimages",
    "images",
    "labels",
    "xmls",
    "xml",
}  # folders that part pictures from what is said of them
NAMES = ("classes.txt", "obj.names", "labels.txt", "data.yaml", "dataset.yaml", "data.yml")


def read(path: Path) -> Cells:
    """The boxes of every picture that is told of, or lies, in a folder or in COCO's file; nothing for what holds none.

    A picture of which nothing is told has None; but YOLO keeps no file for one that has no boxes. Raises DataError, OSError.
    """
    if not path.is_dir():
        return _coco(path, {}) if _is_coco(path) else {}
    files = list(_files(path))
    images = {_key(path, file): file for file in files if file.suffix.lower() in pictures.SUFFIXES}
    told = [file for file in files if file.suffix.lower() == ".xml"]
    found: Cells = {}
    if told:
        found = dict(_voc(path, file, images) for file in told)
    elif coco := [file for file in files if _is_coco(file)]:
        for file in coco:
            found |= _coco(file, {image.name: image for image in images.values()})
    elif said := {key: file for file in files if file.suffix == ".txt" and (key := _key(path, file)) in images}:
        names = _names(files)
        return {str(file): _yolo(said[key], file, names) if key in said else [] for key, file in images.items()}
    return {**dict.fromkeys(map(str, images.values())), **found} if found else {}


def _files(folder: Path) -> Iterator[Path]:
    for here, inner, names in os.walk(folder, onerror=_refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(here, name) for name in sorted(names) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise error  # a folder that cannot be listed would otherwise be left out without a word


def _key(root: Path, file: Path) -> tuple[str, ...]:
    """Equal for a picture and for what is said of it."""
    parts = file.relative_to(root).with_suffix("").parts
    return *(part for part in parts[:-1] if part.lower() not in APART), parts[-1]


def _voc(root: Path, file: Path, images: dict[tuple[str, ...], Path]) -> tuple[str, Cell]:
    """One file of Pascal VOC (Everingham et al. 2010); objects marked as difficult are objects."""
    own = images.get(_key(root, file))
    try:
        said = ElementTree.fromstring(file.read_bytes())
        found = [
            {
                "label": one.findtext("name", "").strip(),
                "box": [float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")],
            }
            for one in said.iter("object")
        ]
        named = said.findtext("filename", "").strip()
    except (OSError, ValueError, ElementTree.ParseError) as error:
        return str(own or file), {"fault": f"{file.name} cannot be read as Pascal VOC's: {error}"}
    return str(own or file.with_name(Path(named or file.name).name)), found


def _is_coco(file: Path) -> bool:
    """Whether a file is one JSON object with pictures and what is said of them; other JSON holds a table."""
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open("rb") as stream:
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return False
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(said, dict) and isinstance(said.get("images"), list) and "annotations" in said


def _coco(file: Path, images: dict[str, Path]) -> Cells:
    """One file of COCO (Lin et al. 2014); its pictures lie beside it, in a folder `images`, or anywhere in the folder given."""
    said = json.loads(file.read_bytes())
    try:
        names = {one["id"]: str(one["name"]) for one in said.get("categories", [])}
        of: dict[Any, list[dict[str, Any]]] = {one["id"]: [] for one in said["images"]}
        for one in said["annotations"]:
            left, top, width, height = map(float, one["bbox"])
            box = {"label": names[one["category_id"]], "box": [left, top, left + width, top + height]}
            of[one["image_id"]].append({**box, "crowd": True} if one.get("iscrowd") else box)
        return {str(_place(file, str(one["file_name"]), images)): of[one["id"]] for one in said["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO's: {type(error).__name__}: {error}") from error


def _place(file: Path, name: str, images: dict[str, Path]) -> Path:
    near = (file.parent / name, file.parent / "images" / name)
    return next((path for path in near if path.is_file()), images.get(Path(name).name, near[0]))


def _names(files: list[Path]) -> list[str]:
    """The classes by number, from the file that the tools around YOLO write; none where there is no such file."""
    for file in sorted((file for file in files if file.name in NAMES), key=lambda file: NAMES.index(file.name)):
        try:
            text = file.read_text(encoding="utf-8-sig")
            if file.suffix in (".yaml", ".yml"):
                return _in_yaml(text)
            return [line.strip() for line in text.splitlines() if line.strip()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} does not name the classes: {error!r}") from error
    return []


def _in_yaml(text: str) -> list[str]:
    import yaml  # comes with huggingface-hub

    try:
        names = yaml.safe_load(text)["names"]
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return [str(names[at]) for at in sorted(names)] if isinstance(names, dict) else list(map(str, names))


def _yolo(file: Path, image: Path, names: list[str]) -> Cell:
    """One file of YOLO: on each line a class and the middle, width and height of its box as shares of the picture."""
    found: list[dict[str, Any]] = []
    lines = 0
    try:
        wide, high = pictures.size(image.read_bytes())
        for line in file.read_text(encoding="utf-8-sig").splitlines():
            lines += 1
            if line.strip():
                kind, *shares = line.split()[:5]
                x, y, w, h = (float(share) * side for share, side in zip(shares, (wide, high) * 2, strict=True))
                label = names[int(kind)] if names else str(int(kind))
                found.append({"label": label, "box": [x - w / 2, y - h / 2, x + w / 2, y + h / 2]})
    except pictures.Unreadable:
        return []  # the picture itself says what is wrong with it
    except (OSError, ValueError, IndexError) as error:
        return {"fault": f"{file.name}, line {lines}: no class and box as YOLO writes them: {error}"}
    return found
