"""Evaluations and comparisons of recordings resample speakers, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recordings import write_voices
from runs import sentences
from trainings import TINY_OPTIONS

import mapsto
from mapsto.errors import UsageError
from mapsto.evaluation.error_analysis import analyse_evaluation
from mapsto.fitting.fit import fit_mapping
from mapsto.options import Options
from mapsto.progress import Progress

OPTIONS: dict[str, Any] = {
    **{name: value for name, value in TINY_OPTIONS.items() if name != "vocabulary"},
    "steps": 2,
    "batch": 8,
    "hold_out": 0.0,
    "method": "full",
}


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the rows of six voices with six recordings each."""
    return write_voices(tmp_path_factory.mktemp("voices"), range(6), 6, seconds=0.1)


@pytest.fixture(scope="module")
def model(voices: list[dict[str, Any]]) -> mapsto.Model:
    """Return a small model of the digits of the recordings."""
    return mapsto.fit("sound -> digit:label", voices[:18], **OPTIONS)


def test_evaluations_of_recordings_resample_speakers(model: mapsto.Model, voices: list[dict[str, Any]]) -> None:
    table = voices[18:]
    by_speaker, by_row = model.evaluate(table), model.evaluate(table, group="none")
    assert by_speaker.has_groups and not by_row.has_groups
    note = "intervals resample the 3 groups of rows with one speaker (column 'speaker'), and not single rows; with fewer than 10"
    assert any(line.startswith(note) for line in by_speaker.notes) and not any(
        "resample" in line for line in by_row.notes
    )
    for name, score in by_row.scores.items():
        assert by_speaker.scores[name].value == score.value
    assert by_speaker.scores["accuracy"] != by_row.scores["accuracy"]
    # Each speaker says each digit twice, so a constant answer is as good for every speaker.
    assert by_speaker.baseline["accuracy"].value == by_row.baseline["accuracy"].value
    assert by_speaker.baseline["accuracy"] != by_row.baseline["accuracy"]
    ((_, analysis),) = analyse_evaluation(by_speaker, None, model.predictor.device)
    assert analysis.coverage_curve[0].score == by_speaker.scores["accuracy"]


def test_one_speaker_is_said(model: mapsto.Model, voices: list[dict[str, Any]]) -> None:
    evaluation = model.evaluate(voices[30:])
    assert any("all rows have one speaker (column 'speaker')" in note for note in evaluation.notes)
    named = model.evaluate(voices[30:], group="speaker")
    assert named.scores["accuracy"].low != named.scores["accuracy"].low  # NaN
    with pytest.raises(UsageError, match="no column 'spoken'"):
        model.evaluate(voices, group="spoken")


class Recorder(Progress):
    """Keeps the lines that a run prints."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_held_out_scores_and_texts_are_grouped_too() -> None:
    table = [{"text": text, "label": "ab"[n % 2], "author": f"a{n // 6}"} for n, text in enumerate(sentences(72))]
    options = {**OPTIONS, "hold_out": 0.35, "group": "author"}
    recorder = Recorder()
    fit_mapping("text -> label", table, progress=recorder, options=Options(**options, vocabulary=300))
    lines = recorder.lines
    assert (
        sum("with the same value of column 'author', 12 groups, are held out together" in line for line in lines) == 1
    )
    assert (
        sum("intervals resample the 4 groups of rows with one value of column 'author'" in line for line in lines) == 1
    )


def test_comparisons_resample_speakers(voices: list[dict[str, Any]], tmp_path: Path) -> None:
    options = {name: value for name, value in OPTIONS.items() if name not in ("method", "steps", "hold_out")}
    recorder = Recorder()
    result = mapsto.compare(
        "sound -> digit:label",
        write_voices(tmp_path / "more", range(10, 20), 3, seconds=0.05),
        starts=["scratch"],
        labels=[12],
        seeds=2,
        out=tmp_path / "compare",
        epochs=1,
        progress=recorder,
        **options,
    )
    assert result.units == "rows by speaker (column 'speaker'), 2 groups" and result.num_test_rows == 6
    assert "test rows by speaker (column 'speaker')" in "\n".join(result.lines())
    assert "test rows by speaker" in (tmp_path / "compare" / "report.html").read_text(encoding="utf-8")
    assert any("intervals resample the 2 groups" in line for line in recorder.lines)
