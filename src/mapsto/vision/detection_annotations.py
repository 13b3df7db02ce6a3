"""Boxes as data sets keep them beside their pictures: COCO's JSON, Pascal VOC's XML, YOLO's text.

All become lists of {"label", "box": [left, top, right, bottom]} in pixels, one list for each picture; what cannot be read
becomes {"fault": why}, so that it is one bad cell and not the end of a folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mapsto.errors import DataError
from mapsto.vision import image_io, pixels

Cell = list[dict[str, Any]] | dict[str, str] | None


Cells = dict[str, Cell]


Said = ElementTree.Element | str  # a file of XML, or what keeps it from being one


Images = dict[tuple[str, ...], list[Path]]


# Folders that part pictures from what is said of them.
APART = {"annotations", "jpegimages", "images", "labels", "xmls", "xml"}


NAMES = ("classes.txt", "obj.names", "labels.txt", "data.yaml", "dataset.yaml", "data.yml")


SHORTEST_POLYGON = 6


def read(path: Path, within: Callable[[Path], Sequence[Path]]) -> Cells:
    """The boxes of every picture that is told of, or lies, in a folder or in COCO's file; nothing for what holds none.

    within: the files of a folder. A picture of which nothing is told has None; but YOLO keeps no file for one that has no boxes.
    Raises DataError, OSError.
    """
    if not path.is_dir():
        said = _coco_in(path)
        root = path.parent.parent if path.parent.name.lower() in APART else path.parent
        return {} if said is None else _coco(path, said, _pictures(within(root)))
    files = within(path)
    images = _pictures(files)
    by_key: Images = {}
    for image in images:
        by_key.setdefault(_key(path, image), []).append(image)
    found = _all_voc(path, files, by_key) or _all_coco(files, images) or _all_yolo(path, files, by_key)
    return {**dict.fromkeys(map(str, images)), **found} if found else {}


def _pictures(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in image_io.SUFFIXES]


def _key(root: Path, file: Path) -> tuple[str, ...]:
    """Equal for a picture and for what is said of it."""
    parts = file.relative_to(root).with_suffix("").parts
    return *(part for part in parts[:-1] if part.lower() not in APART), parts[-1]


def _several(name: str) -> str:
    return f"several pictures are called {name}, and nothing tells which is meant"


def _all_voc(root: Path, files: Sequence[Path], images: Images) -> Cells:
    """What the files of Pascal VOC (Everingham et al. 2010) say; nothing where none of the XML is theirs."""
    told: dict[Path, Said] = {}
    for file in files:
        if file.suffix.lower() == ".xml":
            try:
                told[file] = ElementTree.fromstring(file.read_bytes())
            except ElementTree.ParseError as error:
                told[file] = str(error)
    own: dict[Path, Said] = {
        file: said for file, said in told.items() if not isinstance(said, str) and said.tag == "annotation"
    }
    if not own:
        return {}
    broken = {file: said for file, said in told.items() if isinstance(said, str) and _key(root, file) in images}
    found: Cells = {}
    for file, said in {**own, **broken}.items():
        meant = images.get(_key(root, file), [])
        named = "" if isinstance(said, str) else Path(said.findtext("filename", "").strip()).name
        meant = [image for image in meant if image.name == named] or meant
        place = meant[0] if meant else file.with_name(named or file.name)
        found[str(place)] = _voc(file, said) if len(meant) < 2 else {"fault": _several(file.stem)}
    return found


def _voc(file: Path, said: Said) -> Cell:
    """The boxes of one file; objects that it marks as difficult are objects."""
    if isinstance(said, str):
        return {"fault": f"{file.name} cannot be read as Pascal VOC's: {said}"}
    try:
        return [
            {
                "label": one.findtext("name", "").strip(),
                "box": [float(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")],
            }
            for one in said.iter("object")
        ]
    except ValueError as error:
        return {"fault": f"{file.name} cannot be read as Pascal VOC's: {error}"}


def _coco_in(file: Path) -> dict[str, Any] | None:
    """COCO's boxes in a file (Lin et al. 2014); None for other JSON, such as tables and COCO's captions, and for other files."""
    if file.suffix.lower() != ".json":
        return None
    try:
        with file.open("rb") as stream:
            if not stream.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return None
        said = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not all(isinstance(said.get(name), list) for name in ("images", "annotations", "categories")):
        return None
    first: Any = next(iter(said["annotations"]), {"bbox": []})
    return said if isinstance(first, dict) and "bbox" in first else None


def _all_coco(files: Sequence[Path], images: list[Path]) -> Cells:
    """What the files of COCO in a folder say. Raises DataError where two of them tell of one picture."""
    found: Cells = {}
    by: dict[str, Path] = {}
    for file in files:
        if (said := _coco_in(file)) is not None:
            told = _coco(file, said, images)
            if again := next((name for name in told if name in by), None):
                raise DataError(
                    f"{by[again]} and {file} both tell of {again}; name the one that is meant, not the folder"
                )
            by |= dict.fromkeys(told, file)
            found |= told
    return found


def _coco(file: Path, said: dict[str, Any], images: list[Path]) -> Cells:
    """What one file says; its pictures lie beside it, in a folder `images`, or elsewhere among `images`."""
    by_name: dict[str, list[Path]] = {}
    for image in images:
        by_name.setdefault(image.name, []).append(image)
    try:
        names = {one["id"]: str(one["name"]) for one in said["categories"]}
        of: dict[Any, list[dict[str, Any]]] = {one["id"]: [] for one in said["images"]}
        for one in said["annotations"]:
            for known, name, listed in ((names, "category_id", "categories"), (of, "image_id", "images")):
                if one[name] not in known:
                    raise ValueError(f"an annotation has the {name} {one[name]}, which none of the {listed} has")
            left, top, width, height = map(float, one["bbox"])
            box = {"label": names[one["category_id"]], "box": [left, top, left + width, top + height]}
            of[one["image_id"]].append({**box, "crowd": True} if one.get("iscrowd") else box)
        found: Cells = {}
        for one in said["images"]:
            place, name = _place(file, str(one["file_name"]), by_name), str(one["file_name"])
            told: Cell = of[one["id"]] if isinstance(place, Path) else {"fault": place}
            found[str(place if isinstance(place, Path) else _below(file.parent, name))] = told
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} cannot be read as COCO's: {_said(error)}") from error


def _below(folder: Path, name: str) -> Path:
    """Where a file of this name would be, did the name not lead out of the folder."""
    return folder.joinpath(*(part for part in Path(name).parts if part not in ("..", Path(name).anchor)))


def _said(error: Exception) -> str:
    """What went wrong, in words: a KeyError says but the name that is missing."""
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _place(file: Path, name: str, by_name: dict[str, list[Path]]) -> Path | str:
    """Where a picture that COCO's `file` calls `name` is; where it would be, if it is not there; or why that cannot be told."""
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    near = [file.parent / name, file.parent / "images" / name] if inside else []
    if there := next((path for path in near if path.is_file()), None):
        return there
    meant = by_name.get(Path(name).name, [])
    for narrower in (
        [path for path in meant if path.as_posix().endswith(f"/{name}")],
        [path for path in meant if path.parent.name in file.stem],
    ):
        meant = narrower if len(meant) > 1 and narrower else meant
    if len(meant) > 1:
        return _several(name)
    found: list[Path | str] = [*meant, *near, f"{name} leads out of the folder of {file.name}"]
    return found[0]


