"""Boxes: read from what data sets keep, laid against pictures, told, scored as COCO does, drawn."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from runs import boxed, run, write_boxed
from runs import write_voc as as_voc

pytest.importorskip("PIL", reason="the extra [image] is not here")

import mapsto
from mapsto.data.table import read_table, write_rows
from mapsto.errors import BadCell, DataError, UsageError
from mapsto.kinds import image
from mapsto.kinds.boxes import Box, Boxes
from mapsto.metrics.average_precision import AveragePrecision, match_detections
from mapsto.sequence.corruption import make_generator
from mapsto.vision import detection_annotations, image_io, resize
from mapsto.vision.patch_embedding import HEADER_BYTES

SMALL = {"layers": 1, "width": 32, "device": "cpu", "precision": "fp32"}


def rows(count: int) -> list[dict[str, Any]]:
    return [{"image": pixels, "boxes": boxes} for pixels, boxes in map(boxed, range(count))]


def as_coco(folder: Path) -> Path:
    held = write_boxed(folder / "images")
    names = ["red", "绿"]
    told = {
        "images": [{"id": 7 + i, "file_name": path.name} for i, (path, _) in enumerate(held)],
        "categories": [{"id": 3 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                "id": 1, "image_id": 7 + i, "category_id": 3 + names.index(box["label"]), "iscrowd": 0,
                "bbox": [*box["box"][:2], box["box"][2] - box["box"][0], box["box"][3] - box["box"][1]],
            }
            for i, (_, boxes) in enumerate(held)
            for box in boxes
        ],
    }  # fmt: skip
    (folder / "annotations.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def as_yolo(folder: Path) -> Path:
    (folder / "labels").mkdir(parents=True)
    names = ["red", "绿"]
    for path, boxes in write_boxed(folder / "images"):
        lines = []
        for box in boxes:
            x0, y0, x1, y1 = box["box"]
            shares = ((x0 + x1) / 2 / 48, (y0 + y1) / 2 / 32, (x1 - x0) / 48, (y1 - y0) / 32)
            lines.append(f"{names.index(box['label'])} " + " ".join(map(repr, shares)))
        (folder / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("names: [red, 绿]\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("write", [as_coco, as_voc, as_yolo])
def test_what_data_sets_keep_is_read(write: Any, tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "set"))
    assert set(table.columns) == {"image", "boxes"} and len(table) == 4
    for number, cell in enumerate(table.column("boxes")):
        assert Path(table.column("image")[number]).stem == str(number)
        for found, wanted in zip(Boxes.read(cell), Boxes.read(boxed(number)[1]), strict=True):
            assert found.label == wanted.label
            assert np.allclose([found.left, found.top, found.right, found.bottom],
                               [wanted.left, wanted.top, wanted.right, wanted.bottom])  # fmt: skip


def test_cocos_file_may_be_named_alone(tmp_path: Path) -> None:
    folder = as_coco(tmp_path / "set")
    named, whole = read_table(folder / "annotations.json"), read_table(folder)
    assert all(named.column(name) == whole.column(name) for name in ("image", "boxes"))


def test_a_picture_that_nobody_told_of_is_named_and_yolo_has_none_there(tmp_path: Path) -> None:
    voc, yolo = as_voc(tmp_path / "voc"), as_yolo(tmp_path / "yolo")
    (voc / "Annotations" / "2.xml").unlink()
    (yolo / "labels" / "2.txt").unlink()
    cells = read_table(voc).column("boxes")
    assert cells[2] is None
    with pytest.raises(BadCell, match="no boxes are given"):
        Boxes.read(cells[2])
    assert Boxes.read(read_table(yolo).column("boxes")[2]) == ()


@pytest.mark.parametrize(
    ("write", "file", "content", "says"),
    [
        (as_voc, "Annotations/1.xml", "<annotation><object>", "1.xml cannot be read as Pascal VOC's"),
        (as_yolo, "labels/1.txt", "0 0.5 0.5 0.1\n", "1.txt, line 1"),
        (as_yolo, "labels/1.txt", "\n9 0.5 0.5 0.1 0.1\n", "1.txt, line 2: .* no class 9 among the 2"),
    ],
)
def test_what_cannot_be_read_is_one_bad_cell(write: Any, file: str, content: str, says: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    (folder / file).write_text(content)
    cells = read_table(folder).column("boxes")
    with pytest.raises(BadCell, match=says):
        Boxes.read(cells[1])
    assert [len(Boxes.read(cell)) for at, cell in enumerate(cells) if at != 1] == [1, 1, 2]


def test_cocos_pictures_lie_in_its_folder(tmp_path: Path) -> None:
    """A name that leads out of it is one bad row, and what lies there is not read; its last part may name a picture inside."""
    folder = as_coco(tmp_path / "set")
    shutil.copy(folder / "images" / "0.png", tmp_path / "away.png")
    file = folder / "annotations.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    for at, name in enumerate(("../away.png", str(tmp_path / "away.png"), "/data/2.png")):
        said["images"][at]["file_name"] = name
    file.write_text(json.dumps(said), encoding="utf-8")
    table = read_table(file)
    cells = dict(zip(table.column("image"), table.column("boxes"), strict=True))
    assert len(cells) == len(said["images"])
    out = [
        name for name, cell in cells.items() if isinstance(cell, dict) and "leads out of the folder" in cell["fault"]
    ]
    assert len(out) == 2 and not any(Path(name).exists() for name in out)
    assert isinstance(cells[str(folder / "images" / "2.png")], list)


@pytest.mark.parametrize("write", [as_voc, as_coco, as_yolo])
def test_folders_that_part_pictures_from_boxes_are_no_labels(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    assert "label" not in read_table(folder).columns
    with pytest.raises(UsageError, match="no column left can be 'label'"):
        mapsto.fit("image -> label, boxes", str(folder), steps=1, **SMALL)


def test_boxes_in_shares_of_the_picture_are_named() -> None:
    picture = SimpleNamespace(width=48, height=32)
    shares, pixels = ({"label": "a", "box": box} for box in ([0.1, 0.2, 0.5, 1], [0, 0, 1, 1]))
    assert "multiply them by 48 and 32" in Boxes.misplaced(Boxes.read([shares]), picture)
    assert Boxes.misplaced(Boxes.read([pixels]), picture) == ""
    assert Boxes.misplaced(Boxes.read([shares, {"label": "a", "box": [1, 2, 30, 20]}]), picture) == ""


def test_a_box_outside_its_picture_is_named(tmp_path: Path) -> None:
    """One that reaches beyond its edge is not: tools round up."""
    held = rows(4)
    wide = held[0]["image"].shape[1]
    beside, across = ({"label": "red", "box": [left, 0, left + 40, 20]} for left in (wide, wide - 20))
    held[1]["boxes"], held[2]["boxes"] = [*held[1]["boxes"], beside], [across]
    with pytest.raises(DataError) as stopped:
        mapsto.fit("image -> boxes", held, steps=1, **SMALL)
    (fault,) = stopped.value.findings
    assert fault.row == 2 and fault.column == "boxes" and "a box outside the picture of" in fault.reason


def test_parts_of_coco_keep_their_own_pictures(tmp_path: Path) -> None:
    """Pictures of one name in two folders, told of by a file each that is named after its folder; captions are left alone."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, boxes in (("train2017", [[1, 1, 5, 5]]), ("val2017", [[2, 2, 6, 6], [3, 3, 7, 7]])):
        write_boxed(root / part, 1)
        told = [{"id": i, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
        said = {
            "images": [{"id": 1, "file_name": "0.png"}],
            "annotations": told,
            "categories": [{"id": 1, "name": "a"}],
        }
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(said))
        captions = {**said, "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(captions))
    table = read_table(root)
    assert [len(cell) for cell in table.column("boxes")] == [1, 2]
    (alone,) = read_table(root / "annotations" / "instances_val2017.json").column("boxes")
    assert len(alone) == 2
    shutil.copy(root / "annotations" / "instances_val2017.json", root / "annotations" / "keypoints_val2017.json")
    with pytest.raises(DataError, match=r"both tell of .*val2017/0.png"):
        read_table(root)


def test_a_line_of_yolo_is_a_box_a_polygon_or_named(tmp_path: Path) -> None:
    folder = as_yolo(tmp_path / "set")
    lines = ["0 0.1 0.2 0.9 0.2 0.9 0.8 0.1 0.8", "1 0.5 0.5 0.2 0.2 0.9", "-1 0.5 0.5 0.2 0.2", "0 0.1 0.2 0.3"]
    for number, line in enumerate(lines):
        (folder / "labels" / f"{number}.txt").write_text(line)
    polygon, sure, *bad = read_table(folder).column("boxes")
    assert np.allclose(polygon[0]["box"], [4.8, 6.4, 43.2, 25.6]) and polygon[0]["label"] == "red"
    assert np.allclose(sure[0]["box"], [19.2, 12.8, 28.8, 19.2])
    assert ["-1 is no class" in cell["fault"] for cell in bad] == [True, False]
    assert "neither a box nor a polygon" in bad[1]["fault"]


def test_other_files_beside_pictures_tell_of_no_boxes(tmp_path: Path) -> None:
    for label in ("a", "b"):
        write_boxed(tmp_path / label, 2)
    (tmp_path / "a" / "0.txt").write_text("a red thing on a dark ground")
    (tmp_path / "info.xml").write_text("<about><title>things</title></about>")
    assert read_table(tmp_path).data["label"] == ["a", "a", "b", "b"]
    assert "boxes" not in read_table(tmp_path).columns


def test_of_pictures_of_one_name_the_file_says_which_is_meant(tmp_path: Path) -> None:
    folder = as_voc(tmp_path / "set")
    shutil.copy(folder / "JPEGImages" / "1.png", folder / "JPEGImages" / "1.jpg")
    table = read_table(folder)
    found = dict(zip((Path(name).name for name in table.column("image")), table.column("boxes"), strict=True))
    assert found["1.jpg"] is None and len(found["1.png"]) == 2, "the file names the second one"


def test_boxes_come_through_every_format(tmp_path: Path) -> None:
    folder = as_voc(tmp_path / "set")
    table = read_table(folder)
    records = [dict(zip(table.columns, row, strict=True)) for row in zip(*table.data.values(), strict=True)]
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        write_rows(tmp_path / name, table.columns, records)
        again = read_table(tmp_path / name).column("boxes")
        assert [Boxes.read(cell) for cell in again] == [Boxes.read(cell) for cell in table.column("boxes")]


def test_more_boxes_than_can_be_told_are_counted() -> None:
    target = Boxes()
    answers = [tuple(Box("a", i, 0, i + 1 + i % 3, 2) for i in range(1500)), (Box("a", 0, 0, 1, 1),)]
    target.learn(answers)
    assert target.queries == 1024
    assert target.notes(answers) == ["1 rows have more than the 100 boxes of an answer; only the most confident count"]
    source = image.ImageSource(resize.Resizer(4, 32), [0.5] * 3, [0.2] * 3)
    target.bind({"image": source}, None)
    (piece,) = source.encode([source.read(np.zeros((8, 1503, 3), np.uint8))], 0, aligned=True)
    values = target.encode(answers[0], (piece,)).values
    assert (values[:, 3] < 1.5 / 1503).sum() == 1024 - 2 * 500, "of the smallest only as many as there was room for"


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (None, "no boxes are given"),
        ("[", "no list"),
        (3, "a list"),
        ([3], "a dict"),
        ([{"label": "a", "box": [1, 2, 3]}], "four sides"),
        ([{"box": [1, 2, 3, 4]}], "no label"),
        ([{"label": "a", "box": [5, 2, 5, 4]}], "without an area: a at 5, 2"),
        ([{"label": ["a"], "box": [1, 2, 3, 4]}], "text or a number"),
        ([{"label": "a", "box": "1234"}], "a list of four sides"),
        ({"bbox": [[1, 1, 5, 5]], "category": []}, "not as many"),
        ({"bbox": None, "category": None}, "not as many"),
        ([{"label": "a", "box": [0, 0, float("inf"), 4]}], "without an area"),
        ([{"label": "a", "box": [0, 0, 10**400, 4]}], "four sides"),
        ("[" * 100_000, "no list"),
    ],
)
def test_a_bad_cell_says_what_is_wrong(cell: Any, says: str) -> None:
    with pytest.raises(BadCell, match=says):
        Boxes.read(cell)


