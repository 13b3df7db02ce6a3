"""The linear baseline beside a fitted model's scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import run, sentences

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.evaluation import linear_baseline
from mapsto.evaluation.linear_baseline import compare_with_baseline, estimate_seconds, fit_linear_baseline
from mapsto.kinds.label import Label
from mapsto.progress import Progress
from mapsto.task.arrow import parse


class Lines(Progress):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def make_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Return rows whose label tells whether a word is in the text."""
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


TRAIN, TEST = make_rows(150, 0), make_rows(200, 1)
TINY: dict[str, Any] = {"layers": 1, "width": 32, "steps": 2, "device": "cpu"}


def require_same_but_for_temperature(outputs: torch.Tensor, answers: list[dict[str, Any]], target: Label) -> None:
    """Check that the log-odds of two classes are those of the answers, which are calibrated, but for one factor."""
    scores = np.array([[answer["scores"][name] for name in target.classes] for answer in answers])
    expected, odds = (outputs[:, 1] - outputs[:, 0]).numpy(), np.log(scores[:, 1] / scores[:, 0])
    np.testing.assert_allclose(odds, expected * (odds @ expected / (expected @ expected)), rtol=1e-3, atol=1e-3)


def test_it_is_the_linear_method_without_a_mapping() -> None:
    rows, test = (load_rows(parse("text -> label"), read_table(table)) for table in (TRAIN, TEST))
    target = Label()
    target.learn(rows.targets[0])
    answers = mapsto.fit("text -> label", TRAIN, method="linear", hold_out=0).predict(TEST)
    require_same_but_for_temperature(fit_linear_baseline(target, 0, rows, 0)(test), answers, target)
    assert estimate_seconds(target, 0, rows, 0) == 0.0


def test_a_better_linear_model_is_told_first() -> None:
    progress = Lines()
    mapsto.fit("text -> label", TRAIN, test=TEST, progress=progress, **TINY)
    (sentence,) = [line for line in progress.lines if "TF-IDF" in line]
    assert sentence.startswith("a linear model of TF-IDF is better here: accuracy ")
    assert sentence.endswith("--method linear fits it, without a start")


@pytest.mark.parametrize(
    ("wrong", "wrong_baseline", "said"),
    [(0, 60, "of this model"), (60, 0, "is better here"), (30, 31, "within chance")],
)
def test_the_sentence_says_who_is_better(wrong: int, wrong_baseline: int, said: str) -> None:
    rows = load_rows(parse("text -> label"), read_table(TEST))
    target = Label(["cold", "warm"])
    right = torch.tensor([target.classes.index(label) for label in rows.targets[0]])

    def outputs(num_wrong: int) -> torch.Tensor:
        answers = right.clone()
        answers[:num_wrong] = 1 - answers[:num_wrong]
        return torch.nn.functional.one_hot(answers, 2).float()

    comparison = compare_with_baseline(target, outputs(wrong), outputs(wrong_baseline), rows, is_method=True)
    assert comparison is not None and said in str(comparison)
    assert comparison.difference == pytest.approx((wrong_baseline - wrong) / 200)
    assert f"{100 - wrong_baseline / 2:.1f} % against {100 - wrong / 2:.1f} %" in str(comparison)


def test_it_stands_in_the_report_and_never_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("train", TRAIN), ("test", TEST)):
        write_rows(tmp_path / f"{name}.csv", ["text", "label"], rows)
    flags = ["--layers", "1", "--width", "32", "--steps", "2", "--device", "cpu"]
    paths = [str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--out", str(tmp_path / "run")]
    done = run("fit", "text -> label", *paths, *flags)
    assert done.returncode == 0 and "a linear model of TF-IDF is better here" in done.stderr
    assert "a linear model of TF-IDF is better here" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    progress = Lines()
    monkeypatch.setattr(linear_baseline, "estimate_seconds", lambda *given: 100.0)
    mapsto.fit("text -> label", TRAIN, test=TEST, progress=progress, **TINY)
    assert any("no linear model beside this one: it would take 1 min 40 s" in line for line in progress.lines)


@pytest.mark.parametrize("options", [{"method": "linear"}, TINY | {"steps": 1}])
def test_nothing_is_compared_without_scored_rows_or_with_itself(options: dict[str, Any]) -> None:
    progress = Lines()
    test = TEST if options.get("method") == "linear" else None
    mapsto.fit("text -> label", TRAIN, test=test, progress=progress, **options)
    assert not any("linear model of" in line for line in progress.lines)


def test_pictures_have_the_baseline_that_the_linear_method_fits() -> None:
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 2, 60)
    rows = [
        {
            "image": np.full((8, 8, 3), 40 + 150 * shade, np.uint8) + rng.integers(0, 9, (8, 8, 3), np.uint8),
            "label": str(shade),
        }
        for shade in shades.tolist()
    ]
    progress = Lines()
    mapsto.fit(
        "image -> label", rows[:30], test=rows[30:], progress=progress, layers=1, width=32, steps=1, device="cpu"
    )
    (sentence,) = [line for line in progress.lines if "colours and edges" in line]
    assert "100.0 %" in sentence and sentence.endswith("--method linear fits it, without a start")
    target = Label()
    train, test = (load_rows(parse("image -> label"), read_table(table)) for table in (rows[:30], rows[30:]))
    target.learn(train.targets[0])
    answers = mapsto.fit("image -> label", rows[:30], method="linear", hold_out=0).predict(rows[30:])
    require_same_but_for_temperature(fit_linear_baseline(target, 0, train, 0)(test), answers, target)


def test_a_picture_with_a_text_has_the_features_of_both() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"image": np.full((8, 8, 3), 60 + 120 * (row % 2), np.uint8), "text": ["river", "mill"][row // 2 % 2]}
        for row in rng.permutation(40).tolist()
    ]
    for row in rows:
        row["label"] = f"{row['text']} {row['image'].max()}"
    data = load_rows(parse("image, text -> label"), read_table(rows))
    target = Label()
    target.learn(data.targets[0])
    outputs = fit_linear_baseline(target, 0, data, 0)(data)
    assert [target.classes[best] for best in outputs.argmax(1)] == data.targets[0]
