"""Rows encoded as pieces of tokens; what is longer than the model takes is cut, split into windows or refused."""

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

# The share of unknown tokens from which on a user is told of them.
MAX_UNKNOWN = 0.02
# Tokens that a piece keeps when it is cut.
MIN_PIECE = 4
# Bytes of lazily encoded pieces that are kept in memory.
CACHE_BYTES = 2**30


def describe_unknown_tokens(tokens_by_source: Iterable[tuple[Source, Ints]]) -> str | None:
    """Return a note on tokens that stand for what the vocabulary lacks; None where they are few.

    tokens_by_source: tokens in any number of parts, each with the source that encoded it.
    """
    num_unknown = num_tokens = 0
    for source, tokens in tokens_by_source:
        num_unknown += source.count_unknown(tokens) if isinstance(source, Tokenized) else 0
        num_tokens += len(tokens)
    if num_unknown <= MAX_UNKNOWN * num_tokens:
        return None
    share = f"{100 * num_unknown / num_tokens:.0f} %"
    return (
        f"{num_unknown:,} of {num_tokens:,} tokens ({share}) are unknown: "
        "the vocabulary has no token for this text, and it is lost"
    )


@dataclass(frozen=True)
class EncodedRows:
    """Rows as pieces; a long row that was split into windows gives several examples.

    pieces: of each example, one for each source.
    row_indices: the index into Rows of each example.
    long_rows: the indices of rows that are longer than the model takes.
    num_cut: tokens that were cut off.
    num_tokens: tokens before cutting; 0 for values that are always read whole.
    """

    pieces: Sequence[tuple[Piece, ...]]
    row_indices: Ints
    long_rows: Ints
    num_cut: int
    num_tokens: int

    def describe_unknown_tokens(self, sources: Mapping[str, Source]) -> str | None:
        """Return a note on tokens that the vocabulary lacks; None where they are few."""
        if not self.num_tokens:
            return None
        return describe_unknown_tokens(
            (sources[piece.kind], piece.tokens) for pieces in self.pieces for piece in pieces
        )


def need_alignment(targets: Sequence[Target]) -> bool:
    """Return whether some answers are in the raw coordinates of a source, so that its pieces need an alignment."""
    return any(isinstance(target, Located) for target in targets)


def require_room(arrow: Arrow, max_tokens: int) -> None:
    """Raise UsageError when examples of `max_tokens` tokens leave no room for a value of every source."""
    fewest = MIN_PIECE * len(arrow.sources)
    if max_tokens < fewest:
        raise UsageError(f"examples of {max_tokens} tokens are too short; {arrow} needs at least {fewest}")


def encode_rows(
    rows: Rows, sources: Mapping[str, Source], max_tokens: int, long: str, aligned: bool = False
) -> EncodedRows:
    """Encode rows as pieces. Values that are always read whole, such as images, are encoded when they are read.

    Raises UsageError when `max_tokens` leaves no room for a value, and DataError for long rows with long="error".

    max_tokens: the longest example.
    long: "cut", "window" or "error", as of `--long`; rows of several sources are cut rather than split into windows.
    aligned: whether pieces carry an alignment and units.
    """
    require_room(rows.arrow, max_tokens)
    ports = rows.arrow.sources
    if all(sources[port.kind].max_tokens is not None for port in ports):
        pieces = LazyPieces(rows, sources, aligned)
        return EncodedRows(pieces, np.arange(len(rows)), np.zeros(0, np.int64), 0, 0)
    columns = [
        sources[port.kind].encode(values, number, aligned)
        for number, (port, values) in enumerate(zip(ports, rows.sources, strict=True))
    ]
    examples: list[tuple[Piece, ...]] = []
    row_indices: list[int] = []
    long_rows: list[int] = []
    num_cut = num_tokens = 0
    for index, example in enumerate(zip(*columns, strict=True)):
        size = sum(map(len, example))
        num_tokens += size
        parts = [example]
        if size > max_tokens:
            long_rows.append(index)
            if long == "window" and len(example) == 1:
                parts = [(window,) for window in sources[example[0].kind].windows(example[0], max_tokens)]
            else:
                parts = [_cut(example, sources, max_tokens)]
                num_cut += size - max_tokens
        examples.extend(parts)
        row_indices.extend([index] * len(parts))
    if long_rows and long == "error":
        raise DataError(
            f"{len(long_rows)} rows are longer than {max_tokens} tokens (use --long cut or --long window to go on)"
        )
    return EncodedRows(
        examples, np.asarray(row_indices, np.int64), np.asarray(long_rows, np.int64), num_cut, num_tokens
    )


class LazyPieces(Sequence[tuple[Piece, ...]]):
    """Pieces of values that are read whole, encoded when they are first read and cached up to CACHE_BYTES."""

    def __init__(self, rows: Rows, sources: Mapping[str, Source], aligned: bool) -> None:
        ports = zip(rows.arrow.sources, rows.sources, strict=True)
        self.columns = [(sources[port.kind], values) for port, values in ports]
        self.num_rows, self.aligned, self.room = len(rows), aligned, CACHE_BYTES
        self.cache: dict[int, tuple[Piece, ...]] = {}

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: Any) -> Any:
        if row >= self.num_rows:
            raise IndexError(row)
        if (cached := self.cache.get(row)) is not None:
            return cached
        pieces = tuple(
            source.encode([values[row]], number, self.aligned)[0]
            for number, (source, values) in enumerate(self.columns)
        )
        size = sum(piece.nbytes for piece in pieces)
        if size <= self.room:
            self.room -= size
            self.cache[row] = pieces
        return pieces


def _cut(example: tuple[Piece, ...], sources: Mapping[str, Source], max_tokens: int) -> tuple[Piece, ...]:
    """Shorten the longest piece again and again until the example fits."""
    pieces = list(example)
    while (excess := sum(map(len, pieces)) - max_tokens) > 0:
        sizes = sorted({len(piece) for piece in pieces}, reverse=True)
        longest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        # Cut it down to the second longest at most, then look again.
        step = excess if len(sizes) == 1 or len(pieces) == 1 else min(excess, max(1, sizes[0] - sizes[1]))
        size = max(MIN_PIECE, len(pieces[longest]) - step)
        pieces[longest] = sources[pieces[longest].kind].cut(pieces[longest], size)
    return tuple(pieces)
