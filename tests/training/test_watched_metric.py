"""The metric that is watched on the held-out rows (`--metric`): names, directions, and what it chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import sentences
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto.errors import UsageError
from mapsto.evaluation.watched_metric import as_error, find_metric
from mapsto.training.loggers import read_metrics

ROWS = [
    {"text": text, "label": "ab"["winter" in text], "number": len(text), "other": text[::-1], "answer": text.split()[1]}
    for text in dict.fromkeys(sentences(80))
]
TEN_STEPS: dict[str, Any] = {"steps": 9, "hold_out": 0.25, **TINY_OPTIONS}


def watched_scores(folder: Path) -> list[dict[str, float]]:
    """Return the scores of the held-out rows that a run has noted, in the order of the steps."""
    prefix = "held_out_"
    scores = [
        {name.removeprefix(prefix): value for name, value in line.items() if name.startswith(prefix)}
        for line in read_metrics(folder, print)
    ]
    return list(filter(None, scores))


@pytest.mark.parametrize(
    ("arrow", "wanted", "name", "is_error"),
    [
        ("text -> label", "macro F1", "macro_f1", False),
        ("text -> label", "held-out log_loss", "log_loss", True),
        ("text:text -> number", "MAE", "mae", True),
        ("text:text -> label, number", "r2", "number: r2", False),
        ("text:text <-> other:text", "mrr", "text→other mrr", False),
        ("text:text -> answer:text", "chrf", "chrf", False),
    ],
)
def test_the_metric_is_watched(arrow: str, wanted: str, name: str, is_error: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = TEN_STEPS | ({"steps": 3, "length": 40} if "answer" in arrow else {})
    mapsto.fit(arrow, ROWS, folder, metric=wanted, **options)
    watched = watched_scores(folder)
    assert watched and all(name in scores for scores in watched)
    # The error is a share of wrong answers, which the metric in its place is not.
    assert all("error" not in scores for scores in watched)
    assert as_error(name, 0.25) == (0.25 if is_error else 0.75)


def test_the_weights_with_the_best_metric_are_kept(tmp_path: Path) -> None:
    model = mapsto.fit("text -> label", ROWS, tmp_path / "run", metric="macro_f1", **TEN_STEPS)
    watched = watched_scores(tmp_path / "run")
    assert model.report is not None
    assert model.report.scores["held-out macro_f1"].value == pytest.approx(max(s["macro_f1"] for s in watched))


def test_a_run_watched_by_a_metric_resumes_to_the_same_bits(tmp_path: Path) -> None:
    class Stopping(RecordingProgress):
        def step(self, report: Any) -> None:
            if report.step == 6:
                raise KeyboardInterrupt

    given: dict[str, Any] = {"metric": "log_loss", "save_every": 2, **TEN_STEPS}
    with pytest.raises(KeyboardInterrupt):
        mapsto.fit("text -> label", ROWS, tmp_path / "stopped", progress=Stopping(), **given)
    for name in ("stopped", "whole"):
        mapsto.fit("text -> label", ROWS, tmp_path / name, **given)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert files[0] == files[1]


def test_names_of_metrics() -> None:
    names = ["a: accuracy", "b: accuracy", "query→passage recall@1", "wer"]
    assert [find_metric(name, names) for name in ("b: Accuracy", "accuracy", "recall@1", "WER")] == [
        "b: accuracy", "a: accuracy", "query→passage recall@1", "wer",
    ]  # fmt: skip
    assert (as_error("wer", 0.2), as_error("number: mae", 3), as_error("a: accuracy", 0.75)) == (0.2, 3, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "acuracy", "hold_out": 0.2, "steps": 3}, r"did you mean 'accuracy'.*accuracy, macro_f1, log_loss"),
        ({"metric": "accuracy", "steps": 3}, "none are; see hold_out"),
        ({"metric": "accuracy", "hold_out": 0.2, "average": True, "steps": 3}, "would change nothing"),
        ({"metric": "accuracy", "method": "linear"}, "would change nothing"),
        ({"metric_for_best_model": "accuracy"}, "here it is 'metric'"),
    ],
)
def test_wrong_uses_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    network = {} if options.get("method") == "linear" else TINY_OPTIONS
    with pytest.raises((UsageError, TypeError), match=message):
        mapsto.fit("text -> label", ROWS, tmp_path / "run", **options, **network)
    # The folder is free for the command that is meant.
    assert not (tmp_path / "run").exists()
