"""Weights & Biases: a run in the project that WANDB_PROJECT names; WANDB_MODE=offline keeps it on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mapsto.training.trackers.tracker import PROJECT, TrackedRun, Tracker, without_step


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases."""

    package = "wandb"

    def open(self, run: TrackedRun) -> str:
        import wandb  # takes seconds

        # Nothing but the run's own numbers: no copies of the terminal or the code, no measurements of the machine.
        settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        self.artifact_class, self.html_class, self.folder = wandb.Artifact, wandb.Html, run.folder
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            name=run.name,
            config=dict(run.options),
            resume="allow",
            settings=settings,
        )
        return str(self.run.url or f"files in {self.run.dir}")

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        for record in records:
            self.run.log(without_step(record), step=int(record["step"]))

    def log_scores(self, scores: Mapping[str, float]) -> None:
        self.run.summary.update(dict(scores))

    def log_files(self, model: Sequence[Path], pages: Sequence[Path]) -> None:
        artifact = self.artifact_class(name=f"{self.run.id}-model", type="model")
        for path in (*model, *pages):
            artifact.add_file(str(path), name=path.relative_to(self.folder).as_posix())
        self.run.log_artifact(artifact)
        for path in pages:
            if path.suffix == ".html":
                self.run.log({path.stem: self.html_class(str(path), inject=False)})

    def close(self, is_finished: bool) -> None:
        self.run.finish(exit_code=0 if is_finished else 1)
