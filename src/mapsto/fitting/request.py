"""The request of a fit: all arguments of the call in one object."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapsto.distributed import SINGLE_PROCESS, Ranks
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.progress import Progress
from mapsto.task.arrow import Arrow


@dataclass(frozen=True)
class FitRequest:
    """All arguments of one fit; only the arrow and the data are required.

    data, test: training and test rows: a path, a DataFrame, a list of dicts, a Hugging Face data set or a Table.
    folder: the folder of the run; None keeps the run in memory.
    start: the starting model; like: a model of which only architecture and tokenizer are used.
    overwrite: replace another run in the folder.
    search_record: the trials of the search that chose the options, to be saved with the model; None without a search.
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
    search_record: Dict[str, Any] | None = None
    ranks: Ranks = SINGLE_PROCESS
    started_at: float = field(default_factory=time.monotonic)

    @property
    def say(self) -> Callable[[str], None]:
        """The function that prints a line of text for the user; it prints nothing if there is no progress output."""
        return self.progress.say
