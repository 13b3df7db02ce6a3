"""The exceptions that users see, problems found in their data, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TextIO

from mapsto.errors.installation import advise_installation
from mapsto.errors.wording import worded

# The most findings that an error message lists.
SHOWN_FINDINGS = 20

# Parts of a reason that differ from row to row: what it quotes, and its numbers.
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d[\d.,]*")


class MapstoError(Exception):
    """Base class of all errors that mapsto raises on purpose, each with a message for the user.

    As text it names options by their keywords or, on the command line, by their flags; see mapsto/errors/wording.py.
    """

    # The exit status of the command line.
    exit_status = 1
    # The rank of the process that prints the error when a run has several processes.
    reporter = 0

    def __str__(self) -> str:
        return advise_installation(worded(super().__str__()))


class UsageError(MapstoError, ValueError):
    """A call with wrong arguments: an arrow that does not parse, an option out of range, a column that does not exist."""

    exit_status = 2


class BadCell(ValueError):
    """The error for a table cell that cannot be read as its kind of value, such as a broken image file.

    The message is only the reason; the caller adds file, row and column.
    """


def fault_of(cell: object) -> str | None:
    """Return the reason of a cell {"fault": reason}, which stands for unreadable annotations; None for other cells."""
    return str(cell["fault"]) if isinstance(cell, dict) and "fault" in cell else None


class CheckpointError(MapstoError):
    """The error for a checkpoint or model folder that is damaged, unsafe or of an unsupported family."""


class RunError(MapstoError):
    """The error for a run that cannot start or continue: a full disk, a folder in use, a loss that is not finite."""


class LineNumber(int):
    """The line at which a record of a csv file begins, where quoted cells before it hold line ends, so that it is not its number.

    record: the number of the record, the header included, which is the row number that a spreadsheet shows.
    """

    record: int

    def __new__(cls, line: int, record: int) -> LineNumber:
        number = super().__new__(cls, line)
        number.record = record
        return number

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # for copies, and for other processes
        return int(self), self.record


def place(file: str | Path, row: int | None) -> str:
    """Return a row of a file in words: "train.csv, row 3"; for a row of None or 0 the file name alone.

    Where the line and the number of the record differ, both are named: "train.csv, line 612, record 468".
    """
    if isinstance(row, LineNumber):
        return f"{file}, line {int(row)}, record {row.record}"
    return f"{file}, row {row}" if row else str(file)


def places(origins: Sequence[tuple[str, int | None]]) -> list[str]:
    """Return each (file, row) pair in words, as `place` does, with paths relative to the folder that all files share.

    origins: (file, row) pairs; a row of None or 0 is the whole file.
    """
    paths = [os.path.abspath(file) for file, _ in origins]
    root = os.path.commonpath(paths) if paths else ""
    names = [os.path.basename(path) if path == root else os.path.relpath(path, root) for path in paths]
    return [place(name, row) for name, (_, row) in zip(names, origins, strict=True)]


@dataclass(frozen=True)
class Finding:
    """One problem in the user's data: where it is, the value, and the reason in words."""

    file: str
    # The line number from 1, as an editor shows it; None or 0 for the whole file.
    row: int | None
    column: str | None
    value: str | None
    reason: str

    def __str__(self) -> str:
        text = place(self.file, self.row)
        if self.column is not None:
            text += f", column {self.column!r}"
        if self.value is not None and self.value != self.file:
            text += f": {shorten(self.value)!r}"
        return f"{text}: {self.reason}"

    @property
    def group(self) -> tuple[str | None, str]:
        """Return the column and the reason without what it quotes and counts; findings of one sort have the same."""
        return self.column, QUOTED.sub("…", self.reason)


class DataError(MapstoError, ValueError):
    """The error for data that cannot be used as they are.

    findings: the problems, or the first of them. total: the number of all problems, by default those in `findings`.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = (), total: int | None = None) -> None:
        self.findings = tuple(findings)
        total = len(self.findings) if total is None else total
        lines = [message, *(f"  {finding}" for finding in self.findings[:SHOWN_FINDINGS])]
        if total > SHOWN_FINDINGS:
            lines.append(f"  … and {total - SHOWN_FINDINGS} more")
        super().__init__("\n".join(lines))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural, such as "2 errors"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def free_name(name: str, columns: Collection[str]) -> str:
    """Return a name for a new column that no column of a table has: `name`, or with a number behind it, such as "row_2"."""
    return next(
        candidate for number in count(1) if (candidate := name if number == 1 else f"{name}_{number}") not in columns
    )


def shorten(text: str, limit: int = 60) -> str:
    """Return a text as one line of at most `limit` characters, cut with "…" if it is longer.

    A printable text within the limit is returned unchanged, because its spaces may be the problem that a message reports.
    """
    flat = " ".join(text.split()) if len(text) > limit or not text.isprintable() else text
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


# Characters that move the cursor, colour, hide or reorder text where it is printed, and halves of characters. Tab and line feed
# are not among them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with each control character as its number, such as \u001b, so that it cannot act on a terminal."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


# The colours of lines by their beginning, as ANSI codes.
COLOURS = {"note:": "33", "error:": "31"}


def coloured(text: str, stream: TextIO) -> str:
    """Return a line for a stream: the first word of a note or an error in colour, if the stream is a terminal that has colours.

    The environment variable NO_COLOR turns colours off (https://no-color.org).
    """
    code = next((code for word, code in COLOURS.items() if text.startswith(word)), None)
    has_colours = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if code is None or not has_colours:
        return text
    word, rest = text.split(":", 1)
    return f"\x1b[{code}m{word}:\x1b[0m{rest}"


def near(word: str, choices: Iterable[str]) -> str:
    """Return a hint such as " (did you mean 'label'?)" when one of `choices` is similar to `word`, else ""."""
    lowered = {choice.lower(): choice for choice in choices}
    matches = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f" (did you mean {lowered[matches[0]]!r}?)" if matches else ""
