"""The cases of ../shared/cases, made from public bug reports of other libraries, hold by their rules (RULES.md there).

Each case is a folder of files as users have them; the number of a test is that of its folder. Without the folders the tests are
skipped.
"""

from __future__ import annotations

import csv
import json
import shutil
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainings import TINY_OPTIONS, RecordingProgress
from typer.testing import CliRunner

import mapsto
from mapsto.cli.app import app
from mapsto.data.checks import check_rows
from mapsto.data.rows import load_rows
from mapsto.data.table import Table, read_table
from mapsto.errors import CheckpointError, DataError, Finding, MapstoError, fault_of
from mapsto.task.arrow import parse

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases is not here"),
]


def case(number: int) -> Path:
    """Return the folder of a case."""
    (folder,) = CASES.glob(f"{number:02d}-*")
    return folder


def boxes_of(table: Table) -> dict[str, Any]:
    """Return for each picture, by the name of its file, the cell of its boxes."""
    pictures = [Path(str(path)).name for path in table.column("image")]
    assert len(set(pictures)) == len(pictures)
    return dict(zip(pictures, table.column("boxes"), strict=True))


def names_of(table: Table) -> list[str]:
    """Return the name of the only box of each picture, in the order of the pictures' names."""
    return [box["label"] for _, [box] in sorted(boxes_of(table).items())]


def check(arrow: str, path: Path) -> tuple[list[Finding], list[Finding]]:
    """Return the errors and the warnings of `mapsto check` about a table or folder."""
    rows = load_rows(parse(arrow), read_table(path))
    report = check_rows(rows)
    return [*rows.faults, *report.errors], report.warnings


def numbers_in(path: Path) -> list[int]:
    """Return the class number in each label file of a folder in the format of YOLO, in the order of their names."""
    return [int(label.read_text().split()[0]) for label in sorted(path.glob("*.txt"))]


def test_01_class_numbers_with_gaps() -> None:
    names = {1: "wren", 2: "robin", 5: "owl"}
    birds = case(1) / "birds"
    assert names_of(read_table(birds)) == [names[number] for number in numbers_in(birds / "labels")]


def test_01_a_class_number_without_a_name_is_a_fault(tmp_path: Path) -> None:
    shutil.copytree(case(1) / "birds", tmp_path / "birds")
    for number in (0, 3):
        (tmp_path / "birds" / "labels" / "p0.txt").write_text(f"{number} 0.5 0.5 0.4 0.4\n")
        boxes = boxes_of(read_table(tmp_path / "birds"))
        assert str(number) in (fault_of(boxes.pop("p0.png")) or "") and not any(map(fault_of, boxes.values()))


def test_02_class_numbers_as_text() -> None:
    birds = case(2) / "birds"
    assert names_of(read_table(birds)) == [f"kind{number:02d}" for number in numbers_in(birds / "labels")]


def test_03_names_stay_as_they_are_written() -> None:
    masks = case(3) / "masks"
    assert names_of(read_table(masks)) == [["no", "yes", "null"][number] for number in numbers_in(masks / "labels")]


def test_05_every_label_file_belongs_to_a_picture_or_is_named() -> None:
    boxes = boxes_of(read_table(case(5) / "a"))
    labels = {name: [box["label"] for box in cell] for name, cell in boxes.items() if fault_of(cell) is None}
    assert labels == {
        "p0.jpg": ["cat"], "p1.jpg": ["dog"], "p2.jpg": ["dog"], "p3.jpg": [], "p4.jpg": ["dog"], "p5.jpg": []
    }  # fmt: skip
    (reason,) = filter(None, map(fault_of, boxes.values()))
    assert "p-3.txt" in reason


def test_06_an_image_id_twice_joins_nothing() -> None:
    boxes = boxes_of(read_table(case(6) / "a"))
    for name in ("p1.png", "p2.png"):
        assert "1" in (fault_of(boxes[name]) or "")
    assert [box["label"] for box in boxes["p3.png"]] == ["dog"]


def test_07_boxes_of_a_picture_listed_twice_stay_together() -> None:
    boxes = boxes_of(read_table(case(7) / "a"))
    assert sorted(box["label"] for box in boxes["p1.png"]) == ["cat", "dog"]
    assert [box["label"] for box in boxes["p2.png"]] == ["dog"]


