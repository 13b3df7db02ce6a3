"""What a comparison promises: intervals that hold the truth, labels saved, the same numbers after a kill, plain refusals."""

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
from mapsto.task.capabilities import Comparable, Located

SMALL: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "epochs": 1, "device": "cpu"}
FLAGS = ["--layers", "1", "--width", "64", "--vocabulary", "300", "--epochs", "1", "--device", "cpu"]


def table(count: int, seed: int = 0) -> list[dict[str, str]]:
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(count, seed)]


# Intervals


@pytest.mark.parametrize(
    ("draws", "between", "items", "left"), [(5, 0.02, 0.4, 0.2), (10, 0.05, 0.3, 0.3), (5, 0.0, 0.4, 0.3)]
)
def test_intervals_hold_a_known_truth(draws: int, between: float, items: float, left: float) -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(500):
        gains = rng.normal(0, between, (draws, 1)) + rng.normal(0, items, (1, 400)) + rng.normal(0, left, (draws, 400))
        means = CrossedMeans.estimate(gains[None].astype(np.float32))
        found = interval(means.samples(trial, 2000)[:, 0], 400)
        inside += found.low <= 0 <= found.high
    assert 0.93 <= inside / 500 <= 0.97


def test_an_interval_of_a_difference_is_of_pairs() -> None:
    """What both ways share, hard rows and lucky draws, does not blur their difference."""
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.4, (1, 300))
    gains = np.stack([shared, shared + 0.05 + rng.normal(0, 0.02, (5, 300))]).astype(np.float32)
    means = CrossedMeans.estimate(gains)
    samples = means.samples()
    difference, alone = interval(samples[:, 1] - samples[:, 0], 300), interval(samples[:, 1], 300)
    assert difference.low > 0.04 and difference.high < 0.06
    assert alone.high - alone.low > 10 * (difference.high - difference.low)


def test_no_interval_is_invented() -> None:
    found = interval(CrossedMeans.estimate(np.ones((1, 1, 50), np.float32)).samples()[:, 0], 50)
    assert found.value == 1 and np.isnan(found.low) and np.isnan(found.high)
    alike = interval(CrossedMeans.estimate(np.ones((1, 5, 100), np.float32)).samples()[:, 0], 100)
    assert 0.95 < alike.low < 0.975  # 100 right answers in a row do not prove 100 %


# Curves


def test_labels_are_read_off_a_curve() -> None:
    curve = np.array([[0.5, 0.7, 0.65, 0.9]])
    labels = [16, 64, 256, 1024]
    for wanted, expected in ((0.4, 16), (0.6, 32), (0.7, 64), (0.95, np.inf), (0.9, 1024)):
        assert labels_needed(labels, curve, np.array([wanted]))[0] == pytest.approx(expected)
    assert 256 < labels_needed(labels, curve, np.array([0.8]))[0] < 1024


def test_a_planted_saving_is_found() -> None:
    """One way needs three times the labels of the other; over 100 trials the interval holds the saving as often as it says."""
    labels = [16, 64, 256, 1024]
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(100):
        hard = rng.normal(0, 0.4, (1, 1, 400))
        scores = np.array([[0.4 + 0.08 * np.log(3 * n), 0.4 + 0.08 * np.log(n)] for n in labels]).T.reshape(8, 1, 1)
        gains = scores + hard + rng.normal(0, 0.01, (8, 5, 1)) + rng.normal(0, 0.2, (8, 5, 400))
        samples = CrossedMeans.estimate(gains.astype(np.float32)).samples(trial, 2000)
        saved = interval(labels_needed(labels, samples[:, 4:], samples[:, 1]) - 64, 400)
        inside += saved.low <= 2 * 64 <= saved.high
    assert inside >= 90


def compared(way: str, labels: int, points: float, saved: tuple[float, float, float]) -> Difference:
    return Difference(
        way, "scratch, full", labels, Score(points, points - 0.02, points + 0.02, 200), Score(*saved, 200), 16 - labels
    )


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ((183.4, 91.2, 424.0), "about 180 labels (91 to 420)"),
        ((-48, -48, -48), "-48 or less"),
        ((0.4, -48, np.inf), "about 0 labels (-48 or less to more than you have)"),
        ((np.inf, 120, np.inf), "more than you have (120 to more than you have)"),
        ((np.inf, np.inf, np.inf), "more than you have"),
        ((20, np.nan, np.nan), "about 20 labels"),
    ],
)
def test_labels_saved_are_said_as_far_as_they_are_known(saved: tuple[float, float, float], said: str) -> None:
    assert format_labels_saved(compared("base, full", 64, 0.1, saved)) == said


