"""How a run tells where it is: a live line on a terminal, plain lines in a log, JSON lines, or nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from mapsto.errors import UsageError
from mapsto.metrics.intervals import Score

LOG_EVERY_SECONDS = 15.0


REDRAW_EVERY_SECONDS = 0.2


def duration(seconds: float) -> str:
    """For people: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Nothing is shown; the others override this."""

    def say(self, text: str) -> None:
        """A line for the reader."""

    def step(self, step: int, steps: int, tokens: int, seconds: float, loss: float, rate: float) -> None:
        """Training is at `step` of `steps`: real tokens and seconds so far, this step's loss and learning rate."""

    def rows(self, what: str, done: int, total: int | None) -> None:
        """So many of all rows are `what`, such as explained; total: None while it is not known."""

    def close(self) -> None:
        """It is over; leave the screen tidy."""

    def scores(self, found: Mapping[str, Score]) -> None:
        """What was reached in the end."""
        for name, value in found.items():
            self.say(f"{name}: {value}")


class Lines(Progress):
    """Plain lines, one every few seconds: for logs and pipes."""

    every = LOG_EVERY_SECONDS

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.last = 0.0
        self.first: tuple[int, float] | None = None

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def step(self, step: int, steps: int, tokens: int, seconds: float, loss: float, rate: float) -> None:
        speed = f", {tokens / seconds:,.0f} tokens/s" if seconds else ""
        self._at(step, steps, seconds, f"step {step}/{steps}, loss {loss:.4f}{speed}", last=step == steps)

    def rows(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.last = now  # what is done soon needs no word
        self._at(done, total, now, f"{what} {done:,}{'' if total is None else f'/{total:,}'} rows")
        if done == total:
            self._clear()
            self.close()

    def _at(self, done: int, total: int | None, seconds: float, text: str, last: bool = False) -> None:
        """Show where it is, and how long the rest takes at the speed since the first time, or that speed."""
        if self.first is None:
            self.first = (done, seconds)
        now = time.monotonic()
        if now - self.last < self.every and not last:
            return
        self.last = now
        since, spent = done - self.first[0], seconds - self.first[1]
        if not since:
            self.show(text)
        elif total is None:
            self.show(f"{text}, {since / spent:,.0f} rows/s")
        else:
            self.show(f"{text}, {duration((total - done) * spent / since)} left")

    def show(self, text: str) -> None:
        """Put a progress line where it belongs."""
        self.say(text)

    def close(self) -> None:
        self.first, self.last = None, 0.0

    def _clear(self) -> None:
        """Take back a progress line that is no line of its own."""


class Live(Lines):
    """One line, drawn again and again: for a terminal."""

    every = REDRAW_EVERY_SECONDS
    drawn = False

    def say(self, text: str) -> None:
        self._clear()
        super().say(text)

    def show(self, text: str) -> None:
        self._clear()
        print(text, end="", file=self.stream, flush=True)
        self.drawn = True

    def close(self) -> None:
        if self.drawn:
            print(file=self.stream, flush=True)
        self.drawn = False
        super().close()

    def _clear(self) -> None:
        if self.drawn:
            print("\r\x1b[2K", end="", file=self.stream)
        self.drawn = False


class Json(Progress):
    """One JSON object a line on standard error, so that standard output keeps the result alone."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def say(self, text: str) -> None:
        self._write({"message": text})

    def step(self, step: int, steps: int, tokens: int, seconds: float, loss: float, rate: float) -> None:
        self._write({"step": step, "steps": steps, "tokens": tokens, "seconds": seconds, "loss": loss, "lr": rate})

    def rows(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done == total or now - self.last >= LOG_EVERY_SECONDS:
            self.last = now
            self._write({what.replace(" ", "_"): done, "rows": total})

    def scores(self, found: Mapping[str, Score]) -> None:
        if found:
            self._write({"scores": {name: asdict(value) for name, value in found.items()}})

    def _write(self, record: dict[str, object]) -> None:
        print(json.dumps(record, ensure_ascii=False), file=sys.stderr, flush=True)


def choose(quiet: bool = False, as_json: bool = False) -> Progress:
    """The right one for where standard error goes."""
    if quiet:
        return Progress()
    if as_json:
        return Json()
    return Live() if sys.stderr.isatty() else Lines()


def tensorboard(run: Path) -> Callable[[dict[str, Any]], None]:
    """A listener that writes the records of a run as TensorBoard events. Raises UsageError without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs the package: pip install 'mapsto[tensorboard]'") from error
    writer: Any = SummaryWriter(str(run / "tensorboard"))

    def write(record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                writer.add_scalar(name, value, record["step"])
        writer.flush()

    return write
