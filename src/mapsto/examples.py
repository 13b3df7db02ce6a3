"""Rows of a table → values → pieces → examples: reading cells, cutting what is too long, hiding what `~` hides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np

from mapsto import kinds
from mapsto.arrow import Arrow, Port, bind, require_kinds, restores
from mapsto.corrupt import Corruption, generator
from mapsto.data import Table
from mapsto.errors import BadCell, DataError, Finding, UsageError
from mapsto.options import require_choice
from mapsto.sequence import (
    SHORTEST_ROW,
    Answer,
    Batch,
    Example,
    Ints,
    Part,
    Piece,
    collate,
    lone_length,
    pack,
    row_length,
)
from mapsto.source import Source
from mapsto.target import Target

FITTING_SAMPLE = 2000
MOST_SKIPPED = 0.01
MOST_UNKNOWN = 0.02
SHORT_GROUP = 0.25
SHORTEST_PIECE = 4
MANY_ALIKE = 8
ROOM = 2**30  # bytes of pieces that are kept of values which can be made again
PLAIN = str | int | float  # cells that a message can show
Answered = tuple[Answer | None, ...]


def bind_to(arrow: Arrow, table: Table, answers: bool = True) -> Arrow:
    """The arrow with a column of `table` for every port; without `answers` the targets' columns need not be there. Names of files
    that are a value each, such as pictures, are no text unless the arrow says so."""
    require_kinds(arrow, kinds.names("source"), kinds.names("target"))
    samples: dict[str, list[object]] = {}

    def fits(kind: str, column: str, role: str) -> bool:
        values = samples.setdefault(column, table.column(column)[:FITTING_SAMPLE])
        if kind not in kinds.media() and any(kinds.source(of).fits(values) for of in kinds.media()):
            return False
        return kinds.source(kind).fits(values) if role == "source" else kinds.target(kind).fits(values)

    if answers:
        return bind(arrow, table.columns, fits)
    read = bind(arrow.body, table.columns, fits)
    return replace(arrow, sources=read.sources)


@dataclass(frozen=True)
class Rows:
    """Values read from `table`: `sources[port]` and `targets[port]` are parallel to `rows`, numbers of its rows."""

    table: Table
    sources: list[list[Any]]
    targets: list[list[Any]]
    rows: Ints
    faults: list[Finding]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Ints) -> Rows:
        """The rows at `indices`."""
        chosen = [int(i) for i in indices]
        return Rows(
            self.table,
            [[column[i] for i in chosen] for column in self.sources],
            [[column[i] for i in chosen] for column in self.targets],
            self.rows[indices],
            self.faults,
        )

    def whole(self) -> Rows:
        """The rows without a cell that could not be read."""
        bad = {(fault.file, fault.row) for fault in self.faults}
        good = [i for i, row in enumerate(self.rows.tolist()) if self.table.origin(row) not in bad]
        return self.select(np.array(good, np.int64))


def read_cells(
    arrow: Arrow,
    table: Table,
    sources: Mapping[str, Source | type[Source]],
    targets: Sequence[Target | type[Target]],
    answers: bool = True,
) -> Rows:
    """Every cell the arrow reads, of all rows; each that cannot be read is None, and named in `faults`."""
    faults: dict[int, list[Finding]] = {}

    def blame(row: int, column: str | None, value: str | None, reason: object) -> None:
        faults.setdefault(row, []).append(Finding(*table.origin(row), column, value, str(reason)))

    def read_column(port: Port, kind: Source | type[Source] | Target | type[Target]) -> list[Any]:
        assert port.column is not None
        values = []
        for row, cell in enumerate(table.column(port.column)):
            try:
                values.append(kind.read(kind.located(cell, table.beside(row)) if kind.suffixes else cell))
            except BadCell as bad:
                value = str(cell).encode(errors="backslashreplace").decode() if isinstance(cell, PLAIN) else None
                blame(row, port.column, value, bad)
                values.append(None)
        return values

    read_sources = [read_column(port, sources[port.kind]) for port in arrow.sources]
    wanted = list(zip(arrow.targets, targets, restores(arrow), strict=True)) if answers else []
    read_targets = [
        [None] * len(table) if restored is not None else read_column(port, target) for port, target, restored in wanted
    ]
    for (port, target, _), found in zip(wanted, read_targets, strict=True):
        for source, values in zip(arrow.sources, read_sources, strict=True):
            if source.kind == target.lies_in:
                for row, (answer, value) in enumerate(zip(found, values, strict=True)):
                    if answer is not None and value is not None and (reason := target.misplaced(answer, value)):
                        blame(row, port.column, None, reason)
    listed = list(chain(*(faults[row] for row in sorted(faults))))
    return Rows(table, read_sources, read_targets, np.arange(len(table)), listed)


def read_rows(
    arrow: Arrow,
    table: Table,
    sources: Mapping[str, Source | type[Source]],
    targets: Sequence[Target | type[Target]],
    answers: bool = True,
) -> Rows:
    """The rows of which every cell can be read; the faults of the others are named."""
    rows = read_cells(arrow, table, sources, targets, answers)
    return rows if not rows.faults else rows.whole()


def require_whole(rows: Rows, rejected: Sequence[Finding], total: int, bad_rows: str | None = None) -> list[Finding]:
    """The faults to write to rejected.csv. Raises DataError unless bad rows are to be skipped and are few enough; None where
    they never are."""
    if bad_rows is not None:
        require_choice("bad_rows", bad_rows)
    faults = [*rejected, *rows.faults]
    require_few(faults, len(faults), total + len(rejected) - len(rows), total + len(rejected), bad_rows)
    return faults


def require_some(rows: Rows, rejected: Sequence[Finding]) -> list[Finding]:
    """The faults of rows that cannot be read, where each costs itself alone. Raises DataError where no row is left."""
    faults = [*rejected, *rows.faults]
    if not len(rows):
        raise DataError("no row can be read:", faults)
    return faults


def require_few(shown: Sequence[Finding], faults: int, bad: int, total: int, bad_rows: str | None) -> None:
    """Raise DataError unless bad rows are to be skipped, are few enough, and leave some; `shown` are the first faults."""
    if faults and bad_rows != "skip":
        skip = "" if bad_rows is None else ", or drop them with --bad-rows skip"
        raise DataError(f"{faults} bad cells or rows; mend them{skip}:", shown, faults)
    if bad > MOST_SKIPPED * total:
        raise DataError(f"{bad} of {total} rows are bad, more than the 1 % that may be skipped:", shown, faults)
    if bad == total:
        raise DataError("no rows are left", shown, faults)


def too_much_unknown(read: Iterable[tuple[Source, Ints]]) -> str | None:
    """What to say of tokens, each lot beside the source that made it, of which many stand for what this has no token for; None
    where they are few."""
    unknown = total = 0
    for source, tokens in read:
        unknown, total = unknown + source.unknown(tokens), total + len(tokens)
    if unknown <= MOST_UNKNOWN * total:
        return None
    share = f"{100 * unknown / total:.0f} %"
    return f"{unknown:,} of {total:,} tokens ({share}) are unknown: the vocabulary has none for what stands there, and it is lost"


def unknown_in(encoded: Encoded, sources: Mapping[str, Source]) -> str | None:
    """The same of rows that were made pieces."""
    if not encoded.total:  # values that are read whole
        return None
    return too_much_unknown((sources[piece.kind], piece.tokens) for pieces in encoded.pieces for piece in pieces)


def lie_in_raw(targets: Sequence[Target]) -> bool:
    """Whether some answers are told in the raw coordinates of a source, so that the alignment of its pieces is needed."""
    return any(target.lies_in for target in targets)


@dataclass(frozen=True)
class Encoded:
    """Pieces of every example, the index into Rows each came from, and what did not fit in one piece.

    long: rows longer than the model takes. lost: tokens cut off. total: tokens before cutting.
    """

    pieces: Sequence[tuple[Piece, ...]]
    of: Ints
    long: Ints
    lost: int
    total: int


def require_room(arrow: Arrow, longest: int) -> None:
    """Raise UsageError when examples of `longest` tokens leave no room for a value of every source."""
    fewest = SHORTEST_PIECE * len(arrow.sources)
    if longest < fewest:
        raise UsageError(f"examples of {longest} tokens are too short; {arrow} needs at least {fewest}")


def encode(
    arrow: Arrow, rows: Rows, sources: Mapping[str, Source], longest: int, long: str, aligned: bool = False
) -> Encoded:
    """All rows as pieces. What is longer than `longest` tokens is cut, made into windows, or raises DataError; values that are
    always read whole become pieces when they are asked for.

    Raises UsageError when `longest` leaves no room for a value.
    """
    require_room(arrow, longest)
    if all(sources[port.kind].longest is not None for port in arrow.sources):
        return Encoded(Whole(arrow, rows, sources, aligned), np.arange(len(rows)), np.zeros(0, np.int64), 0, 0)
    columns = [
        sources[port.kind].encode(values, place, aligned)
        for place, (port, values) in enumerate(zip(arrow.sources, rows.sources, strict=True))
    ]
    pieces: list[tuple[Piece, ...]] = []
    of: list[int] = []
    too_long: list[int] = []
    lost = total = 0
    for index, example in enumerate(zip(*columns, strict=True)):
        size = sum(map(len, example))
        total += size
        parts = [example]
        if size > longest:
            too_long.append(index)
            if long == "window" and len(example) == 1:
                parts = [(window,) for window in sources[example[0].kind].windows(example[0], longest)]
            else:
                parts = [_cut(example, sources, longest)]
                lost += size - longest
        pieces.extend(parts)
        of.extend([index] * len(parts))
    if too_long and long == "error":
        raise DataError(f"{len(too_long)} rows are longer than {longest} tokens (--long cut or --long window go on)")
    return Encoded(pieces, np.asarray(of, np.int64), np.asarray(too_long, np.int64), lost, total)


class Whole(Sequence[tuple[Piece, ...]]):
    """Pieces of values that are read whole, made when they are asked for; as many are kept as there is room for."""

    def __init__(self, arrow: Arrow, rows: Rows, sources: Mapping[str, Source], aligned: bool) -> None:
        self.columns = [(sources[port.kind], values) for port, values in zip(arrow.sources, rows.sources, strict=True)]
        self.rows, self.aligned, self.room = len(rows), aligned, ROOM
        self.kept: dict[int, tuple[Piece, ...]] = {}

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: Any) -> Any:
        if row >= self.rows:
            raise IndexError(row)
        if (found := self.kept.get(row)) is not None:
            return found
        made = tuple(
            source.encode([values[row]], place, self.aligned)[0] for place, (source, values) in enumerate(self.columns)
        )
        size = sum(piece.nbytes for piece in made)
        if size <= self.room:
            self.room -= size
            self.kept[row] = made
        return made


def _cut(example: tuple[Piece, ...], sources: Mapping[str, Source], longest: int) -> tuple[Piece, ...]:
    """Shorten the longest piece again and again until the example fits."""
    parts = list(example)
    while (over := sum(map(len, parts)) - longest) > 0:
        sizes = sorted({len(part) for part in parts}, reverse=True)
        widest = max(range(len(parts)), key=lambda i: len(parts[i]))
        step = over if len(sizes) == 1 or len(parts) == 1 else min(over, max(1, sizes[0] - sizes[1]))
        parts[widest] = sources[parts[widest].kind].cut(parts[widest], max(SHORTEST_PIECE, len(parts[widest]) - step))
    return tuple(parts)


class Pieces(Protocol):
    """The pieces of examples by number, in memory or read where they are stored."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]: ...


