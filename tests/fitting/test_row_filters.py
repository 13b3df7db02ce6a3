"""Filters of training rows go with a model: through saving, all ancestors, kills, searches, and into every score."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from runs import KILL, kill_when, run, sentences, start, write_labelled

import mapsto
from mapsto import files
from mapsto.errors import CheckpointError
from mapsto.pretrained.model_folder import MANIFEST_FILE, ROW_FILTERS_FILE

SMALL: dict[str, Any] = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 300, "device": "cpu", "precision": "fp32"}
ANY: dict[str, Any] = {"device": "cpu", "precision": "fp32", "steps": 2}


def table(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": text, "label": "cold" if "winter" in text else "warm", "number": len(text)}
        for text in sentences(count, seed)
    ]


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier fitted to 60 rows of train.csv, a tenth of them held out."""
    folder = tmp_path_factory.mktemp("fitted")
    write_labelled(folder / "train.csv", 60)
    mapsto.fit("text -> label", folder / "train.csv", folder / "clf", steps=2, hold_out=0.1, **SMALL)
    return folder / "clf"


def test_a_model_knows_its_own_training_file(clf: Path) -> None:
    """Held-out rows among it, and after saving and loading."""
    model = mapsto.load(clf, "cpu", "fp32")
    evaluation = model.evaluate(clf.parent / "train.csv")
    assert (evaluation.overlap.num_overlapping, evaluation.overlap.num_rows) == (60, 60)
    assert any("60 of 60 rows were trained on" in note for note in evaluation.notes)
    assert evaluation.record()["overlap"] == {
        "of": 60,
        "rows": 60,
        "possible": 0,
        "trained_on": ["train.csv (text:text -> label:label)"],
        "checked": ["train.csv (text:text -> label:label)"],
    }
    clean = model.evaluate(table(50, 5))
    assert not clean.overlap and not any("trained on" in note for note in clean.notes) and clean.overlap.checked


