"""TensorBoard: events in the folder `tensorboard` of the run. It shows no pages and keeps no models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mapsto.training.trackers.tracker import TrackedRun, Tracker, without_step

EVENTS_FOLDER = "tensorboard"


class TensorBoard(Tracker):
    """Events of TensorBoard: numbers by step, options and scores as text."""

    package = "tensorboard"
    takes_files = False

    def open(self, run: TrackedRun) -> str:
        from torch.utils.tensorboard import SummaryWriter  # takes a second

        folder = run.folder / EVENTS_FOLDER
        self.writer: Any = SummaryWriter(str(folder))
        self._add_text("options", run.options)
        return f"events in {folder}"

    def log(self, records: Sequence[Mapping[str, float]]) -> None:
        for record in records:
            for name, value in without_step(record).items():
                self.writer.add_scalar(name, value, int(record["step"]))
        self.writer.flush()  # so that a page that watches the run is up to date

    def log_scores(self, scores: Mapping[str, float]) -> None:
        for name, value in scores.items():
            self.writer.add_scalar(f"score/{name}", value, 0)

    def log_files(self, model: Sequence[Path], pages: Sequence[Path]) -> None:
        raise NotImplementedError

    def close(self, is_finished: bool) -> None:
        self.writer.close()

    def _add_text(self, tag: str, content: Mapping[str, Any]) -> None:
        """Add JSON as a text, which TensorBoard shows as Markdown: indented, it is code."""
        self.writer.add_text(tag, "    " + json.dumps(content, ensure_ascii=False, indent=2).replace("\n", "\n    "))
