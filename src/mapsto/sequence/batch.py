"""The one carrier between the parts: pieces of tokens, the examples made of them, and the packed batches a model reads.

Legend of shapes: r rows, l row length, t tokens, n examples, m read-out places, a axes of position.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.sequence.piece import Ints, Piece


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
class PackedAnswers:
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
    answers: tuple[PackedAnswers | None, ...] = field(default=())
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
    if isinstance(value, PackedAnswers):
        return PackedAnswers(*(_moved(getattr(value, f.name), device) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
