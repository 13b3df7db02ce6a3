"""Annotation files of pictures as people have them: every box is kept under its own class and picture, or its loss is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL", reason="the extra [image] is not here")

from PIL import Image

from mapsto.data.table import read_table
from mapsto.errors import BadCell, DataError
from mapsto.kinds.boxes import Boxes
from mapsto.vision.annotations import class_names

LINE = "{} 0.5 0.5 0.5 0.5\n"
WIDTH, HEIGHT = 48, 32
# Names that YAML has other types for.
AS_WRITTEN = ["no", "yes", "null", "on", "off", "~", "1.0", "007", "2001-01-01", "1e3", "0x10", ".inf", "12:30:45"]


def write_picture(path: Path, orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (200, 30, 30)).save(path, exif=exif)
    return path


def write_yolo(folder: Path, classes: dict[str, str], numbers: tuple[int, ...], labels: str = "labels") -> Path:
    """Write a picture and a label file with one box for each class number. classes: the content of files by their name."""
    for position, number in enumerate(numbers):
        write_picture(folder / "images" / f"p{position}.png")
        path = folder / labels / f"p{position}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(LINE.format(number), encoding="utf-8")
    for name, content in classes.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def cells_of(path: Path) -> dict[str, Any]:
    """Return the box cells by file name of the picture."""
    table = read_table(path)
    return {Path(image).name: cell for image, cell in zip(table.column("image"), table.column("boxes"), strict=True)}


def by_number(item: tuple[str, Any]) -> tuple[int, str]:
    return len(item[0]), item[0]


def labels_of(path: Path) -> list[str]:
    """Return the label of each picture's only box, in the order of the pictures."""
    return [
        label
        for _, cell in sorted(cells_of(path).items(), key=by_number)
        for label in [box.label for box in Boxes.read(cell)]
    ]


