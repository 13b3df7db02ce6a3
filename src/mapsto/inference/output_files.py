"""Files for answers: copies of the inputs with answers drawn in, or answers that are files themselves, such as pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mapsto import files, kinds
from mapsto.data.rows import bind_to
from mapsto.data.table import Table
from mapsto.errors import BadCell, UsageError
from mapsto.inference.table_engine import Engine
from mapsto.task.arrow import Arrow, Port
from mapsto.task.capabilities import FileBacked, require
from mapsto.task.source_capabilities import Mark, Spatial
from mapsto.task.target_capabilities import Located, Reconstruction

# Media types of the files by their endings.
MEDIA_TYPES = {".png": "image/png", ".wav": "audio/wav"}

ROWS_AT_ONCE = 256  # rows whose answers, as large as files, are in memory at a time


def write_file(
    folder: Path, origin: tuple[str, int], number: int, suffix: str, content: bytes, overwrite: bool = False
) -> Path:
    """Write the file of one answer to a folder as "<number>-<input file>-<row><suffix>", and return its path.

    origin: file and row number of the input; the row is 0, and left out of the name, if the file is the whole input.
    number: number of the row among all rows, which makes the name unique.
    suffix: ending of the file name, such as ".png". overwrite: whether a file of this name with other content is replaced.
    Raises UsageError if there is such a file that is not to be replaced.
    """
    file, row = origin
    name = f"{Path(file).stem}-{row}" if row else Path(file).stem
    path = folder / f"{number:05}-{name}{suffix}"
    if not overwrite and path.exists() and not (path.is_file() and path.read_bytes() == content):
        raise UsageError(f"{path} is there with other content; name another folder, or add --overwrite")
    files.write_atomic(path, content)
    return path


class FileWriter(ABC):
    """An engine that answers tables like the engine it wraps, and also writes a file of each answer to a folder.

    engine: computes the answers. overwrite: as for `write_file`.
    """

    def __init__(self, engine: Engine, folder: Path, overwrite: bool = False) -> None:
        self.engine, self.folder, self.overwrite = engine, folder, overwrite
        self.number = 0  # of the current row, from 1

    @property
    def arrow(self) -> Arrow:
        """Return the model's arrow, which names its sources and targets, such as `text -> label`."""
        return self.engine.arrow

    @property
    def cut_rows(self) -> int:
        """Return how many of the rows answered so far were longer than the model reads and lost tokens."""
        return self.engine.cut_rows

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with the engine's answers (one dict per row), after the files of the answers are written."""
        # A drawing and an answer of one command may be in one folder.
        is_locked = isinstance(self.engine, FileWriter) and self.engine.folder == self.folder
        with nullcontext() if is_locked else files.writing_alone(self.folder):
            for table, answers in self.engine.answer_tables(tables):
                # An empty table may lack the columns to bind.
                bound = bind_to(self.arrow, table, answers=False) if len(table) else self.arrow
                for row, answer in zip(table.in_order(), answers, strict=True):
                    self.number += 1
                    # A row without an answer has no file, but keeps its number.
                    if isinstance(row, int) and "error" not in answer:
                        self.write(bound, table, row, answer)
                yield table, answers

    @abstractmethod
    def write(self, bound: Arrow, table: Table, row: int, answer: dict[str, Any]) -> None:
        """Write the file of the answer to one row of a table.

        bound: the arrow bound to the table's columns. row: index of the row in the table.
        answer: the row's answer, as the engine gave it; AnswerWriter replaces values in it by paths of files.
        """


