"""The contract of an experiment tracker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

# The project, or experiment, of runs for which the library's own environment variable names no other.
PROJECT = "mapsto"


@dataclass(frozen=True)
class TrackedRun:
    """A run, as a tracker sees it.

    folder: the folder of the run. id: a name of the run that no other run has, the same when it is resumed.
    options: options and facts of the run, as plain JSON.
    """

    folder: Path
    id: str
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name that people see: that of the folder."""
        return self.folder.resolve().name

    @property
    def unique_name(self) -> str:
        """A name for people that no other run has."""
        return f"{self.name}-{self.id}"


class Tracker(ABC):
    """A connection to an experiment tracker for one run. Errors of the tracker's library are raised as they are.

    package: the package to import, also the name of the extra that installs it.

    takes_files: whether it keeps models and shows pages.
    """

    package: ClassVar[str]
    takes_files: ClassVar[bool] = True

    @abstractmethod
    def open(self, run: TrackedRun) -> str:
        """Begin the run in the tracker, or continue the one with this id; return in words where it is sent or written."""

    @abstractmethod
    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        """Log the numbers of training steps, as `loggers.step_record` returns them. No step is passed twice."""

    @abstractmethod
    def log_scores(self, scores: Mapping[str, float]) -> None:
        """Log the scores of the finished run, by metric."""

    @abstractmethod
    def log_files(self, model: Sequence[Path], pages: Sequence[Path]) -> None:
        """Hand over the files of the model, and the pages: report and model card. Called only if it takes files."""

    @abstractmethod
    def close(self, is_finished: bool) -> None:
        """End the run in the tracker: finished, or failed or interrupted, so that it may be resumed."""


def without_step(record: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a step without the number of the step itself."""
    return {name: value for name, value in record.items() if name != "step"}
