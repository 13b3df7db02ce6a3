"""Box annotations in the formats of data sets: COCO (JSON), Pascal VOC (XML) and YOLO (text).

Whatever the format, an image gets a list of {"label", "box": [left, top, right, bottom]} in pixels. If its annotation cannot
be read, the image gets {"fault": reason} instead, so that not the whole folder is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mapsto.errors import DataError
from mapsto.vision import image_io
from mapsto.vision.pixels import Unreadable

# The boxes of an image, the reason why they cannot be read, or None where the image has no annotation.
BoxCell = list[dict[str, Any]] | dict[str, str] | None

# The box cell of each image, by the path of the image.
BoxCells = dict[str, BoxCell]

# The root of an XML file, or the error message of the parser.
ParsedXml = ElementTree.Element | str

# Images by their key (see `_key`).
ImagesByKey = dict[tuple[str, ...], list[Path]]

# Folders that separate images from their annotations.
SPLIT_FOLDERS = {"annotations", "jpegimages", "images", "labels", "xmls", "xml"}

# Files that name YOLO's classes, in order of preference.
CLASS_FILES = ("classes.txt", "obj.names", "labels.txt", "data.yaml", "dataset.yaml", "data.yml")

# The fewest coordinates of a polygon in YOLO's text.
MIN_POLYGON = 6


def read_annotations(path: Path, list_files: Callable[[Path], Sequence[Path]]) -> BoxCells:
    """Return the boxes of each image, by image path; empty if there are no annotations.

    path: a folder, or a COCO file. list_files: function that returns all files below a folder.
    An image of a folder without an annotation gets None, or [] in YOLO's format, which has no file for an image without boxes.
    A damaged annotation of one image becomes {"fault": reason}. Raises DataError for a damaged COCO file or file of class
    names, and OSError for a file that cannot be opened.
    """
    if not path.is_dir():
        coco = _read_coco(path)
        # A COCO file is often in a folder `annotations` beside the folders of its images.
        root = path.parent.parent if path.parent.name.lower() in SPLIT_FOLDERS else path.parent
        return {} if coco is None else _coco_cells(path, coco, _images(list_files(root)))
    files = list_files(path)
    images = _images(files)
    by_key: ImagesByKey = {}
    for image in images:
        by_key.setdefault(_key(path, image), []).append(image)
    cells = _all_voc(path, files, by_key) or _all_coco(files, images) or _all_yolo(path, files, by_key)
    # Without any annotation the folder is no detection data set, and other readers get their turn.
    return {**dict.fromkeys(map(str, images)), **cells} if cells else {}


def _images(files: Sequence[Path]) -> list[Path]:
    """Return the files whose suffix is one of IMAGE_SUFFIXES, such as ".jpg"."""
    return [file for file in files if file.suffix.lower() in image_io.IMAGE_SUFFIXES]


def _key(root: Path, file: Path) -> tuple[str, ...]:
    """Return the key of an image or annotation file; an annotation has the same key as its image.

    It holds the parts of the file's path below `root`, without the suffix and without folders such as "images" (SPLIT_FOLDERS).
    """
    parts = file.relative_to(root).with_suffix("").parts
    return *(part for part in parts[:-1] if part.lower() not in SPLIT_FOLDERS), parts[-1]


def _ambiguity(name: str) -> str:
    """Return the error message for an annotation of an image called `name`, if there are several images of this name."""
    return f"several pictures are called {name}, and nothing tells which is meant"


def _all_voc(root: Path, files: Sequence[Path], images: ImagesByKey) -> BoxCells:
    """Return the boxes in all Pascal VOC files (Everingham et al. 2010) of a folder, by image path; empty if it has none.

    A damaged XML file counts as one of them if an image has its key. An annotation without an image gets the path where the image
    should be. root: the folder. files: all files below it. images: the image files by `_key`.
    """
    parsed: dict[Path, ParsedXml] = {}
    for file in files:
        if file.suffix.lower() == ".xml":
            try:
                parsed[file] = ElementTree.fromstring(file.read_bytes())
            except ElementTree.ParseError as error:
                parsed[file] = str(error)
    annotations: dict[Path, ParsedXml] = {
        file: xml for file, xml in parsed.items() if not isinstance(xml, str) and xml.tag == "annotation"
    }
    if not annotations:
        return {}
    # A file that cannot be parsed counts as Pascal VOC's if an image has the same name.
    broken = {file: xml for file, xml in parsed.items() if isinstance(xml, str) and _key(root, file) in images}
    cells: BoxCells = {}
    for file, xml in {**annotations, **broken}.items():
        candidates = images.get(_key(root, file), [])
        name = "" if isinstance(xml, str) else Path(xml.findtext("filename", "").strip()).name
        candidates = [image for image in candidates if image.name == name] or candidates
        image = candidates[0] if candidates else file.with_name(name or file.name)
        cells[str(image)] = _voc_cell(file, xml) if len(candidates) < 2 else {"fault": _ambiguity(file.stem)}
    return cells


def _voc_cell(file: Path, xml: ParsedXml) -> BoxCell:
    """Return the boxes in one Pascal VOC file, also of objects marked as difficult; {"fault": reason} if it is damaged.

    xml: the root of the file's XML, or the parser's error message.
    """
    if isinstance(xml, str):
        return {"fault": f"{file.name} cannot be read as Pascal VOC's: {xml}"}
    try:
        return [
            {
                "label": element.findtext("name", "").strip(),
                "box": [float(element.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")],
            }
            for element in xml.iter("object")
        ]
    except ValueError as error:
        return {"fault": f"{file.name} cannot be read as Pascal VOC's: {error}"}


def _read_coco(file: Path) -> dict[str, Any] | None:
    """Return the content of a COCO file with boxes (Lin et al. 2014); None if the file is missing or of another format."""
    if file.suffix.lower() != ".json":
        return None
    try:
        with file.open("rb") as stream:
            # Other JSON files can be large, so look at the first character before parsing.
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return None
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not all(isinstance(content.get(name), list) for name in ("images", "annotations", "categories")):
        return None
    first: Any = next(iter(content["annotations"]), {"bbox": []})
    return content if isinstance(first, dict) and "bbox" in first else None


def _all_coco(files: Sequence[Path], images: list[Path]) -> BoxCells:
    """Return the boxes in all COCO files of a folder, by image path; empty if it has none.

    files: all files below the folder. images: the image files among them.
    Raises DataError if a COCO file is damaged, or if two of them annotate the same image.
    """
    cells: BoxCells = {}
    file_of_image: dict[str, Path] = {}
    for file in files:
        if (coco := _read_coco(file)) is not None:
            new = _coco_cells(file, coco, images)
            if duplicate := next((name for name in new if name in file_of_image), None):
                raise DataError(
                    f"{file_of_image[duplicate]} and {file} both tell of {duplicate}; name the one that is meant, not the folder"
                )
            file_of_image |= dict.fromkeys(new, file)
            cells |= new
    return cells


def _coco_cells(file: Path, coco: dict[str, Any], images: list[Path]) -> BoxCells:
    """Return the boxes in one COCO file, by image path. Raises DataError if the file is damaged.

    coco: the file's parsed content.
    images: image files to choose from if the file names an image that is neither in its folder nor in the subfolder `images`.
    """
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    try:
        labels = {category["id"]: str(category["name"]) for category in coco["categories"]}
        boxes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
        for annotation in coco["annotations"]:
            for ids, field, table in ((labels, "category_id", "categories"), (boxes, "image_id", "images")):
                if annotation[field] not in ids:
                    raise ValueError(
                        f"an annotation has the {field} {annotation[field]}, which none of the {table} has"
                    )
            left, top, width, height = map(float, annotation["bbox"])
            box = {"label": labels[annotation["category_id"]], "box": [left, top, left + width, top + height]}
            # A crowd box covers objects that were not counted, so it is neither learnt nor scored.
            boxes[annotation["image_id"]].append({**box, "crowd": True} if annotation.get("iscrowd") else box)
        cells: BoxCells = {}
        for image in coco["images"]:
            place, name = _locate(file, str(image["file_name"]), by_name), str(image["file_name"])
            cell: BoxCell = boxes[image["id"]] if isinstance(place, Path) else {"fault": place}
            cells[str(place if isinstance(place, Path) else _below(file.parent, name))] = cell
        return cells
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO's: {_reason(error)}") from error


def _below(folder: Path, name: str) -> Path:
    """Return the path of a file in `folder` or below it.

    name: the file's path relative to `folder`; ".." and a leading "/" are dropped, so that it cannot lead out of the folder.
    """
    return folder.joinpath(*(part for part in Path(name).parts if part not in ("..", Path(name).anchor)))


def _reason(error: Exception) -> str:
    """Return the message of an error; for a KeyError "there is no KEY", since its own message is only the missing key."""
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _locate(file: Path, name: str, by_name: dict[str, list[Path]]) -> Path | str:
    """Return the path of the image that a COCO file calls `name`.

    It is `name` beside the COCO file or in the folder `images` there, or else the one image of this file name in `by_name`. If
    there is none, the first of these paths is returned, and a later reader reports it as missing. If there are several, or if a
    missing image would lie outside the COCO file's folder, an error message is returned.
    file: the COCO file. by_name: image files by file name.
    """
    is_inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    expected = [file.parent / name, file.parent / "images" / name] if is_inside else []
    if existing := next((path for path in expected if path.is_file()), None):
        return existing
    candidates = by_name.get(Path(name).name, [])
    # Of several images prefer those in the same subfolder, then those in a folder whose name the file's name contains.
    for narrower in (
        [path for path in candidates if path.as_posix().endswith(f"/{name}")],
        [path for path in candidates if path.parent.name in file.stem],
    ):
        candidates = narrower if len(candidates) > 1 and narrower else candidates
    if len(candidates) > 1:
        return _ambiguity(name)
    places: list[Path | str] = [*candidates, *expected, f"{name} leads out of the folder of {file.name}"]
    return places[0]


def _all_yolo(root: Path, files: Sequence[Path], images: ImagesByKey) -> BoxCells:
    """Return the boxes in all YOLO files of a folder, by image path; empty if it has none. An image without a YOLO file gets [].

    Text files with the same key as an image count as YOLO's if the folder has a file of class names (CLASS_FILES), or if the
    first line of any of them is a box. root: the folder. files: all files below it. images: the image files by `_key`.
    """
    texts = {key: file for file in files if file.suffix == ".txt" and (key := _key(root, file)) in images}
    has_classes = any(file.name in CLASS_FILES for file in files)
    if not texts or not (has_classes or any(_is_box_line(_first_line(file)) for file in texts.values())):
        return {}
    classes = _read_classes(files)
    cells: BoxCells = {}
    for key, candidates in images.items():
        for image in candidates:
            cell: BoxCell = [] if key not in texts else _yolo_cell(texts[key], image, classes)
            cells[str(image)] = cell if len(candidates) == 1 else {"fault": _ambiguity(key[-1])}
    return cells


def _read_classes(files: Sequence[Path]) -> list[str]:
    """Return the names of YOLO's classes, in the order of class numbers; empty if no file among `files` names them.

    Of several such files, the one whose name comes first in CLASS_FILES is read. Raises DataError if it is damaged.
    """
    candidates = (file for file in files if file.name in CLASS_FILES)
    for file in sorted(candidates, key=lambda file: CLASS_FILES.index(file.name)):
        try:
            # "utf-8-sig", because files written on Windows may start with a byte-order mark.
            text = file.read_text(encoding="utf-8-sig")
            if file.suffix in (".yaml", ".yml"):
                return _yaml_classes(text)
            return [line.strip() for line in text.splitlines() if line.strip()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} does not name the classes: {error!r}") from error
    return []


def _yaml_classes(text: str) -> list[str]:
    """Return the class names, in the order of class numbers, from the entry `names` of YOLO's YAML file.

    The entry is a list, or a dict by class number. Raises ValueError, KeyError or TypeError if `text` has no such entry.
    """
    import yaml  # a dependency of huggingface-hub

    try:
        names = yaml.safe_load(text)["names"]
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return [str(names[number]) for number in sorted(names)] if isinstance(names, dict) else list(map(str, names))


def _first_line(file: Path) -> str:
    """Return the first line with text in a file; an empty string if all lines are blank."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return next((line for line in lines if line.strip()), "")


