"""Making the plan of a run (batch size, learning rate, optimizer, steps) from data, starting model and options.

The plan is made once, before the first step, and recorded in run.json, from which a resumed run reads it. With
`--minutes`, or in pretraining without a number of steps, a few steps are timed and undone, and the number of steps is
computed from their time.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from mapsto.device import accelerates_bf16
from mapsto.distributed import SINGLE_PROCESS
from mapsto.fitting.method import STEPLESS_METHODS, make_objective
from mapsto.fitting.prepare import PreparedRun
from mapsto.task.generation import Generated
from mapsto.task.source import Learning
from mapsto.task.target_capabilities import Free, Located
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loop import Training
from mapsto.training.objectives import Objective
from mapsto.training.objectives.supervised_contrastive import SupervisedContrastive
from mapsto.training.plan import Plan, RunContext

# The default minutes of pretraining.
PRETRAIN_MINUTES = 10.0

# Peak learning rates by optimizer, for random weights.
RATES = {"muon": 5e-3, "adamw": 1e-3}
# The peak learning rate of fits and of continued pretraining of a published model. After two epochs of MiniLM on
# Banking77's texts a linear probe with 4 labels per class is as good as before at 3e-5, 3 points worse at 1e-4 and 20
# points worse at 1e-3 (benchmarks/continuing.py). For fits see benchmarks/rates.py.
PUBLISHED_RATE = 3e-5
# After a probe the heads fit the frozen vectors closely, so the other weights first change slowly.
WARM_UP, WARM_UP_AFTER_PROBE = 0.06, 0.3
LORA_RATE = 10  # low-rank updates learn best at about ten times the learning rate of full weights

# Pairs (`<->`): sentence-transformers' recipe for in-batch negatives is a warm-up of a tenth, a rate of 2e-5 to 5e-5 and as
# large a batch as fits; here the gradient cache makes any batch fit, and more rows give more, but fewer steps.
MATCH_WARM_UP = 0.1
MATCH_LEARNING = Learning(min_epochs=1.0, max_epochs=10.0, steps=200, rate=5e-5, batch=64)

# Contrastive learning lasts CONTRAST_EPOCHS epochs, but at least CONTRAST_STEPS steps, at this peak learning rate.
CONTRAST_STEPS, CONTRAST_EPOCHS, CONTRAST_RATE = 40, 10, 5e-5

# Steps that are timed to fit a run into a number of minutes.
CALIBRATION_STEPS = 4
# Examples whose mean length determines the batch size of pretraining.
LENGTH_SAMPLE = 2000


@dataclass(frozen=True)
class TrainingSetup:
    """The method of a run, the reason for that method in words, its training objective, and the layout of the weights."""

    method: str
    reason: str
    objective: Objective
    layout: ReplicatedWeights


def make_plan(run: PreparedRun, setup: TrainingSetup, started_at: float) -> Plan:
    """Return the plan (batch size, learning rate, steps …) of a new run.

    started_at: the monotonic time from which `--minutes` counts, when the user's call began.

    Raises UsageError for a batch size that the number of processes or the layout does not allow.
    """
    options, examples, is_pretraining = run.options, run.examples, run.is_pretraining
    batch = min(options.batch or _default_batch(run), len(examples))
    optimizer = _choose_optimizer(run, setup.layout)
    fits_start = run.start.tensors is not None and not is_pretraining
    # Steps are counted last: timing them needs a plan with everything else.
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
        muon_precision="bf16" if accelerates_bf16(run.device) else "fp32",
        warm_up=_warm_up(run, setup),
        head=learning_defaults(run).head_factor if fits_start and options.lora is None else 1.0,
    )
    # Raises before the first step is timed.
    setup.layout.check(batch, optimizer)
    steps, seconds = (0, None) if setup.method in STEPLESS_METHODS else _count_steps(run, setup, plan, started_at)
    # Averaged weights replace the best ones, so held-out rows need not be scored during training.
    watches = setup.objective.trains_heads and not plan.average and not is_pretraining
    return replace(
        plan,
        steps=steps,
        seconds=seconds,
        save_every=options.save_every or max(50, -(-steps // 20)),
        watch_every=max(1, round(len(examples) / batch)) if watches else 0,
    )


def _warm_up(run: PreparedRun, setup: TrainingSetup) -> float:
    """Return the share of the steps over which the learning rate rises."""
    if run.mapping.arrow.symmetric:
        return MATCH_WARM_UP
    return WARM_UP_AFTER_PROBE if setup.method == "probe+full" else WARM_UP


def default_hyperparameters(run: PreparedRun, method: str) -> dict[str, Any]:
    """Return the hyperparameters (method, rate, epochs, batch) of a fit by `method` without a search."""
    objective = make_objective(method, run.options, run.mapping, run.examples)
    setup = TrainingSetup(method, "", objective, ReplicatedWeights(SINGLE_PROCESS, run.mapping))
    plan = make_plan(run, setup, time.monotonic())
    epochs = plan.steps * plan.batch / len(run.examples)
    return {"method": method, "rate": plan.rate, "epochs": epochs, "batch": plan.batch}


def learning_defaults(run: PreparedRun) -> Learning:
    """Return the default learning rates, number of steps, and bounds on the epochs of a run.

    The first target that has defaults of its own (boxes, generated text) decides. Otherwise they are those of the source
    if the weights are new or only mapsto has trained them, and the general ones at PUBLISHED_RATE for a published model.
    """
    for target in run.mapping.targets:
        if isinstance(target, Located) and target.learning is not None:
            return target.learning
        if isinstance(target, Generated) and run.start.is_from_scratch:
            return target.learning
    if run.mapping.arrow.symmetric:
        return MATCH_LEARNING
    if run.start.is_from_scratch:
        return next(iter(run.mapping.sources.values())).defaults.learning
    return Learning(rate=PUBLISHED_RATE)


def _default_batch(run: PreparedRun) -> int:
    """Return the number of examples of one update: that of the run's defaults, or in pretraining of about `pretrain_tokens`."""
    if not run.is_pretraining:
        return learning_defaults(run).batch
    # A sample gives the mean length well enough.
    sample = range(min(LENGTH_SAMPLE, len(run.examples)))
    mean_length = statistics.fmean(sum(map(len, run.examples.pieces[row])) for row in sample)
    num_tokens = next(iter(run.mapping.sources.values())).defaults.pretrain_tokens
    return max(8, round(num_tokens / mean_length))


