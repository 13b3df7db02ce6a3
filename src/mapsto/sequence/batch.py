"""Examples, their answers, and the packed batches that a model reads.

An answer is read at tokens if it is predicted from their hidden states, and pooled if it is predicted from one vector of the
whole example.
Legend of shapes: r rows, l row length, t tokens, n examples, m tokens or points with an answer, a axes of position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.sequence.piece import Ints, Piece


@dataclass(frozen=True, slots=True)
class Answer:
    """The encoded label of one example at one target port.

    values: () or (k,), a number or a vector, if pooled; (m, …) for an answer at each of m tokens or points.
    at: None if pooled; (m,), indices of the tokens that predict the answer, counted from the first token of the example; (m, p)
        if points lie between tokens: the p tokens around each of m points.
    piece: the answer's own tokens, if these are appended to the sources; `at` then counts from the first of them.
    shares: (m, p), weights of the p tokens around each point, by which their hidden states are interpolated.
    """

    values: NDArray[Any]
    at: Ints | None = None
    piece: Piece | None = None
    shares: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One example, ready to be packed. Its pieces, laid end to end, form one segment of a packed row.

    pieces: the pieces of the sources.
    answers: one for each target port; None for a port without an answer.
    row: number of the example in the data set that it was taken from.
    draw: random number computed from (seed, row, step). It seeds objectives that sample for each example.
    weight: by which the loss of the example's answers is multiplied (`--weight`).
    """

    pieces: tuple[Piece, ...]
    answers: tuple[Answer | None, ...] = ()
    row: int = 0
    draw: int = 0
    weight: float = 1.0

    @property
    def all_pieces(self) -> tuple[Piece, ...]:
        """Return the pieces of the sources, then those of appended answers, in the order of the segment."""
        return self.pieces + tuple(a.piece for a in self.answers if a is not None and a.piece is not None)

    @property
    def shifted_answers(self) -> tuple[Answer | None, ...]:
        """Return the answers with every `at` counted from the first token of the example, also that of appended answers."""
        # Most examples have no appended answer, and so nothing to shift.
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
    """The answers of all examples of a batch at one target port, end to end.

    values: (m, …), the encoded answers.
    at: None if pooled; (m,), flat places in the batch of the tokens that predict the answers; (m, p) for the p tokens around each
        of m points.
    examples: (m,), index of the example of each answer.
    shares: (m, p), weights of the p tokens around each point, by which their hidden states are interpolated; else None.
    weights: (m,), the weight of the example of each answer; None if all weights are 1.
    """

    values: Tensor
    at: Tensor | None
    examples: Tensor
    shares: Tensor | None = None
    weights: Tensor | None = None

    @property
    def total_weight(self) -> float:
        """Return the sum of the answers' weights: their number, if all weights are 1."""
        return len(self.values) if self.weights is None else float(self.weights.sum())

    def sum_weighted(self, measure: Callable[[Tensor, Tensor], Tensor], output: Tensor) -> Tensor:
        """Return the sum of a measure over all answers, such as a loss, in which each counts by its weight.

        measure: returns the sum over some answers, given their outputs (k, …) and their values (k, …). It is called once for all
            answers of one weight, always with whole examples and in their order.
        output: (m, …), of the head.
        """
        if self.weights is None:
            return measure(output, self.values)
        # Sorted, so that the gradient of all parts is put together once.
        order = self.weights.argsort(stable=True)
        weights, counts = torch.unique_consecutive(self.weights[order], return_counts=True)
        sizes = counts.tolist()
        parts = zip(torch.split(output[order], sizes), torch.split(self.values[order], sizes), weights, strict=True)
        return torch.stack([weight * measure(outputs, values) for outputs, values, weight in parts]).sum()


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples packed into r rows of l places for tokens. The flat place of a token is the index row · l + column.

    tokens: for each kind the ids or features (t, …) of the tokens of this kind.
    slots: for each kind the flat places (t,) of the tokens of this kind.
    segments: (r, l), number of the example within its row, from 1 on; 0 for padding.
    roles: (r, l), attention rule of each token (`Role`).
    places: (r, l), index of the piece of each token within its example; for source tokens the index of the source port.
    positions: (r, l, a), position of each token along each axis.
    owner: (r, l), index of the example of a source token; n for tokens of appended answers and for padding.
    starts: (n,), flat place of the first token of each example.
    lengths: (n,), number of source tokens of each example, without appended answers.
    rows: (n,), `row` of each example.
    answers: for each target port the packed answers; None if no example has one.
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
        """Return the number of tokens in the batch, special tokens included, padding not."""
        return int((self.segments > 0).sum())

    @property
    def fill(self) -> float:
        """Return the fraction of the batch's places that hold a token; the others are padding."""
        return self.real_tokens / self.segments.numel()

    @property
    def is_answer(self) -> Tensor:
        """Return which places hold a token of an appended answer, (r, l)."""
        return (self.owner == len(self.starts)) & (self.segments > 0)

    def examples_of(self, places: Tensor) -> Tensor:
        """Return the index of the example of each token. places: flat places of tokens, none of them padding."""
        ordered, order = self.starts.sort()
        # A token belongs to the last example that begins before it.
        return order[torch.searchsorted(ordered, places, right=True) - 1]

    @property
    def answer_lengths(self) -> Tensor:
        """Return the number of tokens of each example's appended answers, (n,)."""
        places = self.is_answer.flatten().nonzero()[:, 0]
        return torch.bincount(self.examples_of(places), minlength=len(self.starts))

    def lengths_without(self, hidden: Tensor | None) -> Tensor:
        """Return the number of source tokens of each example, (n,), not counting hidden tokens.

        hidden: (m,), flat places of the hidden tokens; None if no token is hidden.
        """
        if hidden is None:
            return self.lengths
        return (
            self.lengths - torch.bincount(self.owner.flatten()[hidden], minlength=len(self.starts))[: len(self.starts)]
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on `device`."""
        return replace(self, **{f.name: _to_device(getattr(self, f.name), device) for f in fields(self)})


def _to_device(value: Any, device: torch.device | str) -> Any:
    """Return a tensor, dict, tuple or PackedAnswers with all its tensors on `device`; return other values unchanged."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: tensor.to(device) for key, tensor in value.items()}
    if isinstance(value, PackedAnswers):
        return PackedAnswers(*(_to_device(getattr(value, f.name), device) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_to_device(item, device) for item in value)
    return value
