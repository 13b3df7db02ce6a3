"""Rows that are encoded while they are read, of which long ones come window by window, so that none need fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mapsto.data.encoding import LazyPieces, choose_long, need_alignment, room_for_answers
from mapsto.data.rows import Rows
from mapsto.sequence.piece import Piece
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Streamed
from mapsto.task.target import Target


@dataclass(frozen=True)
class StreamedRows:
    """Rows of one source, of which some are longer than a model reads at once.

    Each iteration reads the long values again. longest: the most tokens of an example.
    aligned: whether pieces also carry, for each token, its place in raw coordinates.
    """

    rows: Rows
    sources: Mapping[str, Source]
    longest: int
    aligned: bool

    def __iter__(self) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """Yield (pieces, row) of each example: a row, or a window of a long one."""
        source, lazy = self.sources[self.rows.arrow.sources[0].kind], LazyPieces(self.rows, self.sources, self.aligned)
        assert isinstance(source, Streamed)
        for row, value in enumerate(self.rows.sources[0]):
            if source.is_longer(value, self.longest):
                for window in source.read_windows(value, self.longest, self.aligned):
                    yield (window,), row
            else:
                yield lazy.encode(row), row


def stream_rows(
    rows: Rows, sources: Mapping[str, Source], targets: Sequence[Target], max_tokens: int, long: str, aligned: bool
) -> StreamedRows | None:
    """Return the rows as they are streamed, if some of them are read in windows; None if none are.

    Arguments as for `encode_to_answer`.
    """
    ports = rows.arrow.sources
    source = sources[ports[0].kind]
    if len(ports) > 1 or not isinstance(source, Streamed) or choose_long(rows.arrow, targets, long) != "window":
        return None
    longest, aligned = max_tokens - room_for_answers(targets, max_tokens), aligned or need_alignment(targets)
    are_long = any(source.is_longer(value, longest) for value in rows.sources[0])
    return StreamedRows(rows, sources, longest, aligned) if are_long else None
