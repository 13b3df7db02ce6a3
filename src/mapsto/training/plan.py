"""The plan (batch size, learning rate, steps …), the context (device, folder …) and the state of a training run.

The plan is fixed before the first step and recorded in run.json. The context may differ when the run is resumed. The
state is saved in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import torch

from mapsto.model.mapping import Mapping
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loggers import Logger

KEPT_CHECKPOINTS = 2

# The largest size of a checkpoint in copies of the weights: the weights, two moments, the average or best weights.
CHECKPOINT_COPIES = 4


@dataclass(frozen=True)
class Plan:
    """The hyperparameters of a training run, fixed before its first step and recorded in run.json under the fields' names."""

    steps: int
    batch: int  # examples of a step, over all processes
    rate: float  # peak learning rate
    optimizer: Literal["adamw", "muon"]
    seed: int
    save_every: int  # steps between checkpoints
    watch_every: int = 0  # most steps between scores of the held-out rows; 0: never
    patience: int = 3  # scores in a row without an improvement after which the learning rate decays
    average: bool = False  # whether the weights are averaged over the tail of the run
    layer_decay: float = 1.0  # ratio of a block's learning rate to that of the next higher block
    # Precision of Muon's orthogonalisation. Plans that older versions recorded have none: they computed in bf16.
    muon_precision: Literal["bf16", "fp32"] = "bf16"
    head: float = 1.0  # factor of the heads' learning rate
    warm_up: float = 0.06  # share of the steps over which the learning rate rises; plans of older versions have none
    seconds: float | None = None  # time for all steps, by which their number is corrected on the way; None: it is fixed


@dataclass(frozen=True)
class RunContext:
    """The device, folder, loggers and processes of a run.

    They may differ when a run is resumed, since they change the trained weights by rounding errors only.
    """

    device: torch.device
    # The run's folder; None keeps everything in memory.
    folder: Path | None = None
    loggers: Sequence[Logger] = ()
    # Returns {"loss": …, "error": …} on the held-out rows for the current weights; None when no rows are held out.
    score_held_out: Callable[[Mapping], dict[str, float]] | None = None
    # Returns of these scores the number that is lowest for the best weights.
    watched_error: Callable[[dict[str, float]], float] = itemgetter("error")
    # Threads that pack batches ahead; 0 packs them in the main thread.
    workers: int = 1
    # The layout of the weights over processes, replicated or sharded; None for a single process.
    layout: ReplicatedWeights | None = None
    # Whether the held-out rows are scored before the first step too, for weights that answer already, as after a probe.
    scores_start: bool = False


@dataclass
class TrainingState:
    """The counters and scores of a run so far, saved in every checkpoint under the fields' names."""

    step: int = 0  # steps done
    tokens: int = 0  # real tokens read
    seconds: float = 0.0
    skipped: int = 0  # steps in a row without a finite loss and gradient
    averaged: int = 0  # steps in the running mean of the weights
    best: float = math.inf  # lowest held-out error, or value of the metric in its place
    stale: int = 0  # how often the held-out rows were scored since the last improvement
    end: int | None = None  # the new last step, once the learning rate decays earlier than planned
    steps: int | None = None  # the number of steps, once it was corrected to fit the time
    reviews: int = 0  # how often it was reviewed
    reviewed: tuple[int, float] = (0, 0.0)  # steps and seconds at the last review
    watched: list[dict[str, float]] = field(default_factory=list)  # {"step", "loss", "error"} of each held-out scoring

    @classmethod
    def restore(cls, saved: dict[str, Any]) -> TrainingState:
        """Return the state that a checkpoint saved; fields that only older versions of mapsto had are dropped."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in names})


def required_bytes(mapping: Mapping, plan: Plan) -> int:
    """Return the disk space in bytes that a run needs for its kept checkpoints, one more being written, and the model."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in mapping.parameters())
    return weights * (1 + (CHECKPOINT_COPIES * (KEPT_CHECKPOINTS + 1) if plan.steps else 0))
