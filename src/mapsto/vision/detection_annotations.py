"""Box annotations in the formats of data sets: Pascal VOC (XML), COCO (JSON), YOLO (text) and TensorFlow's table (csv).

Whatever the format, a picture gets a list of {"label", "box": [left, top, right, bottom]} in pixels of the picture as it is
read. If its annotation cannot be read, it gets {"fault": reason} instead, so that not the whole folder is lost; and an
annotation of no picture is a row of its own with such a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mapsto.errors import DataError
from mapsto.vision.annotations import picture_set
from mapsto.vision.annotations.class_names import parts_of_data_set
from mapsto.vision.annotations.coco import coco_cells, read_all_coco, read_coco
from mapsto.vision.annotations.picture_set import BoxCells, PictureSet
from mapsto.vision.annotations.tensorflow import is_tensorflow, read_all_tensorflow, table_cells
from mapsto.vision.annotations.voc import read_voc
from mapsto.vision.annotations.yolo import read_yolo

# Folders that separate pictures from their annotations.
SPLIT_FOLDERS = picture_set.SPLIT_FOLDERS


def read_annotations(path: Path, list_files: Callable[[Path], Sequence[Path]]) -> BoxCells:
    """Return the boxes of each picture, by its path; empty if there are no annotations.

    path: a folder, a COCO file or TensorFlow's table. list_files: function that returns all files below a folder.
    A picture of a folder without an annotation gets None, or [] in YOLO's format, which has no file for a picture without boxes.
    A damaged annotation of one picture becomes {"fault": reason}. Raises DataError for a damaged file that all pictures depend
    on, such as that of the class names, and OSError for a file that cannot be opened.
    """
    if not path.is_dir():
        return _read_file(path, list_files)
    roots = (path, *_label_folders(path))
    pictures = PictureSet(roots, [file for root in roots for file in list_files(root)])
    cells = read_voc(pictures) or read_all_coco(pictures) or read_yolo(path, pictures) or read_all_tensorflow(pictures)
    # Without any annotation the folder is no detection data set, and other readers get their turn.
    return {**dict.fromkeys(map(str, pictures.images)), **cells} if cells else {}


def _read_file(path: Path, list_files: Callable[[Path], Sequence[Path]]) -> BoxCells:
    """Return the boxes in a file for all pictures, by the path of the picture; empty if it is no such file.

    Raises DataError for the YAML file of a data set, which names folders of pictures.
    """
    if parts := parts_of_data_set(path):
        folders = ", ".join(f"{part} ({folder})" for part, folder in parts.items())
        raise DataError(
            f"{path} names the classes of a data set, and no pictures; name the folder of a part: {folders}"
        )
    coco, is_table = read_coco(path), is_tensorflow(path)
    if coco is None and not is_table:
        return {}
    # Such a file is often in a folder `annotations` or `data` beside the folders of its pictures.
    root = path.parent.parent if path.parent.name.lower() in {*SPLIT_FOLDERS, "data"} else path.parent
    pictures = PictureSet((root,), list_files(root))
    return picture_set.join(table_cells(path, pictures)) if coco is None else coco_cells(path, coco, pictures)


def _label_folders(path: Path) -> list[Path]:
    """Return the folder of YOLO's labels that belongs to a folder of pictures: labels/train to images/train; else no folder."""
    parts = path.absolute().parts
    positions = [index for index, part in enumerate(parts) if part.lower() == "images"]
    if not positions:
        return []
    labels = Path(*parts[: positions[-1]], "labels", *parts[positions[-1] + 1 :])
    return [labels] if labels.is_dir() else []
