"""The request of a fit: all arguments of the call in one object."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mapsto.data.table import read_table
from mapsto.distributed import SINGLE_PROCESS, Ranks
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import Progress
from mapsto.task.arrow import Arrow


@dataclass(frozen=True)
class MethodChoice:
    """The method of a fit, chosen by measurement on parts of the training rows.

    method: its name. reason: the measurement in words.
    temperatures: by target port, the temperature of its logits, fitted on answers to rows that the model was not fitted to.
    candidates: the measured methods and their scores, as plain JSON.
    relative_distances: of rows that the model was not fitted to, from the training rows, relative to the distances of the latter
        to each other (see model/familiarity.py); may be empty.
    scales: by target port, the scale of the logits of fitted rows to which the temperature belongs; may be empty.
    """

    method: Method
    reason: str
    temperatures: Dict[int, float]
    candidates: Sequence[Dict[str, Any]]
    relative_distances: Sequence[float] = ()
    scales: Dict[int, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the choice as plain JSON, from which `from_record` makes it again."""
        record = {
            "method": self.method,
            "reason": self.reason,
            "temperatures": text_keys(self.temperatures),
            "candidates": [dict(candidate) for candidate in self.candidates],
        }
        # Records of earlier versions lack these; a run that one of them began must find its choice unchanged.
        later = {"relative_distances": list(self.relative_distances), "scales": text_keys(self.scales)}
        return {**record, **{name: value for name, value in later.items() if value}}

    @staticmethod
    def from_record(record: Dict[str, Any]) -> MethodChoice:
        """Return the choice that `record` describes, as returned by the method of this name."""
        temperatures, scales = (number_keys(record.get(name, {})) for name in ("temperatures", "scales"))
        distances = tuple(record.get("relative_distances", ()))
        return MethodChoice(record["method"], record["reason"], temperatures, record["candidates"], distances, scales)


def text_keys(by_port: Dict[int, float]) -> dict[str, float]:
    """Return the same numbers under texts, since the keys of JSON objects are texts."""
    return {str(port): value for port, value in by_port.items()}


def number_keys(by_port: Dict[str, float]) -> dict[int, float]:
    """Return the numbers that `text_keys` has put under texts, under their ports again."""
    return {int(port): value for port, value in by_port.items()}


@dataclass(frozen=True)
class FitRequest:
    """All arguments of one fit; only the arrow and the data are required.

    data, test: training and test rows: a path, a DataFrame, a list of dicts, a Hugging Face data set or a Table.
    folder: the folder of the run; None keeps the run in memory.
    start: the starting model; like: a model of which only architecture and tokenizer are used.
    overwrite: replace another run in the folder.
    choice: the method that was measured to be the best; None if it was not measured.
    search_record: the trials of the search that chose the options, to be saved with the model; None without a search.
    folds_record: the scores of the cross-validation before the fit, to be saved with the model; None without one.
    classes: for each target the names of its classes, where rows beyond these have named them; None learns them from the rows.
    ranks: the rank of this process and the number of processes.
    started_at: the monotonic time of the call, from which `--minutes` counts.
    """

    arrow: Arrow
    data: Any
    folder: Path | None = None
    start: str | Path | Mapping | None = None
    like: str | Path | None = None
    test: Any = None
    options: Options = field(default_factory=Options)
    progress: Progress = field(default_factory=Progress)
    overwrite: bool = False
    choice: MethodChoice | None = None
    search_record: Dict[str, Any] | None = None
    folds_record: Dict[str, Any] | None = None
    classes: Sequence[Sequence[str]] | None = None
    ranks: Ranks = SINGLE_PROCESS
    started_at: float = field(default_factory=time.monotonic)

    @property
    def say(self) -> Callable[[str], None]:
        """The function that prints a line of text for the user; it prints nothing if there is no progress output."""
        return self.progress.say

    def with_tables(self) -> FitRequest:
        """Return the request with its data and its test read as tables, so that parts of them can be fitted to as well."""
        text_format = self.options.text_format
        test = None if self.test is None else read_table(self.test, text_format)
        return replace(self, data=read_table(self.data, text_format), test=test)
