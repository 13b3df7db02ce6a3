"""Answers drawn into the values that they lie in, as files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mapsto import checkpoint, kinds
from mapsto.answers import Engine
from mapsto.arrow import Arrow
from mapsto.data import Table
from mapsto.errors import UsageError
from mapsto.examples import bind_to
from mapsto.kinds import BadCell


def write_file(folder: Path, origin: tuple[str, int], number: int, suffix: str, content: bytes) -> None:
    """A file named by its number and by where its row came from."""
    file, row = origin
    name = f"{Path(file).stem}-{row}" if row else Path(file).stem
    checkpoint.write_atomic(folder / f"{number:05}-{name}{suffix}", content)


class Drawing:
    """An engine that also writes each value to a folder, its answer drawn in. Raises UsageError for answers without a place."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.ports = [port for port in engine.arrow.targets if kinds.target(port.kind).lies_in]
        if not self.ports:
            raise UsageError(f"--draw is for answers that lie in what is read, such as boxes, not {engine.arrow}")
        self.number = 0

    @property
    def arrow(self) -> Arrow:
        """What the mapping reads and answers."""
        return self.engine.arrow

    @property
    def cut_rows(self) -> int:
        """How many rows were too long."""
        return self.engine.cut_rows

    def answer_parts(self, parts: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """What the engine answers, drawn as it comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part, answers in self.engine.answer_parts(parts):
            bound = bind_to(self.arrow, part, answers=False) if len(part) else self.arrow
            for place, answer in zip(part.in_order(), answers, strict=True):
                self.number += 1
                if isinstance(place, int) and "error" not in answer:
                    self._draw(bound, part, place, answer)
            yield part, answers

    def _draw(self, bound: Arrow, part: Table, row: int, answer: dict[str, Any]) -> None:
        kind = kinds.source(kinds.target(self.ports[0].kind).lies_in)
        column = next(port.column for port in bound.sources if port.kind == kind.kind)
        assert column is not None
        file = part.origin(row)
        try:
            value = kind.read(kind.located(part.column(column)[row], Path(file[0]).parent))
        except BadCell:  # as it changed meanwhile; its answer stands in the table
            return
        suffix, content = kind.drawn(value, _marks(self.ports, answer))
        write_file(self.folder, file, self.number, suffix, content)


def _marks(ports: Sequence[Any], answer: dict[str, Any]) -> list[kinds.Mark]:
    found = []
    for port in ports:
        own = answer.get(port.column or port.kind, answer)
        said = own.get(port.kind) if isinstance(own, dict) else own
        found += kinds.target(port.kind).marks(said or [])
    return found