def test_what_is_for_few_labels_alone_is_not_the_headline() -> None:
    saved = (180.0, 90.0, 420.0)
    told = [
        compared("base, contrast", 16, 0.3, saved),
        compared("base, full", 16, 0.0, saved),
        compared("base, full", 64, 0.1, saved),
    ]
    said = describe_benefit("base", "scratch, full", told)
    assert said.startswith("base, full against scratch, full") and "With 16 labels no difference is significant" in said
    assert "At 64 labels it saves about 180 labels (90 to 420)" in said and "does not help" not in said


def test_a_power_law_is_looked_ahead() -> None:
    labels = [16, 64, 256]
    curve = 1 - 2 * np.array([labels], np.float64) ** -0.5
    assert extrapolate(labels, curve, 1024)[0] == pytest.approx(1 - 2 * 1024**-0.5)
    assert extrapolate(labels, np.array([[0.8, 0.7, 0.6]]), 1024)[0] == pytest.approx(0.7, abs=0.02)  # it never falls


# What is drawn


@given(st.lists(st.sampled_from("aaaab"), min_size=3, max_size=200), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_draws_are_nested_and_stratified(strata: list[str], seed: int) -> None:
    order = stratified_order(strata, seed)
    assert sorted(order.tolist()) == list(range(len(strata)))
    drawn = [strata[row] for row in order]
    classes = set(strata)
    assert set(drawn[: len(classes)]) == classes
    for count in range(len(classes), len(strata) + 1):
        share = drawn[:count].count("a") / count - strata.count("a") / len(strata)
        assert abs(share) * count <= 2.5


@pytest.mark.parametrize("kind", kinds.names("source"))
def test_disturbed_values_can_be_read(kind: str) -> None:
    source = kinds.source(kind)
    for value in source.samples():
        read = source.read(value)
        for seed in range(20):
            first = source.perturb(read, np.random.default_rng(seed))
            again = source.perturb(read, np.random.default_rng(seed))
            assert first == again and all(source.read(changed) for changed in first.values())


@pytest.mark.parametrize("kind", [target.kind for target in kinds.targets() if issubclass(target, Comparable)])
def test_gains_are_what_the_score_is_the_mean_of(kind: str) -> None:
    torch.manual_seed(0)
    target = kinds.target(kind)()
    answers = [target.read(cell) for cell in target.samples()] * 10
    target.learn(answers)
    pieces = read_beside(target)
    head = target.head(16, None)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    values = laid(target, answers, pieces)
    read = head(torch.randn(len(values), 16)).detach()
    evidence = read if target.readout.per_example else target.evidence(read, values)
    output = target.by_example(evidence, [pieces] * len(answers)) if isinstance(target, Located) else evidence
    assert isinstance(target, Comparable)
    gains = target.per_item_metric(output, answers)
    assert gains is not None and gains.mean() <= 1
    scores = with_intervals(target.metrics(output, answers))
    assert float(gains.mean()) == pytest.approx(scores[target.primary_metric].value)
    assert set(target.unbounded_metrics) < set(scores)
    assert all(scores[name].high <= 1 for name in set(scores) - {*target.unbounded_metrics})


def test_a_figure_over_few_draws_ends_where_it_can() -> None:
    """Student's interval of two draws of labels is wider than what a share can be."""
    assert mean_interval([0.6, 1.0]).high > 1 > 0 > mean_interval([0.6, 1.0]).low
    shares = [mean_over_draws([0.6, 1.0], most) for most in (1.0, math.inf)]
    assert [(score.low, score.high == 1, score.high > 1) for score in shares] == [(0, True, False), (0, False, True)]
    assert mean_over_draws([-0.6, 1.0], 1.0).low < -1 and math.isnan(mean_over_draws([0.5], 1.0).high)


@pytest.mark.parametrize("sparse", [False, True])
def test_one_label_and_sets_of_labels_are_probed_alike(sparse: bool) -> None:
    """The same strength out of the same four, by the same folds."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    features: Any = rng.normal(0, 1, (80, 6)) + 0.7 * truth[:, None]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    one, several = kinds.target("label")(["no", "yes"]), kinds.target("labels")(["yes"])
    given = csr_matrix(features) if sparse else features
    (weight, bias), (weights, biases) = (
        target.probe(given, values, 3) for target, values in ((one, truth), (several, truth[:, None]))
    )
    assert torch.allclose(weight[1] - weight[0], weights[0], atol=1e-5) and abs(bias[1] - bias[0] - biases[0]) < 1e-5
    plain = LogisticRegression().fit(features, truth)
    assert not np.allclose(weights[0].numpy(), plain.coef_[0], rtol=0.05)  # which takes the strength it is given


@pytest.mark.parametrize("sparse", [False, True])
def test_a_ridge_is_that_of_all_rows_with_a_strength_chosen_by_some(sparse: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(linear_probe, "SELECTION_ROWS", 50)
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1, (400, 6)).astype(np.float32)
    values = features @ rng.normal(0, 1, (6, 2)) + rng.normal(0, 0.5, (400, 2)) + 3
    weight, bias = linear_probe.fit_ridge_regression(csr_matrix(features) if sparse else features, values, 0)
    said = features @ weight.numpy().T + bias.numpy()
    best = np.linalg.lstsq(np.c_[features, np.ones(400)], values, rcond=None)[0]
    assert np.abs(said - np.c_[features, np.ones(400)] @ best).max() < 0.15  # as all 400 rows say, and not 50 of them


# The whole


def results(folder: Path) -> dict[str, Any]:
    """What a comparison found, but for the time and memory it took."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    for points in found["curves"].values():
        for point in points:
            point.pop("cost")
    return found


def test_killed_and_gone_on_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    write_labelled(tmp_path / "train.csv", 120)
    write_labelled(tmp_path / "test.csv", 60, seed=5)
    command = [
        "compare", "text -> label", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"),
        "--labels", "8,32,all", "--seeds", "2", *FLAGS,
    ]  # fmt: skip
    whole = run(*command, "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    cells = tmp_path / "killed" / "cells"
    for wanted in (2, 7, 13):
        process = start(*command, "--out", str(tmp_path / "killed"))
        while process.poll() is None and (not cells.exists() or len(list(cells.glob("[!.]*"))) < wanted):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    next(cells.glob("scratch-full-8-0-*")).joinpath("state.safetensors").write_bytes(b"damaged")
    ended = run(*command, "--out", str(tmp_path / "killed"))
    assert ended.returncode == 0 and "damaged" in ended.stderr and "of them finished before" in ended.stderr
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert set(os.listdir(tmp_path / "whole")) == {
        "compare.json", "cells", "results.json", "fits.parquet", "report.html", "curves.svg", "calibration.svg",
    }  # fmt: skip
    other = run(*command, "--out", str(tmp_path / "whole"), "--balance")
    assert other.returncode == 2 and "other options" in other.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_fits_at_once_are_stopped_together(tmp_path: Path, stop: signal.Signals) -> None:
    """Ctrl-C stops the fits that run and those that wait, and says how to go on; a kill of the first process leaves no others."""
    write_labelled(tmp_path / "train.csv", 120)
    write_labelled(tmp_path / "test.csv", 60, seed=5)
    cells = tmp_path / "cmp" / "cells"
    process = start(
        "compare", "text -> label", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv"), "--labels", "32,all",
        "--seeds", "2", "--jobs", "2", *FLAGS[:6], "--epochs", "2000", "--out", str(cells.parent), group=True,
    )  # fmt: skip
    while process.poll() is None and (not cells.exists() or len(list(cells.glob("[!.]*"))) < 4):
        time.sleep(0.01)
    time.sleep(1)  # into the fits that take long
    (os.killpg if stop == signal.SIGINT else os.kill)(process.pid, stop)
    try:
        said = process.communicate(timeout=60)[1]  # until no process is left to say something
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if stop == signal.SIGINT:
        assert process.returncode == 130, said
        assert re.search(r"stopped after \d fits; the same command resumes", said)


def test_fits_at_once_find_the_same(tmp_path: Path) -> None:
    given = {"test": table(40, 5), "labels": [8, 40], "seeds": 2, **SMALL}
    mapsto.compare("text -> label", table(80), tmp_path / "one", jobs=1, **given)
    mapsto.compare("text -> label", table(80), tmp_path / "two", jobs=2, **given)
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_a_start_is_compared_by_every_method(tmp_path: Path, minilm: Path) -> None:
    rows = [{"text": f"{word} number {i}", "label": word} for i in range(40) for word in ("river", "tax")]
    asked = [{"text": f"a {word} and {i}", "label": word} for i in range(30) for word in ("river", "tax")]
    shift = [{"text": f"{word} {i} elsewhere", "label": word} for i in range(10) for word in ("river", "tax")]
    found = mapsto.compare(
        "text -> label", rows, tmp_path / "cmp", test=asked, starts=[str(minilm)], labels=[8, 80], seeds=2, shift=shift,
        epochs=1,
    )  # fmt: skip
    assert list(found.curves) == [
        "always the commonest answer", "TF-IDF, linear", "model, full", "model, probe", "model, contrast",
    ]  # fmt: skip
    assert [point.num_labels for point in found.curves["model, contrast"]] == [8]  # 80 are too many for it
    probe = found.curves["model, probe"][1]
    assert probe.score.value > 0.9 and probe.score.low <= probe.score.value <= probe.score.high
    assert (
        set(probe.test_set_scores) == {"typing errors", "all capitals", "no punctuation", "shift"}
        and "shift" not in probe.changes
    )
    assert {d.reference for d in found.differences} == {"TF-IDF, linear"}
    blind = found.curves["always the commonest answer"][0]
    assert blind.score.value == 0.5 and blind.cost.tokens == 0
    fits = pq.read_table(tmp_path / "cmp" / "fits.parquet").to_pylist()
    scores = [
        row["value"]
        for row in fits
        if (row["way"], row["labels"], row["rows"], row["figure"]) == ("model, probe", 80, "test", "score")
    ]
    assert len(scores) == 2 and np.mean(scores) == pytest.approx(probe.score.value)
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert 'class="for"' in page and "What it looks at" in page and "Slices" in page


def test_one_draw_has_no_interval(tmp_path: Path) -> None:
    found = mapsto.compare(
        "text -> label", table(60), tmp_path / "cmp", test=table(30, 5), labels=[8, "all"], seeds=1, **SMALL
    )
    assert all(np.isnan(point.score.low) for points in found.curves.values() for point in points)
    assert (
        json.loads((tmp_path / "cmp" / "results.json").read_text())["curves"]["scratch, full"][0]["score"]["low"]
        is None
    )
    assert "no intervals" in (tmp_path / "cmp" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"labels": [500]}, "more than the 60 rows"),
        ({"labels": ["some"]}, "takes numbers and 'all'"),
        ({"labels": [1]}, "two classes need two rows"),
        ({"seeds": 0}, "must be above 0"),
        ({"starts": []}, "names no starting model"),
        ({"jobs": -1}, "--jobs must be above 0"),
        ({"methods": ["prob"]}, "did you mean 'probe'"),
        ({"minutes": 1}, "sets this itself"),
        ({"starts": ["no/such/start"]}, "no/such/start"),
        ({"stars": ["scratch"]}, "did you mean 'starts'"),
    ],
)
def test_what_cannot_be_compared_is_said_before_the_first_fit(given: dict[str, Any], said: str) -> None:
    with pytest.raises(mapsto.MapstoError, match=re.escape(said)):
        mapsto.compare("text -> label", table(60), test=table(30, 5), **given)


