"""Progress of calls from Python: log records and warnings in scripts, one live line in notebooks; and a record of a run.

Lines of progress are records of the logger "mapsto" (level INFO), and notes on what affects a result are warnings of the class
MapstoWarning. A program that has not set up logging sees both on standard error; one that has gets the records in its own log,
at the level that it chose.
"""

from __future__ import annotations

import html
import logging
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from mapsto.errors import printable
from mapsto.errors.wording import worded
from mapsto.metrics.fold_scores import FoldScores
from mapsto.progress import FinalScores, Lines, Progress, StepReport

LOGGER = logging.getLogger("mapsto")
NOTE = "note: "
# Files whose frames are no place to which a warning could point a user.
PACKAGE = str(Path(__file__).resolve().parents[1])
# Seconds between two updates of the live line of a notebook.
NOTEBOOK_SECONDS = 0.5


class MapstoWarning(UserWarning):
    """The class of warnings about what affects a result, such as rows that were left out; `warnings` can filter it."""


def warn(text: str) -> None:
    """Warn of something that affects a result, at the line of the user's program that called mapsto.

    It is shown every time: the second fit of a session is warned of as the first one was.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    message = printable(worded(text.removeprefix(NOTE)))
    # A new registry, since Python keeps those of warnings that it has shown in it.
    warnings.warn_explicit(message, MapstoWarning, frame.f_code.co_filename, frame.f_lineno, registry={})


def _log(text: str) -> None:
    """Log a line at level INFO; print it to standard error if neither "mapsto" nor the root logger has been set up."""
    if LOGGER.hasHandlers() or LOGGER.level != logging.NOTSET:
        LOGGER.info("%s", text)
    else:
        print(text, file=sys.stderr, flush=True)


class LoggedProgress(Lines):
    """A progress output for scripts: notes are warnings, other lines are log records."""

    def say(self, text: str) -> None:
        if text.startswith(NOTE):
            warn(text)
        else:
            super().say(worded(text))

    def _print(self, text: str, end: str = "") -> None:
        _log(printable(text))


class NotebookProgress(LoggedProgress):
    """A progress output for notebooks: one line below the cell that is replaced by each newer one; notes are warnings.

    display: `IPython.display.display`, or a function like it, which returns a handle whose content can be replaced.
    """

    interval = NOTEBOOK_SECONDS

    def __init__(self, display: Any, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.display, self.handle = display, None
        self.lines: list[str] = []

    def show(self, text: str) -> None:
        self._draw(text)

    def close(self) -> None:
        if self.handle is not None:
            self._draw("")
        super().close()

    def _print(self, text: str, end: str = "") -> None:
        self.lines.append(printable(text))
        self._draw("")

    def _draw(self, live: str) -> None:
        """Show the lines so far, and below them the line that the next call replaces."""
        lines = [*self.lines, *([printable(live)] if live else [])]
        content = _Html("\n".join(lines))
        if self.handle is None:
            self.handle = self.display(content, display_id=True)
        else:
            self.handle.update(content)


@dataclass(frozen=True)
class _Html:
    """Lines that a notebook shows in small grey letters, and other front ends as text."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<pre style="font-size:85%;opacity:.75;white-space:pre-wrap;margin:0">{html.escape(self.text)}</pre>'


def python_progress(quiet: bool = False) -> Progress:
    """Return the progress output for calls from Python: of a notebook, if one runs this program, else of a script.

    quiet: show nothing, and warn of nothing.
    """
    if quiet:
        return Progress()
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        return NotebookProgress(sys.modules["IPython"].display.display)
    return LoggedProgress()


@dataclass
class RunRecord:
    """Hold what a run reported: its notes, its final scores, its held-out curves (see `RunReport.curves`), and its folds."""

    notes: list[str] = field(default_factory=list)
    final: FinalScores = field(default_factory=lambda: FinalScores({}))
    curves: list[dict[str, float]] = field(default_factory=list)
    folds: FoldScores | None = None


class Recorder(Progress):
    """A progress output that passes everything on to another one, each note once, and keeps what a report of the run needs."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.record = progress, RunRecord()

    @property
    def hang_up(self) -> int:  # type: ignore[override]
        """The signal of the output that prints."""
        return self.progress.hang_up

    def say(self, text: str) -> None:
        if text.startswith(NOTE):
            note = text.removeprefix(NOTE)
            # A run that reads its data again, as after a cross-validation, finds the same in it.
            if note in self.record.notes:
                return
            self.record.notes.append(note)
        self.progress.say(text)

    def step(self, report: StepReport) -> None:
        if report.held_out:
            curve = {"step": report.step, "training_loss": report.loss}
            self.record.curves.append(curve | {f"held_out_{name}": value for name, value in report.held_out.items()})
        self.progress.step(report)

    def rows(self, label: str, count: int, total: int | None, unit: str = "rows") -> None:
        self.progress.rows(label, count, total, unit)

    def scores(self, final: FinalScores) -> None:
        self.record.final = final
        self.progress.scores(final)

    def folds(self, scores: FoldScores) -> None:
        self.record.folds = scores
        self.progress.folds(scores)

    def close(self) -> None:
        self.progress.close()
