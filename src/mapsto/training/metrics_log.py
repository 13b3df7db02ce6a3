"""metrics.jsonl: one line a step, appended as it happens; what a crash or a full disk left broken is named and left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mapsto import files

METRICS = "metrics.jsonl"


NUMBERS = ("step", "tokens", "seconds", "loss", "lr")


def read(run: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The whole lines of a run, in order; says which ones are not whole."""
    path = run / METRICS
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []
    records = [_record(line) for line in lines if line or len(lines) > 1]
    if broken := [str(number) for number, record in enumerate(records, 1) if record is None]:
        shown = ", ".join(broken[:8]) + (", …" if len(broken) > 8 else "")
        say(f"note: {path} is not whole, without what cannot be read: line {shown}")
    return [record for record in records if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None where that is not what `writing` wrote."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(name), int | float) for name in NUMBERS)
    return found if whole else None


@contextmanager
def writing(run: Path | None, step: int, say: Callable[[str], None]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends a record; those behind `step`, where a killed run goes on, are dropped first."""
    if run is None:
        yield lambda record: None
        return
    run.mkdir(parents=True, exist_ok=True)
    path = run / METRICS
    kept = [record for record in read(run, say) if record["step"] <= step]
    files.write_atomic(path, b"".join(map(_line, kept)))
    # Unbuffered: what did not fit on a full disk would be written again when the file is closed, and fail once more.
    with path.open("ab", buffering=0) as stream:

        def write(record: dict[str, Any]) -> None:
            line = _line(record)
            with files.explaining(path):
                while line:
                    line = line[stream.write(line) :]

        yield write


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
