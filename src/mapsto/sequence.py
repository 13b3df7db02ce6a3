"""The one carrier between the parts: pieces of tokens, the examples made of them, and the packed batches a model reads.

Legend of shapes: r rows, l row length, t tokens, n examples, m read-out places, a axes of position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.integer[Any]]
SHORTEST_ROW, SHORTEST_ALONE = 64, 16


class Role(IntEnum):
    """Who sees a token: a source token is seen by its whole example, an answer token only by answers.

    A causal answer token is seen by those behind it, a parallel one by all answer tokens of its example.
    """

    SOURCE = 0
    CAUSAL = 1
    PARALLEL = 2


@dataclass(frozen=True, slots=True)
class Alignment:
    """Raw coordinates (characters, pixels, seconds) ↔ token coordinates.

    `regions` is (t, a, 2): start and end of each token on each raw axis; start == end marks a token that stands for
    nothing in the raw value, as [CLS] does. Augmentation returns a new Alignment through `moved`. whole: (a, 2), where the
    raw value begins and ends, for kinds that answers of another size are laid against.
    """

    regions: NDArray[Any]
    whole: NDArray[Any] | None = None

    def to_tokens(self, region: Sequence[Sequence[float]]) -> Ints:
        """Indices of the tokens that overlap `region`, given as (start, end) for each axis."""
        wanted = np.asarray(region)
        overlap = (self.regions[:, :, 0] < wanted[:, 1]) & (self.regions[:, :, 1] > wanted[:, 0])
        return np.flatnonzero(overlap.all(axis=1))

    def to_raw(self, tokens: Sequence[int] | Ints) -> NDArray[Any] | None:
        """The smallest region, (a, 2), that holds `tokens`; None when they stand for nothing in the raw value."""
        chosen = self.regions[np.asarray(tokens, dtype=np.int64)]
        chosen = chosen[(chosen[:, :, 0] < chosen[:, :, 1]).all(axis=1)]
        if not len(chosen):
            return None
        return np.stack([chosen[:, :, 0].min(axis=0), chosen[:, :, 1].max(axis=0)], axis=1)

    def ends(self, positions: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where on each raw axis, (a,), the first of the positions (t, a) begins and where the last one ends; the second is the
        smaller where the value was turned about."""
        inner = (self.regions[:, :, 0] < self.regions[:, :, 1]).all(axis=1)
        regions, at = self.regions[inner], positions[inner]
        axes = range(at.shape[1])
        low, high = (np.stack([regions[at[:, a] == end(at[:, a]), a][0] for a in axes]) for end in (np.min, np.max))
        turned = low[:, 0] > high[:, 0]
        return np.where(turned, low[:, 1], low[:, 0]), np.where(turned, high[:, 0], high[:, 1])

    def moved(self, scale: float | Sequence[float] = 1.0, shift: float | Sequence[float] = 0.0) -> Alignment:
        """The alignment after the raw value was scaled, then shifted, along each axis."""
        scales, shifts = np.asarray(scale)[..., None], np.asarray(shift)[..., None]
        return Alignment(self.regions * scales + shifts, None if self.whole is None else self.whole * scales + shifts)


@dataclass(frozen=True, slots=True)
class Piece:
    """A value as a run of tokens.

    tokens: (t,) ids or (t, f) features. positions: (t, a). special: (t,) True where a token belongs to the frame,
    never to the value. units: (t,) which word (or other natural unit) a token is part of, −1 for the frame.
    """

    kind: str
    tokens: NDArray[Any]
    positions: Ints
    special: NDArray[np.bool_]
    alignment: Alignment | None = None
    units: Ints | None = None
    role: Role = Role.SOURCE
    hides: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        regions = None if self.alignment is None else self.alignment.regions
        held = (self.tokens, self.positions, self.special, regions, self.units)
        return sum(array.nbytes for array in held if array is not None)


@dataclass(frozen=True, slots=True)
class Part:
    """What a mixed value has of one of those that it is made of.

    share: how much of it is that one; those of all parts add up to 1. piece: the tokens that show it, aligned to its own raw
    coordinates, where it has a place of its own.
    """

    share: float
    piece: Piece | None = None


@dataclass(frozen=True, slots=True)
class Flat:
    """Values end to end, without frames: tokens (t,), how many each value has (n,), and where units begin (t,), if asked."""

    tokens: Ints
    lengths: Ints
    begins: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What one target port should say of one example.

    `values` is () or (k,) for a pooled answer. For an answer read at tokens, `at` (m,) counts tokens from the first
    one of the example and `values` is (m, …). Read between tokens, `at` and `shares` are (m, k): the k tokens about each place
    and how much of each is read. An appended answer also brings the `piece` laid behind the sources, from whose first token its
    `at` counts.
    """

    values: NDArray[Any]
    at: Ints | None = None
    piece: Piece | None = None
    shares: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data, ready to be packed: its pieces end to end are one segment. draw: a number from (seed, row, step), of
    which an objective that draws for the row makes what it needs."""

    pieces: tuple[Piece, ...]
    answers: tuple[Answer | None, ...] = ()
    row: int = 0
    draw: int = 0

    @property
    def laid(self) -> tuple[Piece, ...]:
        """All pieces in the order in which they are laid: the sources, then appended answers."""
        return self.pieces + tuple(a.piece for a in self.answers if a is not None and a.piece is not None)

    @property
    def told(self) -> tuple[Answer | None, ...]:
        """The answers with every `at` counted from the first token of the example."""
        if len(self.laid) == len(self.pieces):
            return self.answers
        found, behind = list(self.answers), sum(map(len, self.pieces))
        for port, answer in enumerate(self.answers):
            if answer is not None and answer.piece is not None and answer.at is not None:
                found[port] = replace(answer, at=behind + answer.at)
                behind += len(answer.piece)
        return tuple(found)

    def __len__(self) -> int:
        return sum(map(len, self.laid))


