"""Linear probes: the choice of their penalty, and probes of augmented pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import mapsto
from mapsto.model import linear_probe
from mapsto.progress import Progress
from mapsto.task.target_capabilities import ProbeSettings

SMALL: dict[str, Any] = {"layers": 2, "width": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Return rows of 120 digits of 16 × 16 pixels and their labels."""
    folder, data, rows = tmp_path_factory.mktemp("digits"), load_digits(), []
    for number, (pixels, label) in enumerate(zip(data.images[:120], data.target[:120], strict=True)):
        path = folder / f"{number}.png"
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((16, 16)).save(path)
        rows.append({"image": str(path), "label": str(label)})
    return rows


@pytest.fixture(scope="module")
def base(digits: list[dict[str, str]]) -> mapsto.Model:
    return mapsto.pretrain("image", [{"image": row["image"]} for row in digits], steps=20, **SMALL)


class Stopped(Exception):
    """Ends a run after its first steps."""


def first_losses(base: mapsto.Model, rows: list[dict[str, str]], seed: int, count: int = 8) -> list[float]:
    """Return the losses of the first steps after a probe; the first one is that of the probe itself, on augmented pictures."""
    losses: list[float] = []

    class Kept(Progress):
        """Keep the loss of each step, and stop the run after the last one that is wanted."""

        def step(self, report: Any) -> None:
            losses.append(report.loss)
            if len(losses) == count:
                raise Stopped

    with pytest.raises(Stopped):
        mapsto.fit("image -> label", rows, start=base, method="probe+full", seed=seed, progress=Kept(), device="cpu")
    return losses


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_probe_fits_pictures_as_training_reads_them(
    seed: int, base: mapsto.Model, digits: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    varied = first_losses(base, digits, seed)
    monkeypatch.setattr("mapsto.fitting.probe.AUGMENTED_VIEWS", 0)
    plain = first_losses(base, digits, seed)
    assert varied[0] < plain[0]
    # Two epochs of four steps: the second is no worse than the first but by the noise of augmentation.
    assert np.mean(varied[4:]) < np.mean(varied[:4]) + 0.2 and max(varied) < varied[0] + 0.6


def test_a_probe_depends_on_the_augmentation(base: mapsto.Model, digits: list[dict[str, str]], tmp_path: Path) -> None:
    given: dict[str, Any] = {"start": base, "method": "probe", "device": "cpu"}
    moved = mapsto.fit("image -> label", digits, **given)
    plain = mapsto.fit("image -> label", digits, augment="none", **given)
    weights = [model.mapping.heads[0].get_parameter("weight") for model in (moved, plain)]
    assert not np.allclose(weights[0].detach(), weights[1].detach(), rtol=0.01)


def test_a_class_with_a_single_row_does_not_decide_the_penalty() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    # The features say nothing of the two classes, so the strongest penalty is the best.
    features = random.normal(size=(60, 200))
    common = linear_probe.fit_logistic_regression(features, labels, 0)
    assert linear_probe.INVERSE_PENALTIES[0] == common.C
    with_rare = linear_probe.fit_logistic_regression(np.append(features, features[:1], 0), np.append(labels, 2), 0)
    assert with_rare.C == common.C and list(with_rare.classes_) == [0, 1, 2]


def test_training_goes_on_from_a_head_with_a_strong_penalty() -> None:
    labels = np.arange(40) % 3
    features = np.random.default_rng(0).normal(size=(40, 6)) + 2 * np.eye(3, 6)[labels]
    final, first = (
        linear_probe.fit_logistic_regression(features, labels, 0, ProbeSettings(starts_training=starts))
        for starts in (False, True)
    )
    assert first.C < final.C
    assert np.abs(first.coef_).max() < np.abs(final.coef_).max() / 2
    assert first.score(features, labels) > 0.8


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [range(8), [0, 1, 2, 3, 4, 4, 5, 5], [0, 0, 1, 1], [0, 0, 0, 1], [0, 1]])
def test_few_rows_of_many_classes_are_fitted_without_a_warning(labels: Sequence[int]) -> None:
    features = np.random.default_rng(0).normal(size=(len(labels), 6))
    fitted = linear_probe.fit_logistic_regression(features, np.array(labels), 0)
    assert list(fitted.classes_) == sorted(set(labels))
