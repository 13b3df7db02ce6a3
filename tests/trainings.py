"""Small options and plans for training in tests, and a Progress that keeps its lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mapsto.progress import Progress, StepReport
from mapsto.training.loggers import Logger
from mapsto.training.plan import Plan

TINY_OPTIONS: dict[str, Any] = {
    "layers": 2,
    "width": 64,
    "heads": 2,
    "vocabulary": 300,
    "device": "cpu",
    "precision": "fp32",
}


class RecordingProgress(Progress):
    """Progress that keeps its lines in `lines` instead of printing them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class StepListener(Logger):
    """Logger that calls the function `listener` with the report of each step."""

    def __init__(self, listener: Callable[[StepReport], object]) -> None:
        self.listener = listener

    def step(self, report: StepReport) -> None:
        self.listener(report)


def make_plan(**changes: Any) -> Plan:
    """Return a training plan of 8 steps with 8 examples each. changes: fields of Plan that differ."""
    given: dict[str, Any] = {"steps": 8, "batch": 8, "rate": 1e-3, "optimizer": "adamw", "seed": 0, "save_every": 100}
    return Plan(**{**given, **changes})