def test_08_a_category_id_with_two_names_is_refused() -> None:
    with pytest.raises(DataError, match=r"'cat' and 'horse'"):
        read_table(case(8) / "a")


def test_11_a_picture_whose_metadata_cannot_be_written_is_read() -> None:
    pytest.importorskip("PIL", reason="the extra [image] is not here")
    errors, _ = check("image -> label", case(11) / "pics")
    assert not errors
    options = {"steps": 1, "layers": 1, "width": 64, "device": "cpu"}
    answers = mapsto.fit("image -> label", case(11) / "good", **options).predict(case(11) / "pics")
    assert len(answers) == 10 and all(answer["label"] in {"cat", "dog"} for answer in answers)


@pytest.mark.parametrize(("name", "first"), [("python", ["cast", "music"]), ("numpy", ["1", "2"])])
def test_16_lists_as_python_prints_them(name: str, first: list[str]) -> None:
    rows = load_rows(parse("text -> labels"), read_table(case(16) / f"{name}.csv"))
    assert not rows.faults and len(rows) == 20
    assert sorted(map(str, rows.targets[0][0])) == first


@pytest.mark.parametrize("name", ["pandas", "excel"])
def test_19_a_column_without_a_name_is_left_aside_with_a_remark(name: str) -> None:
    table = read_table(case(19) / f"{name}.csv")
    rows = load_rows(parse("text -> label"), table)
    assert not rows.faults and len(rows) == 20 and set(rows.targets[0]) == {"neg", "pos"}
    assert any("name" in str(remark) for remark in table.remarks_on(table.columns))


@pytest.mark.parametrize("name", ["semicolon", "comma", "tab"])
def test_20_a_first_line_that_names_the_separator_is_followed(name: str) -> None:
    rows = load_rows(parse("text -> label"), read_table(case(20) / f"{name}.csv"))
    assert not rows.faults and len(rows) == 20 and set(rows.targets[0]) == {"neg", "pos"}


def test_21_decimals_are_numbers() -> None:
    table = read_table(case(21) / "prices.parquet")
    rows = load_rows(parse("text -> price:number"), table)
    assert not rows.faults and list(map(float, rows.targets[0])) == [float(price) for price in table.column("price")]
    labels = load_rows(parse("text -> price:label"), table)
    assert not labels.faults
    # A whole decimal is the label that an integer is.
    for value, label in zip(table.column("price"), labels.targets[0], strict=True):
        if Decimal(value) == Decimal(value).to_integral_value():
            assert label == str(int(value))


def write_bert(folder: Path, names: list[str]) -> Any:
    """Save a small BERT with a head for classes to a folder as transformers does; return the model."""
    transformers = pytest.importorskip("transformers")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "number", *"0123456789"]
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return model


