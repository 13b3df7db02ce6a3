"""Packing of examples into the rows of batches by best-fit decreasing. No example is split over two rows.

Sorting costs n log n in the number of examples, and placing an example one shift of a bit set. 97–98 % of a batch's places
hold a token, not padding, and packing takes 1–2 % of the time of a training step (benchmarks/packing.py).
Legend of shapes: r rows, l row length, t tokens, n examples, m hidden tokens, v remaining tokens, a axes of position.
"""

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

# The shortest row of a batch, in tokens.
SHORTEST_ROW = 64

# The length of a batch of a single row is a multiple of the first number up to SHORTEST_ROW, and above it of the second.
SHORT_STEP, LONG_STEP = 4, 16

# Short examples fill up long rows. Those left over get rows of their own if they hold this share of all tokens.
SHORT_GROUP = 0.25

# From this many examples of equal length on, each gets a row of exactly its length.
MANY_ALIKE = 8


def row_length(longest: int, shortest: int = SHORTEST_ROW) -> int:
    """Return the row length for examples of up to `longest` tokens: the smallest power of two of at least `longest`.

    shortest: lower bound of the row length, a power of two.
    """
    return max(shortest, 1 << max(longest - 1, 0).bit_length())


def single_row_length(total: int) -> int:
    """Return the row length of a batch of a single row: `total` tokens, rounded up so that few different shapes occur."""
    step = SHORT_STEP if total <= SHORTEST_ROW else LONG_STEP
    return -(-max(total, 1) // step) * step


def round_up_size(count: int) -> int:
    """Return `count` rounded up, by at most 6 %, to one of 16 sizes between each power of two and the next.

    Kernels are compiled and cached for each shape, so the number of different shapes must stay small.
    """
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def pack_best_fit(lengths: Sequence[int], capacity: int, fillers: Sequence[int] = ()) -> list[list[int]]:
    """Pack examples into rows by best-fit decreasing; return the indices of the examples of each row.

    lengths: number of tokens of each example. capacity: number of places of a row.
    fillers: indices of examples that may only fill free places in the rows of other examples. Fillers that fit in no such row
        are left out of the result.
    Raises ValueError if an example is longer than `capacity`.
    """
    filler_set = set(fillers)
    rows: list[list[int]] = []
    with_free: list[list[int]] = [[] for _ in range(capacity + 1)]
    # Bit f is set while a row has f free places, so one shift finds the tightest row that fits.
    occupied = 0
    longest_first = sorted((i for i in range(len(lengths)) if i not in filler_set), key=lambda i: -lengths[i])
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
        elif index in filler_set:
            continue
        else:
            row, free = len(rows), capacity
            rows.append([])
        rows[row].append(index)
        remaining = free - size
        if remaining:
            with_free[remaining].append(row)
            occupied |= 1 << remaining
    return rows


def collate(
    examples: Sequence[Example], length: int | None = None, rows: Sequence[Sequence[int]] | None = None
) -> Batch:
    """Pack examples into one batch, whose fields of shape (n,) keep the order of `examples`.

    length: number of places of a row; by default `row_length` of the longest example.
    rows: for each row the indices of its examples, which must fit; by default `pack_best_fit` chooses them.
    """
    pieces_of_examples = [example.all_pieces for example in examples]
    sizes = [sum(map(len, pieces)) for pieces in pieces_of_examples]
    length = length or row_length(max(sizes))
    rows = pack_best_fit(sizes, length) if rows is None else rows
    # Rounding adds empty rows, so that few different shapes occur and compiled kernels are reused.
    height = round_up_size(len(rows))
    num_source_tokens = [sum(map(len, example.pieces)) for example in examples]
    count, axes = len(examples), max(piece.positions.shape[1] for pieces in pieces_of_examples for piece in pieces)
    starts = np.zeros(count, np.int64)
    # Places without a token belong to segment 0 and to no example.
    segments = np.zeros(height * length, np.int32)
    owner = np.full(height * length, count, np.int64)
    for row_index, members in enumerate(rows):
        offset = row_index * length
        for segment, i in enumerate(members, 1):
            starts[i] = offset
            segments[offset : offset + sizes[i]] = segment
            owner[offset : offset + num_source_tokens[i]] = i
            offset += sizes[i]
    roles = np.zeros(len(segments), np.int8)
    places = np.zeros(len(segments), np.int64)
    # A text has one axis of position and an image two; axes that a piece lacks stay 0.
    positions = np.zeros((len(segments), axes), np.int64)
    tokens: dict[str, list[NDArray[Any]]] = {}
    slots: dict[str, list[Ints]] = {}
    for i, pieces in enumerate(pieces_of_examples):
        offset = int(starts[i])
        for place, piece in enumerate(pieces):
            end = offset + len(piece)
            roles[offset:end], places[offset:end] = piece.role, place
            positions[offset:end, : piece.positions.shape[1]] = piece.positions
            if piece.positions.shape[1] == 1:
                positions[offset:end, 0] += offset - int(
                    starts[i]
                )  # a second text continues the positions of the first one
            tokens.setdefault(piece.kind, []).append(piece.tokens)
            slots.setdefault(piece.kind, []).append(np.arange(offset, end))
            offset = end
    grid = (height, length)
    weights = np.array([example.weight for example in examples], np.float32)
    return Batch(
        tokens={kind: torch.from_numpy(np.concatenate(parts)) for kind, parts in tokens.items()},
        slots={kind: torch.from_numpy(np.concatenate(parts)) for kind, parts in slots.items()},
        segments=torch.from_numpy(segments).view(grid),
        roles=torch.from_numpy(roles).view(grid),
        places=torch.from_numpy(places).view(grid),
        positions=torch.from_numpy(positions).view(*grid, axes),
        owner=torch.from_numpy(owner).view(grid),
        starts=torch.from_numpy(starts),
        lengths=torch.tensor(num_source_tokens),
        rows=np.array([example.row for example in examples], np.int64),
        answers=tuple(
            _readout(list(column), starts, weights)
            for column in zip(*(e.shifted_answers for e in examples), strict=True)
        ),
        draws=np.array([example.draw for example in examples], np.uint64),
    )


def drop_tokens(batch: Batch, hidden: Tensor) -> tuple[Batch, Tensor]:
    """Return the batch without its hidden tokens, and the flat places (v,) in `batch` of the v remaining tokens.

    hidden: (m,), flat places of the tokens to drop.
    The remaining tokens of a row move together to its left, and all rows are shortened to about the length of the fullest one.
    The new batch has no answers, since the tokens that predict them may be gone.
    """
    height, length = batch.segments.shape
    # Padding is dropped together with the hidden tokens.
    is_visible = (batch.segments > 0).index_put(
        (hidden // length, hidden % length), hidden.new_zeros((), dtype=torch.bool)
    )
    # The new column of a token is the number of remaining tokens before it in its row.
    columns = is_visible.cumsum(1) - is_visible.long()
    # All rows lose about the same share, so nothing is packed again.
    new_length = round_up_size(max(1, int(is_visible.sum(1).max())))
    row = torch.arange(height, device=hidden.device)[:, None]
    new_places = (row * new_length + columns).flatten()
    visible_places = is_visible.flatten().nonzero()[:, 0]
    visible_of_kind = {kind: is_visible.flatten()[slots] for kind, slots in batch.slots.items()}
    count = len(batch.starts)

    def move(values: Tensor, empty: int = 0) -> Tensor:
        room = values.new_full((height * new_length, *values.shape[2:]), empty)
        moved_values = room.index_copy(0, new_places[visible_places], values.flatten(0, 1)[visible_places])
        return moved_values.view(height, new_length, *values.shape[2:])

    tokens = {kind: values[visible_of_kind[kind]] for kind, values in batch.tokens.items()}
    slots = {kind: new_places[old_slots[visible_of_kind[kind]]] for kind, old_slots in batch.slots.items()}
    segments, roles, places, positions = map(move, (batch.segments, batch.roles, batch.places, batch.positions))
    starts, owner, lengths = new_places[batch.starts], move(batch.owner, count), batch.lengths_without(hidden)
    # Fields not passed (answers, draws) take their empty defaults.
    visible = Batch(tokens, slots, segments, roles, places, positions, owner, starts, lengths, batch.rows)
    return visible, visible_places


def _readout(answers: list[Answer | None], starts: Ints, weights: NDArray[np.float32]) -> PackedAnswers | None:
    """Pack the answers of all examples at one target port; return None if no example has an answer there.

    answers: for each example its answer or None. starts: (n,), flat place of the first token of each example.
    weights: (n,), the weight of each example.
    """
    entries = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    if not entries:
        return None
    # All answers at a target port are read in the same way, so the first one decides.
    if entries[0][1].at is None:
        values, owners = np.stack([answer.values for _, answer in entries]), np.array([i for i, _ in entries])
        return PackedAnswers(
            torch.from_numpy(values), None, torch.from_numpy(owners), weights=_weights_of(weights, owners)
        )
    sizes = [len(answer.values) for _, answer in entries]
    shares = [answer.shares for _, answer in entries if answer.shares is not None]
    owners = np.repeat([i for i, _ in entries], sizes)
    return PackedAnswers(
        torch.from_numpy(np.concatenate([answer.values for _, answer in entries])),
        torch.from_numpy(np.concatenate([starts[i] + answer.at for i, answer in entries])),
        torch.from_numpy(owners),
        torch.from_numpy(np.concatenate(shares)) if shares else None,
        _weights_of(weights, owners),
    )


def _weights_of(weights: NDArray[np.float32], owners: Ints) -> Tensor | None:
    """Return the weight (m,) of each answer; None if all examples have the weight 1.

    weights: (n,), of the examples. owners: (m,), the index of the example of each answer.
    """
    return None if (weights == 1).all() else torch.from_numpy(weights[owners])


def make_batches(
    examples: Sequence[Example], most_tokens: int, shortest: int = SHORTEST_ROW, views: int = 1
) -> list[Batch]:
    """Pack examples into batches of about `most_tokens` places (tokens and padding) or fewer.

    Attention over long rows costs more per token, so only long examples get long rows. Short examples first fill free places
    of long rows. Those left over get batches of shorter rows, or, if they hold less than a share SHORT_GROUP of all tokens,
    further long rows.
    shortest: smallest length of a row, in tokens; a batch of a single row may be shorter.
    views: number of random variants of each example. `examples` holds all examples in the first variant, then all in the
        second, and so on. A batch has all variants of its examples, in the same order.
    """
    count = len(examples) // views
    # All variants of an example are packed alike, so each counts with the size of the longest.
    sizes = [max(map(len, examples[i::count])) for i in range(count)]
    min_own_tokens = SHORT_GROUP * sum(sizes)
    waiting = list(range(len(sizes)))
    batches: list[Batch] = []
    while waiting:
        longest = max(sizes[i] for i in waiting)
        length = row_length(longest, shortest)
        if (total := sum(sizes[i] for i in waiting)) <= length:
            length = single_row_length(total)
        elif 2 * longest > length and total == longest * len(waiting) and len(waiting) >= MANY_ALIKE:
            length = longest  # images often have one size: a row each leaves no padding
        fillers = [j for j, i in enumerate(waiting) if row_length(sizes[i], shortest) < length]
        rows = pack_best_fit([sizes[i] for i in waiting], length, fillers)
        unpacked = set(range(len(waiting))) - {j for row in rows for j in row}
        # Too few to be worth another batch: let them open rows here.
        if sum(sizes[waiting[j]] for j in unpacked) < min_own_tokens:
            rows, unpacked = pack_best_fit([sizes[i] for i in waiting], length), set()
        parts = min(len(rows), max(1, round(views * len(rows) * length / most_tokens)))
        for part in range(parts):
            # Every parts-th row, so that long and short examples spread evenly over the batches.
            batch_rows = [[waiting[j] for j in row] for row in rows[part::parts]]
            indices = sorted(i for row in batch_rows for i in row)
            position = {index: j for j, index in enumerate(indices)}
            batch_examples = [examples[i + view * count] for view in range(views) for i in indices]
            packed_rows = [
                [position[i] + view * len(indices) for i in row] for view in range(views) for row in batch_rows
            ]
            batches.append(collate(batch_examples, length, packed_rows))
        waiting = [waiting[j] for j in sorted(unpacked)]
    return batches
