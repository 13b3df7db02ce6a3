"""Loggers of a training run: progress on the terminal, the file metrics.jsonl. Trackers are in `trackers`.

The training loop passes each event to all loggers of a list. To add a logger, subclass `Logger` and add it to
`_make_loggers` in fitting/fit.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from mapsto import files
from mapsto.progress import Progress, StepReport

METRICS_FILE = "metrics.jsonl"

# The numbers that every line of metrics.jsonl must have; a line without one of them counts as broken.
STEP_FIELDS = ("step", "tokens", "seconds", "loss", "lr")


class Logger:
    """Base class of loggers: it ignores every event. A subclass overrides the methods of the events that it records."""

    def start(self, step: int) -> None:
        """Prepare to record the steps after `step`, which is 0 in a new run and above 0 in a resumed one."""

    def step(self, report: StepReport) -> None:
        """Record a finished training step."""

    def note(self, text: str) -> None:
        """Record a message about the run, such as a skipped update, for people to read."""

    @property
    def hang_up(self) -> int:
        """Return 0, or the number of the signal for which the run should save and stop, as nobody reads its progress."""
        return 0

    def close(self) -> None:
        """Close open files and end the line of live progress on the terminal; called once, also after an error."""


class Loggers(Logger):
    """One logger that passes each event to several loggers, in order."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = loggers

    def start(self, step: int) -> None:
        for logger in self.loggers:
            logger.start(step)

    def step(self, report: StepReport) -> None:
        for logger in self.loggers:
            logger.step(report)

    def note(self, text: str) -> None:
        for logger in self.loggers:
            logger.note(text)

    @property
    def hang_up(self) -> int:
        return max((logger.hang_up for logger in self.loggers), default=0)

    def close(self) -> None:
        for logger in self.loggers:
            logger.close()


class ProgressLogger(Logger):
    """A logger that passes steps and messages to a `Progress`, which prints them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def step(self, report: StepReport) -> None:
        self.progress.step(report)

    def note(self, text: str) -> None:
        self.progress.say(text)

    @property
    def hang_up(self) -> int:
        return self.progress.hang_up

    def close(self) -> None:
        self.progress.close()


class MetricsFile(Logger):
    """A logger that appends one JSON line per step to metrics.jsonl in the folder of a run.

    say: prints a note about broken lines of an existing file, which a crash or a full disk leaves; they are removed.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self.path = run / METRICS_FILE
        self.stream: FileIO | None = None

    def start(self, step: int) -> None:
        """Open metrics.jsonl for appending, after removing the lines of steps after `step`, which will be run again.

        Raises RunError when it cannot be written.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        records = [record for record in read_metrics(self.run, self.say) if record["step"] <= step]
        files.write_atomic(self.path, b"".join(map(_encode_line, records)))
        # Unbuffered: with a buffer, a line that did not fit on a full disk would be written again, and fail, on close.
        with files.explaining_write_errors(self.path):
            self.stream = files.open_for_appending(self.path)

    def step(self, report: StepReport) -> None:
        """Append the step's line. Raises RunError when it cannot be written."""
        assert self.stream is not None
        line = _encode_line(step_record(report))
        with files.explaining_write_errors(self.path):
            while line:  # an unbuffered write may take a part only
                line = line[self.stream.write(line) :]

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


def step_record(report: StepReport) -> dict[str, Any]:
    """Return the numbers of a step by name, for metrics.jsonl and the trackers.

    The names are STEP_FIELDS and, after a step with a validation, "held_out_loss" and "held_out_error".
    """
    return {
        "step": report.step,
        "tokens": report.tokens,
        "seconds": round(report.seconds, 3),
        "loss": report.loss,
        "lr": report.learning_rate,
        **{f"held_out_{name}": value for name, value in report.held_out.items()},
    }


def read_metrics(run: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl, one per step, in order; an empty list when there is no file.

    Broken lines are left out. say: prints a note with their line numbers.
    """
    path = run / METRICS_FILE
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    records = [_parse_line(line) for line in lines if line or len(lines) > 1]
    if broken := [str(number) for number, record in enumerate(records, 1) if record is None]:
        numbers = ", ".join(broken[:8]) + (", …" if len(broken) > 8 else "")
        say(f"note: {path} is not whole, without what cannot be read: line {numbers}")
    return [record for record in records if record is not None]


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line of metrics.jsonl; None when it is no JSON object with all of STEP_FIELDS."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_whole = isinstance(record, dict) and all(isinstance(record.get(name), int | float) for name in STEP_FIELDS)
    return record if is_whole else None


def _encode_line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
