"""The pictures of a data set, and the join of annotations to them.

An annotation file belongs to the picture of the same place and name: labels/train/a.txt or a.jpg.txt to images/train/a.jpg.
Nothing is joined by a guess: an annotation of no picture, of several, or a second one of a picture becomes a fault.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mapsto.media.cells import Unreadable
from mapsto.vision import image_io
from mapsto.vision.decoding.orientation import FIRST_TRANSPOSED

# The boxes of a picture, the reason why they cannot be read, or None where the picture has no annotation.
BoxCell = list[dict[str, Any]] | dict[str, str] | None

# The box cell of each picture, by the path of the picture.
BoxCells = dict[str, BoxCell]

# A picture's path, the file or entry that annotates it, and the boxes.
Annotation = tuple[Path, str, BoxCell]

# Folders that separate pictures from their annotations.
SPLIT_FOLDERS = {"annotations", "jpegimages", "images", "labels", "xmls", "xml"}

# The most bytes of the annotation file of one picture.
MAX_ANNOTATION_BYTES = 4 * 2**20

# A number as formats of boxes write it; Python itself would also read 1_0, ٣ and infinity.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class PictureSet:
    """The files of a data set.

    roots: the folder, and folders beside it that hold its annotations.
    files: all files below these folders.
    """

    roots: tuple[Path, ...]
    files: Sequence[Path]

    @cached_property
    def images(self) -> list[Path]:
        """Return the picture files, by their suffix, such as ".jpg" in any case."""
        return [file for file in self.files if is_image(file)]

    @cached_property
    def by_key(self) -> Mapping[tuple[str, ...], list[Path]]:
        """Return the pictures by `key`."""
        return _group((self.key(image), image) for image in self.images)

    @cached_property
    def by_name(self) -> Mapping[str, list[Path]]:
        """Return the pictures by file name."""
        return _group((image.name, image) for image in self.images)

    def key(self, file: Path) -> tuple[str, ...]:
        """Return the key of a picture or annotation file; an annotation has the same key as its picture.

        It holds the parts of the file's path below its root, without the suffix and without folders such as "images".
        """
        root = next((root for root in self.roots if file.is_relative_to(root)), file.parent)
        parts = file.relative_to(root).with_suffix("").parts
        return *(part for part in parts[:-1] if part.lower() not in SPLIT_FOLDERS), parts[-1]

    def pictures_of(self, file: Path, name: str = "") -> list[Path]:
        """Return the pictures to which an annotation file may belong: one, several of one name, or none.

        name: the file name of the picture as the annotation states it; it decides between several, and finds a picture
            whose annotation is called otherwise.
        """
        key = self.key(file)
        candidates = self.by_key.get(key, [])
        if not candidates and is_image(Path(key[-1])):
            # Some tools append their suffix to the whole name: a.jpg.txt.
            pictures = self.by_key.get((*key[:-1], Path(key[-1]).stem), [])
            candidates = [image for image in pictures if image.name.lower() == key[-1].lower()]
        if not candidates and name:
            candidates = self.by_name.get(name, [])
        return [image for image in candidates if image.name == name] or candidates


def is_image(file: Path) -> bool:
    """Return whether a file's suffix is one of a picture."""
    return file.suffix.lower() in image_io.IMAGE_SUFFIXES


def _group(pairs: Iterable[tuple[Any, Path]]) -> dict[Any, list[Path]]:
    """Return the paths by key."""
    groups: dict[Any, list[Path]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups


def fault(reason: object) -> dict[str, str]:
    """Return the cell of a picture whose boxes cannot be read."""
    return {"fault": str(reason)}


def ambiguity(name: str) -> str:
    """Return the error message for an annotation of a picture called `name`, if there are several pictures of this name."""
    return f"several pictures are called {name}, and nothing tells which is meant"


def picture_path(file: Path, candidates: Sequence[Path], name: str = "") -> Path:
    """Return the path of an annotation's picture; for one of no picture, the path beside it where the picture is missing.

    candidates: the pictures to which the annotation may belong. name: the picture's file name as the annotation states it.
    """
    stem = file.stem if is_image(Path(file.stem)) else f"{file.stem}.jpg"
    return candidates[0] if candidates else file.with_name(last_part(name) or stem)


def last_part(name: str) -> str:
    """Return the file name in a path, which may be one of Windows."""
    return re.split(r"[\\/]", name)[-1].strip().replace("\0", "")


def join(annotations: Iterable[Annotation]) -> BoxCells:
    """Return the cells by picture; a picture that two annotation files tell of gets a fault that names both."""
    cells: BoxCells = {}
    origins: dict[str, str] = {}
    for path, origin, cell in annotations:
        image = str(path)
        cells[image] = cell if image not in cells else fault(f"{origins[image]} and {origin} both annotate {path.name}")
        origins.setdefault(image, origin)
    return cells


def read_annotation_bytes(file: Path) -> bytes:
    """Return the content of the annotation file of one picture. Raises OSError, and ValueError if it is too large."""
    if (size := os.stat(file).st_size) > MAX_ANNOTATION_BYTES:
        raise ValueError(f"{size:,} bytes are more than the {MAX_ANNOTATION_BYTES:,} that are read")
    return file.read_bytes()


def number(text: object, noun: str) -> float:
    """Return the number that a field of an annotation holds. Raises ValueError, naming it by `noun`, if it holds none."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(min(max(text, -1e300), 1e300)) if isinstance(text, int) else text
    if isinstance(text, str) and NUMBER.fullmatch(text.strip()):
        return float(text)
    raise ValueError(f"{noun} is no number: {str(text)[:40]!r}")


def stated_size(width: object, height: object) -> tuple[float, float] | None:
    """Return (width, height) of a picture as its annotation states them; None if they are missing, blank or zero.

    Raises ValueError if they are no numbers.
    """
    if any(side is None or str(side).strip() in ("", "0") for side in (width, height)):
        return None
    return number(width, "the width"), number(height, "the height")


def fit_to_picture(
    boxes: list[dict[str, Any]], stated: tuple[float, float] | None, image: Path
) -> list[dict[str, Any]]:
    """Return the boxes of a picture in the coordinates of the picture as it is read, which is turned as its EXIF data say.

    A stated size that is the picture's before this turn shows that the boxes were drawn without it, so they are turned.
    boxes: [{"label", "box": [left, top, right, bottom]}]. stated: (width, height) as the annotation states them, or None.
    Raises ValueError if the picture has another size. A picture that cannot be opened changes nothing: reading it reports that.
    """
    if stated is None:
        return boxes
    try:
        width, height, orientation = image_io.read_frame(image)
    except (OSError, Unreadable):
        return boxes
    if stated == (width, height):
        return boxes
    if orientation >= FIRST_TRANSPOSED and stated == (height, width):
        return [{**box, "box": turn_box(box["box"], width, height, orientation)} for box in boxes]
    raise ValueError(f"{stated[0]:g} × {stated[1]:g} pixels are stated, and the picture has {width:,} × {height:,}")


def turn_box(box: Sequence[float], width: int, height: int, orientation: int) -> list[float]:
    """Return a box of the stored pixels in the coordinates of the turned picture.

    box: left, top, right, bottom. width, height: size of the turned picture.
    orientation: the value of EXIF's tag, from 5 to 8, which exchange rows and columns.
    """
    x0, y0, x1, y1 = box
    xs = [y0, y1] if orientation in (5, 8) else [width - y1, width - y0]
    ys = [x0, x1] if orientation in (5, 6) else [height - x1, height - x0]
    return [xs[0], ys[0], xs[1], ys[1]]
