"""Progress output on standard error: a live line on a terminal, plain lines in a log, JSON lines, or nothing.

Training steps, counts of rows, messages and final scores are all shown by one `Progress` object.
"""

from __future__ import annotations

import errno
import json
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO

from mapsto.errors import coloured, printable
from mapsto.metrics.fold_scores import FoldScores
from mapsto.metrics.intervals import Score, to_json

# Seconds between two progress lines in a log, and between two updates of the live line on a terminal.
LOG_SECONDS = 15.0
REDRAW_SECONDS = 0.2


def duration(seconds: float) -> str:
    """Format a duration for people: 8 s, 3 min 20 s, 2 h 05 min."""
    minutes, remainder = divmod(round(seconds), 60)
    if not minutes:
        return f"{remainder} s"
    if minutes < 60:
        return f"{minutes} min {remainder:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def byte_size(num_bytes: int) -> str:
    """Format a number of bytes for people: 312 bytes, 4.2 KB, 12.3 MB, 1.4 GB."""
    size, unit = float(num_bytes), "bytes"
    for larger in ("KB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{num_bytes:,} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"


@dataclass(frozen=True)
class StepReport:
    """The numbers of one training step, such as its loss and learning rate, that every logger of a run gets."""

    step: int  # from 1
    last_step: int  # of the run; it becomes smaller when the learning rate decays early
    tokens: int  # real tokens read since the first step
    seconds: float  # of training since the first step
    loss: float  # mean over the answers of the step
    learning_rate: float
    held_out: Mapping[str, float] = field(
        default_factory=dict
    )  # metrics of the held-out rows, where this step scored them


@dataclass(frozen=True)
class FinalScores:
    """The scores of a finished run, and what a reader needs to judge them.

    rows: the rows that were scored, in words. mark: words behind each score, where it is not to be trusted.
    baseline: by metric, the score of the best constant answer, or of a ranking without a model; baseline_name says which.
    """

    scores: Mapping[str, Score]
    rows: str = ""
    mark: str = ""
    baseline: Mapping[str, Score] = field(default_factory=dict)
    baseline_name: str = ""

    def lines(self) -> list[str]:
        """Return a line that names the rows, and one for each score, beside its baseline if there is one."""
        head = [f"scores on {self.rows}:"] if self.scores and self.rows else []
        return [*head, *(f"{name}: {score}{self._compare(name)}{self.mark}" for name, score in self.scores.items())]

    def _compare(self, name: str) -> str:
        """Return the words behind a score that tell its baseline."""
        return f"; {self.baseline_name}: {self.baseline[name].value:.4f}" if name in self.baseline else ""


# The signals of a pipe without a reader and of a closed terminal, by the error of writing there.
HANG_UPS = {errno.EPIPE: "SIGPIPE", errno.EIO: "SIGHUP"}


class Progress:
    """Base class of progress outputs; it prints nothing, and subclasses override its methods to print.

    hang_up: 0, or the number of the signal (SIGPIPE, SIGHUP) for which a run should save and stop, because the pipe or the
        terminal that the progress is printed to was closed. Nothing is printed from then on.
    """

    hang_up: int = 0

    def say(self, text: str) -> None:
        """Print a message."""

    def step(self, report: StepReport) -> None:
        """Show the number of the step, the training speed, the loss and the remaining time."""

    def rows(self, label: str, count: int, total: int | None, unit: str = "rows") -> None:
        """Show that `count` of `total` rows, or of another unit in the plural, are finished.

        label: the work done on each row, such as "explained". total: None when it is unknown.
        """

    def close(self) -> None:
        """End the line that is redrawn on a terminal, if there is one, with a line break."""

    def scores(self, final: FinalScores) -> None:
        """Print the scores of a finished run, one line per metric."""
        for line in final.lines():
            self.say(line)

    def folds(self, scores: FoldScores) -> None:
        """Print the scores of a cross-validation, one line per metric."""
        for line in scores.lines():
            self.say(line)


class Lines(Progress):
    """A progress output of plain lines for log files and pipes, at most one progress line every LOG_SECONDS."""

    interval = LOG_SECONDS

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.last_shown = 0.0
        # (items done, seconds) at the first call: the speed since then gives the remaining time.
        self.origin: tuple[int, float] | None = None

    def say(self, text: str) -> None:
        self._print(text, "\n")

    def step(self, report: StepReport) -> None:
        speed = f", {report.tokens / report.seconds:,.0f} tokens/s" if report.seconds else ""
        text = f"step {report.step}/{report.last_step}, loss {report.loss:.4f}{speed}"
        self._advance(report.step, report.last_step, report.seconds, text, is_last=report.step == report.last_step)

    def rows(self, label: str, count: int, total: int | None, unit: str = "rows") -> None:
        clock = time.monotonic()
        if self.origin is None:
            self.last_shown = clock  # so that work which takes less than one interval prints nothing
        self._advance(count, total, clock, f"{label} {count:,}{'' if total is None else f'/{total:,}'} {unit}")
        if count == total:
            self._clear()
            self.close()

    def _advance(self, count: int, total: int | None, seconds: float, text: str, is_last: bool = False) -> None:
        """Print `text` with the remaining time, or with the speed if `total` is None.

        Nothing is printed if the last progress line was printed less than `self.interval` seconds ago, unless `is_last`.
        count: number of finished items. total: number of all items. seconds: the time at which `count` items were finished.
        """
        if self.origin is None:
            self.origin = (count, seconds)
        clock = time.monotonic()
        if clock - self.last_shown < self.interval and not is_last:
            return
        self.last_shown = clock
        count_since, seconds_since = count - self.origin[0], seconds - self.origin[1]
        if not count_since:
            self.show(text)
        elif total is None:
            self.show(f"{text}, {count_since / seconds_since:,.0f} rows/s")
        else:
            self.show(f"{text}, {duration((total - count) * seconds_since / count_since)} left")

    def show(self, text: str) -> None:
        """Print a progress line; `Live` overrides this to redraw its line."""
        self.say(text)

    def close(self) -> None:
        self.origin, self.last_shown = None, 0.0

    def _clear(self) -> None:
        """Erase the line that `Live` redraws; do nothing in this class, which redraws none."""

    def _print(self, text: str, end: str = "") -> None:
        """Print a text to the stream, with its control characters escaped; do nothing once its reader has gone."""
        self.hang_up = self.hang_up or print_or_hang_up(coloured(printable(text), self.stream) + end, self.stream)


class Live(Lines):
    """A progress output that redraws one line of a terminal and prints messages above this line."""

    interval = REDRAW_SECONDS
    is_drawn = False

    def say(self, text: str) -> None:
        self._clear()
        super().say(text)

    def show(self, text: str) -> None:
        self._clear()
        self._print(text)
        self.is_drawn = True

    def close(self) -> None:
        if self.is_drawn:
            self._print("", "\n")
        self.is_drawn = False
        super().close()

    def _clear(self) -> None:
        if self.is_drawn:
            self._print("", "\r\x1b[2K")  # the ANSI code that erases a line
        self.is_drawn = False


class PartProgress(Progress):
    """The progress of a fit that is part of a larger work: its steps are counted, its messages and scores are not shown.

    total_progress: the progress output of the larger work. label: the name of the part in it.
    """

    def __init__(self, total_progress: Progress, label: str) -> None:
        self.total_progress, self.label = total_progress, label

    @property
    def hang_up(self) -> int:  # type: ignore[override]
        """The signal of the whole work's output."""
        return self.total_progress.hang_up

    def step(self, report: StepReport) -> None:
        self.total_progress.rows(self.label, report.step, report.last_step, "steps")

    def close(self) -> None:
        self.total_progress.close()


class JsonLines(Progress):
    """A progress output of one JSON object per line on standard error; standard output is kept for results."""

    def __init__(self) -> None:
        self.last_shown = time.monotonic()

    def say(self, text: str) -> None:
        self._write({"message": text})

    def step(self, report: StepReport) -> None:
        self._write(
            {
                "step": report.step,
                "steps": report.last_step,
                "tokens": report.tokens,
                "seconds": report.seconds,
                "loss": report.loss,
                "lr": report.learning_rate,
            }
        )

    def rows(self, label: str, count: int, total: int | None, unit: str = "rows") -> None:
        clock = time.monotonic()
        if count == total or clock - self.last_shown >= LOG_SECONDS:
            self.last_shown = clock
            self._write({re.sub(r"\W+", "_", label).strip("_"): count, unit: total})

    def scores(self, final: FinalScores) -> None:
        if final.scores:
            record: dict[str, object] = {"scores": to_json(dict(final.scores))}
            record |= {"rows": final.rows} if final.rows else {}
            record |= {"baseline": to_json(dict(final.baseline))} if final.baseline else {}
            self._write(record | ({"mark": final.mark.strip(" –")} if final.mark else {}))

    def folds(self, scores: FoldScores) -> None:
        self._write({"folds": scores.to_json()})

    def _write(self, record: dict[str, object]) -> None:
        line = printable(json.dumps(record, ensure_ascii=False)) + "\n"
        self.hang_up = self.hang_up or print_or_hang_up(line, sys.stderr)


def print_or_hang_up(text: str, stream: TextIO) -> int:
    """Print a text at once and return 0; if the reader of the stream has gone, return the number of the signal for that.

    Raises OSError for other errors, such as a full disk.
    """
    try:
        print(text, end="", file=stream, flush=True)
    except OSError as error:
        name = HANG_UPS.get(error.errno or 0)
        # Windows has neither signal.
        if name is None or not hasattr(signal, name):
            raise
        return int(getattr(signal, name))
    return 0


def choose_progress(quiet: bool = False, as_json: bool = False) -> Progress:
    """Return the progress output for the command line: a live line on a terminal, else plain lines.

    quiet: print nothing. as_json: print JSON lines.
    """
    if quiet:
        return Progress()
    if as_json:
        return JsonLines()
    return Live() if sys.stderr.isatty() else Lines()
