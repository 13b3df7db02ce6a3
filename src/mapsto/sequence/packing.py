"""Packing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.sequence.batch import Answer, Batch, Example, PackedAnswers
from mapsto.sequence.piece import Ints

SHORTEST_ROW, SHORTEST_ALONE = 64, 16


def row_length(longest: int, shortest: int = SHORTEST_ROW) -> int:
    """The smallest of `shortest`, twice it, … that holds `longest` tokens; `shortest` is a power of two."""
    return max(shortest, 1 << max(longest - 1, 0).bit_length())


def single_row_length(total: int) -> int:
    """The smallest multiple of 16 that holds `total` tokens: for a batch that is a single row, and waits for nothing more."""
    return -(-max(total, 1) // SHORTEST_ALONE) * SHORTEST_ALONE


def round_up_size(count: int) -> int:
    """`count` rounded up to one of 16 sizes an octave, at most 6 % more.

    Kernels are prepared, and kept in memory, for each shape they meet; so shapes must not be many.
    """
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def pack_best_fit(lengths: Sequence[int], capacity: int, fillers: Sequence[int] = ()) -> list[list[int]]:
    """Best-fit decreasing: rows of indices into `lengths`, no row longer than `capacity`, nothing split.

    `fillers` are further indices that may only fill what is left of the rows; those that do not fit are in no row.
    The free space of the open rows is a bit set, so the tightest row that fits is found in one shift.
    """
    apart = set(fillers)
    rows: list[list[int]] = []
    with_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    occupied = 0
    longest_first = sorted((i for i in range(len(lengths)) if i not in apart), key=lambda i: -lengths[i])
    for index in chain(longest_first, sorted(fillers, key=lambda i: -lengths[i])):
        size = lengths[index]
        if size > capacity:
            raise ValueError(f"an example of {size} tokens does not fit a row of {capacity}")
        fitting = occupied >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            row = with_free[free].pop()
            if not with_free[free]:
                occupied ^= 1 << free
        elif index in apart:
            continue
        else:
            row, free = len(rows), capacity
            rows.append([])
        rows[row].append(index)
        left = free - size
        if left:
            with_free[left].append(row)
            occupied |= 1 << left
    return rows


def collate(
    examples: Sequence[Example], length: int | None = None, rows: Sequence[Sequence[int]] | None = None
) -> Batch:
    """Pack `examples` into one batch of rows of `length` (by default the smallest that holds the longest one).

    Examples keep their order: entry i of starts, rows and pooled answers is `examples[i]`. `rows` of indices are taken
    as they are when given, each a list of examples that fit.
    """
    laid = [example.laid for example in examples]
    sizes = [sum(map(len, pieces)) for pieces in laid]
    length = length or row_length(max(sizes))
    rows = pack_best_fit(sizes, length) if rows is None else rows
    height = round_up_size(len(rows))
    read = [sum(map(len, example.pieces)) for example in examples]
    count, axes = len(examples), max(piece.positions.shape[1] for pieces in laid for piece in pieces)
    starts = np.zeros(count, np.int64)
    segments = np.zeros(height * length, np.int32)
    owner = np.full(height * length, count, np.int64)
    for r, members in enumerate(rows):
        at = r * length
        for s, i in enumerate(members):
            starts[i] = at
            segments[at : at + sizes[i]] = s + 1
            owner[at : at + read[i]] = i
            at += sizes[i]
    roles = np.zeros(len(segments), np.int8)
    places = np.zeros(len(segments), np.int64)
    positions = np.zeros((len(segments), axes), np.int64)
    tokens: dict[str, list[NDArray[Any]]] = {}
    slots: dict[str, list[Ints]] = {}
    for i, pieces in enumerate(laid):
        at = int(starts[i])
        for place, piece in enumerate(pieces):
            end = at + len(piece)
            roles[at:end], places[at:end] = piece.role, place
            positions[at:end, : piece.positions.shape[1]] = piece.positions
            if piece.positions.shape[1] == 1:
                positions[at:end, 0] += at - int(starts[i])  # a run of tokens goes on where the last piece ended
            tokens.setdefault(piece.kind, []).append(piece.tokens)
            slots.setdefault(piece.kind, []).append(np.arange(at, end))
            at = end
    grid = (height, length)
    return Batch(
        tokens={kind: torch.from_numpy(np.concatenate(parts)) for kind, parts in tokens.items()},
        slots={kind: torch.from_numpy(np.concatenate(parts)) for kind, parts in slots.items()},
        segments=torch.from_numpy(segments).view(grid),
        roles=torch.from_numpy(roles).view(grid),
        places=torch.from_numpy(places).view(grid),
        positions=torch.from_numpy(positions).view(*grid, axes),
        owner=torch.from_numpy(owner).view(grid),
        starts=torch.from_numpy(starts),
        lengths=torch.tensor(read),
        rows=np.array([example.row for example in examples], np.int64),
        answers=tuple(_readout(list(column), starts) for column in zip(*(e.told for e in examples), strict=True)),
        draws=np.array([example.draw for example in examples], np.uint64),
    )


def drop_tokens(batch: Batch, hidden: Tensor) -> tuple[Batch, Tensor]:
    """The batch without the tokens at the flat places `hidden` (m,), what is left of each row moved together; and the flat places
    (v,) where that stood. Its rows are as long as the fullest needs. It has no answers: places of theirs are gone."""
    height, length = batch.segments.shape
    left = (batch.segments > 0).index_put((hidden // length, hidden % length), hidden.new_zeros((), dtype=torch.bool))
    before = left.cumsum(1) - left.long()
    # All rows lose about the same share, so nothing is packed again.
    short = round_up_size(max(1, int(left.sum(1).max())))
    row = torch.arange(height, device=hidden.device)[:, None]
    new_places = (row * short + before).flatten()
    stood = left.flatten().nonzero()[:, 0]
    kept = {kind: left.flatten()[slots] for kind, slots in batch.slots.items()}
    count = len(batch.starts)

    def moved(values: Tensor, empty: int = 0) -> Tensor:
        room = values.new_full((height * short, *values.shape[2:]), empty)
        return room.index_copy(0, new_places[stood], values.flatten(0, 1)[stood]).view(height, short, *values.shape[2:])

    tokens = {kind: values[kept[kind]] for kind, values in batch.tokens.items()}
    slots = {kind: new_places[at[kept[kind]]] for kind, at in batch.slots.items()}
    segments, roles, places, positions = map(moved, (batch.segments, batch.roles, batch.places, batch.positions))
    starts, owner, lengths = new_places[batch.starts], moved(batch.owner, count), batch.lengths_without(hidden)
    return Batch(tokens, slots, segments, roles, places, positions, owner, starts, lengths, batch.rows), stood


def _readout(answers: list[Answer | None], starts: Ints) -> PackedAnswers | None:
    """The answers of one port, for the examples that have one; None when no example has."""
    known = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    if not known:
        return None
    if known[0][1].at is None:
        values = np.stack([answer.values for _, answer in known])
        return PackedAnswers(torch.from_numpy(values), None, torch.tensor([i for i, _ in known]))
    sizes = [len(answer.values) for _, answer in known]
    shares = [answer.shares for _, answer in known if answer.shares is not None]
    return PackedAnswers(
        torch.from_numpy(np.concatenate([answer.values for _, answer in known])),
        torch.from_numpy(np.concatenate([starts[i] + answer.at for i, answer in known])),
        torch.from_numpy(np.repeat([i for i, _ in known], sizes)),
        torch.from_numpy(np.concatenate(shares)) if shares else None,
    )


SHORT_GROUP = 0.25


MANY_ALIKE = 8


def make_batches(
    examples: Sequence[Example], most_tokens: int, shortest: int = SHORTEST_ROW, views: int = 1
) -> list[Batch]:
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
            length = single_row_length(total)
        elif 2 * longest > length and total == longest * len(waiting) and len(waiting) >= MANY_ALIKE:
            length = longest  # pictures are often of one size: a row each, and no place is left over
        fillers = [at for at, i in enumerate(waiting) if row_length(sizes[i], shortest) < length]
        rows = pack_best_fit([sizes[i] for i in waiting], length, fillers)
        left = set(range(len(waiting))) - {at for row in rows for at in row}
        if sum(sizes[waiting[at]] for at in left) < few:
            rows, left = pack_best_fit([sizes[i] for i in waiting], length), set()
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
