"""Examples, their answers, and the packed batches that a model reads.

Legend of shapes: r rows, l row length, t tokens, n examples, m answers read at tokens, a axes of position.
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
    """The label of one target port for one example.

    values: () or (k,) for a pooled answer; (m, …) for an answer read at tokens.
    at: (m,) indices of the tokens where the answer is read, counted from the first token of the example; (m, k) for an answer
        read between tokens, the k tokens around each point. None for a pooled answer.
    piece: tokens of an appended answer, placed after the sources; `at` then counts from its first token.
    shares: (m, k) interpolation weights of the tokens `at`, for an answer read between tokens.
    """

    values: NDArray[Any]
    at: Ints | None = None
    piece: Piece | None = None
    shares: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row of data, ready to be packed: its pieces end to end are one segment.

    row: index of the row.
    draw: random number computed from (seed, row, step); the seed of an objective that samples for each row.
    """

    pieces: tuple[Piece, ...]
    answers: tuple[Answer | None, ...] = ()
    row: int = 0
    draw: int = 0

    @property
    def all_pieces(self) -> tuple[Piece, ...]:
        """Return the sources, then the appended answers, in their order in the segment."""
        return self.pieces + tuple(a.piece for a in self.answers if a is not None and a.piece is not None)

    @property
    def shifted_answers(self) -> tuple[Answer | None, ...]:
        """Return the answers with every `at` counted from the first token of the example."""
        if len(self.all_pieces) == len(self.pieces):
            return self.answers
        answers, offset = list(self.answers), sum(map(len, self.pieces))
        for port, answer in enumerate(self.answers):
            if answer is not None and answer.piece is not None and answer.at is not None:
                answers[port] = replace(answer, at=offset + answer.at)
                offset += len(answer.piece)
        return tuple(answers)

    def __len__(self) -> int:
        return sum(map(len, self.all_pieces))


@dataclass(frozen=True, slots=True)
class PackedAnswers:
    """The answers of one target port over a batch.

    values: (m, …).
    at: (m,) flat places of the tokens where they are read, or (m, k) if read between tokens; None for pooled answers.
    examples: (m,) index of the example of each.
    shares: (m, k) interpolation weights, if read between tokens.
    """

    values: Tensor
    at: Tensor | None
    examples: Tensor
    shares: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed examples. Flat places index tokens over rows × length; segment 0 is padding.

    tokens: values (t, …) of the tokens of each kind.
    slots: flat places (t,) of the tokens of each kind.
    segments, roles: (r, l).
    places: (r, l), index of the source port of each token.
    positions: (r, l, a).
    owner: (r, l), index of the example of a source token, n for other tokens.
    starts: (n,), flat place of the first token of each example.
    lengths: (n,), number of source tokens of each example.
    rows: (n,), indices of the data rows.
    draws: (n,), random number of each example.
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
        """Return the number of tokens that are not padding."""
        return int((self.segments > 0).sum())

    @property
    def fill(self) -> float:
        """Return the share of places that are not padding."""
        return self.real_tokens / self.segments.numel()

    def lengths_without(self, hidden: Tensor | None) -> Tensor:
        """Return the number of source tokens of each example, (n,), without those at the flat places `hidden` (m,)."""
        if hidden is None:
            return self.lengths
        return self.lengths - torch.bincount(self.owner.flatten()[hidden], minlength=len(self.starts))

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on `device`."""
        return replace(self, **{f.name: _to_device(getattr(self, f.name), device) for f in fields(self)})


def _to_device(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: tensor.to(device) for key, tensor in value.items()}
    if isinstance(value, PackedAnswers):
        return PackedAnswers(*(_to_device(getattr(value, f.name), device) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_to_device(item, device) for item in value)
    return value