def test_24_a_folder_that_is_nearly_a_model_is_named_with_what_to_do(tmp_path: Path) -> None:
    plain, nearly = tmp_path / "plain", {}
    weights = write_bert(plain, ["neg", "pos"]).state_dict()
    for name in ("adapter", "unmerged", "trainer", "lfs"):
        nearly[name] = tmp_path / name
        shutil.copytree(plain, nearly[name] / "checkpoint-50" if name == "trainer" else nearly[name])
    for path in nearly["adapter"].iterdir():
        path.unlink()
    (nearly["adapter"] / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    (nearly["adapter"] / "adapter_model.safetensors").write_bytes(b"")
    write_unmerged(nearly["unmerged"] / "model.safetensors", weights)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 1234567\n"
    (nearly["lfs"] / "model.safetensors").write_text(pointer)
    advice = {
        "adapter": ("some/base", "merge"), "unmerged": ("merge",), "trainer": ("checkpoint-50",), "lfs": ("git lfs pull",)
    }  # fmt: skip
    for name, words in advice.items():
        with pytest.raises(CheckpointError) as error:
            mapsto.load(nearly[name])
        assert all(word in str(error.value) for word in words), str(error.value)


def write_unmerged(path: Path, weights: dict[str, Any]) -> None:
    """Write weights to a file under the names that peft gives them while an adapter is not merged."""
    from safetensors.torch import save_file

    layer = "bert.encoder.layer.0.attention.self.query"
    renamed = {name.replace(layer, f"{layer}.base_layer"): weight for name, weight in weights.items()}
    width = weights[f"{layer}.weight"].shape[0]
    for part, shape in (("lora_A", (2, width)), ("lora_B", (width, 2))):
        renamed[f"{layer}.{part}.default.weight"] = weights[f"{layer}.weight"].new_zeros(shape)
    save_file({name: weight.contiguous() for name, weight in renamed.items()}, path)


@pytest.mark.parametrize(("names", "is_kept"), [(["neg", "neutral", "pos"], True), (["NEG", "POS"], False)])
def test_25_the_head_of_a_start_is_kept_or_it_is_said(names: list[str], is_kept: bool, tmp_path: Path) -> None:
    write_bert(tmp_path / "start", names)
    progress = RecordingProgress()
    model = mapsto.fit(
        "text -> label", case(25) / "train.csv", start=tmp_path / "start", method="full", steps=1, progress=progress
    )
    classes = model.mapping.targets[0].classes  # type: ignore[attr-defined]
    assert classes == (names if is_kept else ["neg", "pos"])
    assert any("head of the start" in line for line in progress.lines) != is_kept


def test_26_no_column_of_the_input_is_changed(tmp_path: Path) -> None:
    mapsto.fit("text -> label", case(26) / "train.csv", tmp_path / "model", method="linear", device="cpu")
    arguments = ["predict", str(tmp_path / "model"), str(case(26) / "judged.csv"), "--out", str(tmp_path / "a.csv")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    before, after = (
        list(csv.DictReader(path.open(encoding="utf-8", newline="")))
        for path in (case(26) / "judged.csv", tmp_path / "a.csv")
    )
    assert len(after) == len(before)
    for row, answered in zip(before, after, strict=True):
        assert {name: answered[name] for name in row} == row
        # The answer has columns of its own.
        assert any(answered[name] in {"neg", "pos"} for name in answered.keys() - row.keys())


def test_27_videos_are_turned_and_mirrored_as_players_show_them() -> None:
    pytest.importorskip("av", reason="the extra [video] is not here")
    from mapsto.vision.video_io import decode_frames, probe_video

    frames = {}
    for path in sorted((case(27) / "clips").glob("*.mp4")):
        info, (frames[path.stem[0]],) = probe_video(str(path)), decode_frames(str(path), None, [0.1])
        assert frames[path.stem[0]].shape[:2] == (info.height, info.width), path
    plain = frames["0"]
    expected = {"1": np.rot90(plain, -1), "2": plain[:, ::-1], "3": plain[::-1], "4": plain.transpose(1, 0, 2)}
    for number, pixels in expected.items():
        # Each file is compressed by itself.
        assert frames[number].shape == pixels.shape
        assert np.abs(frames[number].astype(int) - pixels).mean() < 12, number


def test_28_a_video_is_whole_by_its_own_track() -> None:
    pytest.importorskip("av", reason="the extra [video] is not here")
    errors, _ = check("video -> label", case(28) / "clips")
    assert len(read_table(case(28) / "clips")) == 6 and not errors


def test_37_regions_end_at_whole_letters(minilm: Path) -> None:
    rows = [{"text": text, "label": label} for i in range(6) for text, label in ((f"น้ำ ดี {i}", "a"), (f"bad {i}", "b"))]
    model = mapsto.fit("text -> label", rows, start=minilm, method="probe")
    for text in ("น้ำ ที่นี่", "हिन्दी में", "cafe\u0301 cre\u0300me bru\u0302le\u0301e\u0301"):
        (explanation,) = model.explain(text)
        assert explanation.parts
        for part in explanation.parts:
            ((start, end),) = part.region
            for place in (int(start), int(end)):
                assert place == len(text) or not unicodedata.category(text[place]).startswith("M"), (text, part)


@pytest.mark.parametrize("name", ["double", "float"])
def test_41_numbers_that_stand_for_nothing(name: str, tmp_path: Path) -> None:
    table = case(41) / f"{name}.csv"
    errors, warnings = check("text -> number", table)
    assert [finding.row for finding in (*errors, *warnings)] == [9]
    try:
        model = mapsto.fit("text -> number", table, tmp_path / "model", steps=3, **{**TINY_OPTIONS, "layers": 1})
    except MapstoError as error:
        # Only a number whose square is not finite is refused.
        assert name == "double" and "row 9" in str(error)
        return
    assert all(np.isfinite(answer["number"]) for answer in model.predict(table) if "error" not in answer)
    assert all(np.isfinite(score.value) for score in model.evaluate(table, bad_rows="skip").scores.values())
