"""Prediction on Ray: the rows of parquet files, answered by many workers, come back in order.

Each worker holds one Predictor. A worker that dies is started again and its rows are answered again; the others go on.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapsto import data as tables
from mapsto import folder
from mapsto.arrow import Arrow
from mapsto.data import Table
from mapsto.errors import DataError, MapstoError, RunError, UsageError
from mapsto.examples import bind_to
from mapsto.predict import Predictor
from mapsto.readers import format_of

ROWS_AT_ONCE = 1024
AHEAD = 3  # batches that wait at each worker
MOST_RETRIES = 3  # of the same rows: those that kill every worker that reads them must not be tried for ever


class Worker:
    """A process of the pool."""

    def __init__(self, model: str, device: str, precision: str, long: str, arrow: Arrow) -> None:
        self.predictor = Predictor(folder.load(model), device, precision, long)
        self.predictor.mapping.arrow = arrow

    def answer(self, batch: Any) -> tuple[Any, str, int]:
        """The batch, its answers as JSON, and how many of its rows were cut."""
        before = self.predictor.cut_rows
        answers = json.dumps(list(self.predictor.answer(tables.read(batch))))
        return batch, answers, self.predictor.cut_rows - before


def answers(
    model: str, path: Path, device: str, precision: str, long: str
) -> Iterator[tuple[Table, list[dict[str, Any]], int]]:
    """(rows, their answers, how many were cut), part after part in the order of the files.

    Runs on this machine, or on the cluster that RAY_ADDRESS names, which must see `model` and `path` under the same
    names. Raises UsageError without the extra [ray] and for files that are not parquet, and what a worker raised.
    """
    files = _parquet(path)
    arrow = _bound(Predictor(folder.load(model), device, precision, long), files[0])
    ray = _ray()
    try:
        one = ray.remote(max_restarts=-1, max_task_retries=MOST_RETRIES, num_cpus=1)(Worker)
        workers = [
            one.remote(model, device, precision, long, arrow) for _ in range(int(ray.cluster_resources()["CPU"]))
        ]
        waiting: deque[Any] = deque()
        for number, batch in enumerate(_batches(files)):
            if len(waiting) == AHEAD * len(workers):
                yield _answered(ray.get(waiting.popleft()))
            waiting.append(workers[number % len(workers)].answer.remote(batch))
        while waiting:
            yield _answered(ray.get(waiting.popleft()))
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
    finally:
        ray.shutdown()


def _answered(found: tuple[Any, str, int]) -> tuple[Table, list[dict[str, Any]], int]:
    batch, answers, cut = found
    return tables.read(batch), json.loads(answers), cut


def _batches(files: list[str]) -> Iterator[Any]:
    """The rows of the files in order, ROWS_AT_ONCE together."""
    import pyarrow.parquet

    for file in files:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(ROWS_AT_ONCE):
                yield pyarrow.Table.from_batches([batch])


def _bound(predictor: Predictor, file: str) -> Arrow:
    """The arrow with the columns of the first rows, so that no worker chooses others."""
    first = next(_batches([file]), None)
    if first is None:
        raise DataError(f"{file} has no rows")
    return bind_to(predictor.mapping.arrow, tables.read(first), answers=False)


def _cause(error: BaseException) -> MapstoError:
    """What a worker raised, if it was one of ours."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MapstoError):
            return found
        found = found.__cause__
    return RunError(f"Ray could not finish: {str(error).strip().splitlines()[-1]}")


def _parquet(path: Path) -> list[str]:
    """The parquet files that `path` is or holds, in the order in which they are read elsewhere."""
    files = sorted(file for file in path.rglob("*") if format_of(file)) if path.is_dir() else [path]
    for file in files:
        if format_of(file) != "parquet":
            raise UsageError(f"{file}: --engine ray reads parquet; --engine local reads everything")
    if not files or not files[0].is_file():
        raise UsageError(f"there is no parquet file {path}")
    return [str(file.absolute()) for file in files]


def _ray() -> Any:
    """Ray, started: nothing is sent home, no dashboard listens."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise UsageError("--engine ray needs the package: pip install 'mapsto[ray]'") from error
    here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": os.cpu_count(), "include_dashboard": False}
    ray.init(**here, log_to_driver=False, logging_level="ERROR")
    return ray
