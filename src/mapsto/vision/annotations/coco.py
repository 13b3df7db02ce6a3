"""COCO's annotations: a JSON file with the pictures, the categories and the boxes of all (Lin et al. 2014).

A bad annotation costs its picture, and is named with its id. What all boxes depend on, such as the categories, must be whole.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import DataError
from mapsto.vision.annotations.picture_set import (
    BoxCell,
    BoxCells,
    PictureSet,
    ambiguity,
    fault,
    fit_to_picture,
    number,
    stated_size,
)

# The lists of a COCO file.
TABLES = ("images", "annotations", "categories")


def read_coco(file: Path) -> dict[str, Any] | None:
    """Return the content of a COCO file with boxes; None if the file is missing or of another format."""
    if file.suffix.lower() != ".json":
        return None
    try:
        with file.open("rb") as stream:
            # Other JSON files can be large, so look at the first character before parsing.
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return None
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in TABLES):
        return None
    has_boxes = any(isinstance(entry, dict) and "bbox" in entry for entry in content["annotations"])
    return content if has_boxes or not content["annotations"] else None


def read_all_coco(pictures: PictureSet) -> BoxCells:
    """Return the boxes in all COCO files of a data set, by picture; empty if it has none.

    Raises DataError if a COCO file is damaged, or if two of them annotate the same picture.
    """
    cells: BoxCells = {}
    file_of_image: dict[str, Path] = {}
    for file in pictures.files:
        if (coco := read_coco(file)) is not None:
            new = coco_cells(file, coco, pictures)
            if duplicate := next((name for name in new if name in file_of_image), None):
                raise DataError(
                    f"{file_of_image[duplicate]} and {file} both tell of {duplicate}; name the one that is meant, not the folder"
                )
            file_of_image |= dict.fromkeys(new, file)
            cells |= new
    return cells


@dataclass
class _Picture:
    """One entry of the images, with what the annotations say of it."""

    entry: dict[str, Any]
    boxes: list[dict[str, Any]]
    reasons: list[str]


def coco_cells(file: Path, coco: dict[str, Any], pictures: PictureSet) -> BoxCells:
    """Return the boxes in one COCO file, by picture. Raises DataError if its categories or images cannot be used.

    coco: the file's parsed content. pictures: where a picture is looked for that is neither in the file's folder nor in the
    subfolder `images`.
    """
    try:
        labels = _labels(coco["categories"])
        entries = _entries(coco["images"], "images")
    except ValueError as error:
        raise DataError(f"{file} cannot be read as COCO's: {error}") from error
    by_id: dict[Any, list[_Picture]] = defaultdict(list)
    picture_entries = [_Picture(entry, [], []) for entry in entries]
    for picture in picture_entries:
        by_id[_id(picture.entry.get("id"))].append(picture)
    missing = _add_boxes(coco["annotations"], labels, by_id)
    for identity, group in by_id.items():
        _require_unique(identity, group)
    cells = _by_path(file, picture_entries, pictures)
    return cells | {str(file.parent / f"{file.stem}-image-{name}.jpg"): fault(text) for name, text in missing.items()}


def _entries(items: list[Any], table: str) -> list[dict[str, Any]]:
    """Return the entries of a table. Raises ValueError if one is no object."""
    for position, entry in enumerate(items):
        if not isinstance(entry, dict):
            raise ValueError(f"entry {position} of {table} is no object")
    return items


def _id(value: object) -> Any:
    """Return an id as a key: only whole numbers and texts are ids, and 1 is not "1" nor true."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _labels(categories: list[Any]) -> dict[Any, str]:
    """Return the names of the categories by id. Raises ValueError if an entry is none, or an id has two names."""
    labels: dict[Any, str] = {}
    for position, entry in enumerate(_entries(categories, "categories")):
        identity, name = _id(entry.get("id")), entry.get("name")
        if identity is None or not isinstance(name, str | int | float) or isinstance(name, bool):
            raise ValueError(f"entry {position} of categories needs an id and a name")
        if labels.setdefault(identity, str(name)) != str(name):
            raise ValueError(f"the category id {identity!r} has two names, {labels[identity]!r} and {str(name)!r}")
    return labels


def _add_boxes(annotations: list[Any], labels: dict[Any, str], by_id: dict[Any, list[_Picture]]) -> dict[str, str]:
    """Add the box of each annotation to its picture, or the reason why it is none; return the reasons by unlisted image id."""
    missing: dict[str, str] = {}
    for position, entry in enumerate(annotations):
        annotation = entry if isinstance(entry, dict) else {}
        identity = annotation.get("id")
        noun = f"annotation {identity!r}" if isinstance(identity, int | str) else f"entry {position} of annotations"
        image_id = _id(annotation.get("image_id"))
        if image_id is None or image_id not in by_id:
            field = repr(annotation.get("image_id"))[:40] if "image_id" in annotation else "no image_id"
            name = "".join(mark if mark.isalnum() else "-" for mark in str(image_id)[:40])
            missing.setdefault(name, f"{noun} has the image_id {field}, which none of the images has")
            continue
        for picture in by_id[image_id]:
            try:
                picture.boxes.append(_box(annotation, labels))
            except ValueError as error:
                picture.reasons.append(f"{noun}: {error}")
    return missing


