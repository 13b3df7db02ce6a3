"""Prediction on Ray: worker processes answer parts of a table, and the answers come back in order.

If a worker dies, Ray restarts it and answers the same part again. Ray Data is not used, for two reasons. Its blocks
know no row numbers, which messages need. It also hangs where its workers take every core and leave none to read the
data with.
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

TASKS_PER_PROCESS = 2  # one that is answered and one that waits, so that no process is idle
MAX_RETRIES = 3  # for one part of a table, since some rows may kill every process


class RayEngine:
    """An engine of several predictors in processes, on this machine or on the cluster at the address RAY_ADDRESS.

    model: a hub name, or a folder that every machine of the cluster has.
    predictor_options: the arguments of Predictor after the mapping, in order, of which the first is the device.

    Raises UsageError if Ray is not installed, and the errors of opening the model.
    """

    def __init__(self, model: str, *predictor_options: Any) -> None:
        self.arrow = model_folder.load_mapping(model).arrow
        self.cut_rows = 0
        # Worker processes may have another working directory.
        self._predictor_arguments = (str(Path(model).absolute()) if Path(model).exists() else model, *predictor_options)
        self._ray = _import_ray()

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with its answers, one dict per row.

        The first table that has rows decides which columns are read.
        Raises RunError if Ray breaks down, and the errors of the worker processes.
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
                # The memory is bounded: no further table is read until the oldest one is answered.
                if len(waiting) == max_waiting:
                    yield self._collect(*waiting.popleft())
                waiting.append((table, task.remote(self._predictor_arguments, table, bound)))
            while waiting:
                yield self._collect(*waiting.popleft())
        finally:
            self._ray.shutdown()

    def _start(self) -> dict[str, float]:
        """Connect to the cluster at RAY_ADDRESS, or start Ray here; return its resources, such as {"CPU": 8}.

        Raises RunError if neither succeeds.
        """
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
        """Wait for the answers to a table, and return the table with them. Raises the errors of the worker process.

        reference: the Ray task that computes the answers.
        """
        errors = self._ray.exceptions
        try:
            answers, num_cut = self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, MapstoError):
                # Users see the error itself, without Ray's traceback.
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
    """Return (answers of all rows, number of rows that were cut) for a table; it runs in a worker process.

    predictor_arguments: the model's hub name or folder, then the arguments of Predictor after the mapping.
    bound: the arrow bound to the table's columns; None for an empty table.
    """
    predictor = _load_predictor(*predictor_arguments)
    # The predictor counts over all parts that its process answers.
    cut_before = predictor.cut_rows
    return list(predictor.answer(table, bound)), predictor.cut_rows - cut_before


@lru_cache(maxsize=1)
def _load_predictor(model: str, *options: Any) -> Predictor:
    """Return the predictor of a model, loaded on the first call in this process and kept for later calls.

    options: the arguments of Predictor after the mapping.
    """
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
    """Return the first line of an error's message, or the error's type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
