"""Supervised contrastive learning: its loss, its choice of rows, and fits that use it."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mappings import small_mapping
from runs import sentences, write_corpus
from trainings import TINY_OPTIONS, RecordingProgress, StepListener

import mapsto
from mapsto.errors import UsageError
from mapsto.model import linear_probe
from mapsto.options import LARGEST_SEED
from mapsto.task.target_capabilities import ProbeSettings
from mapsto.training import loader
from mapsto.training.loop import Training
from mapsto.training.objectives import gradient_cache
from mapsto.training.objectives.supervised_contrastive import TEMPERATURE, SupervisedContrastive, contrastive_loss
from mapsto.training.plan import Plan, RunContext

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base() -> mapsto.Model:
    return mapsto.pretrain("text", [{"text": text} for text in sentences(40)], steps=1, **TINY_OPTIONS)


def test_the_loss_is_that_of_every_pair_written_out() -> None:
    vectors, classes = torch.randn(9, 5), torch.tensor([0, 1, 0, 2, 1, 0, 1, 3, 1])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(9):
        others = [j for j in range(9) if j != i]
        total = sum(torch.exp(unit[i] @ unit[j] / TEMPERATURE) for j in others)
        same = [j for j in others if classes[j] == classes[i]]
        for j in same:
            expected -= float(torch.log(torch.exp(unit[i] @ unit[j] / TEMPERATURE) / total)) / len(same)
    assert float(contrastive_loss(vectors, classes)) == pytest.approx(expected, rel=1e-5)


def test_the_order_of_rows_changes_nothing_and_a_class_of_one_has_no_pair() -> None:
    vectors, classes = torch.randn(4, 5), torch.tensor([0, 0, 1, 1])
    for order in permutations(range(4)):
        again = contrastive_loss(vectors[list(order)], classes[list(order)])
        torch.testing.assert_close(again, contrastive_loss(vectors, classes))
    assert float(contrastive_loss(vectors[:2], torch.tensor([0, 1]))) == 0.0


def test_rows_are_a_function_of_seed_and_step_and_come_several_of_a_class() -> None:
    _, examples = small_mapping("text:text -> label, other:label")
    for port in (0, 1):
        objective = SupervisedContrastive(examples, port)
        labels = [int(answers[port].values) for answers in examples.answers.encoded]  # type: ignore[union-attr]
        seen: Counter[int] = Counter()
        for step in range(40):
            rows = objective.rows(7, step, 12, len(examples))
            assert np.array_equal(rows, SupervisedContrastive(examples, port).rows(7, step, 12, len(examples)))
            assert len(set(rows.tolist())) == len(rows)
            assert min(Counter(labels[row] for row in rows.tolist()).values()) >= 2
            seen.update(rows.tolist())
        assert set(seen) == set(range(len(examples))), "every row is read"
        assert not np.array_equal(objective.rows(7, 0, 12, 40), objective.rows(8, 0, 12, 40))


def test_it_lowers_the_loss_and_leaves_the_head_unchanged() -> None:
    mapping, examples = small_mapping("text:text -> label")
    head = mapping.heads[0].weight.detach().clone()
    losses: list[float] = []
    plan = Plan(steps=40, batch=20, rate=1e-3, optimizer="adamw", seed=0, save_every=100)
    context = RunContext(CPU, loggers=[StepListener(lambda report: losses.append(report.loss))])
    Training(mapping, examples, plan, context, SupervisedContrastive(examples, 0)).run()
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5]) and torch.equal(mapping.heads[0].weight, head)


@pytest.mark.parametrize("held", [0, 2**40])
def test_rows_in_several_batches_are_compared_as_those_of_one(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts need several batches; which rows share a batch must not change the result."""
    monkeypatch.setattr(gradient_cache, "HELD_BYTES", held)
    plan = Plan(steps=3, batch=20, rate=1e-3, optimizer="adamw", seed=0, save_every=100)
    results = []
    for tokens, shortest in ((8192, 512), (64, 32)):
        monkeypatch.setattr(loader, "BATCH_TOKENS", tokens)
        monkeypatch.setattr(loader, "SHORTEST_TRAINING_ROW", shortest)
        mapping, examples = small_mapping("text:text -> label")
        training = Training(mapping, examples, plan, RunContext(CPU), SupervisedContrastive(examples, 0))
        batches = len(training.loader.pack_batches(0))
        steps = [training.step(number)[0] for number in range(3)]
        results.append((batches, steps, torch.cat([p.detach().flatten() for p in mapping.parameters()])))
    (one, losses, weights), (several, same_losses, same_weights) = results
    assert one == 1 and several > 2
    assert same_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(same_weights, weights, atol=1e-5, rtol=1e-4)