# Class names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [a, b, c]", {0: "a", 1: "b", 2: "c"}),
        ("names:\n- a\n- b\n", {0: "a", 1: "b"}),
        ("names: {1: a, 2: b, 5: c}\nnc: 3", {1: "a", 2: "b", 5: "c"}),
        ("names: {1: a, 2: b, 5: c}\nnc: 6", {1: "a", 2: "b", 5: "c"}),
        ('names: {"10": k, "9": j, "2": c}', {2: "c", 9: "j", 10: "k"}),
        ("names:\n  '2': b\n  1: a\n", {1: "a", 2: "b"}),
        ("names: {007: a, 08: b}", {7: "a", 8: "b"}),
        (f"names: [{', '.join(AS_WRITTEN)}]", dict(enumerate(AS_WRITTEN))),
        ("names: {0: no, 1: 'true', 2: 绿, 3: No, 4: y}", {0: "no", 1: "true", 2: "绿", 3: "No", 4: "y"}),
        ("names: [a, '', c]", {0: "a", 2: "c"}),
        ("path: x\ntrain: images # here\nnc: 2\nnames: ['a: b', \"c # d\"]", {0: "a: b", 1: "c # d"}),
    ],
)  # fmt: skip
def test_a_class_number_is_looked_up_under_its_own_number(text: str, names: dict[int, str], tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", {"data.yaml": text}, tuple(names))
    assert labels_of(folder) == list(names.values())
    free = next(number for number in range(99) if number not in names)
    (folder / "labels" / "p0.txt").write_text(LINE.format(free))
    with pytest.raises(BadCell, match=rf"p0.txt, line 1: .*there is no class {free} among the {len(names)}"):
        Boxes.read(cells_of(folder)["p0.png"])


@pytest.mark.parametrize("file", ["classes.txt", "obj.names", "Classes.TXT"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_a_list_of_classes_has_its_own_number(file: str, end: str, tmp_path: Path) -> None:
    names = ["a\u2028b", "", "no", "1.0", ""]
    folder = write_yolo(tmp_path / "set", {file: end.join(names)}, (3, 0, 2))
    assert labels_of(folder) == ["1.0", "a\u2028b", "no"]
    (folder / "labels" / "p0.txt").write_text(LINE.format(1))
    assert "there is no class 1" in cells_of(folder)["p0.png"]["fault"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("names: {0: a, '0': b}", "class 0 has two names, 'a' and 'b'"),
        ("names: {1: a, 01: b}", "class 1 has two names"),
        ("names: {a: 0}", "'a' is no class number"),
        ("names: {-1: a}", "'-1' is no class number"),
        ("names: {1.5: a}", "no class number"),
        ("names: [[a], b]", "the name of class 0 is no text"),
        ("names: [a, b]\nnames: [c]", "line 2: names is there twice"),
        ("names: coco.names", "`names` is a list"),
        ("nc: 2", "no entry `names`"),
        ("nc: 3\nnames: [a, b]", "nc is 3, and names has 2 entries"),
        ("names: [a, b", "expected"),
        ("- a\n- b", "no list of entries"),
        ("names: &x [a, b]\nothers: *x", "line 1: anchors and aliases"),
        ("a: &a [x]\nb: &b [*a,*a]\nnames: [*b,*b]", "anchors and aliases"),
        ("names: " + "[" * 5000 + "]" * 5000, "levels of nesting"),
        ("names: [a]\n#" + "x" * class_names.MAX_CLASS_BYTES, "bytes are more than"),
        ("names: [a]\n---\nnames: [b]", "single document"),
        ("names: [a, \x00]", "special characters"),
    ],
)
def test_class_names_that_do_not_hold_together_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", {"data.yaml": text}, (0,))
    with pytest.raises(DataError, match=rf"data.yaml does not name the classes: [\s\S]*{reason}"):
        read_table(folder)


def test_two_files_of_class_names_agree_or_are_refused(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", {"data.yaml": "names: {0: a, 1: b}", "classes.txt": "a\nb\n"}, (1,))
    assert labels_of(folder) == ["b"]
    (folder / "classes.txt").write_text("b\na\n")
    with pytest.raises(DataError, match=r"data.yaml and .*classes.txt name the classes differently"):
        read_table(folder)


def test_yaml_files_of_other_things_are_passed_over(tmp_path: Path) -> None:
    others = {"hyp.yaml": "lr0: 0.01\nbase: &b {a: 1}\n", "birds.yaml": "path: .\ntrain: images\nnames: {3: owl}\n"}
    assert labels_of(write_yolo(tmp_path / "set", others, (3,))) == ["owl"]


def test_numbers_of_a_pose_behind_a_box_are_no_polygon(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", {"data.yaml": "names: [a]\nkpt_shape: [2, 2]\n"}, (0,))
    (folder / "labels" / "p0.txt").write_text("0 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9\n")
    (box,) = Boxes.read(cells_of(folder)["p0.png"])
    assert (box.left, box.top, box.right, box.bottom) == (12, 8, 36, 24)


# Layouts


def layout_of_ultralytics(root: Path, yaml: Path) -> dict[str, Path]:
    for part in ("train", "val"):
        write_picture(root / "images" / part / "a.jpg")
        path = root / "labels" / part / "a.txt"
        path.parent.mkdir(parents=True)
        path.write_text(LINE.format(2))
    yaml.write_text(f"path: {root.name}\ntrain: images/train\nval: images/val\nnames: {{0: a, 2: no}}\n")
    return {"whole": root, "part": root / "images" / "train", "pictures": root / "images"}


def layout_of_roboflow(root: Path, yaml: Path) -> dict[str, Path]:
    for part in ("train", "valid"):
        write_picture(root / part / "images" / "a_jpg.rf.0f1.jpg")
        path = root / part / "labels" / "a_jpg.rf.0f1.txt"
        path.parent.mkdir(parents=True)
        path.write_text(LINE.format(2))
    (root / "README.roboflow.txt").write_text("1 2 3 4 5\n")
    yaml.write_text("train: ../train/images\nval: ../valid/images\nnc: 3\nnames: ['a', 'b', 'no']\n")
    return {"whole": root, "part": root / "train", "pictures": root / "train" / "images"}


@pytest.mark.parametrize("place", ["whole", "part", "pictures"])
@pytest.mark.parametrize("name", ["data.yaml", "../birds.yaml", "birds.yaml"])
def test_the_layout_of_ultralytics(place: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / "some" / "birds"
    root.mkdir(parents=True)
    path = layout_of_ultralytics(root, (root / name).resolve())[place]
    assert set(labels_of(path)) == {"no"}
    assert len(read_table(path)) == (1 if place == "part" else 2)


@pytest.mark.parametrize("place", ["whole", "part", "pictures"])
def test_the_layout_of_roboflow(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "birds"
    root.mkdir()
    path = layout_of_roboflow(root, root / "data.yaml")[place]
    assert set(labels_of(path)) == {"no"}
    monkeypatch.chdir(path)
    assert set(labels_of(Path())) == {"no"}, "also from within the folder"


def test_parts_that_are_read_as_one_are_said(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    root.mkdir()
    layout_of_roboflow(root, root / "data.yaml")
    (remark,) = (remark.reason for remark in read_table(root).remarks if "parts" in remark.reason)
    assert "train, valid are read as one" in remark
    assert not [remark for remark in read_table(root / "train").remarks if "parts" in remark.reason]
    with pytest.raises(DataError, match=r"name the folder of a part: train \(../train/images\), val"):
        read_table(root / "data.yaml")


def test_an_unrelated_yaml_above_names_no_classes(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("path: elsewhere\ntrain: x\nnames: [a, b, c]\n")
    assert labels_of(write_yolo(tmp_path / "set", {}, (2,))) == ["2"]


# Each annotation belongs to a picture


def voc(name: str, size: str = "", sides: tuple[object, ...] = (1, 2, 11, 12)) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
    box = "".join(f"<{tag}>{side}</{tag}>" for tag, side in tags)
    return f"<annotation><filename>{name}</filename>{size}<object><name>no</name><bndbox>{box}</bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("suffix", "content"), [(".txt", LINE.format(0)), (".TXT", LINE.format(0)), (".xml", voc("")), (".XML", voc(""))]
)
@pytest.mark.parametrize("picture", ["a.jpg", "a.JPG", "a.b.png"])
@pytest.mark.parametrize("behind", [False, True])
def test_an_annotation_belongs_to_the_picture_of_its_name(
    suffix: str, content: str, picture: str, behind: bool, tmp_path: Path
) -> None:
    """Also where its suffix is in capitals or stands behind that of the picture; one of no picture is a named row."""
    write_picture(tmp_path / "images" / picture)
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / f"{picture if behind else Path(picture).stem}{suffix}").write_text(content)
    (folder / f"lonely{suffix}").write_text(content)
    (folder / f"empty{suffix}").write_text("<annotation></annotation>" if "xml" in suffix.lower() else "")
    cells = cells_of(tmp_path)
    assert len(cells) == 3 and len(Boxes.read(cells[picture])) == 1
    for name in ("lonely", "empty"):
        assert f"{name}{suffix} belongs to no picture" in cells[f"{name}.jpg"]["fault"]


@pytest.mark.parametrize(
    ("names", "content"), [(("a.txt", "a.TXT"), LINE.format(0)), (("a.txt", "a.png.txt"), LINE.format(0)),
                           (("a.xml", "a.png.xml"), voc("a.png")), (("a.xml", "b.xml"), voc("a.png"))]
)  # fmt: skip
def test_two_annotation_files_of_a_picture_are_named(names: tuple[str, str], content: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    for name in names:
        (tmp_path / name).write_text(content)
    reason = cells_of(tmp_path)["a.png"]["fault"]
    assert all(name in reason for name in names) and "both annotate a.png" in reason


def test_a_suffix_behind_the_picture_tells_pictures_of_one_name_apart(tmp_path: Path) -> None:
    for position, picture in enumerate(("a.png", "a.jpg")):
        write_picture(tmp_path / picture)
        (tmp_path / f"{picture}.txt").write_text(LINE.format(position))
    assert labels_of(tmp_path) == ["1", "0"], "a.jpg, then a.png"


def test_a_broken_file_among_annotations_is_named_though_it_has_no_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(voc("a.png"))
    (tmp_path / "b.xml").write_text("<annotation><object>")
    os.symlink(tmp_path / "nowhere", tmp_path / "c.xml")
    cells = cells_of(tmp_path)
    assert isinstance(cells["a.png"], list)
    assert "b.xml cannot be read" in cells["b.jpg"]["fault"] and "c.xml cannot be read" in cells["c.jpg"]["fault"]


@pytest.mark.parametrize(
    "line",
    ["0 0.5 0.5 1_0 0.1", "٣ 0.5 0.5 0.1 0.1", "1.5 0.5 0.5 0.1 0.1", "0 nan 0 0.1 0.1", "-0 0 0 1 1",
     "0 0.5,0.5,0.1,0.1", "0", "cat 0.5 0.5 0.1 0.1", "99999999999999999999 0.5 0.5 0.1 0.1"],
)  # fmt: skip
def test_a_line_that_is_no_box_costs_its_picture(line: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, {}, (0, 1, 2))
    (folder / "labels" / "p1.txt").write_text(f"{LINE.format(0)}{line}\n", encoding="utf-8")
    cells = cells_of(folder)
    assert "p1.txt, line 2" in cells["p1.png"]["fault"]
    assert len(Boxes.read(cells["p0.png"])) == len(Boxes.read(cells["p2.png"])) == 1


@pytest.mark.parametrize(
    "content",
    [
        "<a>" * 400_000,
        "<annotation>" + "x" * 2**22 + "</annotation>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
        f"<!DOCTYPE a [<!ENTITY x0 '{'y' * 99}'>"
        + "".join(f"<!ENTITY x{n} '{f'&x{n - 1};' * 10}'>" for n in range(1, 10))
        + "]><annotation>&x9;</annotation>",
    ],
    ids=["open", "large", "external", "nested"],
)
def test_hostile_xml_costs_its_picture(content: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(voc(f"{name}.png") if name == "a" else content)
    cells = cells_of(tmp_path)
    assert "b.xml cannot be read as Pascal VOC's" in cells["b.png"]["fault"] and len(Boxes.read(cells["a.png"])) == 1


@pytest.mark.parametrize("sides", [("", 1, 2, 3), ("a", 1, 2, 3), ("1,5", 1, 2, 3), ("inf", 1, 2, 3), (5, 5, 5, 5)])
def test_a_box_of_voc_without_numbers_costs_its_picture(sides: tuple[object, ...], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(voc(f"{name}.png", sides=sides if name == "b" else (1, 2, 11, 12)))
    cells = cells_of(tmp_path)
    assert len(Boxes.read(cells["a.png"])) == 1
    with pytest.raises(BadCell, match="object 1: xmin is no number|without an area"):
        Boxes.read(cells["b.png"])


# COCO


def write_coco(folder: Path, file: str = "_annotations.coco.json", **changes: Any) -> Path:
    """Write two pictures with a box each, and a COCO file of them with some of its tables changed."""
    for number in (1, 2):
        if not (folder / f"p{number}.png").exists():
            write_picture(folder / f"p{number}.png")
    tables: dict[str, Any] = {
        "images": [{"id": number, "file_name": f"p{number}.png"} for number in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "no"}],
        "annotations": [{"id": 10 + n, "image_id": n, "category_id": n, "bbox": [2, 2, 8, 8]} for n in (1, 2)],
    }
    (folder / file).write_text(json.dumps(tables | changes))
    return folder


BOX = {"image_id": 2, "category_id": 1, "bbox": [1, 1, 4, 4]}


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ({**BOX, "bbox": [1, 2, 3]}, "annotation 77: its bbox is not"),
        ({**BOX, "bbox": None}, "annotation 77: its bbox is not"),
        ({**BOX, "bbox": [1, 2, 3, "wide"]}, "annotation 77: a side of the bbox is no number"),
        ({**BOX, "bbox": [1, 2, 3, True]}, "annotation 77: a side of the bbox is no number"),
        ({**BOX, "bbox": {"x": 1}}, "annotation 77: its bbox is not"),
        ({**BOX, "category_id": 9}, "annotation 77: the category_id 9 is none"),
        ({**BOX, "category_id": "1"}, "annotation 77: the category_id '1' is none"),
        ({**BOX, "category_id": True}, "annotation 77: the category_id True is none"),
        ({**BOX, "category_id": [1]}, "annotation 77: the category_id"),
        ({"image_id": 2, "bbox": [1, 1, 2, 2]}, "annotation 77: the category_id None is none"),
        ({"image_id": 2, "category_id": 1}, "annotation 77: its bbox is not"),
        ({**BOX, "bbox": [1, 2, 10**400, 3]}, ""),
        ({**BOX, "bbox": [1, 2, float("nan"), 3]}, ""),
    ],
)
def test_a_bad_annotation_of_coco_costs_its_picture(annotation: dict[str, Any], reason: str, tmp_path: Path) -> None:
    good = [{"id": 11, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8]}]
    cells = cells_of(write_coco(tmp_path, annotations=[{"id": 77, **annotation}, *good]))
    assert [box.label for box in Boxes.read(cells["p1.png"])] == ["cat"]
    if reason:
        assert reason in cells["p2.png"]["fault"]
    elif "p2.png" in cells and (huge := cells["p2.png"][0]["box"][2]) < 1e9:
        pytest.fail(f"{huge} is read as a side")


@pytest.mark.parametrize("image_id", [99, "1", None, [1], True])
def test_an_annotation_of_no_picture_is_a_named_row(image_id: object, tmp_path: Path) -> None:
    one = {"id": 11, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8]}
    cells = cells_of(write_coco(tmp_path, annotations=[one, {**BOX, "id": 77, "image_id": image_id}]))
    (lost,) = (cell for name, cell in cells.items() if name not in ("p1.png", "p2.png"))
    assert "annotation 77 has the image_id" in lost["fault"] and cells["p2.png"] == []
    assert len(Boxes.read(cells["p1.png"])) == 1


def test_an_image_id_of_two_pictures_joins_nothing(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "p1.png"}, {"id": 1, "file_name": "p2.png"}]
    cells = cells_of(write_coco(tmp_path, images=images))
    for name in ("p1.png", "p2.png"):
        assert cells[name]["fault"] == "the image id 1 is that of 'p1.png' and of 'p2.png'"


@pytest.mark.parametrize("ids", [(1, 3), (1, 1)])
def test_a_picture_listed_twice_keeps_all_its_boxes(ids: tuple[int, int], tmp_path: Path) -> None:
    images = [{"id": number, "file_name": "p1.png"} for number in ids] + [{"id": 2, "file_name": "./p2.png"}]
    annotations = [{**BOX, "id": 5, "image_id": ids[0]}, {**BOX, "id": 6, "image_id": ids[1], "category_id": 2}]
    cells = cells_of(write_coco(tmp_path, images=images, annotations=annotations))
    assert [box.label for box in Boxes.read(cells["p1.png"])] == ["cat", "no"] and cells["p2.png"] == []


def test_two_names_that_lead_to_one_picture_are_named(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a/p1.png"}, {"id": 2, "file_name": "b/p1.png"}]
    assert (
        "'a/p1.png' and 'b/p1.png' both lead to it" in cells_of(write_coco(tmp_path, images=images))["p1.png"]["fault"]
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
         "the category id 1 has two names, 'cat' and 'dog'"),
        ({"categories": [{"id": 1}]}, "entry 0 of categories needs an id and a name"),
        ({"categories": [{"name": "cat"}]}, "entry 0 of categories needs an id and a name"),
        ({"categories": [{"id": True, "name": "cat"}]}, "entry 0 of categories needs an id and a name"),
        ({"categories": ["cat"]}, "entry 0 of categories is no object"),
        ({"images": [3]}, "entry 0 of images is no object"),
    ],
)  # fmt: skip
def test_tables_of_coco_that_all_boxes_depend_on_are_whole(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"cannot be read as COCO's: {reason}"):
        read_table(write_coco(tmp_path, **changes))


def test_a_category_listed_twice_under_one_name_is_one(tmp_path: Path) -> None:
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "1.0"}, {"id": 1, "name": "cat"}, {"id": 2.0, "name": "1.0"}]
    assert labels_of(write_coco(tmp_path, categories=names)) == ["cat", "1.0"]


