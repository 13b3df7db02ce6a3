"""YOLO's annotations: a text file for each picture, with a class number and a box or polygon on each line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mapsto.media.cells import Unreadable
from mapsto.vision import image_io
from mapsto.vision.annotations.class_names import CLASS_FILES, ClassNames, read_class_names
from mapsto.vision.annotations.picture_set import (
    Annotation,
    BoxCell,
    BoxCells,
    PictureSet,
    ambiguity,
    fault,
    join,
    number,
    picture_path,
    read_annotation_bytes,
)

# The fewest coordinates of a polygon.
MIN_POLYGON = 6

# Bytes at the start of a text in which its first line is looked for.
FIRST_BYTES = 4096

# A class number, and left, top, right, bottom as fractions of the picture's width or height.
LabelledBox = tuple[int, float, float, float, float]


def read_yolo(root: Path, pictures: PictureSet) -> BoxCells:
    """Return the boxes in all YOLO files of a data set, by picture; empty if it has none. A picture without a file gets [].

    Text files with the key of a picture count as YOLO's if there is a file of class names, or if the first line of any text is
    a box. Then texts of no picture that are in a folder `labels`, or begin with a box, get the path where the picture should be.
    root: the folder of the data set, above which its class names may be.
    """
    texts = [file for file in pictures.files if file.suffix.lower() == ".txt" and not _is_note(file)]
    belongs = {file: pictures.pictures_of(file) for file in texts}
    boxed = {file for file in texts if _starts_with_box(file)}
    has_classes = any(file.name.lower() in CLASS_FILES for file in pictures.files)
    if not pictures.images or not (boxed or (has_classes and any(belongs.values()))):
        return {}
    labels = {file: images for file, images in belongs.items() if images or file in boxed or _is_in_labels(file)}
    classes = read_class_names(root, pictures.files)
    cells = join(_annotations(labels, classes))
    for images in pictures.by_key.values():
        # Two pictures of one name without a text have no boxes, which needs no telling apart.
        shared = len(images) > 1 and any(str(image) in cells for image in images)
        for image in images:
            cells.setdefault(str(image), fault(ambiguity(image.stem)) if shared else [])
    return cells


def _is_note(file: Path) -> bool:
    """Return whether a text names classes or is a note to readers, and so belongs to no picture."""
    return file.name.lower() in CLASS_FILES or file.name.lower().startswith("readme")


def _is_in_labels(file: Path) -> bool:
    """Return whether a file is below a folder that is called `labels`."""
    return any(part.lower() == "labels" for part in file.parts[:-1])


def _starts_with_box(file: Path) -> bool:
    """Return whether the first line with text in a file is a box or a polygon."""
    try:
        with file.open("rb") as stream:
            text = stream.read(FIRST_BYTES).decode("utf-8-sig", errors="replace")
        parse_line(next((line for line in text.split("\n") if line.strip()), ""))
    except (OSError, ValueError):
        return False
    return True


def _annotations(labels: dict[Path, list[Path]], classes: ClassNames) -> Iterator[Annotation]:
    """Yield the annotation of each label file. labels: the pictures to which each file may belong."""
    for file, candidates in labels.items():
        image = picture_path(file, candidates)
        if len(candidates) == 1:
            yield image, file.name, _cell(file, image, classes)
        elif not candidates:
            yield image, file.name, fault(f"{file.name} belongs to no picture")
        for candidate in candidates if len(candidates) > 1 else ():
            yield candidate, file.name, fault(ambiguity(file.stem))


def parse_line(line: str, keypoints: int = 0) -> LabelledBox:
    """Return the class number and the box on a line of a YOLO file.

    A line holds the class number, then centre x and y, width, height and optionally a confidence. Or it holds the class number
    and the corners of a polygon, whose bounding box is returned. keypoints: how many numbers of a pose stand behind each box.
    Raises ValueError for anything else.
    """
    class_number, *coordinates = line.split() or [""]
    if not re.fullmatch(r"\d{1,9}", class_number, re.ASCII):
        raise ValueError(f"{class_number[:40]} is no class")
    shares = [number(coordinate, "a coordinate") for coordinate in coordinates]
    if len(shares) in ((4 + keypoints,) if keypoints else (4, 5)):
        x, y, w, h = shares[:4]
        return int(class_number), x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if not keypoints and len(shares) >= MIN_POLYGON and len(shares) % 2 == 0:
        # A polygon, as data sets for segmentation have it.
        return int(class_number), min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
    raise ValueError(f"{len(shares)} numbers behind the class are neither a box nor a polygon")


def _cell(file: Path, image: Path, classes: ClassNames) -> BoxCell:
    """Return the boxes in one YOLO file; {"fault": reason} if a line is damaged.

    image: the picture, whose size converts fractions to pixels; if it is unreadable, no boxes are returned.
    """
    line_number = 0
    boxes: list[dict[str, Any]] = []
    try:
        # YOLO states fractions of the picture's size, so the picture must be opened.
        width, height, _ = image_io.read_frame(image)
        for line in _lines(read_annotation_bytes(file)):
            line_number += 1
            if line.strip():
                class_number, x0, y0, x1, y1 = parse_line(line, classes.keypoints)
                box = [x0 * width, y0 * height, x1 * width, y1 * height]
                boxes.append({"label": classes.label(class_number), "box": box})
    except Unreadable:
        return []  # reading the picture itself reports what is wrong with it
    except (OSError, ValueError) as error:
        return fault(f"{file.name}, line {line_number}: no class and box as YOLO writes them: {error}")
    return boxes


def _lines(content: bytes) -> Sequence[str]:
    """Return the lines of a text. Raises ValueError if it is not UTF-8."""
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