def _box(annotation: dict[str, Any], labels: dict[Any, str]) -> dict[str, Any]:
    """Return the box of an annotation. Raises ValueError if it has none, or if its category has no name."""
    category, sides = _id(annotation.get("category_id")), annotation.get("bbox")
    if category is None or category not in labels:
        field = repr(annotation.get("category_id"))[:40]
        raise ValueError(f"the category_id {field} is none of the categories")
    if not isinstance(sides, list) or len(sides) != 4:
        raise ValueError(f"its bbox is not [left, top, width, height]: {str(sides)[:60]}")
    x, y, width, height = (number(side, "a side of the bbox") for side in sides)
    box = {"label": labels[category], "box": [x, y, x + width, y + height]}
    # A crowd box covers objects that were not counted, so it is neither learnt nor scored.
    return {**box, "crowd": True} if annotation.get("iscrowd") else box


def _require_unique(identity: object, group: Sequence[_Picture]) -> None:
    """Add a fault to all pictures that share an id, and to those without one. group: the pictures of the id."""
    names = list(dict.fromkeys(str(picture.entry.get("file_name")) for picture in group))
    for picture in group:
        if identity is None:
            picture.reasons.append(f"the image {picture.entry.get('file_name')!r} has no id")
        elif len(names) > 1:
            picture.reasons.append(f"the image id {identity!r} is that of {names[0]!r} and of {names[1]!r}")
    # The same entry twice is one picture, whose boxes were added to both.
    for picture in group[1:] if len(names) == 1 and identity is not None else ():
        picture.boxes.clear()


def _by_path(file: Path, picture_entries: Sequence[_Picture], pictures: PictureSet) -> BoxCells:
    """Return the cells by path. Entries of one picture under several ids give it the boxes of all."""
    grouped: dict[str, list[tuple[_Picture, str]]] = defaultdict(list)
    for position, picture in enumerate(picture_entries):
        name = picture.entry.get("file_name")
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            identity = picture.entry.get("id")
            picture.reasons.append(f"the image {identity!r} has no file_name")
            name = f"{file.stem}-entry-{position}.jpg"
        place = _locate(file, name, pictures)
        if isinstance(place, str):
            picture.reasons.append(place)
        grouped[str(_below(file.parent, name) if isinstance(place, str) else place)].append((picture, name))
    return {path: _cell(Path(path), group) for path, group in grouped.items()}


def _cell(path: Path, group: Sequence[tuple[_Picture, str]]) -> BoxCell:
    """Return the boxes of a picture. group: its entries, each with the file name that it states."""
    names = sorted({name.replace("\\", "/").removeprefix("./") for _, name in group})
    reasons = [reason for picture, _ in group for reason in picture.reasons]
    if len(names) > 1:
        reasons.append(f"the images {names[0]!r} and {names[1]!r} both lead to it")
    if reasons:
        return fault("; ".join(dict.fromkeys(reasons[:3])))
    try:
        return [box for picture, _ in group for box in _fitted(picture, path)]
    except ValueError as error:
        return fault(f"the image {group[0][0].entry['id']!r}: {error}")


def _fitted(picture: _Picture, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the boxes of an entry, turned as the picture is. Raises ValueError if the picture has another size than stated."""
    stated = stated_size(picture.entry.get("width"), picture.entry.get("height"))
    yield from fit_to_picture(picture.boxes, stated, path)


def _below(folder: Path, name: str) -> Path:
    """Return the path of a file in `folder` or below it.

    name: the file's path relative to `folder`; ".." and a leading "/" are dropped, so that it cannot lead out of the folder.
    """
    return folder.joinpath(*(part for part in Path(name).parts if part not in ("..", Path(name).anchor)))


def _locate(file: Path, name: str, pictures: PictureSet) -> Path | str:
    """Return the path of the picture that a COCO file calls `name`.

    It is `name` beside the COCO file or in the folder `images` there, or else the one picture of this file name. If there is
    none, the first of these paths is returned, and a later reader reports it as missing. If there are several, or if a missing
    picture would lie outside the COCO file's folder, an error message is returned.
    """
    if "\\" in name and not os.path.isfile(file.parent / name):
        name = name.replace("\\", "/")
    is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    expected = [file.parent / name, file.parent / "images" / name] if is_inside else []
    if existing := next((path for path in expected if os.path.isfile(path)), None):
        return existing
    candidates = pictures.by_name.get(Path(name).name, [])
    # Of several pictures prefer those in the same subfolder, then those in a folder whose name the file's name contains.
    for narrower in (
        [path for path in candidates if path.as_posix().endswith(f"/{name}")],
        [path for path in candidates if path.parent.name in file.stem],
    ):
        candidates = narrower if len(candidates) > 1 and narrower else candidates
    if len(candidates) > 1:
        return ambiguity(name)
    places: list[Path | str] = [*candidates, *expected, f"{name} leads out of the folder of {file.name}"]
    return places[0]
