"""Tests of error analysis: significant slices, false alarms, wrong labels, selective prediction, calibration, and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import in_a_browser, run, sentences

import mapsto
from mapsto import kinds
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.errors import Finding
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.report import Provenance, evaluation_page
from mapsto.evaluation.report_sections import mistake_sections
from mapsto.explain.attribution import Attribution
from mapsto.metrics.intervals import with_intervals
from mapsto.task.arrow import parse
from mapsto.task.target_capabilities import Comparable


def answers(count: int = 600, wrong_in: str | None = None, mislabelled: int = 0, seed: int = 0) -> Predictions:
    """A model that is right four times in five, and less often where the place is `wrong_in`."""
    rng = np.random.default_rng(seed)
    places = rng.choice(["north", "south", "east"], count)
    true_classes = rng.integers(0, 3, count)
    is_right = rng.random(count) < np.where(places == wrong_in, 0.4, 0.85)
    answered_classes = np.where(is_right, true_classes, (true_classes + rng.integers(1, 3, count)) % 3)
    outputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 0.5
    outputs[torch.arange(count), torch.from_numpy(answered_classes)] += (
        2 + 3 * torch.from_numpy(rng.random(count)).float()
    )
    label_classes = true_classes.copy()
    label_classes[:mislabelled] = (true_classes[:mislabelled] + 1) % 3
    outputs[torch.arange(mislabelled), torch.from_numpy(true_classes[:mislabelled])] += 8
    table = read_table(
        [
            {
                "text": f"row {i} {'x' * (i % 40)}",
                "place": str(places[i]),
                "number": float(rng.random()),
                "label": f"c{label_classes[i]}",
            }
            for i in range(count)
        ]
    )
    target = kinds.target("label")()
    rows = load_rows(parse("text -> label"), table)
    target.learn(rows.targets[0])
    return Predictions(rows.arrow, target, rows, rows.targets[0], outputs)


def test_confidence_is_compared_with_the_event_it_is_about() -> None:
    """The confidence of a set of labels is that the whole set is right, although parts of it are right more often."""
    share = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    is_true = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1)) < share
    target, output = kinds.target("labels")(["a", "b", "c"]), torch.logit(share, 1e-6)
    labels = [tuple(name for name, has in zip("abc", row, strict=True) if has) for row in is_true.tolist()]
    confidence, correctness, item_scores = (
        target.confidence(output),
        target.correctness(output, labels),
        target.per_item_metric(output, labels),
    )
    assert confidence is not None and correctness is not None and item_scores is not None
    assert (
        correctness.mean() == pytest.approx(confidence.mean(), abs=0.01)
        and item_scores.mean() > confidence.mean() + 0.1
    )


def test_a_slice_that_fails_is_found() -> None:
    analysis = analyse_errors(answers(wrong_in="east"))
    assert analysis is not None and analysis.slices[0].name == "place is east" and analysis.slices[0].is_significant
    assert analysis.slices[0].score.high < analysis.slices[0].rest_mean
    assert {part.name.split(" ")[0] for part in analysis.slices} == {"place", "number", "length", "true"}
    assert not any("rare" in part.name or "blank" in part.name for part in analysis.slices)


def test_every_column_of_a_table_gives_slices(tmp_path: Path) -> None:
    """CSV files have numbers as text, blank cells and columns of many values; some classes are too rare for a slice."""
    labels = ["good", "bad", *(f"rare {i}" for i in range(5))]
    rows = [
        {
            "text": f"row {i}",
            "label": labels[i % 100 % 2] if i % 20 else labels[2 + i // 20 % 5],
            "size": None if i % 10 == 0 else i,
            "town": f"town {i % 3}" if i % 2 else f"farm {i}",
        }
        for i in range(400)
    ]
    write_rows(tmp_path / "test.csv", ["text", "label", "size", "town"], rows)
    table = read_table(tmp_path / "test.csv")
    target = kinds.target("label")(labels)
    loaded = load_rows(parse("text -> label"), table)
    outputs = torch.randn(400, len(labels), generator=torch.Generator().manual_seed(0))
    analysis = analyse_errors(Predictions(loaded.arrow, target, loaded, loaded.targets[0], outputs))
    assert analysis is not None
    slice_sizes = {part.name: part.score.n for part in analysis.slices}
    assert slice_sizes["size is blank"] == 40 and slice_sizes["true label is one of 5 rare classes"] == 20
    assert sum(n for name, n in slice_sizes.items() if name.startswith("size ") and "blank" not in name) == 360
    assert {name for name in slice_sizes if name.startswith("town")} == {f"town is town {i}" for i in range(3)}


@pytest.mark.parametrize("confidence", [0.5, 0.7004, 0.99996, 1.0])
def test_typed_thresholds_exclude_no_row(confidence: float) -> None:
    predictions = answers()
    logit = torch.tensor(confidence, dtype=torch.float64).logit(eps=1e-9) + np.log(2)
    predictions.outputs[:] = torch.tensor([float(logit), 0.0, 0.0])
    analysis = analyse_errors(predictions)
    assert analysis is not None
    (point,) = analysis.coverage_curve
    assert (
        point.coverage == 1
        and float(point.threshold_text) == point.threshold <= predictions.target.confidence(predictions.outputs).min()
    )
    assert point.threshold == pytest.approx(confidence, abs=1e-3)


def test_many_slices_give_few_false_alarms() -> None:
    """Unadjusted p-values of a dozen slices would be significant in about half of the trials."""
    analyses = [analyse_errors(answers(300, seed=seed)) for seed in range(40)]
    num_false_alarms = sum(
        any(part.is_significant for part in analysis.slices) for analysis in analyses if analysis is not None
    )
    assert num_false_alarms <= 5


def test_labels_that_are_wrong_are_found() -> None:
    analysis = analyse_errors(answers(mislabelled=8))
    assert analysis is not None
    assert {case.row for case in analysis.label_issues} >= set(range(1, 9))
    titles = {section.title: section for section in mistake_sections(answers(mislabelled=8), analysis)}
    (mistakes,) = titles["All mistakes"].tables
    # It is as often wrong where it is sure, so that the page doubts no label.
    assert len(mistakes.rows) > 80 and not any("may be wrong" in str(row[-1]) for row in mistakes.rows)


@pytest.mark.parametrize("kind", [target.kind for target in kinds.targets() if issubclass(target, Comparable)])
def test_answers_are_shown_in_words(kind: str) -> None:
    target = kinds.target(kind)()
    for cell in target.samples():
        assert not set("()[]{}'") & set(target.brief(target.read(cell)))


def test_selective_prediction_scores_the_answered_rows() -> None:
    predictions = answers()
    analysis = analyse_errors(predictions)
    assert analysis is not None
    confidence, item_scores = (
        predictions.target.confidence(predictions.outputs),
        predictions.target.per_item_metric(predictions.outputs, predictions.labels),
    )
    assert confidence is not None and item_scores is not None
    for point in analysis.coverage_curve:
        is_answered = confidence >= point.threshold
        assert point.coverage == pytest.approx(is_answered.mean()) and point.score.value == pytest.approx(
            item_scores[is_answered].mean()
        )
    assert analysis.coverage_curve[0].coverage == 1 and analysis.coverage_curve[-1].coverage == pytest.approx(
        0.5, abs=0.01
    )


def test_a_fit_with_held_out_rows_is_calibrated(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(600)]
    mapsto.fit("text -> label", rows, tmp_path / "clf", layers=1, width=64, vocabulary=300, steps=20, hold_out=0.3)
    manifest = json.loads((tmp_path / "clf" / "mapsto.json").read_text())
    assert len(manifest["provenance"]["temperatures"]) == 1


def test_evaluate_shows_where_it_fails(tmp_path: Path) -> None:
    rows = [
        {"text": text, "label": "cold" if "winter" in text else "warm", "day": i % 3}
        for i, text in enumerate(sentences(200))
    ]
    mapsto.fit("text -> label", rows, tmp_path / "clf", layers=1, width=64, vocabulary=300, steps=20)
    write_rows(tmp_path / "test.csv", ["text", "label", "day"], [*rows[:118], rows[0], rows[1]])
    page = tmp_path / "report.html"
    process = run(
        "evaluate", str(tmp_path / "clf"), str(tmp_path / "test.csv"), "--out", str(page), "--bad-rows", "skip"
    )
    assert process.returncode == 0 and "answering only when confident" in process.stdout
    html = page.read_text(encoding="utf-8")
    assert "Where does it fail?" in html and "What it looks at" in html and 'class="for"' in html
    assert "rows repeat another one" in html and f"mapsto evaluate {tmp_path / 'clf'}" in html
    assert "--bad-rows=skip" in html and "--precision" not in html
    record = json.loads(run("evaluate", str(tmp_path / "clf"), str(tmp_path / "test.csv"), "--json").stdout)
    folder = tmp_path / "report_files"
    assert {path.name for path in folder.iterdir()} == {"results.json", "kept.svg", "calibration.svg"}
    saved = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert saved["scores"]["accuracy"]["n"] == 120 and saved["looks"][0]["slices"]
    analysis = record["looks"][0]
    assert analysis["kept"] and analysis["slices"] and analysis["examples"][0]["parts"][0]["text"]
    refused = run("evaluate", str(tmp_path / "clf"), str(tmp_path / "test.csv"), "--out", str(tmp_path / "report.pdf"))
    assert refused.returncode == 2 and ".html" in refused.stderr


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_page_stays_small(count: int) -> None:
    """A page is smaller than 3 MB, however many rows were scored and however long they are."""
    predictions = answers(count)
    predictions.rows.sources[0][:] = [f"{text} {'很长' * 600}" for text in predictions.rows.sources[0]]
    parts = [Attribution("很", [[offset, offset + 1]], 1.0) for offset in range(500)]
    analysis = analyse_errors(predictions, dict.fromkeys(range(count), parts))
    assert analysis is not None
    scores = with_intervals(predictions.target.metrics(predictions.outputs, predictions.labels))
    provenance = Provenance(
        "How good?",
        findings=[Finding("test.csv", row, "text", "很长" * 600, "contradicting labels") for row in range(count)],
        steps=[
            {"step": step, "loss": 1 + (step * 7919 % 1000) / 999, "tokens": step, "seconds": step}
            for step in range(100_000)
        ],
    )
    page = evaluation_page(Evaluation(count, scores, predictions=[predictions]), [(predictions, analysis)], provenance)
    size = len(page.html().encode())
    assert 20_000 < size < 3_000_000, size


def test_scores_of_several_targets_have_prefixes(tmp_path: Path) -> None:
    rows = [
        {"text": text, "place": "yes" if "winter" in text else "no", "long": "yes" if len(text) > 40 else "no"}
        for text in sentences(120)
    ]
    write_rows(tmp_path / "test.csv", ["text", "place", "long"], rows[80:])
    options = {"layers": 1, "width": 64, "vocabulary": 300, "steps": 3}
    mapsto.fit("text -> place:label, long:label", rows[:80], tmp_path / "clf", **options)
    process = run("evaluate", str(tmp_path / "clf"), str(tmp_path / "test.csv"), "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("place", "long"):
        assert re.search(rf"\n{name}: \n\ntruth . answer +no +yes\n", process.stdout)
        assert f"<p>{name}: It is " in page and f">{name}: Can its confidence be trusted?</h2>" in page


def test_answers_below_the_threshold_are_withheld(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(100)]
    clf = mapsto.fit("text -> label", rows, tmp_path / "clf", layers=1, width=64, vocabulary=300, steps=3)
    write_rows(tmp_path / "new.csv", ["text"], rows)
    confidences = sorted(answer["probability"] for answer in clf.predict([row["text"] for row in rows]))
    for suffix in ("csv", "jsonl"):
        out = tmp_path / f"out.{suffix}"
        process = run(
            "predict",
            str(tmp_path / "clf"),
            str(tmp_path / "new.csv"),
            "--out",
            str(out),
            "--min-confidence",
            str(confidences[50]),
        )
        assert process.returncode == 0
        table = read_table(out)
        withheld = [label is None for label in table.column("label")]
        assert 40 <= sum(withheld) <= 60
        # Probabilities are written with four digits.
        limit = confidences[50]
        pairs = zip(map(float, table.column("probability")), withheld, strict=True)
        assert all((p < limit) == is_withheld for p, is_withheld in pairs if abs(p - limit) > 1e-4)
    refused = run("predict", str(tmp_path / "clf"), str(tmp_path / "new.csv"), "--min-confidence", "2")
    assert refused.returncode == 2 and "from 0 to 1" in refused.stderr


def test_a_fit_with_a_test_leaves_a_report_and_a_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(160)]
    options = {"layers": 1, "width": 64, "vocabulary": 300, "steps": 10}
    mapsto.fit("text -> label", rows[:100], tmp_path / "clf", test=rows[100:], **options)
    page = (tmp_path / "clf" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "clf" / "report_files" / "loss.svg").exists()
    assert "How good is clf?" in page and ">Training<" in page and "10 steps" in page
    card = ModelCard((tmp_path / "clf" / "README.md").read_text(encoding="utf-8"))
    (accuracy, f1) = card.data.eval_results
    assert accuracy.metric_type == "accuracy" and f1.metric_type == "f1"
    assert "it reaches" in card.text and "a model that ignores its input" in card.text and "## Use" in card.text
    mapsto.fit("text -> label", rows[:100], tmp_path / "clf", overwrite=True, **options)
    assert not (tmp_path / "clf" / "report.html").exists() and not (tmp_path / "clf" / "report_files").exists()


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_of_a_fit_opens_in_a_browser(tmp_path: Path, width: int) -> None:
    rows = [
        {"text": f"{text} {'x' * 90} 天气", "label": f"类 {i % 2}", "day": i % 3}
        for i, text in enumerate(sentences(160))
    ]
    mapsto.fit(
        "text -> label", rows[:100], tmp_path / "clf", test=rows[100:], layers=1, width=64, vocabulary=300, steps=10
    )
    page = (tmp_path / "clf" / "report.html").read_text(encoding="utf-8")
    inner, scrolled, wide, text = in_a_browser(tmp_path, page, width)
    assert inner == width and scrolled <= inner and not wide and "类 1" in text
