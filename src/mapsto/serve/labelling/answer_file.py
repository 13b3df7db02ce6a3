"""The file of answers: one line of JSON for each labelled row, which `fit` reads as it is.

An answer is appended and fsynced before its request is answered, so a crash loses none that a person was told of. A line that a
crash tore is no answer yet; it is cut off, and the page sends its answer again under the same id, which is written once. Taking
an answer back replaces the file by one without it. Beside the file lies a hidden journal with the skipped rows and the points of
the learning curve; its lock keeps a second server from the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import DataError, RunError, UsageError
from mapsto.files import explaining_write_errors, open_for_appending, open_lock_file, sync_folder, write_atomic

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there a second server is not noticed
    fcntl = None  # type: ignore[assignment]

# The column, an object in each line, that tells who gave an answer and when; as an object it is no text to train on.
DETAILS = "labelling"


@dataclass(frozen=True)
class Answer:
    """An answer to a row. key: the row's hash. id: of the request. person: who gave it. when: the time in UTC (ISO 8601).

    cell: the answer itself. record: the line of the file.
    """

    key: str
    id: str
    person: str
    when: str
    cell: Any
    record: dict[str, Any]


class AnswerFile:
    """The answers in a file by the key of their row, in the order of time.

    path: a .jsonl file, made if there is none. column: that of the answers. say: prints a note, such as on a torn line.
    Raises UsageError for another suffix and a missing folder, DataError for a file with lines that this class did not write,
    RunError if another server writes it.
    """

    def __init__(self, path: Path, column: str, say: Callable[[str], object] = lambda note: None) -> None:
        require_answer_path(path)
        self.path, self.column = path, column
        self.answers: dict[str, Answer] = {}
        self.keys_by_id: dict[str, str] = {}
        self.skips: dict[str, dict[str, Any]] = {}
        self.points: list[dict[str, Any]] = []
        self._lock = self._take_lock()
        try:
            self._read_answers(say)
            self._read_journal()
            with explaining_write_errors(path):
                self._stream = open_for_appending(path)
                sync_folder(path.parent)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def journal_path(self) -> Path:
        """The hidden file with the skipped rows."""
        return self.path.with_name(f".{self.path.name}.journal")

    def close(self) -> None:
        """Close the files and give the lock back."""
        self._stream.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def add(self, answer: Answer) -> None:
        """Append an answer, and return once it is on the disk. Raises RunError if it cannot be written; then it is not there."""
        line = _encode(answer.record)
        size = os.fstat(self._stream.fileno()).st_size
        try:
            with explaining_write_errors(self.path):
                _write_all(self._stream.fileno(), line)
                os.fsync(self._stream.fileno())
        except RunError:
            os.ftruncate(self._stream.fileno(), size)
            raise
        self._hold(answer)

    def remove(self, id: str) -> Answer | None:
        """Take the answer of this id back: write the file without it. Return it, or None if there is none (any more)."""
        key = self.keys_by_id.get(id)
        if key is None:
            return None
        rest = [answer for answer in self.answers.values() if answer.key != key]
        write_atomic(self.path, b"".join(_encode(answer.record) for answer in rest))
        self._stream.close()
        self._stream = open_for_appending(self.path)
        del self.keys_by_id[id]
        return self.answers.pop(key)

    def skip(self, key: str, id: str, person: str, when: str) -> None:
        """Record that a person skipped a row."""
        if id not in self.skips:
            self._journal({"skip": key, "id": id, "by": person, "when": when})
            self.skips[id] = {"key": key, "by": person, "when": when}

    def unskip(self, id: str) -> str | None:
        """Take a skip back; return the key of its row, or None if there is none (any more)."""
        if id not in self.skips:
            return None
        self._journal({"unskip": id})
        return str(self.skips.pop(id)["key"])

    def add_point(self, point: dict[str, Any]) -> None:
        """Record a point of the learning curve."""
        self._journal({"point": point})
        self.points.append(point)

    def _hold(self, answer: Answer) -> None:
        self.answers[answer.key] = answer
        self.keys_by_id[answer.id] = answer.key

    def _take_lock(self) -> int:
        """Return the descriptor of the journal, locked. Raises RunError if another server has it."""
        with explaining_write_errors(self.journal_path):
            descriptor = open_lock_file(self.journal_path)
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise RunError(
                    f"another `mapsto label` writes {self.path}; open its page, or name another file"
                ) from error
            except OSError:
                pass  # the file system knows no locks
        return descriptor

    def _read_answers(self, say: Callable[[str], object]) -> None:
        """Read the file, and cut off a last line that a crash tore."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        lines = content.split(b"\n")
        torn = lines.pop()
        if torn:
            # A whole line that lacks only its end was not confirmed either; its answer is kept, and known by its id.
            if _parse(torn) is not None:
                lines.append(torn)
                torn = b""
            else:
                say(f"{self.path}: the last line was not finished when the server was ended; it is cut off")
        num_found = 0
        for number, line in enumerate(lines, 1):
            answer = self._read_line(line)
            if answer is None:
                raise DataError(
                    f"{self.path}, line {number} was not written by `mapsto label` for the column {self.column!r}: name a new "
                    "file as --out, and put the tables together later"
                )
            num_found += 1
            if answer.key not in self.answers:
                self._hold(answer)
        repaired = b"".join(line + b"\n" for line in lines)
        if repaired != content or num_found != len(self.answers):
            write_atomic(self.path, b"".join(_encode(answer.record) for answer in self.answers.values()))

    def _read_line(self, line: bytes) -> Answer | None:
        """Return the answer of a line; None if it is none."""
        record = _parse(line)
        details = record.get(DETAILS) if record is not None else None
        if record is None or not isinstance(details, dict) or self.column not in record:
            return None
        fields = [details.get(name) for name in ("key", "id", "by", "when")]
        if not all(isinstance(value, str) for value in fields):
            return None
        key, id, person, when = map(str, fields)
        return Answer(key, id, person, when, record[self.column], record)

    def _read_journal(self) -> None:
        """Read the journal; a torn line in it is passed, as a skipped row is merely asked again."""
        for line in self.journal_path.read_bytes().split(b"\n"):
            entry = _parse(line) or {}
            if "skip" in entry:
                self.skips[str(entry.get("id"))] = {
                    "key": str(entry["skip"]),
                    "by": str(entry.get("by")),
                    "when": str(entry.get("when")),
                }
            elif "unskip" in entry:
                self.skips.pop(str(entry["unskip"]), None)
            elif isinstance(entry.get("point"), dict):
                self.points.append(entry["point"])

    def _journal(self, entry: dict[str, Any]) -> None:
        """Append an entry to the journal. It begins with a new line, so that a torn line before it costs itself alone."""
        with explaining_write_errors(self.journal_path):
            os.lseek(self._lock, 0, os.SEEK_END)
            _write_all(self._lock, b"\n" + _encode(entry))
            os.fsync(self._lock)


def require_answer_path(path: Path) -> None:
    """Raise UsageError for a file in which answers cannot be kept."""
    if path.suffix.lower() != ".jsonl":
        raise UsageError(
            f"--out {path.name}: answers are kept as .jsonl, which fit reads; --export writes csv and others from it"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file")


def _encode(record: dict[str, Any]) -> bytes:
    """Return a line of JSON in UTF-8."""
    return (json.dumps(record, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line; None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes; a full disk may take only some of them at once."""
    while content:
        content = content[os.write(descriptor, content) :]
