"""Small options and plans of training, and a progress whose lines a test can read."""

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
    """A progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class StepListener(Logger):
    """A logger that calls a function after each step."""

    def __init__(self, listener: Callable[[StepReport], object]) -> None:
        self.listener = listener

    def step(self, report: StepReport) -> None:
        self.listener(report)


def make_plan(**changes: Any) -> Plan:
    """Make a plan of 8 steps of 8 examples, with changes."""
    given: dict[str, Any] = {"steps": 8, "batch": 8, "rate": 1e-3, "optimizer": "adamw", "seed": 0, "save_every": 100}
    return Plan(**{**given, **changes})
