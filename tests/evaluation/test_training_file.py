"""The linear baseline beside a saved model is fitted to the rows of the fit, read again from the training file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import run, sentences
from trainings import RecordingProgress

import mapsto
from mapsto.data.table import write_rows
from mapsto.evaluation import linear_baseline
from mapsto.evaluation.training_file import read_training_rows

TINY: dict[str, Any] = {"layers": 1, "width": 32, "steps": 2, "device": "cpu"}


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows whose label depends on a word of the text."""
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


TRAIN, TEST = make_rows(150, 0), make_rows(200, 1)


def linear_notes(folder: Path) -> list[str]:
    """Return the notes on the linear model of an evaluation of the model in `folder`."""
    return [note for note in mapsto.load(folder).evaluate(TEST).notes if "linear model" in note]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with train.csv and runs/clf, fitted to four fifths of it, and the fit's line on the linear model."""
    folder, progress = tmp_path_factory.mktemp("project"), RecordingProgress()
    write_rows(folder / "train.csv", ["text", "label"], TRAIN)
    run_folder = folder / "runs" / "clf"
    mapsto.fit("text -> label", folder / "train.csv", run_folder, test=TEST, hold_out=0.2, progress=progress, **TINY)
    (sentence,) = [line for line in progress.lines if "linear model" in line]
    return folder, sentence


@pytest.fixture
def project(fitted: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a copy of the folder, at another place than that of the fit."""
    return shutil.copytree(fitted[0], tmp_path / "moved")


def test_evaluate_says_what_the_fit_said(fitted: tuple[Path, str], project: Path) -> None:
    shutil.move(fitted[0] / "train.csv", fitted[0] / "away.csv")  # so that only the copy can be read
    try:
        assert linear_notes(project / "runs" / "clf") == [fitted[1]]
    finally:
        shutil.move(fitted[0] / "away.csv", fitted[0] / "train.csv")


def test_rows_that_the_fit_held_out_are_left_out(project: Path) -> None:
    mapping = mapsto.load(project / "runs" / "clf").mapping
    assert mapping.fit_record is not None
    rows = read_training_rows(mapping.arrow, mapping.fit_record)
    assert len(rows) == pytest.approx(120, abs=3) and set(rows.sources[0]) < {row["text"] for row in TRAIN}


def test_the_page_and_the_screen_have_the_sentence(fitted: tuple[Path, str], project: Path) -> None:
    write_rows(project / "test.csv", ["text", "label"], TEST)
    page = project / "page.html"
    done = run("evaluate", str(project / "runs" / "clf"), str(project / "test.csv"), "--out", str(page))
    assert done.returncode == 0 and f"note: {fitted[1]}" in done.stderr
    assert fitted[1].split(";")[0] in page.read_text(encoding="utf-8")


def delete(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    write_rows(path, ["text", "label"], [{"text": TRAIN[0]["text"] + "!", "label": "cold"}, *TRAIN[1:]])


def damage(path: Path) -> None:
    write_rows(path, ["other"], [{"other": "1"}])


@pytest.mark.parametrize(
    ("act", "reason"), [(delete, "is not where it was"), (change, "has changed"), (damage, "can no longer be read")]
)
def test_a_note_says_why_there_is_none(act: Callable[[Path], None], reason: str, project: Path) -> None:
    act(project / "train.csv")
    (note,) = linear_notes(project / "runs" / "clf")
    assert note.startswith("no linear model beside this one: its training file train.csv ") and reason in note


def test_it_never_takes_long(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_baseline, "estimate_seconds", lambda *given: 100.0)
    (note,) = linear_notes(project / "runs" / "clf")
    assert "it would take 1 min 40 s, more than a tenth of the training" in note


def test_rows_of_python_have_no_file_and_linear_models_no_line(tmp_path: Path) -> None:
    mapsto.fit("text -> label", TRAIN, tmp_path / "objects", **TINY)
    (note,) = linear_notes(tmp_path / "objects")
    assert "does not name the file" in note
    write_rows(tmp_path / "train.csv", ["text", "label"], TRAIN)
    mapsto.fit("text -> label", tmp_path / "train.csv", tmp_path / "linear", method="linear")
    assert not linear_notes(tmp_path / "linear")
    mapsto.load(tmp_path / "objects").save(tmp_path / "saved")
    assert not linear_notes(tmp_path / "saved"), "no fit saved this folder"
