"""Piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]


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

    def select(self, indices: Ints) -> Piece:
        """Return the piece with only the tokens at `indices`; each keeps its position."""
        return replace(
            self,
            tokens=self.tokens[indices],
            positions=self.positions[indices],
            special=self.special[indices],
            alignment=None
            if self.alignment is None
            else replace(self.alignment, regions=self.alignment.regions[indices]),
            units=None if self.units is None else self.units[indices],
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        regions = None if self.alignment is None else self.alignment.regions
        held = (self.tokens, self.positions, self.special, regions, self.units)
        return sum(array.nbytes for array in held if array is not None)


@dataclass(frozen=True, slots=True)
class MixturePart:
    """What a mixed value has of one of those that it is made of.

    share: how much of it is that one; those of all parts add up to 1. piece: the tokens that show it, aligned to its own raw
    coordinates, where it has a place of its own.
    """

    share: float
    piece: Piece | None = None


@dataclass(frozen=True, slots=True)
class FlatValues:
    """Values end to end, without frames: tokens (t,), how many each value has (n,), and where units begin (t,), if asked."""

    tokens: Ints
    lengths: Ints
    begins: NDArray[np.bool_] | None = None
