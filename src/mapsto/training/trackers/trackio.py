"""Trackio: a run in the project that TRACKIO_PROJECT names, in a file on this machine or, with TRACKIO_SPACE_ID, on the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mapsto.training.trackers.tracker import PROJECT, TrackedRun, Tracker, without_step


class Trackio(Tracker):
    """A run of Trackio, whose name has the run's id, since it resumes runs by their names."""

    package = "trackio"

    def open(self, run: TrackedRun) -> str:
        import trackio  # takes seconds

        self.artifact_class, self.folder = trackio.Artifact, run.folder
        project, place = os.environ.get("TRACKIO_PROJECT", PROJECT), os.environ.get("TRACKIO_SPACE_ID")
        self.run: Any = trackio.init(
            project,
            run.unique_name,
            config=dict(run.options),
            resume="allow",
            private=True,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.unique_name, self.last_step = run.unique_name, 0
        return f"project {project} {'in the space ' + place if place else 'in ' + str(trackio.TRACKIO_DIR)}"

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        for record in records:
            self.last_step = int(record["step"])
            self.run.log(without_step(record), step=self.last_step)

    def log_scores(self, scores: Mapping[str, float]) -> None:
        self.run.log({f"score/{name}": value for name, value in scores.items()}, step=self.last_step)

    def log_files(self, model: Sequence[Path], pages: Sequence[Path]) -> None:
        artifact = self.artifact_class(f"{self.unique_name}-model", "model")
        for path in (*model, *pages):
            artifact.add_file(str(path), name=path.relative_to(self.folder).as_posix())
        self.run.log_artifact(artifact)

    def close(self, is_finished: bool) -> None:
        import trackio

        trackio.finish()  # not run.finish(), after which the library would end the run again when Python exits
