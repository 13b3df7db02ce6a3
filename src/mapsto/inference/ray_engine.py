"""Prediction on Ray: many processes answer parts of a table, which come back in order.

Ray restarts a process that dies and answers its part again. Plain tasks, and not Ray Data: its blocks know no row numbers, which
messages name, and it hangs where its workers take every core and leave none to read with.
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
from mapsto.inference.predictor import Predictor, bind_sources, bind_tables
from mapsto.pretrained import model_folder
from mapsto.task.arrow import Arrow

TASKS_PER_PROCESS = 2  # one that is answered and one that waits
MAX_RETRIES = 3  # of the same part: rows that kill every process must not be tried for ever


class RayEngine:
    """Predictors in processes on this machine, or on the cluster that RAY_ADDRESS names, which must have the `model` folder too.

    predictor_options: the positional arguments of Predictor behind its mapping, of which the first is the device.

    Raises UsageError without the extra [ray], and the errors of opening the model.
    """

    def __init__(self, model: str, *predictor_options: Any) -> None:
        self.arrow = model_folder.load_mapping(model).arrow
        self.cut_rows = 0
        self._predictor_arguments = (str(Path(model).absolute()) if Path(model).exists() else model, *predictor_options)
        self._ray = _import_ray()

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with one answer a row; the first table with rows decides which columns are read.

        Raises RunError when Ray breaks down, and the errors of the processes.
        """
        try:
            resources = self._start()
            num_gpus = 0 if self._predictor_arguments[1] == "cpu" else int(resources.get("GPU", 0))
            max_waiting = TASKS_PER_PROCESS * max(1, num_gpus or int(resources.get("CPU", 1)))
            # max_calls=0: a process with a GPU keeps its model for the next part, as others do.
            options = {"num_cpus": 1, "num_gpus": min(num_gpus, 1), "max_retries": MAX_RETRIES, "max_calls": 0}
            task = self._ray.remote(**options)(answer)
            waiting: deque[tuple[Table, Any]] = deque()
            for table, bound in bind_tables(partial(bind_sources, self.arrow), tables):
                if len(waiting) == max_waiting:
                    yield self._collect(*waiting.popleft())
                waiting.append((table, task.remote(self._predictor_arguments, table, bound)))
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            self._ray.shutdown()

    def _start(self) -> dict[str, float]:
        """Connect to Ray, or start it until `shutdown`; return the resources that it has."""
        address = os.environ.get("RAY_ADDRESS")
        local_options = {"include_dashboard": False} if not address else {}
        try:
            self._ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **local_options)
            resources: dict[str, float] = self._ray.cluster_resources()
        except (OSError, RuntimeError, ValueError) as error:
            problem = f"at RAY_ADDRESS={address} cannot be reached" if address else "does not start"
            raise RunError(f"Ray {problem}: {_first_line(error)}") from error
        return resources

    def _collect(self, table: Table, reference: Any) -> tuple[Table, list[dict[str, Any]]]:
        """Wait for the answers of a table."""
        errors = self._ray.exceptions
        try:
            answers, num_cut = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, MapstoError):
                raise error.cause from None
            raise
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            (file, first), (_, last) = table.origin(0), table.origin(len(table) - 1)
            rows = f"{file}, rows {first} to {last}"
            raise RunError(f"{rows}: {MAX_RETRIES + 1} processes died that answered these rows") from error
        except errors.RayError as error:
            raise RunError(f"Ray cannot go on: {_first_line(error)}") from error
        self.cut_rows += num_cut
        return table, answers


def answer(predictor_arguments: tuple[Any, ...], table: Table, bound: Arrow | None) -> tuple[list[dict[str, Any]], int]:
    """Return the answers of a table and how many of its rows were cut; runs in a process of Ray."""
    predictor = _load_predictor(*predictor_arguments)
    cut_before = predictor.cut_rows
    return list(predictor.answer(table, bound)), predictor.cut_rows - cut_before


@lru_cache(maxsize=1)
def _load_predictor(model: str, *options: Any) -> Predictor:
    """Load the predictor of this process, once."""
    keep_memory()
    return Predictor(model_folder.load_mapping(model), *options)


def _import_ray() -> Any:
    """Import Ray with telemetry off and its retries limited.

    Ray takes these settings only from environment variables, so they are set before the import.
    Raises UsageError where Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_task_oom_retries", str(MAX_RETRIES))
    if os.environ.get("RAY_ADDRESS"):  # one try at a cluster that does not answer takes 40 s, and there would be 20
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("--engine ray needs the package: pip install 'mapsto[ray]'") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
