"""One label: figures over rows whose true class training never saw, and balanced classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics

import mapsto
from mapsto import kinds
from mapsto.kinds.label import Label
from mapsto.metrics.calibration import Answered, fit_temperature


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, bin by bin, from the top answer alone."""
    total = 0.0
    for low in np.arange(bins) / bins:
        in_bin = (confidence > low) & (confidence <= low + 1 / bins)
        if in_bin.any():
            total += in_bin.mean() * abs(is_right[in_bin].mean() - confidence[in_bin].mean())
    return total


@pytest.mark.parametrize("share_unseen", [0.0, 0.02, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_class_never_seen_is_wrong_in_every_figure_but_log_loss(share_unseen: float, classes: int) -> None:
    rng = np.random.default_rng(classes)
    names = [f"c{i}" for i in range(classes)]
    logits = rng.normal(0, 2, (400, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = [names[rng.choice(classes, p=row)] for row in probabilities]
    is_unseen = rng.random(400) < share_unseen
    labels = [f"new {rng.integers(3)}" if unseen else name for name, unseen in zip(answers, is_unseen, strict=True)]
    found = kinds.target("label")(names).metrics(torch.from_numpy(logits), labels)
    values = {name: float(metric(*arrays)) for name, (metric, *arrays) in found.items()}
    guesses = [names[index] for index in probabilities.argmax(1)]
    is_right = np.array(guesses) == np.array(labels)
    assert values["accuracy"] == pytest.approx(is_right.mean())
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(labels, guesses, average="macro"))
    assert values["calibration_error"] == pytest.approx(calibration_error(probabilities.max(1), is_right))
    assert len(found["calibration_error"][1]) == 400
    if is_unseen.all():
        assert "log_loss" not in values
        # Every answer is wrong, so the error is the mean confidence.
        assert values["calibration_error"] == pytest.approx(probabilities.max(1).mean())
    else:
        of_true = [row[names.index(name)] for row, name in zip(probabilities, labels, strict=True) if name in names]
        assert values["log_loss"] == pytest.approx(-np.log(of_true).mean())
        assert len(found["log_loss"][1]) == (~is_unseen).sum()


def test_the_calibration_error_of_all_rows_is_larger_than_of_the_known_ones() -> None:
    """A calibrated model, and one row in five of a class that it does not know."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 2, (4000, 3)))
    answers = [f"c{torch.multinomial(row, 1).item()}" for row in torch.softmax(logits, -1)]
    labels = ["new" if row % 5 == 0 else name for row, name in enumerate(answers)]
    known = [row for row in range(4000) if row % 5]
    target = kinds.target("label")(["c0", "c1", "c2"])
    (metric, *all_rows), (_, *known_rows) = (
        target.metrics(logits[rows], [labels[row] for row in rows])["calibration_error"]
        for rows in (list(range(4000)), known)
    )
    confidence = float(torch.softmax(logits, -1).amax(-1).mean())
    assert metric(*known_rows) < 0.03 and metric(*all_rows) == pytest.approx(confidence / 5, abs=0.02)


def learnt(counts: dict[str, int], balance: bool = True) -> Label:
    """Return a label target that has learnt from so many rows of each class."""
    target = Label()
    target.learn([name for name, count in counts.items() for _ in range(count)], balance)
    return target


def best_logits(target: Label, counts: torch.Tensor) -> torch.Tensor:
    """Return the logits (g, c) with the lowest loss for groups of equal rows. counts: (g, c), rows of each group and class."""
    logits = torch.zeros(counts.shape, requires_grad=True)
    rows = [(group, index) for group, row in enumerate(counts.tolist()) for index in range(len(row))]
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        losses = [counts[g, c] * target.loss(logits[g : g + 1], torch.tensor([c])) for g, c in rows]
        loss = torch.stack(losses).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


def test_balanced_logits_answer_as_if_the_classes_were_equally_frequent() -> None:
    counts = torch.tensor([[900.0, 2.0], [100.0, 18.0]])
    target = learnt({"common": 1000, "rare": 20})
    # Of each class the share of its rows in a group is the same, however many rows the class has.
    expected = (counts / counts.sum(0)) / (counts / counts.sum(0)).sum(1, keepdim=True)
    torch.testing.assert_close(best_logits(target, counts).softmax(1), expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(
        best_logits(learnt({"common": 1000, "rare": 20}, balance=False), counts).softmax(1),
        counts / counts.sum(1, keepdim=True), atol=2e-3, rtol=0,
    )  # fmt: skip


def test_no_row_of_a_balanced_class_has_a_larger_gradient_than_in_plain_training() -> None:
    logits = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)).mul(5).requires_grad_()
    target = learnt({"common": 1000, "rare": 20})
    target.loss(logits, torch.arange(400) % 2).backward()
    assert logits.grad is not None and float(logits.grad.abs().max()) <= 1


def test_the_loss_of_a_mixture_of_balanced_classes_is_the_mean_of_its_classes_losses() -> None:
    target, logits = learnt({"common": 1000, "rare": 20}), torch.tensor([[0.3, -1.0]])
    losses = [float(target.loss(logits, torch.tensor([index]))) for index in range(2)]
    mixed = float(target.loss(logits, torch.tensor([[0.7, 0.3]])))
    assert mixed == pytest.approx(0.7 * losses[0] + 0.3 * losses[1]) and losses[1] > losses[0] + 2


def test_smoothed_balanced_classes_are_not_answered_where_another_is_certain() -> None:
    counts = torch.tensor([[900.0, 0.0], [100.0, 20.0]])
    target = learnt({"common": 1000, "rare": 20})
    target.label_smoothing = 0.1
    logits = best_logits(target, counts)
    # A tenth of the label is spread evenly, as seen with equally frequent classes.
    certain = 0.9 * 1000 / 900 * torch.tensor([0.9, 0.0]) + 0.1
    torch.testing.assert_close(logits[0].softmax(0), certain / certain.sum(), atol=0.02, rtol=0)
    assert logits.argmax(1).tolist() == [0, 1]


def test_a_balanced_class_without_rows_is_trained_to_be_hardly_ever_answered() -> None:
    target = Label(["a", "b", "never"])
    target.learn(["a"] * 90 + ["b"] * 10, balance=True)
    assert target.weights is not None and target.weights[2] == 0
    logits = torch.zeros(100, 3, requires_grad=True)
    loss = target.loss(logits, torch.tensor([0] * 90 + [1] * 10))
    loss.backward()
    assert logits.grad is not None and bool((logits.grad[:, 2] > 0.1).all()), "each row lowers its logit"
    assert torch.isfinite(target.loss(logits, torch.full((100,), 2)))


def draw_rare(count: int, rare: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (m, 384) and classes: the rare class has another mean in a few of the features."""
    rng = np.random.default_rng(seed)
    values = np.repeat([0, 1], [count, rare])
    features = rng.normal(0, 1, (count + rare, 384)).astype(np.float32)
    features[:, :6] += values[:, None]
    return features, values


@pytest.mark.parametrize("seed", range(3))
def test_a_balanced_probe_finds_the_rare_class(seed: int) -> None:
    features, values = draw_rare(1000, 20, seed)
    (balanced, plain), (test, truth) = (
        (learnt({"a": 1000, "b": 20}, on) for on in (True, False)),
        draw_rare(500, 500, 9),
    )
    recalls, losses = [], []
    for target in (balanced, plain):
        weight, bias = target.probe(features, values, seed)
        answers = (torch.from_numpy(test) @ weight.T + bias).argmax(1).numpy()
        recalls.append([float((answers == truth)[truth == index].mean()) for index in range(2)])
        losses.append(float(target.loss(torch.from_numpy(features) @ weight.T + bias, torch.from_numpy(values))))
    # With weighted rows the recall is 0.05, 0.03 and 0.09.
    assert recalls[0][1] > 0.6 and recalls[1][1] < 0.05 and recalls[0][0] > 0.6
    # So methods can be compared by their losses.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_temperature_of_balanced_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    target, logits = learnt({"common": 1000, "rare": 20}), 3 * torch.randn(20000, 2, generator=generator)
    shares = torch.tensor([1000 / 1020, 20 / 1020])
    values = torch.multinomial((logits + shares.log()).softmax(1), 1, generator=generator).flatten()
    found = fit_temperature([Answered(target.calibration_loss, logits * 2.5, values)])
    assert found == pytest.approx(2.5, rel=0.08)


def test_a_number_that_another_table_writes_otherwise_is_the_same_class() -> None:
    target = Label()
    target.learn(["1.0", "0.0"])
    assert [target.recognise(answer) for answer in ("1", "0", "1.0", "2", "one")] == ["1.0", "0.0", "1.0", "2", "one"]
    rows = [{"text": f"{'good' if row % 2 else 'bad'} film {row}", "label": f"{row % 2}.0"} for row in range(40)]
    model = mapsto.fit("text -> label", rows, method="linear", device="cpu")
    for write in (str, float, lambda label: int(float(label))):
        again = [{**row, "label": write(row["label"])} for row in rows]
        assert model.evaluate(again).scores["accuracy"].value == 1
