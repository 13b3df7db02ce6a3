"""Tests of comparison: coverage of intervals, labels saved, the same numbers after a kill, clear refusals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import in_a_browser, laid, read_beside, run, sentences, start, write_labelled, write_pairs
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import mapsto
from mapsto import kinds
from mapsto.comparison.analysis import Difference, describe_benefit, format_labels_saved, mean_over_draws
from mapsto.comparison.crossed_bootstrap import CrossedMeans, interval
from mapsto.comparison.design import stratified_order
from mapsto.comparison.learning_curves import extrapolate, labels_needed
from mapsto.metrics.intervals import Score, mean_interval, with_intervals
from mapsto.model import linear_probe
from mapsto.task.generation import Generated
from mapsto.task.source_capabilities import Describable
from mapsto.task.target_capabilities import Comparable, Located
from mapsto.text.text_scores import ERROR_RATES

SMALL: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "epochs": 1, "device": "cpu"}
FLAGS = ["--layers", "1", "--width", "64", "--vocabulary", "300", "--epochs", "1", "--device", "cpu"]


def table(count: int, seed: int = 0) -> list[dict[str, str]]:
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


# Intervals


@pytest.mark.parametrize(
    ("draws", "draw_deviation", "item_deviation", "residual_deviation"),
    [(5, 0.02, 0.4, 0.2), (10, 0.05, 0.3, 0.3), (5, 0.0, 0.4, 0.3)],
)
def test_intervals_cover_a_known_truth(
    draws: int, draw_deviation: float, item_deviation: float, residual_deviation: float
) -> None:
    rng = np.random.default_rng(0)
    num_covered = 0
    for trial in range(500):
        item_scores = (
            rng.normal(0, draw_deviation, (draws, 1))
            + rng.normal(0, item_deviation, (1, 400))
            + rng.normal(0, residual_deviation, (draws, 400))
        )
        means = CrossedMeans.estimate(item_scores[None].astype(np.float32))
        score = interval(means.samples(trial, 2000)[:, 0], 400)
        num_covered += score.low <= 0 <= score.high
    assert 0.93 <= num_covered / 500 <= 0.97


def test_an_interval_of_a_difference_is_of_pairs() -> None:
    """Hard rows and lucky draws, which both models share, do not widen the interval of their difference."""
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.4, (1, 300))
    item_scores = np.stack([shared, shared + 0.05 + rng.normal(0, 0.02, (5, 300))]).astype(np.float32)
    means = CrossedMeans.estimate(item_scores)
    samples = means.samples()
    difference, single = interval(samples[:, 1] - samples[:, 0], 300), interval(samples[:, 1], 300)
    assert difference.low > 0.04 and difference.high < 0.06
    assert single.high - single.low > 10 * (difference.high - difference.low)


def test_no_interval_is_invented() -> None:
    one_draw = interval(CrossedMeans.estimate(np.ones((1, 1, 50), np.float32)).samples()[:, 0], 50)
    assert one_draw.value == 1 and np.isnan(one_draw.low) and np.isnan(one_draw.high)
    all_right = interval(CrossedMeans.estimate(np.ones((1, 5, 100), np.float32)).samples()[:, 0], 100)
    assert 0.95 < all_right.low < 0.975  # 100 right answers in a row do not prove 100 %


# Curves


def test_labels_are_read_off_a_curve() -> None:
    curve = np.array([[0.5, 0.7, 0.65, 0.9]])
    labels = [16, 64, 256, 1024]
    for score, expected in ((0.4, 16), (0.6, 32), (0.7, 64), (0.95, np.inf), (0.9, 1024)):
        assert labels_needed(labels, curve, np.array([score]))[0] == pytest.approx(expected)
    assert 256 < labels_needed(labels, curve, np.array([0.8]))[0] < 1024


def test_intervals_cover_a_known_saving() -> None:
    """One model needs three times the labels of the other; in 100 trials the interval covers that saving at least 90 times."""
    labels = [16, 64, 256, 1024]
    rng = np.random.default_rng(2)
    num_covered = 0
    for trial in range(100):
        row_difficulty = rng.normal(0, 0.4, (1, 1, 400))
        scores = np.array([[0.4 + 0.08 * np.log(3 * n), 0.4 + 0.08 * np.log(n)] for n in labels]).T.reshape(8, 1, 1)
        item_scores = scores + row_difficulty + rng.normal(0, 0.01, (8, 5, 1)) + rng.normal(0, 0.2, (8, 5, 400))
        samples = CrossedMeans.estimate(item_scores.astype(np.float32)).samples(trial, 2000)
        saved = interval(labels_needed(labels, samples[:, 4:], samples[:, 1]) - 64, 400)
        num_covered += saved.low <= 2 * 64 <= saved.high
    assert num_covered >= 90


def compared(candidate: str, labels: int, points: float, saved: tuple[float, float, float]) -> Difference:
    return Difference(
        candidate,
        "scratch, full",
        labels,
        Score(points, points - 0.02, points + 0.02, 200),
        Score(*saved, 200),
        16 - labels,
    )


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        ((183.4, 91.2, 424.0), "about 180 labels (91 to 420)"),
        ((-48, -48, -48), "-48 or less"),
        ((0.4, -48, np.inf), "about 0 labels (-48 or less to more than you have)"),
        ((np.inf, 120, np.inf), "more than you have (120 to more than you have)"),
        ((np.inf, np.inf, np.inf), "more than you have"),
        ((20, np.nan, np.nan), "about 20 labels"),
    ],
)
def test_labels_saved_are_formatted_as_far_as_they_are_measured(saved: tuple[float, float, float], text: str) -> None:
    assert format_labels_saved(compared("base, full", 64, 0.1, saved)) == text


def test_the_headline_is_about_a_method_for_all_numbers_of_labels() -> None:
    saved = (180.0, 90.0, 420.0)
    differences = [
        compared("base, contrast", 16, 0.3, saved),
        compared("base, full", 16, 0.0, saved),
        compared("base, full", 64, 0.1, saved),
    ]
    text = describe_benefit("base", "scratch, full", differences)
    assert text.startswith("base, full against scratch, full") and "With 16 labels no difference is significant" in text
    assert "At 64 labels it saves about 180 labels (90 to 420)" in text and "does not help" not in text


def test_a_power_law_is_extrapolated() -> None:
    labels = [16, 64, 256]
    curve = 1 - 2 * np.array([labels], np.float64) ** -0.5
    assert extrapolate(labels, curve, 1024)[0] == pytest.approx(1 - 2 * 1024**-0.5)
    assert extrapolate(labels, np.array([[0.8, 0.7, 0.6]]), 1024)[0] == pytest.approx(0.7, abs=0.02)  # it never falls


# Samples of labels


@given(st.lists(st.sampled_from("aaaab"), min_size=3, max_size=200), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_draws_are_nested_and_stratified(strata: list[str], seed: int) -> None:
    order = stratified_order(strata, seed)
    assert sorted(order.tolist()) == list(range(len(strata)))
    ordered_classes = [strata[row] for row in order]
    classes = set(strata)
    assert set(ordered_classes[: len(classes)]) == classes
    for count in range(len(classes), len(strata) + 1):
        deviation = ordered_classes[:count].count("a") / count - strata.count("a") / len(strata)
        assert abs(deviation) * count <= 2.5


DESCRIBABLE = [kind for kind in kinds.names("source") if issubclass(kinds.source(kind), Describable)]


@pytest.mark.parametrize("kind", DESCRIBABLE)
def test_perturbed_values_can_be_read(kind: str) -> None:
    source = kinds.source(kind)
    for value in source.samples():
        original = source.read(value)
        for seed in range(20):
            first = source.perturb(original, np.random.default_rng(seed))
            repeated = source.perturb(original, np.random.default_rng(seed))
            assert first == repeated and all(source.read(variant) for variant in first.values())


@pytest.mark.parametrize("kind", [target.kind for target in kinds.targets() if issubclass(target, Comparable)])
def test_the_primary_metric_is_the_mean_of_item_scores(kind: str) -> None:
    torch.manual_seed(0)
    target = kinds.target(kind)()
    answers = [target.read(cell) for cell in target.samples()] * 10
    target.learn(answers)
    pieces = read_beside(target)
    if isinstance(target, Generated):
        output = target.pack_values([answers[index] for index in torch.randperm(len(answers)).tolist()])
    else:
        head = target.head(16, None)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
        values = laid(target, answers, pieces)
        outputs = head(torch.randn(len(values), 16)).detach()
        evidence = outputs if target.readout.per_example else target.evidence(outputs, values)
        output = target.by_example(evidence, [pieces] * len(answers)) if isinstance(target, Located) else evidence
    assert isinstance(target, Comparable)
    item_scores = target.per_item_metric(output, answers)
    assert item_scores is not None and item_scores.mean() <= 1
    scores = with_intervals(target.metrics(output, answers))
    assert float(item_scores.mean()) == pytest.approx(scores[target.primary_metric].value)
    # Error rates are computed where a source is a sound alone.
    assert set(target.unbounded_metrics) - {*ERROR_RATES} < set(scores)
    assert all(scores[name].high <= 1 for name in set(scores) - {*target.unbounded_metrics})


def test_intervals_over_few_draws_stay_in_the_range_of_the_metric() -> None:
    """Student's interval of two draws of labels is wider than the range of a share."""
    assert mean_interval([0.6, 1.0]).high > 1 > 0 > mean_interval([0.6, 1.0]).low
    scores = [mean_over_draws([0.6, 1.0], maximum) for maximum in (1.0, math.inf)]
    assert [(score.low, score.high == 1, score.high > 1) for score in scores] == [(0, True, False), (0, False, True)]
    assert mean_over_draws([-0.6, 1.0], 1.0).low < -1 and math.isnan(mean_over_draws([0.5], 1.0).high)