@pytest.mark.parametrize("how", image.ImageSource.augmentations)
@pytest.mark.parametrize("fit", ["inside", "squash", "middle", "shorter"])
def test_a_box_moves_with_its_boxed(how: str, fit: Any) -> None:
    """A bright rectangle is where its box says, however the picture was brought to its size and varied."""
    pixels = np.full((40, 64, 3), 20, np.uint8)
    pixels[12:28, 20:40] = 120
    frame = resize.Resizer(4, 32, fit, 32)
    source = image.ImageSource(frame, [0.5] * 3, [0.2] * 3)
    target = Boxes()
    answer = target.read([{"label": "bright", "box": [20, 12, 40, 28]}])
    target.learn([answer])
    target.bind({"image": source}, None)
    (piece,) = source.encode([source.read(pixels)], 0, aligned=True)
    told = 0
    for step in range(20):
        varied = source.augment(piece, make_generator(0, 0, step), how)
        grid = int(varied.tokens[0, 3]), int(varied.tokens[0, 4])
        seen = resize.join_patches(varied.tokens[~varied.special, HEADER_BYTES:], grid, 4).mean(-1)
        values = target.encode(answer, (varied,)).values
        if seen.max() - seen.min() < 30:
            continue  # nothing is told apart any more
        y, x = np.nonzero(seen > (seen.min() + seen.max()) / 2)
        h, w = seen.shape
        found = np.array([x.min() / w, y.min() / h, (x.max() + 1) / w, (y.max() + 1) / h])
        for _, *at in values[values[:, 0] >= 0]:
            told += 1
            middle, extent = np.array(at[:2]), np.array(at[2:])
            assert np.abs(np.concatenate([middle - extent / 2, middle + extent / 2]) - found).max() < 0.07
    assert told > 12, "crops may leave it out now and then"


