"""MLflow: a run in the experiment that MLFLOW_EXPERIMENT_NAME names, on the server or in the file of MLFLOW_TRACKING_URI."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mapsto.training.trackers.tracker import PROJECT, TrackedRun, Tracker, without_step

ID_TAG = "mapsto.id"
# The longest value of a parameter, and the most numbers in one call, that all servers take.
MAX_VALUE, MAX_NUMBERS = 500, 1000


class MLflow(Tracker):
    """A run of MLflow."""

    package = "mlflow"

    def open(self, run: TrackedRun) -> str:
        import mlflow  # takes seconds

        self.folder = run.folder
        self.client: Any = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        experiment_id = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        runs = self.client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{run.id}'")
        if runs:
            self.run_id = runs[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            created = self.client.create_run(experiment_id, tags={ID_TAG: run.id}, run_name=run.name)
            self.run_id = created.info.run_id
            params = [mlflow.entities.Param(key, str(value)[:MAX_VALUE]) for key, value in run.options.items()]
            self.client.log_batch(self.run_id, params=params)
        self.metric_class = mlflow.entities.Metric
        return f"experiment {name} of {mlflow.get_tracking_uri()}"

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        timestamp = round(1000 * time.time())
        numbers = [
            self.metric_class(name, value, timestamp, int(record["step"]))
            for record in records
            for name, value in without_step(record).items()
        ]
        for start in range(0, len(numbers), MAX_NUMBERS):
            self.client.log_batch(self.run_id, metrics=numbers[start : start + MAX_NUMBERS])

    def log_scores(self, scores: Mapping[str, float]) -> None:
        # Names of metrics may have letters, digits and a few signs there.
        for name, value in scores.items():
            key = "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)
            self.client.log_metric(self.run_id, key, value)

    def log_files(self, model: Sequence[Path], pages: Sequence[Path]) -> None:
        for path in pages:
            self.client.log_artifact(self.run_id, str(path))
        for path in model:
            folder = Path("model", path.parent.relative_to(self.folder)).as_posix()
            self.client.log_artifact(self.run_id, str(path), folder)

    def close(self, is_finished: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if is_finished else "FAILED")