def test_rows_on_both_sides_stop_it() -> None:
    with pytest.raises(mapsto.MapstoError, match=r"2 rows of --shift also stand in the training data(.|\n)*row 9"):
        mapsto.compare("text -> label", table(60), test=table(30, 5), shift=table(8, 9) + table(60)[:2], **SMALL)
    with pytest.raises(mapsto.MapstoError, match=r"3 rows of the test also stand in the training data(.|\n)*row 31"):
        mapsto.compare("text -> label", table(60), test=table(30, 5) + table(60)[:3], **SMALL)


@pytest.mark.parametrize(("arrow", "labels"), [("text -> label", [50, "all"]), ("text -> label:labels", [8, 20])])
def test_a_way_that_no_number_of_labels_is_for_is_left_out(tmp_path: Path, arrow: str, labels: list[Any]) -> None:
    """Contrast, where labels are many or classes are none."""
    rows = [{"text": text} for text in sentences(40)]
    mapsto.pretrain("text", rows, tmp_path / "base", layers=1, width=64, vocabulary=300, steps=2)
    given = {"starts": [str(tmp_path / "base")], "labels": labels, "seeds": 1, "methods": ["probe", "contrast"]}
    found = mapsto.compare(arrow, table(60), tmp_path / "cmp", test=table(30, 5), **given)
    assert list(found.curves)[2:] == ["base, probe"] and all(found.curves.values())