@pytest.mark.parametrize(
    "entry",
    [{"id": 2}, {"id": 2, "file_name": None}, {"id": 2, "file_name": " "}, {"id": 2, "file_name": 7},
     {"id": 2, "file_name": "x" * 500 + ".png"}, {"file_name": "p2.png"}],
)  # fmt: skip
def test_an_image_of_coco_without_a_name_or_id_costs_itself(entry: dict[str, Any], tmp_path: Path) -> None:
    cells = cells_of(write_coco(tmp_path, images=[{"id": 1, "file_name": "p1.png"}, entry]))
    assert len(Boxes.read(cells.pop("p1.png"))) == 1
    assert len(cells) >= 2 or "has no id" in str(cells), "the picture that nobody tells of, and the entry"


def test_paths_of_windows_name_pictures(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "q.png")
    cells = cells_of(
        write_coco(tmp_path, images=[{"id": 1, "file_name": "images\\q.png"}, {"id": 2, "file_name": "p2.png"}])
    )
    assert len(Boxes.read(cells["q.png"])) == 1


def test_deep_json_is_no_crash(tmp_path: Path) -> None:
    write_picture(tmp_path / "p1.png")
    (tmp_path / "a.json").write_text('{"images": ' + "[" * 200_000 + "]" * 200_000 + "}")
    with pytest.raises(DataError):
        read_table(tmp_path)


