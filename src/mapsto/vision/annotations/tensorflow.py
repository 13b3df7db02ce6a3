"""TensorFlow's table of boxes: a csv with the columns filename, width, height, class, xmin, ymin, xmax, ymax, a box on a row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto.errors import DataError
from mapsto.vision.annotations.picture_set import (
    Annotation,
    BoxCell,
    BoxCells,
    PictureSet,
    ambiguity,
    fault,
    fit_to_picture,
    join,
    last_part,
    number,
    picture_path,
    stated_size,
)

SIDES = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = {"filename", "class", *SIDES}

# The most bytes of the header line.
MAX_HEADER_BYTES = 4096


def is_tensorflow(file: Path) -> bool:
    """Return whether a file is a csv with these columns, in any order."""
    if file.suffix.lower() != ".csv":
        return False
    try:
        with file.open("rb") as stream:
            line = stream.readline(MAX_HEADER_BYTES).decode("utf-8-sig")
    except (OSError, ValueError):
        return False
    return set(_header(line)) >= COLUMNS


def _header(line: str) -> Sequence[str]:
    """Return the column names in the first line of a csv."""
    return [name.strip() for name in next(csv.reader([line]), [])]


@dataclass
class _Picture:
    """Boxes, stated sizes and faults from the rows of one picture."""

    boxes: list[dict[str, Any]] = field(default_factory=list)
    sizes: set[tuple[float, float]] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)


def read_all_tensorflow(pictures: PictureSet) -> BoxCells:
    """Return the boxes in all such tables of a data set, by picture. Raises DataError if a table cannot be read."""
    return join(chain.from_iterable(table_cells(file, pictures) for file in pictures.files if is_tensorflow(file)))


def table_cells(file: Path, pictures: PictureSet) -> Iterator[Annotation]:
    """Yield the boxes of each picture in one table. Raises DataError if the table cannot be read."""
    for name, picture in _read(file).items():
        candidates = _candidates(file, name, pictures)
        image = picture_path(file, candidates, name)
        if len(candidates) > 1:
            yield image, file.name, fault(ambiguity(name))
        elif not candidates:
            yield image, file.name, fault(f"{file.name} tells of {name!r}, and there is no such picture")
        else:
            yield image, file.name, _cell(picture, image)


def _candidates(file: Path, name: str, pictures: PictureSet) -> list[Path]:
    """Return the pictures that a table calls `name`: the one beside it, or else all of this file name."""
    path = name.replace("\\", "/").removeprefix("./")
    candidates = pictures.by_name.get(last_part(name), [])
    for narrower in (
        [image for image in candidates if image == file.parent / path],
        [image for image in candidates if image.as_posix().endswith(f"/{path}")],
        # As train_labels.csv lies beside the folders train and test.
        [image for image in candidates if image.parent.name in file.stem],
    ):
        candidates = narrower if len(candidates) > 1 and narrower else candidates
    return candidates


def _read(file: Path) -> dict[str, _Picture]:
    """Return what the rows of a table say, by the name of the picture."""
    by_name: dict[str, _Picture] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            for row in reader:
                picture = by_name.setdefault((row["filename"] or "").strip(), _Picture())
                try:
                    _add_row(picture, row)
                except ValueError as error:
                    picture.reasons.append(f"{file.name}, line {reader.line_num}: {error}")
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a table of boxes: {error}") from error
    return by_name


def _add_row(picture: _Picture, row: dict[str, Any]) -> None:
    """Add the box of a row to its picture; a row without class and sides tells of a picture without boxes.

    Raises ValueError if the row holds no box.
    """
    if None in row or None in row.values():
        raise ValueError("the row has not as many cells as the header")
    if size := stated_size(row.get("width"), row.get("height")):
        picture.sizes.add(size)
    label = row["class"].strip()
    if label or any(row[side].strip() for side in SIDES):
        picture.boxes.append({"label": label, "box": [number(row[side], side) for side in SIDES]})


def _cell(picture: _Picture, image: Path) -> BoxCell:
    """Return the boxes of a picture, or the reason why they cannot be read."""
    if len(picture.sizes) > 1:
        picture.reasons.append(f"its rows state different sizes: {sorted(picture.sizes)}")
    if picture.reasons:
        return fault("; ".join(picture.reasons[:3]))
    try:
        return fit_to_picture(picture.boxes, next(iter(picture.sizes), None), image)
    except ValueError as error:
        return fault(error)
