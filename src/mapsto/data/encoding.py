"""Encoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.data.rows import Rows
from mapsto.errors import DataError, UsageError
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import Located, Tokenized
from mapsto.task.source import Source
from mapsto.task.target import Target

MOST_UNKNOWN = 0.02


SHORTEST_PIECE = 4


ROOM = 2**30  # bytes of pieces that are kept of values which can be made again


def too_much_unknown(read: Iterable[tuple[Source, Ints]]) -> str | None:
    """What to say of tokens, each lot beside the source that made it, of which many stand for what this has no token for; None
    where they are few."""
    unknown = total = 0
    for source, tokens in read:
        unknown += source.count_unknown(tokens) if isinstance(source, Tokenized) else 0
        total += len(tokens)
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
    return any(isinstance(target, Located) for target in targets)


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
    if all(sources[port.kind].max_tokens is not None for port in arrow.sources):
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
