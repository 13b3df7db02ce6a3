"""Prediction on Ray: parts of a table are answered by many processes and come back in order.

Ray starts a process that dies again, and answers its part again. Plain tasks, and not Ray Data: its blocks know no row
numbers, which messages name, and it hangs where its workers take every core and leave none to read with.
"""

from __future__ import annotations

import importlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mapsto.data.table import Table
from mapsto.device import keep_memory
from mapsto.errors import MapstoError, RunError, UsageError
from mapsto.inference.predictor import Predictor, bind_answering, bound_parts
from mapsto.pretrained import model_folder
from mapsto.task.arrow import Arrow

AHEAD = 2  # parts a process has at a time: one that it answers and one that waits


MOST_RETRIES = 3  # of the same part: rows that kill every process must not be tried for ever


class Workers:
    """Predictors on the cores of this machine, or on the cluster that RAY_ADDRESS names, which must see `model` too.

    Raises UsageError without the extra [ray], and what opening the model raises.
    """

    def __init__(self, model: str, *how: Any) -> None:
        """how: what a Predictor takes beside its mapping, in order."""
        self.arrow = model_folder.load_mapping(model).arrow
        self.cut_rows = 0
        self._made_of = (str(Path(model).absolute()) if Path(model).exists() else model, *how)
        self._ray = _import_ray()

    def answer_parts(self, parts: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Each table with one answer for every row of it; the first that has rows decides which columns are read.

        Raises RunError when Ray cannot go on, and what a process raised.
        """
        try:
            resources = self._start()
            gpus = 0 if self._made_of[1] == "cpu" else int(resources.get("GPU", 0))
            most = AHEAD * max(1, gpus or int(resources.get("CPU", 1)))
            # max_calls=0: a process with a GPU keeps its model for the next part, as others do.
            asked = {"num_cpus": 1, "num_gpus": min(gpus, 1), "max_retries": MOST_RETRIES, "max_calls": 0}
            task = self._ray.remote(**asked)(answer)
            waiting: deque[tuple[Table, Any]] = deque()
            for part, bound in bound_parts(partial(bind_answering, self.arrow), parts):
                if len(waiting) == most:
                    yield self._answered(*waiting.popleft())
                waiting.append((part, task.remote(self._made_of, part, bound)))
            while waiting:
                yield self._answered(*waiting.popleft())
        finally:
            self._ray.shutdown()

    def _start(self) -> dict[str, float]:
        """Connect to Ray, or start it for as long as this takes; what there is to compute on."""
        address = os.environ.get("RAY_ADDRESS")
        here = {"include_dashboard": False} if not address else {}
        try:
            self._ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **here)
            found: dict[str, float] = self._ray.cluster_resources()
        except (OSError, RuntimeError, ValueError) as error:
            where = f"at RAY_ADDRESS={address} cannot be reached" if address else "does not start"
            raise RunError(f"Ray {where}: {_first_line(error)}") from error
        return found

    def _answered(self, part: Table, reference: Any) -> tuple[Table, list[dict[str, Any]]]:
        errors = self._ray.exceptions
        try:
            answers, cut = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, MapstoError):
                raise error.cause from None
            raise
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            (file, first), (_, last) = part.origin(0), part.origin(len(part) - 1)
            rows = f"{file}, rows {first} to {last}"
            raise RunError(f"{rows}: {MOST_RETRIES + 1} processes died that answered these rows") from error
        except errors.RayError as error:
            raise RunError(f"Ray cannot go on: {_first_line(error)}") from error
        self.cut_rows += cut
        return part, answers


def answer(made_of: tuple[Any, ...], part: Table, bound: Arrow | None) -> tuple[list[dict[str, Any]], int]:
    """In a process of Ray: the answers of a part, and how many of its rows were cut."""
    predictor = _predictor(*made_of)
    before = predictor.cut_rows
    return list(predictor.answer(part, bound)), predictor.cut_rows - before


@lru_cache(maxsize=1)
def _predictor(model: str, *how: Any) -> Predictor:
    """The one that this process keeps."""
    keep_memory()
    return Predictor(model_folder.load_mapping(model), *how)


def _import_ray() -> Any:
    """Ray, told what it reads from the environment alone: to send nothing home, and not to try for ever."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_task_oom_retries", str(MOST_RETRIES))
    if os.environ.get("RAY_ADDRESS"):  # one try at a cluster that does not answer takes 40 s, and there would be 20
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("--engine ray needs the package: pip install 'mapsto[ray]'") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