def _is_box_line(line: str) -> bool:
    """Return whether a line of text is a box or a polygon in YOLO's format."""
    try:
        _parse_box_line(line)
    except ValueError:
        return False
    return True


def _parse_box_line(line: str) -> tuple[int, float, float, float, float]:
    """Return (class number, left, top, right, bottom) from a line of a YOLO file.

    The four edges of the box are fractions of the image's width or height. A line holds the class number, then centre x and y,
    width, height and optionally a confidence. Or it holds the class number and the corners of a polygon, whose bounding box is
    returned. Raises ValueError for anything else.
    """
    number, *coordinates = line.split()
    shares = [float(coordinate) for coordinate in coordinates]
    if int(number) < 0:
        raise ValueError(f"{number} is no class")
    if len(shares) in (4, 5):
        x, y, w, h = shares[:4]
        return int(number), x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(shares) >= MIN_POLYGON and len(shares) % 2 == 0:
        # A polygon, as data sets for segmentation have it.
        return int(number), min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
    raise ValueError(f"{len(shares)} numbers behind the class are neither a box nor a polygon")


def _yolo_cell(file: Path, image: Path, classes: list[str]) -> BoxCell:
    """Return the boxes in one YOLO file, with a box or a polygon per line; {"fault": reason} if a line is damaged.

    image: the image file, whose size converts fractions to pixels; if it is unreadable, no boxes are returned.
    classes: class names in the order of class numbers. If it is empty, the class number is the label.
    """
    boxes: list[dict[str, Any]] = []
    line_number = 0
    try:
        # YOLO states fractions of the image's size, so the image must be opened.
        width, height = image_io.image_size(image_io.read_image_bytes(image))
        for line in file.read_text(encoding="utf-8-sig").splitlines():
            line_number += 1
            if line.strip():
                number, left, top, right, bottom = _parse_box_line(line)
                if classes and number >= len(classes):
                    raise ValueError(f"there is no class {number} among the {len(classes)} that have a name")
                label = classes[number] if classes else str(number)
                boxes.append({"label": label, "box": [left * width, top * height, right * width, bottom * height]})
    except Unreadable:
        return []  # reading the image itself reports what is wrong with it
    except (OSError, ValueError) as error:
        return {"fault": f"{file.name}, line {line_number}: no class and box as YOLO writes them: {error}"}
    return boxes
