"""The few exceptions users meet, and how near names are suggested."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN_FINDINGS = 20


class MapstoError(Exception):
    """Everything mapsto raises on purpose; `exit_status` is what the command line ends with, `reporter` which of several
    processes says it."""

    exit_status = 1
    reporter = 0


class UsageError(MapstoError, ValueError):
    """A wrong call: an arrow that does not parse, an option out of range, a column that is not there."""

    exit_status = 2


class BadCell(ValueError):
    """A cell that cannot be read as its kind; the message is the reason, the caller knows file, row and column."""


class CheckpointError(MapstoError):
    """A checkpoint or model folder that is damaged, unsafe or of an unsupported family."""


class RunError(MapstoError):
    """A run that cannot start or go on: a full disk, a folder in use, a loss that is not finite."""


def place(file: str | Path, row: int | None) -> str:
    """Where something stands, for people; a row of None or 0 is the whole file."""
    return f"{file}, row {row}" if row else str(file)


def places(found: Sequence[tuple[str, int | None]]) -> list[str]:
    """Where things stand that are shown together: each file and row, without the folder that all of the files are in."""
    whole = [os.path.abspath(file) for file, _ in found]
    root = os.path.commonpath(whole) if whole else ""
    told = [os.path.basename(file) if file == root else os.path.relpath(file, root) for file in whole]
    return [place(file, row) for file, (_, row) in zip(told, found, strict=True)]


@dataclass(frozen=True)
class Finding:
    """One fault in the user's data. `row` is 1-based as an editor shows it; None or 0 means the whole file."""

    file: str
    row: int | None
    column: str | None
    value: str | None
    reason: str

    def __str__(self) -> str:
        where = place(self.file, self.row)
        if self.column is not None:
            where += f", column {self.column!r}"
        shown = "" if self.value is None or self.value == self.file else f": {shorten(self.value)!r}"
        return f"{where}{shown}: {self.reason}"


class DataError(MapstoError, ValueError):
    """Data that cannot be used as it is; `findings` names every fault, or the first ones of `total`."""

    def __init__(self, message: str, findings: Sequence[Finding] = (), total: int | None = None) -> None:
        self.findings = tuple(findings)
        total = len(self.findings) if total is None else total
        lines = [message, *(f"  {finding}" for finding in self.findings[:SHOWN_FINDINGS])]
        if total > SHOWN_FINDINGS:
            lines.append(f"  … and {total - SHOWN_FINDINGS} more")
        super().__init__("\n".join(lines))


def shorten(text: str, limit: int = 60) -> str:
    """`text` on one line and at most `limit` characters long; short text keeps its spaces, which may be the fault."""
    flat = " ".join(text.split()) if len(text) > limit or not text.isprintable() else text
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def near(word: str, choices: Iterable[str]) -> str:
    """The text ` (did you mean 'label'?)` when one of `choices` is close to `word`, else an empty string."""
    lowered = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[found[0]]!r}?)" if found else ""