def test_a_single_class_is_said_before_the_first_fit() -> None:
    with pytest.raises(mapsto.MapstoError, match="two classes are needed"):
        mapsto.compare("text -> label", [{**row, "label": "warm"} for row in table(60)], **SMALL)


def test_what_each_number_is_worth_varies_as_the_share_explained_does() -> None:
    target = kinds.target("number")()
    rng, widths = np.random.default_rng(0), []
    found = []
    for _ in range(300):
        truth = rng.standard_t(5, 400)
        output = torch.from_numpy(0.5 * truth + rng.normal(0, 0.5, 400))[:, None]
        target.learn([-1.0, 1.0])
        gains = target.per_item_metric(output, truth.tolist())
        assert gains is not None
        found.append(gains.mean())
        widths.append(gains.std() / 20)
    assert np.mean(widths) == pytest.approx(np.std(found), rel=0.15)


def test_pretraining_is_no_answer_to_compare() -> None:
    with pytest.raises(mapsto.MapstoError, match="needs answers with a score"):
        mapsto.compare("~text -> text", table(60))


def test_numbers_are_compared_by_what_they_explain(tmp_path: Path) -> None:
    """R², which may lie below 0, beside always the mean and a ridge regression of TF-IDF."""
    rows = [{"text": text, "number": 3.0 * text.count("winter") - 40} for text in sentences(120)]
    given = {"labels": [8, 80], "seeds": 2, **SMALL}
    found = mapsto.compare("text -> number", rows[:80], tmp_path / "cmp", test=rows[80:], **given)
    assert found.metric == "r2" and list(found.curves) == ["always the mean", "TF-IDF, linear", "scratch, full"]
    blind, linear = (found.curves[name] for name in ("always the mean", "TF-IDF, linear"))
    assert -0.5 < blind[0].score.value < 0
    assert -0.15 < blind[1].score.low < blind[1].score.high < 0.15, (
        "the mean of many explains nothing, and that for sure"
    )
    assert linear[1].score.value > 0.5 and set(linear[1].metrics) == {"mae", "rmse", "r2"}
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert "rmse" in page and "have no probability" in page
    alike = [{**row, "number": 1.0} for row in rows[80:]]
    with pytest.raises(mapsto.MapstoError, match="the answers of the test rows are all the same"):
        mapsto.compare("text -> number", rows[:80], test=alike, **given)


