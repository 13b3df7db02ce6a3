"""Answers as files: drawn into the values that they lie in, or files themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto import files, kinds
from mapsto.data.rows import bind_to
from mapsto.data.table import Table
from mapsto.errors import BadCell, UsageError
from mapsto.inference.table_engine import Engine
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import FileBacked, Located, Mark, Reconstruction, Spatial, require

FEW = 256  # rows whose files are held at once


def write_file(folder: Path, origin: tuple[str, int], number: int, suffix: str, content: bytes) -> Path:
    """The file, named by its number and by where its row came from."""
    file, row = origin
    name = f"{Path(file).stem}-{row}" if row else Path(file).stem
    path = folder / f"{number:05}-{name}{suffix}"
    files.write_atomic(path, content)
    return path


class Written(ABC):
    """An engine that also writes something of each answer to a folder. number: of the row at hand, from 1."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
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
        """What the engine answers, written as it comes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part, answers in self.engine.answer_parts(parts):
            bound = bind_to(self.arrow, part, answers=False) if len(part) else self.arrow
            for place, answer in zip(part.in_order(), answers, strict=True):
                self.number += 1
                if isinstance(place, int) and "error" not in answer:
                    self.write(bound, part, place, answer)
            yield part, answers

    @abstractmethod
    def write(self, bound: Arrow, part: Table, row: int, answer: dict[str, Any]) -> None:
        """Write what there is of the answer to one row of a part."""


class Drawing(Written):
    """Each value with its answer drawn in. Raises UsageError for answers without a place."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        super().__init__(engine, folder)
        told = zip(engine.arrow.targets, kinds.answering(engine.arrow), strict=True)
        self.ports = [port for port, target in told if issubclass(target, Located) and not target.resembles]
        if not self.ports:
            raise UsageError(f"--draw is for answers that lie in what is read, such as boxes, not {engine.arrow}")

    def write(self, bound: Arrow, part: Table, row: int, answer: dict[str, Any]) -> None:
        target = kinds.target(self.ports[0].kind)
        assert issubclass(target, Located)
        kind = require(kinds.source(target.lies_in), Spatial, "drawn into")
        column = next(port.column for port in bound.sources if port.kind == kind.kind)
        assert column is not None
        file = part.origin(row)
        try:
            value = kind.read(require(kind, FileBacked, "named").locate(part.column(column)[row], part.beside(row)))
        except BadCell:  # as it changed meanwhile; its answer stands in the table
            return
        suffix, content = kind.draw(value, _marks(self.ports, answer))
        write_file(self.folder, file, self.number, suffix, content)


class Filing(Written):
    """Answers that are files, such as pictures; where an arrow gives several, those of each port in a folder of its own. What is
    answered then are their names."""

    def answer_parts(self, parts: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """What the engine answers, written as it comes, few rows at a time."""
        return super().answer_parts(chain.from_iterable(map(_few, parts)))

    def write(self, bound: Arrow, part: Table, row: int, answer: dict[str, Any]) -> None:
        ports = self.arrow.targets
        several = sum(are_files(self.arrow)) > 1
        for port, target in zip(ports, kinds.answering(self.arrow), strict=True):
            name = port.column or port.kind
            own, folder = answer if len(ports) == 1 else answer[name], self.folder / name if several else self.folder
            if not issubclass(target, FileBacked):
                continue
            assert issubclass(target, Reconstruction)
            if (content := target.file(own[port.kind])) is not None:
                folder.mkdir(exist_ok=True)
                own[port.kind] = str(write_file(folder, part.origin(row), self.number, *content))


def _few(part: Table) -> Iterator[Table]:
    """A table in parts of few rows, since answers that are files are large; as it is where rows of it could not be read, which
    must be told in order."""
    if part.rejected:
        yield part
        return
    for at in range(0, len(part), FEW):
        yield part.select(range(at, min(at + FEW, len(part))))


def are_files(arrow: Arrow) -> list[bool]:
    """Of each port behind an arrow, whether its answers are files."""
    return [issubclass(target, FileBacked) for target in kinds.answering(arrow)]


def _marks(ports: Sequence[Any], answer: dict[str, Any]) -> list[Mark]:
    found = []
    for port in ports:
        own = answer.get(port.column or port.kind, answer)
        said = own.get(port.kind) if isinstance(own, dict) else own
        target = kinds.target(port.kind)
        assert issubclass(target, Located)
        found += target.regions(said or [])
    return found
