"""The numbers of a run, its surroundings, and its progress.

The plan is fixed before the first step and recorded in run.json. The context may differ when the run goes on. The state is
saved in every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from mapsto.model.mapping import Mapping
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.training.loggers import Logger

KEPT_CHECKPOINTS = 2

# The size of a checkpoint, at most, in copies of the weights: the weights, two moments of each, their average or the best ones.
CHECKPOINT_COPIES = 4


@dataclass(frozen=True)
class Plan:
    """The numbers of a run, fixed before its first step and recorded in run.json under these names."""

    steps: int
    batch: int  # examples of a step, over all processes
    rate: float  # peak learning rate
    optimizer: Literal["adamw", "muon"]
    seed: int
    save_every: int  # steps between checkpoints
    watch_every: int = 0  # steps between scores of the held-out rows; 0: never
    patience: int = 3  # scores in a row without an improvement after which the learning rate decays
    average: bool = False  # whether the weights are averaged over the tail of the run
    layer_decay: float = 1.0  # share of the learning rate of a block of that of the block above
    head: float = 1.0  # share of the learning rate of the heads


@dataclass(frozen=True)
class RunContext:
    """The surroundings of a run: device, folder, loggers, processes. They change its weights by rounding alone."""

    device: torch.device
    # The run's folder; None keeps everything in memory.
    folder: Path | None = None
    loggers: Sequence[Logger] = ()
    # Returns {"loss": …, "error": …} of the held-out rows; None where none are held out.
    score_held_out: Callable[[Mapping], dict[str, float]] | None = None
    # Threads that pack batches ahead; 0 packs them in the main thread.
    workers: int = 1
    # How the weights are laid out over processes; None for a single process.
    layout: ReplicatedWeights | None = None


@dataclass
class TrainingState:
    """The progress of a run, saved in every checkpoint under these names."""

    step: int = 0  # steps done
    tokens: int = 0  # real tokens read
    seconds: float = 0.0
    skipped: int = 0  # steps in a row without a finite loss and gradient
    averaged: int = 0  # steps in the running mean of the weights
    best: float = math.inf  # lowest held-out error
    stale: int = 0  # scores of the held-out rows since the last improvement
    end: int | None = None  # the last step, where the learning rate decays before it was planned
    watched: list[dict[str, float]] = field(default_factory=list)  # every score of the held-out rows, with its step

    @classmethod
    def restore(cls, saved: dict[str, Any]) -> TrainingState:
        """Make the state that a checkpoint holds; fields that only older versions saved are dropped."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in saved.items() if name in names})


def required_bytes(mapping: Mapping, plan: Plan) -> int:
    """Return the most bytes that a run writes: its checkpoints, one more while it is being written, and the model itself."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in mapping.parameters())
    return weights * (1 + (CHECKPOINT_COPIES * (KEPT_CHECKPOINTS + 1) if plan.steps else 0))