@pytest.mark.parametrize("how", ["move", "mirror"])
def test_boxes_of_a_mosaic_are_where_their_pictures_are(how: str) -> None:
    """A rectangle in a colour of its own in each of four pictures: where enough of one is seen, its box is about it."""
    colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    source, target = image.ImageSource(resize.Resizer(4, 64), [0.5] * 3, [0.2] * 3), Boxes()
    answers = [target.read([{"label": name, "box": [12, 8, 28, 20]}]) for name in colours]
    target.learn(answers)
    target.bind({"image": source}, None)
    shown = [np.zeros((*size, 3), np.uint8) for size in ((40, 64), (64, 32), (48, 48), (24, 64))]
    for pixels, colour in zip(shown, colours.values(), strict=True):
        pixels[8:20, 12:28] = 200 * np.array(colour)
    pieces = source.encode([source.read(pixels) for pixels in shown], 0, aligned=True)
    told = 0
    for step in range(30):
        rng = make_generator(0, 0, step)
        mixed, parts = source.mix([source.augment(piece, rng, how) for piece in pieces], rng, "mosaic")
        seen = resize.join_patches(mixed.tokens[~mixed.special, HEADER_BYTES:], (10, 16), 4)
        values = target.mix_answers(answers, (mixed,), parts).values
        for name, colour in colours.items():
            found = values[values[:, 0] == target.classes.index(name), 1:]
            y, x = np.nonzero(((seen > 80) == np.array(colour)).all(-1))
            if not len(found):
                assert len(x) < 80, "a quarter of 16 × 12 pixels, in a picture that may have grown"
                continue
            told += 1
            ((middle, extent),) = found.reshape(1, 2, 2)
            there = np.array([x.min() / 64, y.min() / 40, (x.max() + 1) / 64, (y.max() + 1) / 40])
            assert np.abs(np.concatenate([middle - extent / 2, middle + extent / 2]) - there).max() < 0.05
    assert told > 60


