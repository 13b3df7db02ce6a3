"""Recognise formats of box annotations that are not read, to say what to do: CVAT, labelme, VIA, CreateML and VoTT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mapsto.vision.annotations.picture_set import SPLIT_FOLDERS

# The suffix, and texts that all stand in the beginning of a file, of each format.
MARKS = {
    "CVAT's XML": (".xml", ("<annotations", "<image ")),
    "labelme's JSON": (".json", ('"shapes"', '"points"')),
    "VIA's JSON": (".json", ('"shape_attributes"',)),
    "CreateML's JSON": (".json", ('"annotations"', '"coordinates"')),
    "VoTT's csv": (".csv", ("xmin", "ymin", "xmax", "ymax", "label")),
}
# A key that a box has in a format.
KEYS = {"shape_attributes": "VIA's JSON", "coordinates": "CreateML's JSON", "points": "labelme's JSON"}
# Number of files that are looked at, and of characters of each; CVAT writes its task before the first picture.
MOST_FILES, NUM_CHARACTERS = 20, 2**15


def describe_box(box: Mapping[object, object]) -> str:
    """Return the end of a message about a dict that is no box: the format that writes it; "" for an unknown one."""
    name = next((name for key, name in KEYS.items() if key in box), None)
    return f"; this is {advice(name)}" if name else ""


def describe_folder(folder: Path) -> str:
    """Return a sentence on the first file of a folder in a format that is not read; "" if there is none.

    Beside a folder such as "images" the annotations stand in the one above it.
    """
    if folder.name.lower() in SPLIT_FOLDERS and (sentence := describe_folder(folder.parent)):
        return sentence
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in {suffix for suffix, _ in MARKS.values()})
    for file in files[:MOST_FILES]:
        try:
            with file.open(encoding="utf-8", errors="replace") as stream:
                text = stream.read(NUM_CHARACTERS)
        except OSError:
            continue
        for name, (suffix, marks) in MARKS.items():
            if file.suffix.lower() == suffix and all(mark in text for mark in marks):
                return f"{file.name} is {advice(name)}"
    return ""


def advice(name: str) -> str:
    """Return what to do with boxes in a format that is not read."""
    if name == "VoTT's csv":
        return f"{name}, which is read as TensorFlow's if its columns image and label are called filename and class"
    return f"{name}, which is not read: export COCO, Pascal VOC or YOLO instead"
