"""Numbers and several labels: read, scored as scikit-learn scores them, fitted and given back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import run, sentences
from sklearn import metrics

import mapsto
from mapsto import kinds
from mapsto.data.checks import check_rows
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.errors import BadCell
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.task.arrow import parse

CLOSE = {"abs": 1e-8, "rel": 1e-8}
SMALL: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "device": "cpu"}


def value(figures: dict[str, Any], name: str) -> float:
    metric, *arrays = figures[name]
    return float(metric(*arrays))


@given(st.integers(0, 2**31), st.integers(2, 200))
@settings(max_examples=40, deadline=None)
def test_numbers_are_scored_as_scikit_learn_does(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth, output = rng.normal(40, 9, count), torch.from_numpy(rng.normal(0, 1, (count, 1)))
    target = kinds.target("number")()
    target.learn(truth.tolist())
    said = [answer["number"] for answer in target.decode(output)]
    figures = target.metrics(output, truth.tolist())
    assert value(figures, "mae") == pytest.approx(metrics.mean_absolute_error(truth, said), **CLOSE)
    assert value(figures, "rmse") == pytest.approx(metrics.root_mean_squared_error(truth, said), **CLOSE)
    assert value(figures, "r2") == pytest.approx(metrics.r2_score(truth, said), **CLOSE)


@given(st.integers(0, 2**31), st.integers(2, 100), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_labels_are_scored_as_scikit_learn_does(seed: int, count: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"c{i}" for i in range(classes)]
    truth, output = rng.random((count, classes)) < 0.4, torch.from_numpy(rng.normal(0, 1, (count, classes)))
    target = kinds.target("labels")(names)
    answers = [tuple(name for name, applies in zip(names, row, strict=True) if applies) for row in truth]
    said = (output > 0).numpy()
    figures = target.metrics(output, answers)
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        assert value(figures, name) == pytest.approx(
            metrics.f1_score(truth, said, average=average, zero_division=0), **CLOSE
        )
    assert value(figures, "exact") == pytest.approx(metrics.accuracy_score(truth, said), **CLOSE)
    expected = metrics.jaccard_score(truth, said, average="samples", zero_division=1)
    assert value(figures, "agreement") == pytest.approx(expected, **CLOSE)


@given(st.integers(0, 2**31), st.integers(2, 100), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_labels_never_seen_are_missing_in_every_figure(seed: int, count: int, unseen: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", *(f"new {i}" for i in range(unseen))]
    truth, output = rng.random((count, len(names))) < 0.4, torch.from_numpy(rng.normal(0, 1, (count, 3)))
    truth[0] = True
    answers = [tuple(name for name, applies in zip(names, row, strict=True) if applies) for row in truth]
    said = np.pad((output > 0).numpy(), ((0, 0), (0, unseen)))
    target = kinds.target("labels")(["a", "b", "c"])
    figures = target.metrics(output, answers)
    for name, average in (("macro_f1", "macro"), ("micro_f1", "micro")):
        expected = metrics.f1_score(truth, said, average=average, zero_division=0)
        assert value(figures, name) == pytest.approx(expected, **CLOSE)
    assert value(figures, "exact") == pytest.approx(metrics.accuracy_score(truth, said), **CLOSE)
    assert value(figures, "exact") == target.correctness(output, answers).mean()
    expected = metrics.jaccard_score(truth, said, average="samples", zero_division=1)
    assert value(figures, "agreement") == pytest.approx(expected, **CLOSE)


def test_cells_of_numbers() -> None:
    target = kinds.target("number")
    assert target.read(" 3.5 ") == 3.5 and target.read(np.int64(4)) == 4.0 and target.fits([1, "2.5", None])
    assert not target.fits(["1", "two"]) and not target.fits([True, False])
    for cell, said in (("three", "no number"), (float("inf"), "not finite"), (None, "blank"), (True, "not bool")):
        with pytest.raises(BadCell, match=said):
            target.read(cell)
    with pytest.raises(mapsto.MapstoError, match="two different ones"):
        target().learn([3.0, 3.0])


def test_cells_of_labels() -> None:
    target = kinds.target("labels")
    for cell, expected in (
        ("a|b", ("a", "b")), ("红；绿", ("红", "绿")), ("a, b,a", ("a", "b")), (["x"], ("x",)),
        ([], ()), ("[]", ()), (" [ ] ", ()),
        ('["a", "b, c"]', ("a", "b, c")), (np.array(["p", "q"]), ("p", "q")),
    ):  # fmt: skip
        assert target.read(cell) == expected
    for bad in (3, '["a"', ["\0"], None, "", " "):
        with pytest.raises(BadCell):
            target.read(bad)
    with pytest.raises(mapsto.MapstoError, match="no row has a label"):
        target().learn([(), ()])


def labels_of(cells: list[Any]) -> tuple[list[Any], list[str]]:
    table = read_table([{"text": f"row {i}", "labels": cell} for i, cell in enumerate(cells)])
    rows = load_rows(bind_to(parse("text -> labels"), table), table, keep_unreadable=True)
    report = check_rows(rows)
    return rows.targets[0], [str(finding) for finding in [*rows.faults, *report.warnings, *report.errors]]


def test_a_column_of_labels_has_one_separator() -> None:
    answers, findings = labels_of(["Toys, Games|Books", "Toys, Games", "Books", "[]", '["a, b"]', "(x), y"] * 2)
    assert answers[:6] == [("Toys, Games", "Books"), ("Toys, Games",), ("Books",), (), ("a, b",), ("(x), y",)]
    assert any("'|' separates" in finding and "','" in finding for finding in findings)
    answers, findings = labels_of(["红；绿", "红;蓝，青", "绿"] * 2)
    assert answers[:3] == [("红", "绿"), ("红", "蓝，青"), ("绿",)]
    assert not any("separates" in finding for finding in findings)
    assert labels_of(["a, b", "a，c", ["d, e"], "b"] * 2)[0][:4] == [("a", "b"), ("a", "c"), ("d, e",), ("b",)]


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_cell_is_no_label_and_an_empty_list_none_of_them(blank: str | None, tmp_path: Path) -> None:
    cells = ["a", blank, "b", "a|b", "[]"] * 4
    answers, findings = labels_of(cells)
    assert answers[:5] == [("a",), None, ("b",), ("a", "b"), ()]
    assert sum("blank" in finding and "[]" in finding for finding in findings) == 4
    rows = [{"text": f"row {i}", "labels": cell} for i, cell in enumerate(cells)]
    with pytest.raises(mapsto.MapstoError, match='unlabelled="drop" leaves out the 4 rows'):
        mapsto.fit("text -> labels", rows, steps=1)
    model = mapsto.fit("text -> labels", rows, tmp_path / "m", unlabelled="drop", steps=1, **SMALL)
    assert model.mapping.targets[0].classes == ["a", "b"]


def test_a_number_is_learnt_and_given_back(tmp_path: Path) -> None:
    rows = [{"text": text, "number": 20.0 * ("winter" in text) + len(text) % 3} for text in sentences(300)]
    write_rows(tmp_path / "train.csv", ["text", "number"], rows[:240])
    write_rows(tmp_path / "test.csv", ["text", "number"], rows[240:])
    done = run(
        "fit", "text -> number", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--out",
        str(tmp_path / "run"), "--layers", "1", "--width", "64", "--vocabulary", "300", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "mapsto.json").read_text())
    assert manifest["scores"]["r2"]["value"] > 0.8
    model = mapsto.load(tmp_path / "run")
    said = [answer["number"] for answer in model.predict([row["text"] for row in rows[240:]])]
    assert np.corrcoef(said, [row["number"] for row in rows[240:]])[0, 1] > 0.9
    why = model.explain(rows[240]["text"])
    assert why[0].parts
    sure = run("predict", str(tmp_path / "run"), "--text", "old river", "--min-confidence", "0.9")
    assert sure.returncode == 2 and "answers with a probability" in sure.stderr


def test_labels_are_learnt_compared_and_read_again(tmp_path: Path) -> None:
    rows = [
        {"text": text, "labels": [name for name in ("winter", "summer") if name in text]} for text in sentences(300)
    ]
    model = mapsto.fit("text -> labels", rows[:240], tmp_path / "run", **SMALL)
    found = model.evaluate(rows[240:])
    assert found.scores["agreement"].value > 0.9 and found.baseline["agreement"].value < 0.8
    look = analyse_errors(found.predictions[0])
    assert look is not None and "true labels contain winter" in {part.name for part in look.slices}
    assert {case.label for case in look.random_cases} <= {"winter", "summer", "winter, summer", "none"}
    write_rows(tmp_path / "new.csv", ["text"], rows[240:])
    done = run("predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    again = [kinds.target("labels").read(cell) for cell in read_table(tmp_path / "out.csv").column("labels")]
    assert np.mean([set(one) == set(row["labels"]) for one, row in zip(again, rows[240:], strict=True)]) > 0.8
    compared = mapsto.compare(
        "text -> labels", rows[:200], tmp_path / "cmp", test=rows[240:], labels=[30, "all"], seeds=2, epochs=1, **SMALL
    )
    assert compared.metric == "agreement" and compared.curves["TF-IDF, linear"][-1].score.value > 0.8