@dataclass(frozen=True, slots=True)
class Readout:
    """The answers of one target port over a batch: values (m, …), their flat places `at` (m,) if read at tokens, or (m, k) with
    the `shares` of each if between them; and `examples` (m,), the example each belongs to."""

    values: Tensor
    at: Tensor | None
    examples: Tensor
    shares: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed examples. Flat places count tokens over rows × length; segment 0 is padding.

    tokens/slots: for each kind its token values (t, …) and flat places (t,). segments, roles, places (which source port
    a token came from): (r, l). positions: (r, l, a). owner: (r, l) example of a source token, n for others. starts, lengths:
    (n,) flat place of the first token and number of source tokens. rows: (n,) numbers of the data rows. draws: (n,).
    """

    tokens: dict[str, Tensor]
    slots: dict[str, Tensor]
    segments: Tensor
    roles: Tensor
    places: Tensor
    positions: Tensor
    owner: Tensor
    starts: Tensor
    lengths: Tensor
    rows: Ints
    answers: tuple[Readout | None, ...] = field(default=())
    draws: Ints = field(default_factory=lambda: np.zeros(0, np.uint64))

    @property
    def real_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.segments > 0).sum())

    @property
    def fill(self) -> float:
        """The share of places that hold a real token."""
        return self.real_tokens / self.segments.numel()

    def lengths_without(self, hidden: Tensor | None) -> Tensor:
        """(n,): how many source tokens each example has beside those at the flat places `hidden` (m,)."""
        if hidden is None:
            return self.lengths
        return self.lengths - torch.bincount(self.owner.flatten()[hidden], minlength=len(self.starts))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        return replace(self, **{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: tensor.to(device) for key, tensor in value.items()}
    if isinstance(value, Readout):
        return Readout(*(_moved(getattr(value, f.name), device) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value


def row_length(longest: int, shortest: int = SHORTEST_ROW) -> int:
    """The smallest of `shortest`, twice it, … that holds `longest` tokens; `shortest` is a power of two."""
    return max(shortest, 1 << max(longest - 1, 0).bit_length())


def lone_length(total: int) -> int:
    """The smallest multiple of 16 that holds `total` tokens: for a batch that is a single row, and waits for nothing more."""
    return -(-max(total, 1) // SHORTEST_ALONE) * SHORTEST_ALONE


def few_sizes(count: int) -> int:
    """`count` rounded up to one of 16 sizes an octave, at most 6 % more.

    Kernels are prepared, and kept in memory, for each shape they meet; so shapes must not be many.
    """
    step = 1 << max(0, count.bit_length() - 5)
    return -(-count // step) * step


def pack(lengths: Sequence[int], capacity: int, fillers: Sequence[int] = ()) -> list[list[int]]:
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
    rows = pack(sizes, length) if rows is None else rows
    height = few_sizes(len(rows))
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


def shown(batch: Batch, hidden: Tensor) -> tuple[Batch, Tensor]:
    """The batch without the tokens at the flat places `hidden` (m,), what is left of each row moved together; and the flat places
    (v,) where that stood. Its rows are as long as the fullest needs. It has no answers: places of theirs are gone."""
    height, length = batch.segments.shape
    left = (batch.segments > 0).index_put((hidden // length, hidden % length), hidden.new_zeros((), dtype=torch.bool))
    before = left.cumsum(1) - left.long()
    # All rows lose about the same share, so nothing is packed again.
    short = few_sizes(max(1, int(left.sum(1).max())))
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


def _readout(answers: list[Answer | None], starts: Ints) -> Readout | None:
    """The answers of one port, for the examples that have one; None when no example has."""
    known = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    if not known:
        return None
    if known[0][1].at is None:
        values = np.stack([answer.values for _, answer in known])
        return Readout(torch.from_numpy(values), None, torch.tensor([i for i, _ in known]))
    sizes = [len(answer.values) for _, answer in known]
    shares = [answer.shares for _, answer in known if answer.shares is not None]
    return Readout(
        torch.from_numpy(np.concatenate([answer.values for _, answer in known])),
        torch.from_numpy(np.concatenate([starts[i] + answer.at for i, answer in known])),
        torch.from_numpy(np.repeat([i for i, _ in known], sizes)),
        torch.from_numpy(np.concatenate(shares)) if shares else None,
    )
