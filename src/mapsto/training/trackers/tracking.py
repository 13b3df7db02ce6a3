"""Feed a tracker from metrics.jsonl, so that a resumed run logs no step twice.

A resumed run repeats the steps after its last checkpoint, bit for bit. The file tracking.json in the run's folder has the number
of the last step that was handed to the tracker, and is written before the step is. So a killed run repeats none of them there; in
exchange a kill may cost the tracker the last second. metrics.jsonl has all steps, and a tracker that is named only when
a run is resumed gets those before from there.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from mapsto import files
from mapsto.errors import RunError, UsageError
from mapsto.progress import StepReport, byte_size
from mapsto.training.loggers import Logger, read_metrics, step_record
from mapsto.training.trackers.tracker import TrackedRun, Tracker

TRACKING_FILE = "tracking.json"
NO_TRACKER = "none"
# A tracker may be a server far away: steps are handed over together, once in so many seconds.
SECONDS_BETWEEN = 1.0


def tracker_class(name: str) -> type[Tracker]:
    """Return the class of the tracker `name`; its module imports the tracker's library only when a run is opened."""
    module = importlib.import_module(f"{__package__}.{name}")
    (tracker,) = [
        item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__
    ]
    assert issubclass(tracker, Tracker)
    return tracker


def require_tracker(name: str, folder: Path | None) -> None:
    """Raise UsageError if a run cannot be tracked: its tracker is not installed, or the run has no folder. `name`: of --track."""
    if name == NO_TRACKER:
        return
    package = tracker_class(name).package
    if find_spec(package) is None:
        raise UsageError(f"--track {name} needs the package {package}: pip install 'mapsto[{name}]'")
    if folder is None:
        raise UsageError(f"--track {name} follows the metrics.jsonl of a run's folder: name the folder with --out")


class Tracking(Logger):
    """A logger that passes the steps of a run to a tracker; a context that opens the run there and ends it.

    The run goes on when the tracker fails meanwhile: a note says what it did not take.
    say: prints a line for the user.
    """

    def __init__(self, name: str, folder: Path, options: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self.name, self.folder, self.say = name, folder, say
        self.path = folder / TRACKING_FILE
        recorded = files.read_sealed(self.path) if self.path.exists() else {}
        is_same = recorded.get("tracker") == name
        self.last_step = int(recorded["step"]) if is_same else 0
        self.run = TrackedRun(folder, str(recorded["id"]) if is_same else uuid.uuid4().hex[:8], options)
        self.pending: list[Mapping[str, float]] = []
        self.logged_at = -math.inf
        self.tracker = tracker_class(name)()
        self.is_finished = False

    def __enter__(self) -> Tracking:
        """Open the run in the tracker. Raises RunError when that fails, before any work is done."""
        self._record()
        try:
            with _quiet():
                place = self.tracker.open(self.run)
        except Exception as error:  # each library has errors of its own
            raise RunError(f"--track {self.name}: the run cannot be opened there: {_describe(error)}") from error
        self.say(f"tracked by {self.name} as {self.run.name}: {place}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._noting_errors("the end of the run"):
            self.tracker.close(self.is_finished)

    def start(self, step: int) -> None:
        """Hand over the steps of metrics.jsonl that the tracker has not got yet, such as those from before it was named."""
        records = read_metrics(self.folder, lambda text: None)
        self.pending = [record for record in records if self.last_step < record["step"] <= step]
        self._hand_over()

    def step(self, report: StepReport) -> None:
        if report.step > self.last_step:
            self.pending.append(step_record(report))
        if time.monotonic() - self.logged_at >= SECONDS_BETWEEN:
            self._hand_over()

    def close(self) -> None:
        self._hand_over()

    def finish(self, scores: Mapping[str, float], model: Sequence[Path], pages: Sequence[Path]) -> None:
        """Say what the tracker gets of the finished run, and hand it over: scores, the files of the model, pages."""
        with self._noting_errors("the scores"):
            self.tracker.log_scores({name: value for name, value in scores.items() if math.isfinite(value)})
        if self.tracker.takes_files:
            size = byte_size(sum(path.stat().st_size for path in (*model, *pages)))
            names = "".join(f", {path.name}" for path in pages)
            self.say(f"{self.name} gets {len(model) + len(pages)} files, {size}: the model{names}")
            with self._noting_errors("the files"):
                self.tracker.log_files(model, pages)
        self.is_finished = True

    def _hand_over(self) -> None:
        """Pass the pending steps to the tracker, after recording the last of them."""
        records, self.pending, self.logged_at = self.pending, [], time.monotonic()
        if not records:
            return
        self.last_step = int(records[-1]["step"])
        self._record()
        with self._noting_errors(f"steps {records[0]['step']} to {records[-1]['step']}"):
            self.tracker.log(records)

    def _record(self) -> None:
        """Write tracking.json. Raises RunError when it cannot be written."""
        record = {"tracker": self.name, "id": self.run.id, "step": self.last_step}
        files.write_atomic(self.path, files.seal(record))

    @contextlib.contextmanager
    def _noting_errors(self, subject: str) -> Iterator[None]:
        """Turn an error of the tracker into a note: what the run has learnt must not depend on a server."""
        try:
            with _quiet():
                yield
        except Exception as error:  # each library has errors of its own
            self.say(f"note: {self.name} did not take {subject}: {_describe(error)}; the run's folder has all of it")


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Return a context without output: trackers print greetings, and standard output is for results."""
    return contextlib.redirect_stdout(io.StringIO())


def _describe(error: Exception) -> str:
    """Return an error of a library as one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