def _all_yolo(root: Path, files: Sequence[Path], images: Images) -> Cells:
    """What the text beside pictures says, where it is YOLO's: the classes are named, or a first line holds a box."""
    said = {key: file for file in files if file.suffix == ".txt" and (key := _key(root, file)) in images}
    named = any(file.name in NAMES for file in files)
    if not said or not (named or any(_box_line(_first_line(file)) for file in said.values())):
        return {}
    names = _names(files)
    found: Cells = {}
    for key, meant in images.items():
        for image in meant:
            told: Cell = [] if key not in said else _yolo(said[key], image, names)
            found[str(image)] = told if len(meant) == 1 else {"fault": _several(key[-1])}
    return found


def _names(files: Sequence[Path]) -> list[str]:
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


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return next((line for line in lines if line.strip()), "")


def _box_line(line: str) -> bool:
    try:
        _shares(line)
    except ValueError:
        return False
    return True


def _shares(line: str) -> tuple[int, float, float, float, float]:
    """The class, and the sides (left, top, right, bottom) as shares of the picture, of a line: a middle, a width and a height,
    perhaps with a confidence behind, or the corners of a polygon. Raises ValueError."""
    kind, *numbers = line.split()
    shares = [float(number) for number in numbers]
    if int(kind) < 0:
        raise ValueError(f"{kind} is no class")
    if len(shares) in (4, 5):
        x, y, w, h = shares[:4]
        return int(kind), x - w / 2, y - h / 2, x + w / 2, y + h / 2
    if len(shares) >= SHORTEST_POLYGON and len(shares) % 2 == 0:
        return int(kind), min(shares[::2]), min(shares[1::2]), max(shares[::2]), max(shares[1::2])
    raise ValueError(f"{len(shares)} numbers behind the class are neither a box nor a polygon")


def _yolo(file: Path, image: Path, names: list[str]) -> Cell:
    """The boxes of one file of YOLO: on each line a class and a box, or the corners of what a box is drawn about."""
    found: list[dict[str, Any]] = []
    lines = 0
    try:
        wide, high = image_io.size(image_io.content_of(image))
        for line in file.read_text(encoding="utf-8-sig").splitlines():
            lines += 1
            if line.strip():
                kind, left, top, right, bottom = _shares(line)
                if names and kind >= len(names):
                    raise ValueError(f"there is no class {kind} among the {len(names)} that have a name")
                label = names[kind] if names else str(kind)
                found.append({"label": label, "box": [left * wide, top * high, right * wide, bottom * high]})
    except pixels.Unreadable:
        return []  # the picture itself says what is wrong with it
    except (OSError, ValueError) as error:
        return {"fault": f"{file.name}, line {lines}: no class and box as YOLO writes them: {error}"}
    return found
