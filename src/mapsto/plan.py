"""How long, how fast, by which method: the numbers of a run, chosen from data, start and options, then recorded."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Literal

import torch

from mapsto.begin import Beginning
from mapsto.errors import UsageError
from mapsto.examples import Examples
from mapsto.loop import Plan, Training
from mapsto.mapping import Mapping
from mapsto.options import Options

PRETRAIN_MINUTES = 10.0
PRETRAIN_TOKENS = 4096
FIT_BATCH = 32
FIT_EPOCHS = (3.0, 10.0)
FIT_STEPS = 120
# Labels a class. Up to the first number a linear probe of the start is the whole fit; up to the second all weights are
# trained from that probe; above it a probe only holds them back (measured on SST-2, TREC-6, Banking77).
FEW_LABELS, MANY_LABELS = 16, 200
CALIBRATION_STEPS = 4
RATES = {"muon": 5e-3, "adamw": 1e-3}
FINE_TUNING_RATE = 1e-4
LENGTHS_SEEN = 2000


def choose_method(options: Options, mapping: Mapping, beginning: Beginning, count: int, pretraining: bool) -> str:
    """With a start and few labels a class, a linear probe, then (Kumar et al. 2022) all weights from it; else all
    weights at once. Raises UsageError for a probe of random weights.
    """
    started = beginning.tensors is not None
    if options.method != "auto":
        if options.method != "full" and not started:
            raise UsageError(f"--method {options.method} needs a --start to probe")
        return options.method
    target = mapping.targets[0]
    if not started or pretraining or target.way != "pooled":
        return "full"
    a_class = count / max(1, len(target.classes) if target.named else 1)
    return "probe" if a_class <= FEW_LABELS else "probe+full" if a_class <= MANY_LABELS else "full"


def make_plan(
    options: Options,
    mapping: Mapping,
    examples: Examples,
    beginning: Beginning,
    method: str,
    device: torch.device,
    pretraining: bool,
    began: float,
) -> Plan:
    """The numbers of a new run. With `--minutes`, counted from `began`, some steps are tried out on the side."""
    started = beginning.tensors is not None
    seen = range(min(LENGTHS_SEEN, len(examples)))
    mean = statistics.fmean(sum(map(len, examples.pieces[row])) for row in seen)
    batch = options.batch or (max(8, round(PRETRAIN_TOKENS / mean)) if pretraining else FIT_BATCH)
    batch = min(batch, len(examples))
    optimizer: Literal["adamw", "muon"] = "adamw"
    if options.optimizer != "auto":
        optimizer = options.optimizer
    elif not started or (pretraining and beginning.optimizer == "muon"):
        optimizer = "muon"
    plan = Plan(
        steps=0,
        batch=batch,
        rate=options.rate or (FINE_TUNING_RATE if started and not pretraining else RATES[optimizer]),
        optimizer=optimizer,
        seed=options.seed,
        save_every=0,
        patience=options.patience,
        average=pretraining,
    )
    per_epoch = len(examples) / batch
    steps = 0 if method == "probe" else _steps(options, plan, mapping, examples, device, pretraining, began)
    return replace(
        plan,
        steps=steps,
        save_every=options.save_every or max(50, -(-steps // 20)),
        watch_every=0 if pretraining else max(1, min(round(per_epoch), steps // 3)),
    )


def _steps(
    options: Options,
    plan: Plan,
    mapping: Mapping,
    examples: Examples,
    device: torch.device,
    pretraining: bool,
    began: float,
) -> int:
    if options.steps is not None:
        return options.steps
    per_epoch = len(examples) / plan.batch
    if options.epochs is None and (pretraining or options.minutes is not None):
        seconds = 60 * (options.minutes or PRETRAIN_MINUTES) - (time.monotonic() - began)
        return _calibrate(plan, mapping, examples, device, seconds)
    fewest, most = FIT_EPOCHS
    epochs = options.epochs or max(fewest, min(most, FIT_STEPS / per_epoch))
    return max(1, round(epochs * per_epoch))


def _calibrate(plan: Plan, mapping: Mapping, examples: Examples, device: torch.device, seconds: float) -> int:
    """How many steps fit into `seconds`: some are run, then every weight is put back."""
    started = time.monotonic()
    before = {name: parameter.detach().clone() for name, parameter in mapping.named_parameters()}
    trial = Training(mapping, examples, replace(plan, steps=10_000, save_every=10_000), device, workers=0)
    mapping.train()
    taken = []
    for number in range(CALIBRATION_STEPS + 1):
        start = time.monotonic()
        trial.step(number)
        taken.append(time.monotonic() - start)
    with torch.no_grad():
        for name, parameter in mapping.named_parameters():
            parameter.copy_(before[name])
            parameter.grad = None
    left = seconds - (time.monotonic() - started)
    return max(1, int(left / statistics.median(taken[1:])))