def test_pictures_of_pictures_are_compared_by_likeness(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the extra [image] is not here")
    write_pairs(tmp_path, 24)
    found = mapsto.compare(
        "noisy:image -> clean:image", tmp_path / "pairs.csv", tmp_path / "cmp", labels=[6, 12], seeds=2, layers=1,
        width=64, epochs=1, device="cpu",
    )  # fmt: skip
    (points,) = found.curves.values()
    assert found.metric == "ssim" and [point.num_labels for point in points] == [6, 12]
    unchanged = points[-1].metrics["ssim_unchanged"].value
    assert 0 < points[-1].score.value <= 1 and abs(points[-1].score.value - unchanged) < 0.2
    assert "psnr unchanged" in (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")


def test_a_class_that_no_row_has_counts_as_a_mistake() -> None:
    asked = [*table(30, 5), {"text": "nobody knows this", "label": "hot"}]
    found = mapsto.compare("text -> label", table(60), test=asked, labels=["all"], seeds=2, **SMALL)
    assert found.num_test_rows == 31 and found.curves["TF-IDF, linear"][0].score.value < 1


def test_ways_whose_names_look_alike_are_told_apart(tmp_path: Path) -> None:
    """Folders in other scripts, and a start called scratch."""
    rows = [{"text": text} for text in sentences(40)]
    starts = [tmp_path / name for name in ("基座", "模型", "scratch")]
    for start_ in starts:
        mapsto.pretrain("text", rows, start_, layers=1, width=64, vocabulary=300, steps=2)
    given = {"starts": ["scratch", *map(str, starts)], "labels": [8, 20], "seeds": 2, "methods": ["full", "contrast"]}
    found = mapsto.compare("text -> label", table(60), tmp_path / "cmp", test=table(30, 5), **given, epochs=1)
    assert list(found.curves)[2:] == [
        "scratch, full", "基座, full", "基座, contrast", "模型, full", "模型, contrast", f"{starts[2]}, full",
        "scratch, contrast",
    ]  # fmt: skip
    assert len(list((tmp_path / "cmp" / "cells").iterdir())) == 2 * 2 * len(found.curves)
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
    asked = [{"text": f"{'天气好' if i % 3 else '很脏'} <b>{i}</b> & more", "label": f"类 {i % 2}"} for i in range(30)]
    mapsto.compare("text -> label", rows, tmp_path / "cmp", test=asked, labels=[8, 20, "all"], seeds=2, **SMALL)
    page = (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(\s*['\"]?(?!#)|src=|https?://(?!www\.w3\.org)", page)
    assert "&lt;b&gt;" in page and "<b>" not in page
    inner, scrolled, wide, seen = in_a_browser(tmp_path, page, width)
    assert inner == width
    assert scrolled <= inner and not wide
    assert "类 1" in seen