def test_of_answers_that_overlap_the_surest_is_told_and_counts() -> None:
    """Beside one of another class, and one elsewhere; how sure the answer is says nothing of what is not told."""
    target = Boxes(["a", "b"], grid=2)
    sides = [[0, 0, 10, 10], [0, 1, 10, 11], [0, 0, 10, 10], [20, 20, 30, 30]]
    likely = torch.tensor([[0.9, 0.01], [0.6, 0.01], [0.01, 0.8], [0.5, 0.01]])
    output = torch.cat([torch.logit(likely), torch.tensor(sides)], dim=1)[None]
    (said,) = target.decode(output)
    assert [(box["label"], box["box"][0]) for box in said["boxes"]] == [("a", 0.0), ("b", 0.0), ("a", 20.0)]
    assert said["probability"] == pytest.approx((0.9 + 0.8 + 0.5) / 3, abs=1e-6)
    assert target.confidence(output).tolist() == [said["probability"]]


def test_boxes_that_left_the_picture_are_not_asked_for() -> None:
    target, source = Boxes(), image.ImageSource(resize.Resizer(4, 32, "middle", 32), [0.5] * 3, [0.2] * 3)
    answer = target.read([{"label": "a", "box": [0, 0, 6, 32]}, {"label": "a", "box": [30, 0, 50, 32]}])
    target.learn([answer])
    target.bind({"image": source}, None)
    (piece,) = source.encode([source.read(np.zeros((32, 64, 3), np.uint8))], 0, aligned=True)
    values = target.encode(answer, (piece,)).values
    assert (values[:, 0] >= 0).sum() == 1, "the middle of the picture begins at 16 and ends at 48"
    assert values[0, 3] == pytest.approx(18 / 32)