@pytest.mark.parametrize("sparse", [False, True])
def test_one_label_and_sets_of_labels_are_probed_alike(sparse: bool) -> None:
    """The same regularisation is chosen from the same four, by the same folds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    features: Any = rng.normal(0, 1, (80, 6)) + 0.7 * labels[:, None]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    single_label, label_set = kinds.target("label")(["no", "yes"]), kinds.target("labels")(["yes"])
    probe_features = csr_matrix(features) if sparse else features
    (weight, bias), (weights, biases) = (
        target.probe(probe_features, values, 3)
        for target, values in ((single_label, labels), (label_set, labels[:, None]))
    )
    assert torch.allclose(weight[1] - weight[0], weights[0], atol=1e-5) and abs(bias[1] - bias[0] - biases[0]) < 1e-5
    reference = LogisticRegression().fit(features, labels)
    assert not np.allclose(weights[0].numpy(), reference.coef_[0], rtol=0.05)  # which takes the strength it is given


@pytest.mark.parametrize("sparse", [False, True])
def test_ridge_fits_all_rows_with_a_regularisation_chosen_on_some(sparse: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_probe, "SELECTION_ROWS", 50)
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (400, 6)).astype(np.float32)
    values = features @ rng.normal(0, 1, (6, 2)) + rng.normal(0, 0.5, (400, 2)) + 3
    weight, bias = linear_probe.fit_ridge_regression(csr_matrix(features) if sparse else features, values, 0)
    predictions = features @ weight.numpy().T + bias.numpy()
    solution = np.linalg.lstsq(np.c_[features, np.ones(400)], values, rcond=None)[0]
    assert (
        np.abs(predictions - np.c_[features, np.ones(400)] @ solution).max() < 0.15
    )  # as all 400 rows say, and not 50 of them


# Whole comparisons


def results(folder: Path) -> dict[str, Any]:
    """Return results.json without the time and memory that fits took."""
    record: dict[str, Any] = json.loads((folder / "results.json").read_text())
    for points in record["curves"].values():
        for point in points:
            point.pop("cost")
    return record


@pytest.mark.slow
def test_a_killed_comparison_resumes_with_the_same_numbers(tmp_path: Path) -> None:
    write_labelled(tmp_path / "train.csv", 120)
    write_labelled(tmp_path / "test.csv", 60, seed=5)
    command = [
        "compare", "text -> label", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"),
        "--labels", "8,32,all", "--seeds", "2", *FLAGS,
    ]  # fmt: skip
    uninterrupted = run(*command, "--out", str(tmp_path / "whole"))
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    fits = tmp_path / "killed" / "cells"
    for num_fits in (2, 7, 13):
        process = start(*command, "--out", str(tmp_path / "killed"))
        while process.poll() is None and (not fits.exists() or len(list(fits.glob("[!.]*"))) < num_fits):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    next(fits.glob("scratch-full-8-0-*")).joinpath("state.safetensors").write_bytes(b"damaged")
    resumed = run(*command, "--out", str(tmp_path / "killed"))
    assert resumed.returncode == 0 and "damaged" in resumed.stderr and "of them finished before" in resumed.stderr
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert set(os.listdir(tmp_path / "whole")) == {
        "compare.json", "cells", "results.json", "fits.parquet", "report.html", "curves.svg", "calibration.svg",
    }  # fmt: skip
    changed_options = run(*command, "--out", str(tmp_path / "whole"), "--balance")
    assert changed_options.returncode == 2 and "other options" in changed_options.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_parallel_fits_stop_together(tmp_path: Path, stop: signal.Signals) -> None:
    """Ctrl-C stops running and waiting fits, and says how to resume; killing the first process ends all others."""
    write_labelled(tmp_path / "train.csv", 120)
    write_labelled(tmp_path / "test.csv", 60, seed=5)
    fits = tmp_path / "cmp" / "cells"
    process = start(
        "compare", "text -> label", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--labels", "32,all",
        "--seeds", "2", "--jobs", "2", *FLAGS[:6], "--epochs", "2000", "--out", str(fits.parent), group=True,
    )  # fmt: skip
    while process.poll() is None and (not fits.exists() or len(list(fits.glob("[!.]*"))) < 4):
        time.sleep(0.01)
    time.sleep(1)  # into the fits that take long
    (os.killpg if stop == signal.SIGINT else os.kill)(process.pid, stop)
    try:
        stderr = process.communicate(timeout=240)[1]  # until no process is left to say something
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if stop == signal.SIGINT:
        assert process.returncode == 130, stderr
        assert re.search(r"stopped after \d fits; the same command resumes", stderr)


def test_parallel_fits_give_the_same_results(tmp_path: Path) -> None:
    options = {"test": table(40, 5), "labels": [8, 40], "seeds": 2, **SMALL}
    mapsto.compare("text -> label", table(80), tmp_path / "one", jobs=1, **options)
    mapsto.compare("text -> label", table(80), tmp_path / "two", jobs=2, **options)
    assert results(tmp_path / "one") == results(tmp_path / "two")


@pytest.mark.slow
def test_a_start_is_compared_by_every_method(tmp_path: Path, minilm: Path) -> None:
    rows = [{"text": f"{word} number {i}", "label": word} for i in range(40) for word in ("river", "tax")]
    test_rows = [{"text": f"a {word} and {i}", "label": word} for i in range(30) for word in ("river", "tax")]
    shift = [{"text": f"{word} {i} elsewhere", "label": word} for i in range(10) for word in ("river", "tax")]
    comparison = mapsto.compare(
        "text -> label", rows, tmp_path / "cmp", test=test_rows, starts=[str(minilm)], labels=[8, 80], seeds=2, shift=shift,
        epochs=1,
    )  # fmt: skip
    assert list(comparison.curves) == [
        "always the majority class", "TF-IDF, linear", "model, full", "model, probe", "model, contrast",
    ]  # fmt: skip
    assert [point.num_labels for point in comparison.curves["model, contrast"]] == [8]  # 80 are too many for it
    probe = comparison.curves["model, probe"][1]
    assert probe.score.value > 0.9 and probe.score.low <= probe.score.value <= probe.score.high
    assert (
        set(probe.test_set_scores) == {"typing errors", "all capitals", "no punctuation", "shift"}
        and "shift" not in probe.changes
    )
    assert {d.reference for d in comparison.differences} == {"TF-IDF, linear"}
    constant = comparison.curves["always the majority class"][0]
    assert constant.score.value == 0.5 and constant.cost.tokens == 0
    fits = pq.read_table(tmp_path / "cmp" / "fits.parquet").to_pylist()
    scores = [
        row["value"]
        for row in fits
        if (row["way"], row["labels"], row["rows"], row["figure"]) == ("model, probe", 80, "test", "score")
    ]
    assert len(scores) == 2 and np.mean(scores) == pytest.approx(probe.score.value)
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert 'class="for"' in page and "What it looks at" in page and "Each class" in page


def test_one_draw_has_no_interval(tmp_path: Path) -> None:
    comparison = mapsto.compare(
        "text -> label", table(60), tmp_path / "cmp", test=table(30, 5), labels=[8, "all"], seeds=1, **SMALL
    )
    assert all(np.isnan(point.score.low) for points in comparison.curves.values() for point in points)
    assert (
        json.loads((tmp_path / "cmp" / "results.json").read_text())["curves"]["scratch, full"][0]["score"]["low"]
        is None
    )
    assert "no intervals" in (tmp_path / "cmp" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [500]}, "more than the 60 rows"),
        ({"labels": ["some"]}, "takes numbers and 'all'"),
        ({"labels": [1]}, "two classes need two rows"),
        ({"seeds": 0}, "must be above 0"),
        ({"starts": []}, "names no starting model"),
        ({"jobs": -1}, "jobs= must be above 0"),
        ({"methods": ["prob"]}, "did you mean 'probe'"),
        ({"minutes": 1}, "sets this itself"),
        ({"starts": ["no/such/start"]}, "no/such/start"),
        ({"stars": ["scratch"]}, "did you mean 'starts'"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(mapsto.MapstoError, match=re.escape(message)):
        mapsto.compare("text -> label", table(60), test=table(30, 5), **arguments)


def test_test_rows_in_the_training_data_are_refused() -> None:
    with pytest.raises(mapsto.MapstoError, match=r"2 rows of shift= are also in the training data(.|\n)*row 9"):
        mapsto.compare("text -> label", table(60), test=table(30, 5), shift=table(8, 9) + table(60)[:2], **SMALL)
    with pytest.raises(mapsto.MapstoError, match=r"3 rows of the test are also in the training data(.|\n)*row 31"):
        mapsto.compare("text -> label", table(60), test=table(30, 5) + table(60)[:3], **SMALL)


@pytest.mark.parametrize(("arrow", "labels"), [("text -> label", [50, "all"]), ("text -> label:labels", [8, 20])])
def test_a_method_that_suits_no_number_of_labels_is_left_out(tmp_path: Path, arrow: str, labels: list[Any]) -> None:
    """Contrast, with too many labels or without exclusive classes."""
    rows = [{"text": text} for text in sentences(40)]
    mapsto.pretrain("text", rows, tmp_path / "base", layers=1, width=64, vocabulary=300, steps=2)
    arguments = {"starts": [str(tmp_path / "base")], "labels": labels, "seeds": 1, "methods": ["probe", "contrast"]}
    comparison = mapsto.compare(arrow, table(60), tmp_path / "cmp", test=table(30, 5), **arguments)
    assert list(comparison.curves)[2:] == ["base, probe"] and all(comparison.curves.values())


def test_a_single_class_is_refused_before_the_first_fit() -> None:
    with pytest.raises(mapsto.MapstoError, match="two classes are needed"):
        mapsto.compare("text -> label", [{**row, "label": "warm"} for row in table(60)], **SMALL)


def test_item_scores_of_numbers_vary_as_r2_does() -> None:
    target = kinds.target("number")()
    rng, standard_errors = np.random.default_rng(0), []
    means = []
    for _ in range(300):
        labels = rng.standard_t(5, 400)
        output = torch.from_numpy(0.5 * labels + rng.normal(0, 0.5, 400))[:, None]
        target.learn([-1.0, 1.0])
        item_scores = target.per_item_metric(output, labels.tolist())
        assert item_scores is not None
        means.append(item_scores.mean())
        standard_errors.append(item_scores.std() / 20)
    assert np.mean(standard_errors) == pytest.approx(np.std(means), rel=0.15)


def test_pretraining_cannot_be_compared() -> None:
    with pytest.raises(mapsto.MapstoError, match="needs answers with a score"):
        mapsto.compare("~text -> text", table(60))


def test_numbers_are_compared_by_r2(tmp_path: Path) -> None:
    """R², which may lie below 0, beside always the mean and a ridge regression of TF-IDF."""
    rows = [{"text": text, "number": 3.0 * text.count("winter") - 40} for text in sentences(120)]
    arguments = {"labels": [8, 80], "seeds": 2, **SMALL}
    comparison = mapsto.compare("text -> number", rows[:80], tmp_path / "cmp", test=rows[80:], **arguments)
    assert comparison.metric == "r2" and list(comparison.curves) == [
        "always the mean",
        "TF-IDF, linear",
        "scratch, full",
    ]
    constant, linear = (comparison.curves[name] for name in ("always the mean", "TF-IDF, linear"))
    assert -0.5 < constant[0].score.value < 0
    assert -0.15 < constant[1].score.low < constant[1].score.high < 0.15, (
        "the mean of many explains nothing, and that for sure"
    )
    assert linear[1].score.value > 0.5 and set(linear[1].metrics) == {"mae", "rmse", "r2"}
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "rmse" in page and "have no probability" in page
    equal_rows = [{**row, "number": 1.0} for row in rows[80:]]
    with pytest.raises(mapsto.MapstoError, match="the answers of the test rows are all the same"):
        mapsto.compare("text -> number", rows[:80], test=equal_rows, **arguments)


def test_image_to_image_is_compared_by_ssim(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the extra [image] is not here")
    write_pairs(tmp_path, 24)
    comparison = mapsto.compare(
        "noisy:image -> clean:image", tmp_path / "pairs.csv", tmp_path / "cmp", labels=[6, 12], seeds=2, layers=1,
        width=64, epochs=1, device="cpu",
    )  # fmt: skip
    (points,) = comparison.curves.values()
    assert comparison.metric == "ssim" and [point.num_labels for point in points] == [6, 12]
    unchanged = points[-1].metrics["ssim_unchanged"].value
    assert 0 < points[-1].score.value <= 1 and abs(points[-1].score.value - unchanged) < 0.2
    assert "psnr unchanged" in (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")


def test_a_class_without_training_rows_counts_as_a_mistake(tmp_path: Path) -> None:
    test_rows = [*table(30, 5), {"text": "nobody knows this", "label": "hot"}]
    arguments = {"test": test_rows, "labels": ["all"], "seeds": 2, **SMALL}
    comparison = mapsto.compare("text -> label", table(60), tmp_path / "cmp", **arguments)
    assert comparison.num_test_rows == 31 and comparison.curves["TF-IDF, linear"][0].score.value < 1
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "Log loss leaves out the test rows whose class a fit never saw, up to 1." in page
    arguments["test"] = test_rows[:30]
    mapsto.compare("text -> label", table(60), tmp_path / "known", **arguments)
    assert "never saw" not in (tmp_path / "known" / "report.html").read_text(encoding="utf-8")


def test_models_with_similar_names_get_folders_of_their_own(tmp_path: Path) -> None:
    """Folders in other scripts, and a start called scratch."""
    rows = [{"text": text} for text in sentences(40)]
    starts = [tmp_path / name for name in ("基座", "模型", "scratch")]
    for folder in starts:
        mapsto.pretrain("text", rows, folder, layers=1, width=64, vocabulary=300, steps=2)
    arguments = {
        "starts": ["scratch", *map(str, starts)],
        "labels": [8, 20],
        "seeds": 2,
        "methods": ["full", "contrast"],
    }
    comparison = mapsto.compare("text -> label", table(60), tmp_path / "cmp", test=table(30, 5), **arguments, epochs=1)
    assert list(comparison.curves)[2:] == [
        "scratch, full", "基座, full", "基座, contrast", "模型, full", "模型, contrast", f"{starts[2]}, full",
        "scratch, contrast",
    ]  # fmt: skip
    assert len(list((tmp_path / "cmp" / "cells").iterdir())) == 2 * 2 * len(comparison.curves)
    with pytest.raises(mapsto.MapstoError, match="cannot change the shape of a start"):
        mapsto.compare("text -> label", table(60), test=table(30, 5), starts=[str(starts[0])], layers=3)
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "--methods full,contrast" in page and "--epochs 1" in page and "does not help over" in page


# The page


@pytest.mark.parametrize("width", [390, 1200])
def test_the_report_opens_in_a_browser(tmp_path: Path, width: int) -> None:
    rows = [
        {"text": f"{'今天天气真好' if i % 2 else '房间很脏'} <b>{i}</b> {'x' * 90}", "label": f"类 {i % 2}"}
        for i in range(60)
    ]
    test_rows = [
        {"text": f"{'天气好' if i % 3 else '很脏'} <b>{i}</b> & more", "label": f"类 {i % 2}"} for i in range(30)
    ]
    mapsto.compare("text -> label", rows, tmp_path / "cmp", test=test_rows, labels=[8, 20, "all"], seeds=2, **SMALL)
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script[^>]|<link|@import|url\(\s*['\"]?(?!#)|src=|https?://(?!www\.w3\.org)", page)
    assert "&lt;b&gt;" in page and "<b>" not in page
    inner, scrolled, wide, text = in_a_browser(tmp_path, page, width)
    assert inner == width
    assert scrolled <= inner and not wide
    assert "类 1" in text
