"""The plan of a fit: default learning rates by the starting model's origin, and the warm-up after a probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runs import sentences

import mapsto
from mapsto.data.table import read_table
from mapsto.distributed import SINGLE_PROCESS
from mapsto.fitting.plan import PUBLISHED_RATE, TrainingSetup, make_plan
from mapsto.fitting.prepare import PreparedRun, prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.progress import Progress
from mapsto.task.arrow import parse
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.objectives import Objective
from mapsto.training.plan import Plan

ROWS = [{"text": text, "label": "ab"["winter" in text]} for text in sentences(60)]
SHAPE: dict[str, Any] = {"layers": 1, "width": 32, "vocabulary": 300, "device": "cpu"}


@pytest.fixture(scope="module")
def base() -> mapsto.Model:
    return mapsto.pretrain("text", [{"text": row["text"]} for row in ROWS], steps=1, **SHAPE)


def plan(run: PreparedRun, method: str = "full") -> Plan:
    setup = TrainingSetup(method, "", Objective(), ReplicatedWeights(SINGLE_PROCESS, run.mapping))
    return make_plan(run, setup, 0.0)


def run_from(base: mapsto.Model, is_published: bool) -> PreparedRun:
    """Return a prepared fit of a starting model that only mapsto has trained, or that claims to be published."""
    options = Options(device="cpu")
    run = prepare(FitRequest(parse("text -> label"), read_table(ROWS), start=base.mapping, options=options))
    start = replace(run.start, optimizer=None if is_published else "muon")
    assert start.is_from_scratch != is_published
    return replace(run, data=replace(run.data, start=start))


@pytest.mark.parametrize("method", ["full", "probe+full"])
@pytest.mark.parametrize(("is_published", "rate"), [(True, PUBLISHED_RATE), (False, 1e-4)])
def test_published_models_learn_slowly(base: mapsto.Model, method: str, is_published: bool, rate: float) -> None:
    assert plan(run_from(base, is_published), method).rate == rate


def test_after_a_probe_the_rate_rises_slowly(base: mapsto.Model) -> None:
    run = run_from(base, False)
    assert plan(run).warm_up == 0.06 and plan(run, "probe+full").warm_up == 0.3


def test_a_plan_of_an_older_version_keeps_its_warm_up() -> None:
    recorded = {"steps": 10, "batch": 4, "rate": 1e-3, "optimizer": "adamw", "seed": 0, "save_every": 5}
    assert Plan(**recorded).warm_up == 0.06  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_the_steps_after_a_probe_do_not_raise_the_loss(base: mapsto.Model, seed: int) -> None:
    """Over draws of rows, the mean loss over the first epoch after a probe is not above that of the probe itself."""
    losses: list[float] = []

    class Kept(Progress):
        """Keep the loss of each step."""

        def step(self, report: Any) -> None:
            losses.append(report.loss)

    rows = [{"text": text, "label": "ab"["winter" in text]} for text in sentences(96, seed)]
    mapsto.fit(
        "text -> label", rows, start=base, method="probe+full", epochs=8, seed=seed, progress=Kept(), device="cpu"
    )
    first_epoch = losses[:3]
    assert losses[0] < 1.0 and max(first_epoch) < losses[0] + 0.15