def _choose_optimizer(run: PreparedRun, layout: ReplicatedWeights) -> Literal["adamw", "muon"]:
    """Return the optimizer in the options, or for "auto" the default.

    The default is Muon for new models, and for models that only mapsto has trained where these are trained like new ones, if the
    layout of the weights supports it; else AdamW.
    """
    if run.options.optimizer != "auto":
        return run.options.optimizer
    # Models that others have trained, with AdamW as a rule, continue with AdamW.
    trains_own = run.start.tensors is None or _goes_on_as_new(run)
    return "muon" if layout.supports_muon and trains_own else "adamw"


def _goes_on_as_new(run: PreparedRun) -> bool:
    """Return whether a starting model of mapsto's own is trained like new weights.

    It is if it is pretrained further, taught to write, or of a kind whose defaults say so. Writing asks much more of the weights
    than a class. With 400 pairs of made sentences and a minute of pretraining, BLEU was 25 by Muon at its rate for new weights,
    21 by AdamW at 1e-3, and 1 at the rate of other fits (1e-4).
    """
    is_writing = any(isinstance(target, Free) for target in run.mapping.targets)
    return run.start.is_from_scratch and (run.is_pretraining or is_writing or learning_defaults(run).as_new)


def _default_rate(run: PreparedRun, setup: TrainingSetup, optimizer: str) -> float:
    """Return the default peak learning rate for the method, the starting model and the optimizer."""
    rate = RATES[optimizer]
    if run.start.tensors is not None:
        if run.is_pretraining and optimizer == "adamw":
            rate = PUBLISHED_RATE
        elif not run.is_pretraining and not _goes_on_as_new(run):
            rate = learning_defaults(run).rate
    if setup.method == "contrast":
        rate = CONTRAST_RATE
    return rate * (1 if run.options.lora is None else LORA_RATE)


def _count_steps(run: PreparedRun, setup: TrainingSetup, plan: Plan, started_at: float) -> tuple[int, float | None]:
    """Return the number of training steps of a new run, from `--steps`, `--epochs` or `--minutes`, and the seconds for them.

    The seconds are None where the time does not count.

    Without these options pretraining takes PRETRAIN_MINUTES, and a fit a number of epochs that depends on method and
    data.
    started_at: the monotonic time from which minutes count.
    """
    options = run.options
    if options.steps is not None:
        return options.steps, None
    per_epoch = len(run.examples) / plan.batch
    if options.epochs is None and (run.is_pretraining or options.minutes is not None):
        seconds = 60 * (options.minutes or PRETRAIN_MINUTES) - (time.monotonic() - started_at)
        return _calibrate_steps(run, setup, plan, seconds)
    if options.epochs is None and isinstance(setup.objective, SupervisedContrastive):
        return max(CONTRAST_STEPS, round(CONTRAST_EPOCHS * per_epoch)), None
    defaults = learning_defaults(run)
    # About as many steps for every size of the data, within bounds on the epochs.
    epochs = options.epochs or max(defaults.min_epochs, min(defaults.max_epochs, defaults.steps / per_epoch))
    return max(1, round(epochs * per_epoch)), None


def _calibrate_steps(run: PreparedRun, setup: TrainingSetup, plan: Plan, seconds: float) -> tuple[int, float]:
    """Return the number of steps that fit into `seconds`, and the seconds that are left for them.

    A few steps are run and timed, then all weights are restored.
    """
    started_at = time.monotonic()
    mapping = run.mapping
    # The timed steps change the weights; these copies undo that.
    weights = {name: parameter.detach().clone() for name, parameter in mapping.named_parameters()}
    # A long schedule, so that the timed steps are ordinary ones, without a checkpoint or a decay.
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
    # The first step also warms up.
    return max(1, int(remaining / statistics.median(durations[1:]))), max(remaining, 0.0)