# Stated sizes


def write_stated(kind: str, folder: Path, size: tuple[int, int], box: list[float], picture: Path) -> Path:
    """Write a box of a picture in a format that states the picture's size; return what is to be read."""
    (width, height), (left, top, right, bottom) = size, box
    if kind == "voc":
        text = f"<size><width>{width}</width><height>{height}</height></size>"
        (folder / f"{picture.stem}.xml").write_text(voc(picture.name, text, tuple(box)))
    elif kind == "coco":
        image = {"id": 1, "file_name": picture.name, "width": width, "height": height}
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
        write_coco(folder, images=[image], annotations=[annotation])
    else:
        rows = [
            "filename,width,height,class,xmin,ymin,xmax,ymax",
            f"{picture.name},{width},{height},no,{left},{top},{right},{bottom}",
        ]
        (folder / "train_labels.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("kind", ["voc", "coco", "csv"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_with_their_picture(kind: str, orientation: int, tmp_path: Path) -> None:
    """A size that is the picture's before it is turned shows in which of the two coordinates the boxes are."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[8:24, 16:56] = 255
    picture = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(picture, exif=exif)
    value = read_picture(picture)
    rows, columns = np.nonzero(value[..., 0] > 128)
    shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    drawn = [16.0, 8.0, 56.0, 24.0] if orientation >= 5 else [float(side) for side in shown]
    write_stated(kind, tmp_path, (80, 60), drawn, picture)
    (box,) = Boxes.read(cells_of(tmp_path)["a.png"])
    assert [box.left, box.top, box.right, box.bottom] == shown
    write_stated(kind, tmp_path, value.shape[1::-1], [float(side) for side in shown], picture)
    (box,) = Boxes.read(cells_of(tmp_path)["a.png"])
    assert [box.left, box.top, box.right, box.bottom] == shown


def read_picture(path: Path) -> Any:
    from mapsto.vision import image_io

    return image_io.decode_image(path.read_bytes())


@pytest.mark.parametrize("kind", ["voc", "coco", "csv"])
@pytest.mark.parametrize(("size", "is_right"), [((48, 32), True), ((0, 0), True), ((32, 48), False), ((96, 64), False)])
def test_a_stated_size_is_that_of_the_picture(kind: str, size: tuple[int, int], is_right: bool, tmp_path: Path) -> None:
    folder = write_stated(kind, tmp_path, size, [1, 2, 11, 12], write_picture(tmp_path / "a.png"))
    cell = cells_of(folder)["a.png"]
    assert isinstance(cell, list) if is_right else f"{size[0]} × {size[1]} pixels are stated" in cell["fault"]


# TensorFlow's table


HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize("header", [HEADER, "xmin,ymax,class,filename,xmax,ymin", f"\ufeff{HEADER},extra"])
@pytest.mark.parametrize("place", ["folder", "file"])
def test_the_table_of_tensorflow_is_read(header: str, place: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    values = {
        "filename": "a.png",
        "width": "48",
        "height": "32",
        "class": "no",
        "xmin": "1",
        "ymin": "2",
        "xmax": "11",
        "ymax": "12",
    }
    rows = [values, {**values, "class": "1.0", "xmin": "3.5"}, {**values, "filename": "b.png"} | dict.fromkeys(
        ("class", "xmin", "ymin", "xmax", "ymax"), "")]  # fmt: skip
    names = header.lstrip("\ufeff").split(",")
    lines = [header, *(",".join(row.get(name, "") for name in names) for row in rows)]
    (tmp_path / "_annotations.csv").write_text("\n".join(lines), encoding="utf-8")
    cells = cells_of(tmp_path / "_annotations.csv" if place == "file" else tmp_path)
    assert [(box.label, box.left) for box in Boxes.read(cells["a.png"])] == [("no", 1), ("1.0", 3.5)]
    assert cells["b.png"] == []


@pytest.mark.parametrize("folder", ["data", "images", "annotations"])
def test_a_table_beside_the_folders_of_its_pictures(folder: str, tmp_path: Path) -> None:
    """Pictures of one name are told apart by the name of the table."""
    for part in ("train", "test"):
        write_picture(tmp_path / "images" / part / "a.png")
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{part}_labels.csv").write_text(f"{HEADER}\na.png,48,32,{part},1,2,11,12")
    for part in ("train", "test"):
        table = read_table(tmp_path / folder / f"{part}_labels.csv")
        assert labels_of(tmp_path / folder / f"{part}_labels.csv") == [part]
        assert table.column("image") == [str(tmp_path / "images" / part / "a.png")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,48,32,no,1,2,eleven,12", "line 3: xmax is no number: 'eleven'"),
        ("a.png,48,32,no,1,2,11", "line 3: the row has not as many cells"),
        ("a.png,48,32,no,1,2,11,12,13", "line 3: the row has not as many cells"),
        ("a.png,64,32,no,1,2,11,12", "its rows state different sizes"),
        ("c.png,48,32,no,1,2,11,12", "tells of 'c.png', and there is no such picture"),
    ],
)
def test_a_bad_row_of_the_table_costs_its_picture(row: str, reason: str, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    lines = [HEADER, "a.png,48,32,no,1,2,11,12", row, "b.png,48,32,no,1,2,11,12"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    cells = cells_of(tmp_path)
    assert len(Boxes.read(cells["b.png"])) == 1
    assert any(isinstance(cell, dict) and reason in cell["fault"] for cell in cells.values()), cells


def test_other_tables_stay_tables(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("filename,class\na.png,b\n")
    assert read_table(tmp_path / "t.csv").columns == ("filename", "class")
