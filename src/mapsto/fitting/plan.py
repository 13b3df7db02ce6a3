"""The plan of a run: batch size, learning rate, optimizer and number of steps, chosen from data, starting model and options.

The plan is made once, before the first step, and recorded in run.json; a run that is continued reads it there. With `--minutes`
a few steps are timed on the side (CALIBRATION_STEPS) and then undone, so the number of steps is fixed too.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Literal

import torch

from mapsto.fitting.prepare import PreparedRun
from mapsto.task.capabilities import Located
from mapsto.task.source import Learning
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loop import Training
from mapsto.training.objectives import Objective
from mapsto.training.objectives.supervised_contrastive import SupervisedContrastive
from mapsto.training.plan import Plan, RunContext

# Pretraining without --minutes, and tokens of one update in it.
PRETRAIN_MINUTES, PRETRAIN_TOKENS = 10.0, 4096
# Examples of one update in a fit.
FIT_BATCH = 32

# Learning rates by optimizer, for random weights.
RATES = {"muon": 5e-3, "adamw": 1e-3}
# Continued pretraining of a published model: after two passes of MiniLM over Banking77's texts a probe on 4 labels a class is as
# good as before at 3e-5, 3 points worse at 1e-4 and 20 worse at 1e-3 (benchmarks/continuing.py).
CONTINUED_RATE = 3e-5
LORA_RATE = 10  # low-rank updates learn best at about ten times the rate of the weights beside them

# The contrast of classes: at least so many steps or passes, at this rate.
CONTRAST_STEPS, CONTRAST_EPOCHS, CONTRAST_RATE = 40, 10, 5e-5

CALIBRATION_STEPS = 4
# Examples whose lengths are read to choose the batch size.
LENGTH_SAMPLE = 2000


@dataclass(frozen=True)
class TrainingSetup:
    """The method of a run, the reason for it, its objective, and the layout of its weights (replicated or sharded)."""

    method: str
    reason: str
    objective: Objective
    layout: ReplicatedWeights


def make_plan(run: PreparedRun, setup: TrainingSetup, started_at: float) -> Plan:
    """Return the numbers of a new run.

    started_at: monotonic time of the call, from which `--minutes` counts.

    Raises UsageError for a batch that the processes cannot share.
    """
    options, examples, is_pretraining = run.options, run.examples, run.is_pretraining
    batch = min(options.batch or _default_batch(run), len(examples))
    optimizer = _choose_optimizer(run, setup.layout)
    fits_start = run.start.tensors is not None and not is_pretraining
    plan = Plan(
        steps=0,
        batch=batch,
        rate=options.rate or _default_rate(run, setup, optimizer),
        optimizer=optimizer,
        seed=options.seed,
        save_every=0,
        patience=options.patience,
        average=is_pretraining if options.average is None else options.average,
        layer_decay=options.layer_decay,
        head=learning_defaults(run).head_factor if fits_start and options.lora is None else 1.0,
    )
    setup.layout.check(batch, optimizer)
    steps = 0 if setup.method == "probe" else _count_steps(run, setup, plan, started_at)
    watches = setup.objective.trains_heads and not plan.average and not is_pretraining
    return replace(
        plan,
        steps=steps,
        save_every=options.save_every or max(50, -(-steps // 20)),
        watch_every=max(1, min(round(len(examples) / batch), steps // 3)) if watches else 0,
    )


def learning_defaults(run: PreparedRun) -> Learning:
    """Return the defaults of training: those of a target that has its own, else those of the source kind.

    A published starting model needs no more than the general defaults, whatever it reads.
    """
    for target in run.mapping.targets:
        if isinstance(target, Located) and target.learning is not None:
            return target.learning
    return next(iter(run.mapping.sources.values())).defaults.learning if run.start.is_from_scratch else Learning()


def _default_batch(run: PreparedRun) -> int:
    """Return the examples of one update: about PRETRAIN_TOKENS tokens of them in pretraining."""
    if not run.is_pretraining:
        return FIT_BATCH
    sample = range(min(LENGTH_SAMPLE, len(run.examples)))
    mean_length = statistics.fmean(sum(map(len, run.examples.pieces[row])) for row in sample)
    return max(8, round(PRETRAIN_TOKENS / mean_length))


def _choose_optimizer(run: PreparedRun, layout: ReplicatedWeights) -> Literal["adamw", "muon"]:
    """Return the optimizer: Muon for weights that mapsto alone has trained, AdamW for published ones."""
    if run.options.optimizer != "auto":
        return run.options.optimizer
    is_new = run.start.tensors is None
    trains_own = is_new or (run.is_pretraining and run.start.is_from_scratch)
    return "muon" if layout.supports_muon and trains_own else "adamw"


def _default_rate(run: PreparedRun, setup: TrainingSetup, optimizer: str) -> float:
    """Return the peak learning rate."""
    rate = RATES[optimizer]
    if run.start.tensors is not None:
        if not run.is_pretraining:
            rate = learning_defaults(run).rate
        elif optimizer == "adamw":
            rate = CONTINUED_RATE
    if setup.method == "contrast":
        rate = CONTRAST_RATE
    return rate * (1 if run.options.lora is None else LORA_RATE)


def _count_steps(run: PreparedRun, setup: TrainingSetup, plan: Plan, started_at: float) -> int:
    """Return the number of updates: by the options, else by time in pretraining and by passes over the rows in a fit."""
    options = run.options
    if options.steps is not None:
        return options.steps
    per_epoch = len(run.examples) / plan.batch
    if options.epochs is None and (run.is_pretraining or options.minutes is not None):
        seconds = 60 * (options.minutes or PRETRAIN_MINUTES) - (time.monotonic() - started_at)
        return _calibrate_steps(run, setup, plan, seconds)
    if options.epochs is None and isinstance(setup.objective, SupervisedContrastive):
        return max(CONTRAST_STEPS, round(CONTRAST_EPOCHS * per_epoch))
    defaults = learning_defaults(run)
    epochs = options.epochs or max(defaults.min_epochs, min(defaults.max_epochs, defaults.steps / per_epoch))
    return max(1, round(epochs * per_epoch))


def _calibrate_steps(run: PreparedRun, setup: TrainingSetup, plan: Plan, seconds: float) -> int:
    """Return how many steps fit into `seconds`: time a few, then restore every weight."""
    started_at = time.monotonic()
    mapping = run.mapping
    weights = {name: parameter.detach().clone() for name, parameter in mapping.named_parameters()}
    # A long schedule, so that the timed steps are ordinary ones: no checkpoint, no fall of the rate.
    trial_plan = replace(plan, steps=10_000, save_every=10_000)
    context = RunContext(run.device, workers=0, layout=setup.layout)
    trial = Training(mapping, run.examples, trial_plan, context, setup.objective)
    mapping.train()
    durations = []
    for step in range(CALIBRATION_STEPS + 1):
        step_start = time.monotonic()
        trial.step(step)
        durations.append(time.monotonic() - step_start)
    with torch.no_grad():
        for name, parameter in mapping.named_parameters():
            parameter.copy_(weights[name])
            parameter.grad = None
    remaining = seconds - (time.monotonic() - started_at)
    return max(1, int(remaining / statistics.median(durations[1:])))  # the first step also warms up