@dataclass(frozen=True)
class Examples:
    """Examples by number. answers: those that are not made by `~`, None where all are. of: the index into Rows of each.

    What `~` hides, how a value is augmented, and which others it is mixed with, is a function of (seed, row, step, view) and of
    nothing else. augment, mixing: how; None for values as they are. recolour: whether they may look another way too. laid: by
    index into Rows the answers of an example, encoded against its pieces, where answers lie in them. mixed: the answers to pieces
    that were mixed, by the indices of those that they have parts of.
    """

    arrow: Arrow
    sources: Mapping[str, Source]
    pieces: Pieces
    answers: Sequence[Answered] | None
    of: Ints | None
    seed: int
    corruption: Corruption
    augment: str | None = None
    recolour: bool = True
    mixing: str | None = None
    laid: Callable[[int, tuple[Piece, ...]], Answered] | None = None
    mixed: Callable[[Sequence[int], tuple[Piece, ...], Sequence[Part]], Answered] | None = None

    def __len__(self) -> int:
        return len(self.pieces)

    def example(self, row: int, step: int, progress: float, view: int = 0) -> Example:
        """Example `row` as step `step` sees it; objectives that see a row several times number their views."""
        rng = generator(self.seed, row + view * len(self), step)
        pieces = self._varied(row, rng)
        answers = self.answers[row] if self.answers is not None else (None,) * len(self.arrow.targets)
        if self.mixing is not None:
            pieces, answers = self._mixed(self.mixing, row, pieces, rng)
        elif self.laid is not None and self.of is not None:
            answers = self.laid(int(self.of[row]), pieces)
        if not any(port.corrupted for port in self.arrow.sources):
            return Example(pieces, answers, row)
        shown = list(pieces)
        hidden: dict[int, Ints] = {}
        for i, port in enumerate(self.arrow.sources):
            if port.corrupted:
                shown[i], hidden[i] = self.sources[port.kind].corrupt(pieces[i], self.corruption, rng, progress)
        found = list(answers)
        for port_index, source in enumerate(restores(self.arrow)):
            if source in hidden and len(hidden[source]):
                told_at = sum(map(len, pieces[:source])) + hidden[source] - self.corruption.ahead
                known = told_at >= 0  # the first token of all has none before it
                found[port_index] = Answer(pieces[source].tokens[hidden[source][known]], told_at[known])
        return Example(tuple(shown), tuple(found), row, int(rng.integers(2**63)))

    def plain(self) -> Examples:
        """The same ones, neither varied nor mixed."""
        return replace(self, augment=None, mixing=None)

    def _varied(self, row: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        pieces = self.pieces[row]
        if self.augment is None:
            return pieces
        how = self.augment, self.recolour
        return tuple(self.sources[piece.kind].augment(piece, rng, *how) for piece in pieces)

    def _mixed(
        self, how: str, row: int, pieces: tuple[Piece, ...], rng: np.random.Generator
    ) -> tuple[tuple[Piece, ...], Answered]:
        """The value of example `row` with those of others at random, each varied in its own way."""
        assert self.mixed is not None and self.of is not None
        (piece,), rows = pieces, [row]
        source, parts = self.sources[piece.kind], [Part(1.0, piece)]
        known = source.mixings[how]
        if rng.random() < known.often:
            others = 1 + rng.integers(max(1, len(self) - 1), size=known.of - 1)
            rows += ((row + others) % len(self)).tolist()
            beside = [self._varied(other, rng)[0] for other in rows[1:]]
            piece, parts = source.mix([piece, *beside], rng, how)
        return (piece,), self.mixed(self.of[rows].tolist(), (piece,), parts)


def make_examples(
    arrow: Arrow,
    rows: Rows,
    encoded: Encoded,
    sources: Mapping[str, Source],
    targets: Sequence[Target],
    seed: int,
    corruption: Corruption,
) -> Examples:
    """Examples with their answers encoded once; those that `~` gives, or that lie in a piece, are made when an example is asked
    for. Ports of which `rows` has no values have no answers."""
    given = rows.targets or [[]] * len(targets)
    told = [bool(values) and source is None for values, source in zip(given, restores(arrow), strict=True)]

    def laid(index: int, pieces: tuple[Piece, ...]) -> Answered:
        return tuple(
            target.encode(rows.targets[port][index], pieces) if told[port] and (pieces or not target.lies_in) else None
            for port, target in enumerate(targets)
        )

    def mixed(indices: Sequence[int], pieces: tuple[Piece, ...], parts: Sequence[Part]) -> Answered:
        return tuple(
            target.mixed([rows.targets[port][index] for index in indices], pieces, parts) if told[port] else None
            for port, target in enumerate(targets)
        )

    answers = [laid(index, ()) for index in encoded.of.tolist()]
    moving = laid if lie_in_raw(targets) else None
    recolour = not any(target.resembles for target in targets)
    return Examples(
        arrow,
        sources,
        encoded.pieces,
        answers,
        encoded.of,
        seed,
        corruption,
        recolour=recolour,
        laid=moving,
        mixed=mixed,
    )


def batches(examples: Sequence[Example], most_tokens: int, shortest: int = SHORTEST_ROW, views: int = 1) -> list[Batch]:
    """Packed batches of about `most_tokens` places at most, in rows of `shortest` tokens or more.

    Examples in several `views` are given view by view; a batch has all views of those that it holds, in the same order.

    Long examples get long rows, since attention over long rows costs more for every token; short ones first fill what is
    left of those, and only get rows of their own when enough of them remain.
    """
    count = len(examples) // views
    sizes = [max(map(len, examples[i::count])) for i in range(count)]
    few = SHORT_GROUP * sum(sizes)
    waiting = list(range(len(sizes)))
    packed: list[Batch] = []
    while waiting:
        longest = max(sizes[i] for i in waiting)
        length = row_length(longest, shortest)
        if (total := sum(sizes[i] for i in waiting)) <= length:
            length = lone_length(total)
        elif 2 * longest > length and total == longest * len(waiting) and len(waiting) >= MANY_ALIKE:
            length = longest  # pictures are often of one size: a row each, and no place is left over
        fillers = [at for at, i in enumerate(waiting) if row_length(sizes[i], shortest) < length]
        rows = pack([sizes[i] for i in waiting], length, fillers)
        left = set(range(len(waiting))) - {at for row in rows for at in row}
        if sum(sizes[waiting[at]] for at in left) < few:
            rows, left = pack([sizes[i] for i in waiting], length), set()
        parts = min(len(rows), max(1, round(views * len(rows) * length / most_tokens)))
        for part in range(parts):
            taken = [[waiting[at] for at in row] for row in rows[part::parts]]
            chosen = sorted(i for row in taken for i in row)
            place = {index: at for at, index in enumerate(chosen)}
            seen = [examples[i + view * count] for view in range(views) for i in chosen]
            laid = [[place[i] + view * len(chosen) for i in row] for view in range(views) for row in taken]
            packed.append(collate(seen, length, laid))
        waiting = [waiting[at] for at in sorted(left)]
    return packed
