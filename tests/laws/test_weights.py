"""Weights of rows and classes: a row of weight 2 counts in the loss like that row twice; weights of 1 change no bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mappings import small_mapping
from runs import TINY, run, run_many, write_labelled
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto import kinds
from mapsto.class_weights import parse_class_weights
from mapsto.data.examples import Examples
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.data.weights import normalise_weights
from mapsto.errors import DataError, UsageError
from mapsto.kinds.label import Label
from mapsto.kinds.labels import Labels
from mapsto.model import linear_probe
from mapsto.model.mapping import Mapping
from mapsto.selection.folds import drop_weightless
from mapsto.sequence.packing import collate
from mapsto.task.arrow import parse
from mapsto.task.target_capabilities import ProbeSettings
from mapsto.training.loggers import read_metrics

ARROWS = (
    "text:text -> label",
    "text:text -> labels, number",
    "text:text -> tags",
    "image -> boxes",
    "image -> clean:image",
    "en:text -> de:text",
    "sound -> answer:text",
    "text:text -> answer:span",
)
ROWS = [
    {"text": f"{word} film number {i}", "label": word, "w": 1 + i % 3} for i in range(8) for word in ("good", "bad")
]


def loss_and_gradients(mapping: Mapping, examples: Examples, rows: Sequence[int]) -> tuple[float, list[torch.Tensor]]:
    """Return the summed loss of rows in one packed batch, over all targets, and the gradient of each weight."""
    mapping.zero_grad(set_to_none=True)
    batch = collate([replace(examples.example(row, 0, 0.0), row=place) for place, row in enumerate(rows)])
    losses = [loss for _, loss in mapping.eval().losses(batch)]
    total = torch.stack(losses).sum()
    total.backward()  # type: ignore[no-untyped-call]
    return float(total.detach()), [p.grad.clone() for p in mapping.parameters() if p.grad is not None]


@pytest.mark.parametrize("arrow", ARROWS)
def test_a_row_of_weight_2_equals_that_row_twice(arrow: str) -> None:
    mapping, examples = small_mapping(arrow)
    examples = examples.without_augmentation()
    weights = np.ones(len(examples), np.float32)
    weights[[1, 3]], weights[2] = (2, 3), 0
    weighted = loss_and_gradients(mapping, replace(examples, weights=weights), [0, 1, 2, 3])
    repeated = loss_and_gradients(mapping, examples, [0, 1, 1, 3, 3, 3])
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-4)
    largest = max(float(gradient.abs().max()) for gradient in repeated[1])
    for mine, theirs in zip(weighted[1], repeated[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=1e-4 * largest)
    # Weights of 1 give the bits of no weights.
    plain, ones = (
        loss_and_gradients(mapping, replace(examples, weights=given), [0, 1, 2, 3])
        for given in (None, np.ones(len(examples), np.float32))
    )
    assert plain[0] == ones[0] and all(map(torch.equal, plain[1], ones[1]))


def test_the_mean_loss_of_weighted_rows_is_that_of_repeated_ones() -> None:
    mapping, examples = small_mapping("text:text -> label")
    weights = np.array([1, 2, 0, 3], np.float32)
    normalised, _ = normalise_weights(weights, np.zeros(0, np.float32))
    assert normalised is not None and normalised.mean() == pytest.approx(1)
    all_weights = np.ones(len(examples), np.float32)
    all_weights[:4] = normalised
    weighted, _ = loss_and_gradients(mapping, replace(examples, weights=all_weights), [0, 1, 2, 3])
    repeated, _ = loss_and_gradients(mapping, examples, [0, 1, 1, 3, 3, 3])
    assert weighted / 4 == pytest.approx(repeated / 6, rel=1e-5)


def test_a_weighted_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    class Stopping(RecordingProgress):
        def step(self, report: Any) -> None:
            if report.step == 5:
                raise KeyboardInterrupt

    given: dict[str, Any] = {"weight": "w", "class_weights": "good=2", "steps": 8, "save_every": 2, **TINY_OPTIONS}
    with pytest.raises(KeyboardInterrupt):
        mapsto.fit("text:text -> label", ROWS, tmp_path / "stopped", progress=Stopping(), **given)
    for name in ("stopped", "whole"):
        mapsto.fit("text:text -> label", ROWS, tmp_path / name, **given)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("stopped", "whole")]
    assert files[0] == files[1]
    heavier = [{**row, "w": row["w"] + 1} for row in ROWS]
    with pytest.raises(KeyboardInterrupt):
        mapsto.fit("text:text -> label", ROWS, tmp_path / "other", progress=Stopping(), **given)
    with pytest.raises(UsageError, match="other data"):
        mapsto.fit("text:text -> label", heavier, tmp_path / "other", **given)


@pytest.mark.slow
def test_two_processes_weigh_rows_as_one(tmp_path: Path) -> None:
    table = write_labelled(tmp_path / "train.csv")
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([lines[0] + ",w", *(f"{line},{i % 3}" for i, line in enumerate(lines[1:]))]), "utf-8")
    command = [
        "fit",
        "text -> label",
        str(table),
        "--weight",
        "w",
        "--steps",
        "8",
        "--batch",
        "12",
        "--precision",
        "fp32",
        *TINY,
    ]
    assert run(*command, "--out", str(tmp_path / "one")).returncode == 0
    done = run_many(2, *command, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    one, two = ([line["loss"] for line in read_metrics(tmp_path / name, print)] for name in ("one", "two"))
    assert one[0] == pytest.approx(two[0], abs=1e-6) and one == pytest.approx(two, rel=1e-2)


def weights_of(model: mapsto.Model) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in model.mapping.parameters()]


def test_equal_weights_change_no_bit_and_others_do() -> None:
    fits = [
        mapsto.fit(
            "text:text -> label", [{**row, "w": weight(row)} for row in ROWS], steps=2, weight=column, **TINY_OPTIONS
        )
        for column, weight in ((None, lambda row: row["w"]), ("w", lambda row: 0.7), ("w", lambda row: row["w"]))
    ]
    plain, equal, weighted = map(weights_of, fits)
    assert all(map(torch.equal, plain, equal))
    assert not all(map(torch.equal, plain, weighted))


def test_weights_are_no_input() -> None:
    rows = [{"review": row["text"], "label": row["label"], "worth": f"{row['w']} "} for row in ROWS]
    model = mapsto.fit("text -> label", rows, weight="worth", steps=1, **TINY_OPTIONS)
    assert model.mapping.arrow.sources[0].column == "review"


@pytest.mark.parametrize("method", ["linear", "full"])
def test_rows_of_weight_0_are_not_learnt_from(method: Any) -> None:
    wrong = [{**row, "label": "bad" if row["label"] == "good" else "good", "w": 0} for row in ROWS]
    rows = [{**row, "w": 1} for row in ROWS] + [{**row, "text": row["text"] + " again"} for row in wrong]
    steps = {} if method == "linear" else {"steps": 30, "width": 64, "layers": 1, "vocabulary": 300, "device": "cpu"}
    model = mapsto.fit("text -> label", rows, method=method, weight="w", **steps)
    assert [model(row["text"])["label"] for row in ROWS] == [row["label"] for row in ROWS]


def test_a_probe_counts_a_row_of_weight_2_twice() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3)).astype(np.float32)
    labels = (features[:, 0] + rng.normal(size=40) > 0).astype(np.int64)
    weights = np.where(np.arange(40) < 20, 2, 1).astype(np.float32)
    twice = np.concatenate([np.arange(20), np.arange(40)])
    weighted = linear_probe.fit_logistic_regression(
        features, labels, 0, ProbeSettings(starts_training=True, weights=weights)
    )
    repeated = linear_probe.fit_logistic_regression(
        features[twice], labels[twice], 0, ProbeSettings(starts_training=True)
    )
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=0.5)
    ridge, other = (
        linear_probe.fit_ridge_regression(features[rows], features[rows, 0] * 2, 0, ProbeSettings(weights=given))[0]
        for rows, given in ((np.arange(40), weights), (twice, None))
    )
    torch.testing.assert_close(ridge, other, rtol=1e-3, atol=1e-3)


def test_weights_of_held_out_rows_choose_the_weights(tmp_path: Path) -> None:
    rows = [{**row, "w": 0 if row["label"] == "bad" and i > 2 else 2} for i, row in enumerate(ROWS * 4)]
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    mapsto.fit("text:text -> label", rows, tmp_path / "run", steps=4, hold_out=0.25, weight="w", **TINY_OPTIONS)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "missing"), (" ", "missing"), (-1, "at least 0"), (float("inf"), "finite"), ("nan", "finite"), ("x", "a number"),
        ("1,5", r"without other marks, as 1\.5"),
    ],
)  # fmt: skip
def test_wrong_weights_are_named(cell: Any, reason: str, tmp_path: Path) -> None:
    rows = [{**row, "text": row["text"]} for row in ROWS]
    rows[-1]["w"] = cell
    with pytest.raises(DataError, match=rf"1 bad weight:\n  data, row 16, column 'w'.*{reason}"):
        mapsto.fit("text:text -> label", rows, weight="w", steps=1, **TINY_OPTIONS)


def test_weights_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="all 16 training rows have the weight 0"):
        mapsto.fit("text:text -> label", [{**row, "w": 0} for row in ROWS], weight="w", steps=1, **TINY_OPTIONS)
    for options, message in (
        ({"weight": "v"}, "no column 'v'"),
        ({"weight": "text"}, "reads this column"),
        ({"class_weights": "goood=2"}, "did you mean 'good'"),
        ({"class_weights": "good=-2"}, "a number above 0"),
        ({"class_weights": "good=2,good=3"}, "twice"),
        ({"class_weights": "good, really=2"}, "'good' has no class.*a file with lines as spam,5"),
        ({"class_weights": "good=2;bad=3"}, "no class 'good=2;bad'.*a file with lines as spam,5"),
        ({"class_weights": "good=1,5"}, "'5' has no class.*a point, as 1.5"),
        ({"class_weights": "balancd"}, "did you mean 'balanced'"),
        ({"class_weights": "balanced", "balance": True}, "give one of them"),
        ({"sample_weight": "w"}, "'weight'"),
    ):
        with pytest.raises((UsageError, TypeError), match=message):
            mapsto.fit("text:text -> label", ROWS, steps=1, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="class_weights= is for classes"):
        mapsto.fit(
            "text:text -> number", [{"text": "a b", "number": i} for i in range(8)], class_weights="a=2", steps=1
        )
    with pytest.raises(UsageError, match="would change nothing"):
        mapsto.pretrain("text", ["a text", "another"], weight="w", steps=1)  # type: ignore[call-arg]


def test_weights_of_classes_in_every_form(tmp_path: Path) -> None:
    assert parse_class_weights('{"a=b": 2, "c": 0.5}') == {"a=b": 2.0, "c": 0.5}
    (tmp_path / "weights.csv").write_text("label,weight\ngood,3\nbad,1\n", encoding="utf-8")
    (tmp_path / "weights.json").write_text('{"good": 3}', encoding="utf-8")
    given = ("good=3", {"good": 3}, str(tmp_path / "weights.csv"), str(tmp_path / "weights.json"))
    fits = [mapsto.fit("text:text -> label", ROWS, class_weights=w, steps=1, **TINY_OPTIONS) for w in given]  # type: ignore[arg-type]
    assert all(model.mapping.targets[0].weights == [0.5, 1.5] for model in fits)
    balanced, same = (
        mapsto.fit("text:text -> label", ROWS[1:], steps=1, **TINY_OPTIONS, **options)
        for options in ({"balance": True}, {"class_weights": "balanced"})
    )
    assert all(map(torch.equal, weights_of(balanced), weights_of(same)))


def test_a_class_weight_is_for_the_class_of_the_same_number() -> None:
    rows = [{**row, "label": "1.0" if row["label"] == "good" else "2.0"} for row in ROWS]
    model = mapsto.fit("text:text -> label", rows, class_weights="1=3", steps=1, **TINY_OPTIONS)
    assert model.mapping.targets[0].weights == [1.5, 0.5]
    with pytest.raises(UsageError, match="'1.0' is there twice, also as '1'"):
        mapsto.fit("text:text -> label", rows, class_weights="1.0=3,1=2", steps=1, **TINY_OPTIONS)


@pytest.mark.parametrize(("kind", "method"), [("label", "linear"), ("labels", "linear"), ("label", "full")])
def test_a_class_without_weight_is_named_once_and_its_rows_are_not_counted(kind: str, method: Any) -> None:
    rows = [
        {"text": f"{label} film number {i}", kind: label, "w": float(label == "bad" or i < 0)}
        for i in range(12)
        for label in ("good", "bad")
    ]
    if kind == "labels":
        rows = [{**row, "labels": [row["labels"]]} for row in rows]
    progress = RecordingProgress()
    size = {} if method == "linear" else {"steps": 1, **TINY_OPTIONS}
    mapsto.fit(f"text -> {kind}", rows, weight="w", method=method, progress=progress, folds=2, **size)
    note = "note: no row of class 'good' has a weight above 0: it will hardly be answered"
    assert progress.lines.count(note) == 1
    measured = [line for line in progress.lines if line.startswith("  linear: error")]
    assert all("n = 12)" in line for line in measured) and len(measured) == (method == "linear")


def test_rows_of_weight_0_are_dropped_from_those_that_are_scored() -> None:
    rows = load_rows(parse("text:text -> label"), read_table([{**row, "w": i % 2} for i, row in enumerate(ROWS)]))
    assert drop_weightless(rows, "w").indices.tolist() == list(range(1, len(ROWS), 2))
    assert drop_weightless(rows, None) is rows


def test_the_class_that_costs_least_is_answered() -> None:
    """With weights the best logits are those of probability × weight."""
    target = Label()
    answers = ["ham"] * 90 + ["spam"] * 10
    target.learn(answers)
    target.weigh_classes(answers, {"spam": 9.0})
    several = Labels()
    several.learn([("spam",)] * 10 + [()] * 90)
    several.weigh_classes([], {"spam": 9.0})
    for logits, values, loss in (
        (torch.zeros(1, 2), torch.tensor([0] * 9 + [1]), target.loss),
        (torch.zeros(1, 1), torch.tensor([[0.0]] * 9 + [[1.0]]), several.loss),
    ):
        logits.requires_grad_()
        loss(logits.expand(10, -1), values).backward()  # type: ignore[no-untyped-call]
        # At equal logits, probability × weight is equal on both sides, so nothing is left to learn.
        torch.testing.assert_close(logits.grad, torch.zeros_like(logits))


def test_balanced_labels_find_a_rare_label() -> None:
    rows = [{"text": "some words", "labels": ["rare"] if i % 10 == 0 else ["common"]} for i in range(40)]
    model = mapsto.fit("text -> labels", rows, method="linear", balance=True)
    assert model("some words")["scores"] == pytest.approx({"common": 0.5, "rare": 0.5}, abs=0.1)
    assert kinds.target("labels")(**model.mapping.targets[0].state()).state() == model.mapping.targets[0].state()


def test_weighted_pairs_are_fitted_and_scored_ones_refused() -> None:
    pairs = [{"query": f"question {i}", "passage": f"answer number {i}", "w": i % 3} for i in range(12)]
    mapsto.fit("query:text <-> passage:text", pairs, weight="w", steps=1, **TINY_OPTIONS)
    scored = [{**pair, "score": i / 12} for i, pair in enumerate(pairs)]
    with pytest.raises(UsageError, match="compared with each other"):
        mapsto.fit("query:text <-> passage:text, score:number", scored, weight="w", steps=1, **TINY_OPTIONS)


@pytest.mark.slow
def test_compare_weighs_rows(tmp_path: Path) -> None:
    table = write_labelled(tmp_path / "train.csv")
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text(
        "\n".join([lines[0] + ",w", *(f"{line},{i % 2 + 1}" for i, line in enumerate(lines[1:]))]), "utf-8"
    )
    compared = mapsto.compare(
        "text -> label", str(table), starts=["scratch"], labels=["all"], seeds=1, weight="w", epochs=1
    )
    assert compared.records()