def test_the_filters_are_a_verified_file_of_the_folder(clf: Path, tmp_path: Path) -> None:
    manifest = json.loads((clf / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert manifest["row_filters"] == [{"arrow": "text:text -> label:label", "data": "train.csv", "rows": 60}]
    assert manifest["files"][ROW_FILTERS_FILE] == files.hash_file(clf / ROW_FILTERS_FILE)
    mapsto.load(clf).save(tmp_path / "copy")
    copied = mapsto.load(tmp_path / "copy").mapping.row_filters
    assert copied == mapsto.load(clf).mapping.row_filters and len(copied) == 1
    (tmp_path / "copy" / ROW_FILTERS_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=ROW_FILTERS_FILE):
        mapsto.load(tmp_path / "copy")


def test_a_folder_of_an_older_version_opens_without_filters(clf: Path, tmp_path: Path) -> None:
    mapsto.load(clf).save(tmp_path / "old")
    (tmp_path / "old" / ROW_FILTERS_FILE).unlink()
    manifest = files.read_sealed(tmp_path / "old" / MANIFEST_FILE)
    del manifest["row_filters"], manifest["files"][ROW_FILTERS_FILE]
    (tmp_path / "old" / MANIFEST_FILE).write_bytes(files.seal(manifest))
    old = mapsto.load(tmp_path / "old", "cpu", "fp32")
    overlap = old.evaluate(clf.parent / "train.csv").overlap
    assert old.mapping.row_filters == () and not overlap and overlap.checked == ()


def test_three_generations_of_ancestors_are_known(clf: Path, tmp_path: Path) -> None:
    """Fitted, pretrained further, fitted with LoRA to another answer; in memory and saved."""
    base = mapsto.pretrain("text", table(40, 1), tmp_path / "base", start=clf, **ANY)
    assert [f.data for f in base.mapping.row_filters] == ["train.csv"]  # rows that are read without labels do not count
    numbers = mapsto.fit("text -> number", table(40, 2), tmp_path / "numbers", start=base, lora=4, method="full", **ANY)
    last = mapsto.fit("text -> label", table(40, 3), tmp_path / "last", start=tmp_path / "numbers", **ANY)
    in_memory = mapsto.fit("text -> label", table(40, 3), start=numbers, **ANY)
    loaded = mapsto.load(tmp_path / "last", "cpu", "fp32")
    assert last.mapping.row_filters == in_memory.mapping.row_filters == loaded.mapping.row_filters
    assert [f.num_rows for f in loaded.mapping.row_filters] == [60, 40, 40]
    for rows in (clf.parent / "train.csv", table(40, 2), table(40, 3)):
        overlap = loaded.evaluate(rows).overlap
        assert overlap.num_overlapping == overlap.num_rows and len(overlap.data) == 1
    assert not loaded.evaluate(table(40, 1)).overlap
    again = mapsto.fit("text -> label", table(40, 3), start=loaded, **ANY)
    assert again.mapping.row_filters == loaded.mapping.row_filters


def test_like_takes_no_weights_and_no_filters(clf: Path) -> None:
    model = mapsto.fit("text -> label", table(40, 3), like=clf, **ANY)
    assert [f.num_rows for f in model.mapping.row_filters] == [40]


def test_a_fit_marks_test_scores_that_rest_on_rows_of_its_start(clf: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    test = clf.parent / "train.csv"
    new = write_labelled(tmp_path / "new.csv", 50, seed=4)
    done = run("fit", "text -> label", str(new), "--start", str(clf), "--test", str(test), "--steps", "2", "--device", "cpu",
               "--out", str(tmp_path / "out"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: 60 of 60 rows were trained on by this model or by a model that it started from" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("accuracy")]
    assert line.endswith("– too good: 60 of 60 rows were trained on")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "– too good, see below |" in card and "60 of 60 rows were trained on" in card and "model-index" not in card
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("60 of 60 rows were trained on") > 5 and "that training did not use" not in page
    manifest = json.loads((tmp_path / "out" / MANIFEST_FILE).read_text(encoding="utf-8"))
    assert manifest["provenance"]["overlap"]["rows"] == 60
    info = run("info", str(tmp_path / "out"))
    assert "train.csv (text:text -> label:label), 60 rows" in info.stdout and "overlap" in info.stdout


def test_held_out_scores_are_held_against_the_start_alone(clf: Path, tmp_path: Path) -> None:
    fit = ["--hold-out", "0.3", "--steps", "2", "--device", "cpu", "--out"]
    train = str(clf.parent / "train.csv")
    done = run("fit", "text -> label", train, "--start", str(clf), *fit, str(tmp_path / "again"))
    assert "note: held-out rows:" in done.stderr and "– too good: 18 of 18 rows" in done.stderr, done.stderr
    new = write_labelled(tmp_path / "new.csv", 60, seed=4)
    done = run("fit", "text -> label", str(new), "--start", str(clf), *fit, str(tmp_path / "new"))
    assert done.returncode == 0 and "held-out accuracy" in done.stderr and "too good" not in done.stderr


def test_a_killed_run_resumes_with_the_same_filters(clf: Path, tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "train.csv", 80, seed=4)
    command = ["fit", "text -> label", str(data), "--start", str(clf), "--steps", "40", "--save-every", "5", "--device", "cpu",
               "--method", "full", "--quiet", "--out"]  # fmt: skip
    assert run(*command, str(tmp_path / "whole")).returncode == 0
    process = start(*command, str(tmp_path / "killed"))
    assert kill_when(process, tmp_path / "killed", random.Random(0), inside_save=False, number=KILL)
    assert not (tmp_path / "killed" / MANIFEST_FILE).exists()
    done = run(*command, str(tmp_path / "killed"))
    assert done.returncode == 0, done.stderr
    whole, killed = (mapsto.load(tmp_path / name).mapping.row_filters for name in ("whole", "killed"))
    assert whole == killed and [f.num_rows for f in whole] == [60, 80]


def test_overwriting_a_fitted_folder_by_pretraining_removes_its_filters(tmp_path: Path) -> None:
    mapsto.fit("text -> label", table(30), tmp_path / "run", steps=1, **SMALL)
    assert (tmp_path / "run" / ROW_FILTERS_FILE).exists()
    mapsto.pretrain("text", table(30), tmp_path / "run", steps=1, overwrite=True, **SMALL)
    assert not (tmp_path / "run" / ROW_FILTERS_FILE).exists()
    assert mapsto.load(tmp_path / "run").mapping.row_filters == ()


def test_a_search_counts_all_rows_and_warns_of_rows_of_the_start(clf: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    done = run("fit", "text -> label", str(clf.parent / "train.csv"), "--start", str(clf), "--search", "2", "--steps", "2",
               "--device", "cpu", "--out", str(tmp_path / "searched"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: trials are scored on training rows; 60 of 60 rows were trained on" in done.stderr
    assert "all these errors are too low" in (tmp_path / "searched" / "README.md").read_text(encoding="utf-8")
    overlap = mapsto.load(tmp_path / "searched", "cpu", "fp32").evaluate(clf.parent / "train.csv").overlap
    assert overlap.num_overlapping == 60