class DrawingWriter(FileWriter):
    """A FileWriter that writes copies of the inputs, such as pictures, with the answers drawn in, such as boxes.

    Raises UsageError if the model has no answers that lie in the input.
    """

    def __init__(self, engine: Engine, folder: Path, overwrite: bool = False) -> None:
        super().__init__(engine, folder, overwrite)
        # A target that resembles its source, such as a generated picture, has nothing to draw into it.
        targets = zip(engine.arrow.targets, kinds.answering(engine.arrow), strict=True)
        self.ports = [
            port
            for port, target in targets
            if issubclass(target, Located)
            and not target.resembles
            and issubclass(kinds.source(target.lies_in), Spatial)
        ]
        if not self.ports:
            raise UsageError(f"--draw is for answers that lie in pictures, such as boxes, not {engine.arrow}")

    def write(self, bound: Arrow, table: Table, row: int, answer: dict[str, Any]) -> None:
        target = kinds.target(self.ports[0].kind)
        assert issubclass(target, Located)
        kind = require(kinds.source(target.lies_in), Spatial, "drawn into")
        column = next(port.column for port in bound.sources if port.kind == kind.kind)
        assert column is not None
        try:
            cell = require(kind, FileBacked, "named").locate(table.column(column)[row], table.beside(row))
            value = kind.read(cell)
        except BadCell:  # the file changed since it was answered; the answer stands in the table
            return
        suffix, content = kind.draw(value, _marks(self.ports, answer))
        write_file(self.folder, table.origin(row), self.number, suffix, content, self.overwrite)


class AnswerWriter(FileWriter):
    """A FileWriter for answers that are files, such as generated pictures.

    In the yielded answers, the path of the file replaces the value. If several target ports answer with files, each of
    them has a folder of its own.
    """

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield tables of at most ROWS_AT_ONCE rows with the engine's answers, after the answers' files are written."""
        return super().answer_tables(chain.from_iterable(map(_split, tables)))

    def write(self, bound: Arrow, table: Table, row: int, answer: dict[str, Any]) -> None:
        has_several = sum(are_files(self.arrow)) > 1
        for file in answer_files(self.arrow, answer):
            folder = self.folder / file.name if has_several else self.folder
            folder.mkdir(exist_ok=True)
            path = write_file(folder, table.origin(row), self.number, file.suffix, file.content, self.overwrite)
            file.replace(str(path))


@dataclass(frozen=True)
class AnswerFile:
    """An answer that is a file.

    name: of its target. suffix, content: of the file. answer, kind: the entry `kind` of the dict `answer` holds its value.
    """

    name: str
    suffix: str
    content: bytes
    answer: dict[str, Any]
    kind: str

    @property
    def media_type(self) -> str:
        """Return the media type of the file, such as "audio/wav"."""
        return MEDIA_TYPES[self.suffix]

    def replace(self, value: Any) -> None:
        """Put `value` in the place of the answer."""
        self.answer[self.kind] = value


def answer_files(arrow: Arrow, answer: dict[str, Any]) -> Iterator[AnswerFile]:
    """Yield the files among the answers to a row; none for a row that could not be answered. answer: as `Predictor` gives it."""
    if "error" in answer:
        return
    for port, target in zip(arrow.targets, kinds.answering(arrow), strict=True):
        if not issubclass(target, FileBacked):
            continue
        assert issubclass(target, Reconstruction)
        name = port.column or port.kind
        port_answer = answer if len(arrow.targets) == 1 else answer[name]
        value = port_answer[port.kind]
        if value is not None and (file := target.file(value)) is not None:
            yield AnswerFile(name, *file, port_answer, port.kind)


def are_files(arrow: Arrow) -> list[bool]:
    """Return for each target port of an arrow whether its answers are files."""
    return [issubclass(target, FileBacked) for target in kinds.answering(arrow)]


def _split(table: Table) -> Iterator[Table]:
    """Yield a table in parts of at most ROWS_AT_ONCE rows. A table with unreadable rows is yielded whole.

    Only the whole table knows the places of its unreadable rows among the others.
    """
    if table.rejected:
        yield table
        return
    for start in range(0, len(table), ROWS_AT_ONCE):
        yield table.select(range(start, min(start + ROWS_AT_ONCE, len(table))))


def _marks(ports: Sequence[Port], answer: dict[str, Any]) -> list[Mark]:
    """Return the regions, such as boxes, in one row's answers to the target ports `ports`, as marks to draw."""
    marks = []
    for port in ports:
        port_answer = answer.get(port.column or port.kind, answer)
        value = port_answer.get(port.kind) if isinstance(port_answer, dict) else port_answer
        target = kinds.target(port.kind)
        assert issubclass(target, Located)
        marks += target.regions(value or [])
    return marks