def test_fit_by_contrast_then_a_probe(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", write_corpus(tmp_path / "a.txt"), steps=3, **TINY_OPTIONS)
    rows = [{"text": text, "label": "ab"["winter" in text]} for text in sentences(60)]
    progress = RecordingProgress()
    given = {"start": base, "device": "cpu", "precision": "fp32", "method": "contrast", "rate": 1e-3}
    clf = mapsto.fit("text -> label", rows, tmp_path / "run", steps=30, progress=progress, **given)
    assert any("method contrast (as asked)" in line and "then a linear probe" in line for line in progress.lines)
    right = [answer["label"] == row["label"] for answer, row in zip(clf.predict(rows), rows, strict=True)]
    assert np.mean(right) > 0.9
    again = mapsto.fit("text -> label", rows, steps=30, **given)
    for one, other in zip(clf.mapping.parameters(), again.mapping.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_penalty_of_the_probe_is_chosen_on_vectors_from_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors trained on the labels separate them too well to choose a penalty by."""
    base = mapsto.pretrain("text", [{"text": text} for text in sentences(60)], steps=3, **TINY_OPTIONS)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(40))]
    calls: list[tuple[Any, Any]] = []
    plain = linear_probe._choose_inverse_penalty

    def best(model: Any, features: Any, values: Any, *options: Any) -> float:
        calls.append((features, values))
        return plain(model, features, values, *options)

    monkeypatch.setattr(linear_probe, "_choose_inverse_penalty", best)
    last = []
    for method in ("probe", "contrast"):
        given = {"method": method, "device": "cpu", "precision": "fp32"}
        mapsto.fit("text -> label", rows, start=base, **given, **({"rate": 1e-2} if method == "contrast" else {}))
        # The fits before it are to halves of the rows.
        last.append(calls[-1])
    (frozen, values), (judged, _) = last
    np.testing.assert_allclose(judged, frozen, atol=1e-5)
    learnt = frozen + 5 * np.where(values, 1, -1)[:, None]
    unconstrained, constrained = (
        linear_probe.fit_logistic_regression(learnt, values, 0, ProbeSettings(by)).coef_ for by in (None, frozen)
    )
    assert np.linalg.norm(constrained) < 0.8 * np.linalg.norm(unconstrained)


def test_any_seed_can_choose_a_penalty() -> None:
    features, values = np.random.default_rng(0).normal(size=(8, 3)), np.array([0, 1] * 4)
    assert linear_probe.fit_logistic_regression(features, values, LARGEST_SEED).coef_.shape == (1, 3)


def test_contrast_needs_a_start_and_classes() -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(20))]
    with pytest.raises(UsageError, match="needs a start="):
        mapsto.fit("text -> label", rows, method="contrast", **TINY_OPTIONS)
    base = mapsto.fit("text -> label", rows, steps=1, **TINY_OPTIONS)
    with pytest.raises(UsageError, match="is for answers, and .* is pretraining"):
        mapsto.pretrain("text", [{"text": row["text"]} for row in rows], start=base, method="contrast", device="cpu")
    different = [{"text": text, "label": f"class {i}"} for i, text in enumerate(sentences(5))]
    with pytest.raises(UsageError, match="no class has two"):
        mapsto.fit("text -> label", different, start=base, method="contrast", device="cpu")


@pytest.mark.parametrize(
    ("count", "options", "method"),
    [
        (8, {}, "contrast"),
        (2, {}, "probe"),
        (8, {"smooth": 0.1}, "probe+full"),
        (8, {"lora": 2}, "contrast"),
        (8, {"freeze": "all"}, "probe+full"),
        (60, {}, "probe+full"),
    ],
)
def test_auto_reports_its_method_and_why(count: int, options: dict[str, Any], method: str, base: mapsto.Model) -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(count))]
    progress = RecordingProgress()
    steps = {} if method == "probe" else {"steps": 1}
    mapsto.fit("text -> label", rows, start=base, device="cpu", progress=progress, **steps, **options)
    (line,) = (line for line in progress.lines if f"method {method} ({count // 2} labels a class, at most" in line)
    unused = {
        "smooth": "--smooth would change nothing with contrast",
        "freeze": "--freeze would change nothing with contrast",
    }
    assert all(unused.get(name, "") in line for name in options), line


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("probe", {"lora": 2, "layer_decay": 0.5}, 'lora=, layer_decay= would change nothing with method="probe"'),
        ("probe", {"freeze": "1"}, "freeze="),
        ("probe", {"optimizer": "muon", "patience": 5}, "optimizer=, patience="),
        ("contrast", {"patience": 5}, "patience="),
        ("contrast", {"smooth": 0.1}, "smooth="),
        ("contrast", {"freeze": "all"}, "freeze="),
    ],
)
def test_options_without_effect_are_errors(
    method: Any, options: dict[str, Any], message: str, base: mapsto.Model
) -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(20))]
    with pytest.raises(UsageError, match=message):
        mapsto.fit("text -> label", rows, start=base, method=method, device="cpu", **options)
