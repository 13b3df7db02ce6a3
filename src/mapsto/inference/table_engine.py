"""Answers for any number of rows, from file to file in constant memory: the order is kept, and no row is lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

from mapsto.data.table import Table, stream_tables
from mapsto.errors import DataError, Finding
from mapsto.progress import Progress
from mapsto.task.arrow import Arrow


class Engine(Protocol):
    """What answers tables: a Predictor, or several of them elsewhere. `cut_rows`: how many rows were too long for it."""

    @property
    def cut_rows(self) -> int: ...

    @property
    def arrow(self) -> Arrow: ...

    def answer_parts(self, parts: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Each table with one answer for every row of it; the first that has rows decides which columns are read."""
        ...


def answer_all(
    engine: Engine, source: Any, encoding: str | None = None, progress: Progress | None = None
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Each part of a source with one answer for every row of it, in order; `progress` is told how many there are, what could
    not be read, and what was left aside.

    Raises UsageError, DataError, and RunError where the engine breaks down.
    """
    shown, done = progress or Progress(), 0

    def noted() -> Iterator[Table]:
        for part in stream_tables(source, encoding):
            for fault in (*part.remarks_on(), *part.rejected):
                shown.say(f"note: {fault}")
            yield part

    shown.rows("answered", done, None)
    try:
        for part, answers in engine.answer_parts(noted()):
            done += len(answers)
            shown.rows("answered", done, None)
            yield part, answers
        shown.rows("answered", done, done)
    finally:
        shown.close()


class Answered:
    """Rows beside their answers; they can be gone through again and again, and are never held.

    Which columns there are is known at the end only, so the answers are put into a temporary file in `folder` first (a
    kill leaves nothing of it), and the rows are read once more beside it. `rows`, `failed`: how many there are. nested: whether
    lists stay lists, for formats that hold them; else they are JSON.
    """

    def __init__(
        self,
        engine: Engine,
        source: Any,
        encoding: str | None = None,
        progress: Progress | None = None,
        folder: Path | None = None,
        nested: bool = False,
    ) -> None:
        self.source, self.encoding = source, encoding
        self.rows = self.failed = 0
        self._kept = TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115
        given: dict[str, None] = {}
        answered: dict[str, None] = {}
        for part, answers in answer_all(engine, source, encoding, progress):
            given |= dict.fromkeys(part.columns)
            for answer in answers:
                shown = {name: value if nested else _cell(value) for name, value in answer.items() if name != "scores"}
                answered |= dict.fromkeys(shown)
                self._kept.write(json.dumps(shown) + "\n")
                self.failed += "error" in answer
            self.rows += len(answers)
        self._given = list(given)
        self._names = {name: f"predicted_{name}" if name in given else name for name in answered}

    @property
    def columns(self) -> list[str]:
        """Those of the rows, then those of the answers; a name that the rows have gets "predicted_" before it."""
        return list(dict.fromkeys([*self._given, *self._names.values()]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row with its answer. Raises DataError when the source is no longer what it was."""
        self._kept.seek(0)
        for part in stream_tables(self.source, self.encoding):
            for place in part.in_order():
                line = self._kept.readline()
                if not line:
                    raise DataError(f"{self.source} changed while it was read")
                cells = {} if isinstance(place, Finding) else {name: part.data[name][place] for name in part.columns}
                yield cells | {self._names[name]: value for name, value in json.loads(line).items()}


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
