"""Rows encoded as pieces of tokens. A row above the length limit is cut, split into windows, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.data.rows import Rows
from mapsto.errors import DataError, Finding, UsageError, place
from mapsto.model.config import SentenceConfig
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.arrow import Arrow
from mapsto.task.generation import Generated, Prompted
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Streamed, Tokenized, Windowed
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Composed, Located, located_port

# The share of unknown tokens above which the user is warned.
MAX_UNKNOWN = 0.02
# How many values are looked at for characters that the tokenizer drops, and how many characters of each.
SAMPLED_VALUES, SAMPLED_CHARACTERS = 200, 1000
# No piece is cut to fewer tokens than this.
MIN_PIECE = 4
# Memory for lazily encoded pieces, in bytes.
CACHE_BYTES = 2**30


def describe_unknown_tokens(tokens_by_source: Iterable[tuple[Source, Ints]]) -> str | None:
    """Return a warning if more than 2 % (MAX_UNKNOWN) of all tokens are the unknown token, which loses the text; else None.

    tokens_by_source: pairs of a source and tokens that it encoded. A source may occur in several pairs.
    """
    num_unknown = num_tokens = 0
    for source, tokens in tokens_by_source:
        num_unknown += int(source.is_unknown(tokens).sum()) if isinstance(source, Tokenized) else 0
        num_tokens += len(tokens)
    if num_unknown <= MAX_UNKNOWN * num_tokens:
        return None
    share = f"{100 * num_unknown / num_tokens:.0f} %"
    return (
        f"{num_unknown:,} of {num_tokens:,} tokens ({share}) are unknown: "
        "the vocabulary has no token for this text, and it is lost"
    )


def describe_dropped(rows: Rows, sources: Mapping[str, Source]) -> str | None:
    """Return a warning if a tokenizer drops more than 2 % (MAX_UNKNOWN) of the visible characters of the rows; else None.

    It is measured on SAMPLED_VALUES values of each source, of which the first characters are read. sources: the sources by kind.
    """
    num_dropped = num_visible = 0
    for port, values in zip(rows.arrow.sources, rows.sources, strict=True):
        source = sources[port.kind]
        if isinstance(source, Tokenized):
            step = max(1, len(values) // SAMPLED_VALUES)
            sample = [value[:SAMPLED_CHARACTERS] for value in values[::step] if isinstance(value, str)]
            counts = source.count_dropped(sample)
            num_dropped, num_visible = num_dropped + counts[0], num_visible + counts[1]
    if num_dropped <= MAX_UNKNOWN * num_visible:
        return None
    return (
        f"the tokenizer drops {100 * num_dropped / num_visible:.0f} % of the characters (of a sample of {num_visible:,}): "
        "it was made for other scripts, and this text is lost"
    )


@dataclass(frozen=True)
class EncodedRows:
    """Rows encoded as examples: one for each row, or several for a row that was split into windows.

    pieces: for each example a tuple with one piece for each source.
    row_indices: for each example the index of its row in Rows.
    long_rows: indices of the rows above the length limit.
    num_cut: number of tokens cut off from all rows.
    num_tokens: number of tokens of all rows before cutting; 0 if pieces are encoded lazily (`LazyPieces`).
    """

    pieces: Sequence[tuple[Piece, ...]]
    row_indices: Ints
    long_rows: Ints
    num_cut: int
    num_tokens: int

    def __iter__(self) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """Yield (pieces, row) of each example."""
        return zip(self.pieces, self.row_indices.tolist(), strict=True)

    def describe_unknown_tokens(self, sources: Mapping[str, Source]) -> str | None:
        """Return a warning if more than 2 % of the tokens of all rows are the unknown token, which loses the text; else None.

        sources: the sources by kind.
        """
        if not self.num_tokens:
            return None
        return describe_unknown_tokens(
            (sources[piece.kind], piece.tokens) for pieces in self.pieces for piece in pieces
        )

    def describe_cut(self) -> str:
        """Return how many tokens are cut off, such as "2,064 of 10,000 tokens (20.6 %)"."""
        if not self.num_tokens:
            return f"{self.num_cut:,} tokens"
        return f"{self.num_cut:,} of {self.num_tokens:,} tokens ({100 * self.num_cut / self.num_tokens:.1f} %)"


def need_alignment(targets: Sequence[Target]) -> bool:
    """Return whether some target's answers are in raw coordinates of a source, such as boxes in pixels.

    Then pieces must carry an alignment between their tokens and these coordinates.
    """
    return any(isinstance(target, Located) for target in targets)


def require_room(arrow: Arrow, max_tokens: int) -> None:
    """Raise UsageError if an example of `max_tokens` tokens cannot hold at least 4 tokens (MIN_PIECE) of every source."""
    fewest = MIN_PIECE * len(arrow.sources)
    if max_tokens < fewest:
        raise UsageError(f"examples of {max_tokens} tokens are too short; {arrow} needs at least {fewest}")


def encode_to_answer(
    rows: Rows,
    sources: Mapping[str, Source],
    targets: Sequence[Target],
    max_tokens: int,
    long: str = "auto",
    aligned: bool = False,
) -> EncodedRows:
    """Encode rows as pieces for a model with these targets, and cut, split or refuse those above `max_tokens` tokens.

    long: as for `encode_rows`, or "auto": windows if a target's answer is composed or joined of those of windows, else "cut".
    aligned: whether pieces are aligned even if no target needs it.
    """
    composed = next((target for target in targets if isinstance(target, Composed)), None)
    windowed = None if composed is None else located_port(composed, [port.kind for port in rows.arrow.sources])
    long = choose_long(rows.arrow, targets, long)
    max_tokens -= room_for_answers(targets, max_tokens)
    overlap = 0.0 if composed is None else composed.window_overlap
    return encode_rows(rows, sources, max_tokens, long, aligned or need_alignment(targets), windowed, overlap)


def choose_long(arrow: Arrow, targets: Sequence[Target], long: str) -> str:
    """Return `long`, or what it stands for if it is "auto"; see `encode_to_answer`."""
    is_composed = any(isinstance(target, Composed) for target in targets)
    is_joined = any(isinstance(target, Generated | Located) and target.joins_windows for target in targets)
    return ("window" if is_composed or is_joined else "cut") if long == "auto" else long


def room_for_answers(targets: Sequence[Target], max_tokens: int) -> int:
    """Return how many of the `max_tokens` of an example are kept free for answers that are generated behind their sources."""
    generated = [target for target in targets if isinstance(target, Generated) and target.shares_room]
    room = sum(len(target.opening) + target.longest for target in generated)
    return min(room, max_tokens // 2)


def require_short_answers(rows: Rows, targets: Sequence[Target], max_tokens: int) -> None:
    """Raise DataError if an answer in `rows` has more tokens than the model writes: an answer that is learnt is never cut.

    max_tokens: as for `find_long_answers`.
    """
    first = next(find_long_answers(rows, targets, max_tokens), None)
    if first is not None:
        raise DataError(f"{place(first.file, first.row)}, column {first.column!r}: {first.reason}")


def require_whole(rows: Rows, encoded: EncodedRows, targets: Sequence[Target]) -> None:
    """Raise DataError if a row that is learnt from is too long, and its answer cannot be divided among windows: a transcript."""
    are_joined = any(isinstance(target, Generated) and target.joins_windows for target in targets)
    findings = find_undivided(rows, encoded, [type(target) for target in targets], are_joined)
    if findings:
        first, count = findings[0], f" ({len(findings):,} rows are)" if len(findings) > 1 else ""
        raise DataError(f"{place(first.file, first.row)}: {first.reason}{count}")


def find_undivided(
    rows: Rows, encoded: EncodedRows, targets: Sequence[type[Target]], are_joined: bool
) -> list[Finding]:
    """Return a finding for each row that is longer than a model reads at once, if an answer cannot be divided among windows.

    are_joined: whether a generated answer is joined of those of windows (`Generated.joins_windows`).
    """
    are_divisible = all(not issubclass(target, Composed) or target.is_divisible for target in targets)
    if are_divisible and not are_joined:
        return []
    reason = (
        "it is longer than the model reads at once, and its answer cannot be divided among parts of it; cut it into parts with "
        "an answer each, or let a new model read more at once (--length)"
    )
    return [Finding(*rows.origin(row), None, None, reason) for row in encoded.long_rows.tolist()]


def find_long_answers(rows: Rows, targets: Sequence[Target], max_tokens: int) -> Iterator[Finding]:
    """Yield a finding for each answer in `rows` that has more tokens than the model writes.

    max_tokens: largest number of tokens of an example. Answers behind their sources may take half of it.
    """
    for target, port, answers in zip(targets, rows.arrow.targets, rows.targets, strict=True):
        if not isinstance(target, Generated):
            continue
        limit = max_tokens // 2 if target.shares_room else max_tokens
        # Most tables have no answer near the limit, which spares the encoding of each.
        for row, answer in enumerate(answers if target.longest > limit else ()):
            size = len(target.encode(answer, ()).values)
            if size > limit:
                longer = size * (1 + target.shares_room)
                reason = (
                    f"the answer has {size} tokens, and the model writes at most {limit}; shorten it, or let a new model take "
                    f"longer examples with --length {longer}"
                )
                yield Finding(*rows.origin(row), port.column, None, reason)


def encode_rows(
    rows: Rows,
    sources: Mapping[str, Source],
    max_tokens: int,
    long: str,
    aligned: bool = False,
    windowed: int | None = None,
    overlap: float = 0.0,
) -> EncodedRows:
    """Encode rows as pieces, and cut, split or refuse those above `max_tokens` tokens.

    If all source kinds bound the length of their pieces, as images do, no limit applies and a piece is encoded when read.
    sources: the sources by kind. max_tokens: largest number of tokens of an example, special tokens included.
    long: "cut", "window" or "error" (`--long`). Rows of several sources are cut even with "window", unless `windowed` is set.
    aligned: whether pieces also carry, for each token, its place in raw coordinates and the word that it belongs to.
    windowed: index of the source that is split into windows; each of them repeats the other sources.
    overlap: the share of such a window that the next one repeats.
    Raises UsageError if `max_tokens` is too small for the sources, DataError for long rows with long="error".
    """
    ports = rows.arrow.sources
    # Values of such kinds have as many tokens as they have, such as the three of a linear model of sounds.
    if all(sources[port.kind].max_tokens is not None for port in ports):
        return _encode_lazily(rows, sources, max_tokens, long, aligned)
    require_room(rows.arrow, max_tokens)
    columns = [
        _encode_column(sources[port.kind], values, number, aligned, rows.arrow)
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
            # With several sources it is not clear which windows belong together.
            if long == "window" and len(example) == 1:
                source, value = sources[example[0].kind], rows.sources[0][index]
                parts = [(window,) for window in _windows(source, value, example[0], max_tokens, overlap, aligned)]
            elif long == "window" and windowed is not None:
                parts = _windows_beside(example, sources, max_tokens, windowed, overlap)
                num_cut += _num_lost(example, parts[0], windowed)
            else:
                parts = [_cut(example, sources, max_tokens)]
                num_cut += size - max_tokens
        examples.extend(parts)
        row_indices.extend([index] * len(parts))
    _require_short(long_rows, max_tokens, long)
    return EncodedRows(
        examples, np.asarray(row_indices, np.int64), np.asarray(long_rows, np.int64), num_cut, num_tokens
    )


def _encode_lazily(rows: Rows, sources: Mapping[str, Source], max_tokens: int, long: str, aligned: bool) -> EncodedRows:
    """Encode rows of kinds whose values have a limited number of tokens, each when it is read, as `encode_rows` does.

    Only values above the limit, such as long sounds, are encoded now: they are split into windows or cut.
    """
    lazy = LazyPieces(rows, sources, aligned)
    columns = [(sources[port.kind], values) for port, values in zip(rows.arrow.sources, rows.sources, strict=True)]
    long_rows = [
        row
        for row in range(len(rows))
        if not all(source.fits_window(values[row]) for source, values in columns if isinstance(source, Windowed))
    ]
    _require_short(long_rows, max_tokens, long)
    parts: dict[int, list[tuple[Piece, ...]]] = {}
    num_cut = 0
    for row in long_rows:
        pieces = lazy.encode(row)
        if long == "window" and len(pieces) == 1:
            source, values = columns[0]
            windows = _windows(source, values[row], pieces[0], max_tokens, 0.0, aligned)
            parts[row] = [(window,) for window in windows]
        else:
            parts[row] = [_cut(pieces, sources, max_tokens)]
            num_cut += sum(map(len, pieces)) - sum(map(len, parts[row][0]))
    row_indices = np.repeat(np.arange(len(rows)), [len(parts.get(row, [()])) for row in range(len(rows))])
    pieces_of_rows: Sequence[tuple[Piece, ...]] = lazy if not parts else WindowedPieces(lazy, parts)
    return EncodedRows(pieces_of_rows, row_indices, np.array(long_rows, np.int64), num_cut, 0)


def _require_short(long_rows: Sequence[int], max_tokens: int, long: str) -> None:
    """Raise DataError if there are rows above the limit and `--long error` forbids them."""
    if long_rows and long == "error":
        raise DataError(
            f"{len(long_rows)} rows are longer than {max_tokens} tokens (use --long cut or --long window to go on)"
        )


def _encode_column(source: Source, values: Sequence[Any], place: int, aligned: bool, arrow: Arrow) -> list[Piece]:
    """Return the pieces of the values of a source port, number `place` of the arrow."""
    if arrow.is_prompted and isinstance(source, Prompted):
        return source.encode_prompts(values, aligned)
    return source.encode(values, place, aligned)


def encode_sides(
    rows: Rows, sources: Mapping[str, Source], sentence: SentenceConfig, long: str = "auto"
) -> EncodedRows:
    """Encode each value of a matching arrow as an example of its own, behind the prompt of its side.

    sentence: the prompts, and the maximum number of tokens of a value.
    long: what happens to longer values: "cut" (or "auto") or "error".
    Raises UsageError for "window", since a pair has one vector a side, DataError for long values with "error".
    """
    if long == "window":
        raise UsageError("--long window would give a value several vectors to match by; there is: cut, error")
    max_tokens, columns = sentence.max_tokens, []
    long_rows: set[int] = set()
    num_cut = num_tokens = 0
    for side, (port, values) in enumerate(zip(rows.arrow.sources, rows.sources, strict=True)):
        source, prompt = sources[port.kind], sentence.prompt(side)
        pieces = source.encode([prompt + value for value in values] if prompt else values, 0)
        num_tokens += sum(map(len, pieces))
        too_long = [index for index, piece in enumerate(pieces) if len(piece) > max_tokens]
        num_cut += sum(len(pieces[index]) - max_tokens for index in too_long)
        for index in too_long:
            pieces[index] = source.cut(pieces[index], max_tokens)
        long_rows.update(too_long)
        columns.append(pieces)
    if long_rows and long == "error":
        raise DataError(f"{len(long_rows)} rows have values longer than {max_tokens} tokens (use --long cut to go on)")
    examples = list(zip(*columns, strict=True))
    return EncodedRows(examples, np.arange(len(examples)), np.array(sorted(long_rows), np.int64), num_cut, num_tokens)


class LazyPieces(Sequence[tuple[Piece, ...]]):
    """The pieces of each row, encoded when read.

    Pieces read once are kept in memory until these take CACHE_BYTES; pieces read later are encoded again at each reading.
    sources: the sources by kind.
    aligned: whether pieces also carry, for each token, its place in raw coordinates and the word that it belongs to.
    """

    def __init__(self, rows: Rows, sources: Mapping[str, Source], aligned: bool) -> None:
        ports = zip(rows.arrow.sources, rows.sources, strict=True)
        self.columns = [(sources[port.kind], values) for port, values in ports]
        self.num_rows, self.aligned, self.room = len(rows), aligned, CACHE_BYTES
        self.cache: dict[int, tuple[Piece, ...]] = {}

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: Any) -> Any:
        # Iteration over a sequence ends at an IndexError.
        if row >= self.num_rows:
            raise IndexError(row)
        if (cached := self.cache.get(row)) is not None:
            return cached
        pieces = self.encode(row)
        size = sum(piece.nbytes for piece in pieces)
        # When the cache is full, later pieces are encoded again at each reading.
        if size <= self.room:
            self.room -= size
            self.cache[row] = pieces
        return pieces

    def encode(self, row: int) -> tuple[Piece, ...]:
        """Return the pieces of a row, which are not kept."""
        return tuple(
            source.encode([values[row]], number, self.aligned)[0]
            for number, (source, values) in enumerate(self.columns)
        )


class WindowedPieces(Sequence[tuple[Piece, ...]]):
    """The pieces of rows of which some are split into windows, each of which is an example.

    lazy: the pieces of rows. parts: those of the windows of rows that are split or cut, by row.
    """

    def __init__(self, lazy: LazyPieces, parts: Mapping[int, list[tuple[Piece, ...]]]) -> None:
        self.lazy, self.parts = lazy, parts
        # For each example its row, and its window in it.
        self.places = [(row, number) for row in range(len(lazy)) for number in range(len(parts.get(row, [()])))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, example: Any) -> Any:
        row, number = self.places[example]
        return self.parts[row][number] if row in self.parts else self.lazy[row]


def _windows(source: Source, value: Any, piece: Piece, length: int, overlap: float, aligned: bool) -> Sequence[Piece]:
    """Return the windows of a value, whose whole piece is `piece`, each of at most `length` tokens.

    overlap: the share of a window that the next one repeats. aligned: as for `encode_rows`.
    """
    if isinstance(source, Streamed):
        # The same windows as where a long value is read without being held.
        return list(source.read_windows(value, length, aligned))
    return source.windows(piece, length, overlap)


def _windows_beside(
    example: tuple[Piece, ...], sources: Mapping[str, Source], max_tokens: int, windowed: int, overlap: float
) -> list[tuple[Piece, ...]]:
    """Return the example with windows of its piece number `windowed`, each with the other pieces.

    The other pieces are cut if they take more than half of `max_tokens`, but not below 4 tokens each (MIN_PIECE).
    sources: the sources by kind. overlap: the share of a window that the next one repeats.
    """
    other_pieces = (*example[:windowed], *example[windowed + 1 :])
    # No piece is cut below MIN_PIECE tokens.
    limit = max(max_tokens // 2, MIN_PIECE * len(other_pieces))
    if sum(map(len, other_pieces)) > limit:
        other_pieces = _cut(other_pieces, sources, limit)
    room = max_tokens - sum(map(len, other_pieces))
    windows = sources[example[windowed].kind].windows(example[windowed], room, overlap)
    return [(*other_pieces[:windowed], window, *other_pieces[windowed:]) for window in windows]


def _num_lost(example: tuple[Piece, ...], part: tuple[Piece, ...], windowed: int) -> int:
    """Return how many tokens the pieces besides number `windowed` lost in `part`, a window of the example."""
    return sum(len(piece) - len(cut) for i, (piece, cut) in enumerate(zip(example, part, strict=True)) if i != windowed)


def _cut(example: tuple[Piece, ...], sources: Mapping[str, Source], max_tokens: int) -> tuple[Piece, ...]:
    """Return the example's pieces, the longest of them cut until all together have at most `max_tokens` tokens.

    sources: the sources by kind. No piece gets shorter than 4 tokens (MIN_PIECE).
    """
    pieces = list(example)
    while (excess := sum(map(len, pieces)) - max_tokens) > 0:
        sizes = sorted({len(piece) for piece in pieces}, reverse=True)
        longest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        # Cut it down to the second longest at most, then look again.
        step = excess if len(sizes) == 1 or len(pieces) == 1 else min(excess, max(1, sizes[0] - sizes[1]))
        size = max(MIN_PIECE, len(pieces[longest]) - step)
        pieces[longest] = sources[pieces[longest].kind].cut(pieces[longest], size)
    return tuple(pieces)