def test_figures_equal_those_of_faster_coco_eval() -> None:
    """With crowds, equal scores, pictures without boxes and classes without any: the same average precisions and recall."""
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    truths, said = [], []
    for _ in range(30):
        corners = rng.uniform(0, 80, (rng.integers(0, 6), 2))
        sides = np.concatenate([corners, corners + rng.uniform(5, 40, corners.shape)], axis=1)
        truths.append(
            [Box(names[rng.integers(3)], *map(float, side), crowd=bool(rng.random() < 0.15)) for side in sides]
        )
        chosen = rng.integers(0, max(1, len(sides)), 2 * len(sides))
        near = sides[chosen]
        moved = near + rng.normal(0, 2, near.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        said.append(
            [
                (truths[-1][at].label if rng.random() < 0.8 else "c", side, round(float(rng.random()), 1))
                for at, side in zip(chosen, moved, strict=True)
            ]
        )
    classes = []
    for name in names:
        column = []
        for truth, listed in zip(truths, said, strict=True):
            own = [box for box in truth if box.label == name]
            sides = np.array([[box.left, box.top, box.right, box.bottom] for box in own]).reshape(-1, 4)
            mine = [(side, score) for label, side, score in listed if label == name]
            boxes = np.array([side for side, _ in mine]).reshape(-1, 4)
            crowd = np.array([box.crowd for box in own], bool)
            column.append(match_detections(boxes, np.array([score for _, score in mine]), sides, crowd))
        classes.append(column)
    precision, all_rows = AveragePrecision(classes), np.arange(30)
    theirs = peer(truths, said)
    ours = [
        precision.precision(all_rows),
        precision.precision(all_rows, slice(0, 1)),
        precision.precision(all_rows, slice(5, 6)),
    ]
    assert [*ours, precision.recall(all_rows)] == pytest.approx([theirs[0], theirs[1], theirs[2], theirs[8]], abs=1e-8)
    assert 0.05 < ours[0] < ours[1] < 0.95, "neither all nor nothing is found"


def peer(truths: list[list[Box]], said: list[list[tuple[str, Any, float]]]) -> Any:
    evaluation = pytest.importorskip("faster_coco_eval")
    number = {"a": 1, "b": 2, "c": 3}
    boxes = [(at, box) for at, truth in enumerate(truths) for box in truth]
    with contextlib.redirect_stdout(io.StringIO()):
        held = evaluation.COCO(
            {
                "info": {},
                "images": [{"id": at + 1} for at in range(len(truths))],
                "categories": [{"id": at, "name": name} for name, at in number.items()],
                "annotations": [
                    {
                        "id": at + 1, "image_id": row + 1, "category_id": number[box.label], "iscrowd": int(box.crowd),
                        "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                        "area": (box.right - box.left) * (box.bottom - box.top),
                    }
                    for at, (row, box) in enumerate(boxes)
                ],
            }
        )  # fmt: skip
        found = held.loadRes(
            [
                {
                    "image_id": row + 1, "category_id": number[label], "score": score,
                    "bbox": [side[0], side[1], side[2] - side[0], side[3] - side[1]],
                }
                for row, listed in enumerate(said)
                for label, side, score in listed
            ]
        )  # fmt: skip
        judge = evaluation.COCOeval_faster(held, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


@pytest.mark.slow
def test_boxes_are_learnt_told_drawn_and_opened_again(tmp_path: Path) -> None:
    """From a folder of Pascal VOC to boxes drawn into a picture, by the command line and in Python."""
    model = mapsto.fit(
        "image -> boxes", rows(24), tmp_path / "det", steps=250, batch=24, hold_out=0, augment="none", **SMALL
    )
    seen = model.evaluate(rows(24))
    assert seen.scores["map50"].value > 0.9, "few pictures are learnt by heart"
    again = mapsto.load(tmp_path / "det", device="cpu", precision="fp32")
    pixels, boxes = boxed(1)
    assert again.predict([{"image": pixels}]) == model.predict([{"image": pixels}])
    (answer,) = again.predict([{"image": pixels}])
    assert {box["label"] for box in answer["boxes"]} == {"red", "绿"}
    for told in answer["boxes"]:
        (true,) = (box for box in boxes if box["label"] == told["label"])
        assert 0 < told["probability"] <= 1 and np.abs(np.array(told["box"]) - true["box"]).max() < 6
    folder = as_voc(tmp_path / "set")
    out, drawn = tmp_path / "out.jsonl", tmp_path / "drawn"
    run("predict", str(tmp_path / "det"), str(folder), "--out", str(out), "--draw", str(drawn), "--device", "cpu")
    assert len(out.read_text(encoding="utf-8").splitlines()) == 4
    files = sorted(path.name for path in drawn.iterdir())
    assert files == [f"{i + 1:05}-{i}.png" for i in range(4)]
    before = image_io.decode_image((folder / "JPEGImages" / "1.png").read_bytes())
    after = image_io.decode_image((drawn / "00002-1.png").read_bytes())
    assert before.shape == after.shape and (before != after).any()
    traced = run("trace", "image -> boxes", str(folder), "--start", str(tmp_path / "det"))
    assert " places →" in traced.stdout and "truth    '1 red'" in traced.stdout, traced.stderr
    page = tmp_path / "page.html"
    shown = run("evaluate", str(tmp_path / "det"), str(folder), "--out", str(page), "--device", "cpu")
    assert "map50" in shown.stdout, shown.stderr
    assert "stroke-dasharray" in page.read_text(encoding="utf-8")


def test_a_label_and_boxes_come_from_one_pass(tmp_path: Path) -> None:
    both = [{**row, "label": str(len(row["boxes"]))} for row in rows(12)]
    model = mapsto.fit("image -> label, boxes", both, tmp_path / "both", steps=2, hold_out=0, **SMALL)
    (answer,) = mapsto.load(tmp_path / "both", device="cpu").predict([{"image": boxed(0)[0]}])
    assert set(answer) == {"label", "boxes", "familiar"} and answer["label"]["label"] in ("1", "2")
    names = set(model.evaluate(both).scores)
    assert {"label: accuracy", "boxes: map50"} <= names


def test_boxes_are_compared_by_what_is_found(tmp_path: Path) -> None:
    found = mapsto.compare(
        "image -> boxes", rows(12), tmp_path / "cmp", test=rows(18)[12:], starts=["scratch"], labels=[4, 8], seeds=2, epochs=1,
        layers=1, width=32, device="cpu",
    )  # fmt: skip
    assert found.metric == "found" and list(found.curves) == ["scratch, full"]
    assert "stroke-dasharray" in (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")


def test_boxes_need_a_picture_and_drawing_needs_boxes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="boxes lie in a picture"):
        mapsto.fit("text -> boxes", [{"text": "a b c d", "boxes": []}] * 4, **SMALL)
    told = [{"text": f"a b c {i}", "label": "xy"[i % 2]} for i in range(8)]
    mapsto.fit("text -> label", told, tmp_path / "clf", steps=1, vocabulary=300, **SMALL)
    refused = run("predict", str(tmp_path / "clf"), "--text", "a", "--draw", str(tmp_path / "drawn"))
    assert refused.returncode == 2 and "--draw is for answers that lie" in refused.stderr


def test_pictures_are_read_in_the_size_that_is_asked_for(tmp_path: Path) -> None:
    model = mapsto.fit("image -> boxes", rows(6), tmp_path / "det", steps=1, size=64, hold_out=0, **SMALL)
    source = mapsto.load(tmp_path / "det", device="cpu").mapping.sources["image"]
    assert isinstance(source, image.ImageSource) and source.resizer.size == 64 and source.resizer.fit == "inside"
    assert model.mapping.config.transformer.max_tokens >= source.max_tokens
    with pytest.raises(UsageError, match="size= is for pictures"):
        mapsto.fit("text -> label", [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}], size=64, **SMALL)


def test_blood_cells_are_read_and_the_two_without_an_area_named(shared_data: Path, tmp_path: Path) -> None:
    bccd = shared_data / "image" / "bccd"
    table = read_table(bccd)
    assert len(table) == 364
    bad = []
    for name, cell in zip(table.column("image"), table.column("boxes"), strict=True):
        try:
            Boxes.read(cell)
        except BadCell as error:
            bad.append((Path(name).stem, str(error)))
    assert [name for name, _ in bad] == ["BloodImage_00338", "BloodImage_00343"]
    assert all("without an area" in reason for _, reason in bad)
    shutil.copytree(bccd / "Annotations", tmp_path / "Annotations")
    cells = detection_annotations.read_annotations(tmp_path, lambda folder: sorted(folder.rglob("*.xml")))
    assert len(cells) == 364, "files that are told of and not there are rows too, and bad ones"
