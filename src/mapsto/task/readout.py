"""Readouts: which vectors the head of a target reads, and how many answers an example has.

Legend of shapes: r rows, l row length, n examples, m places that are read, k tokens around a place, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mapsto.sequence.batch import Answer, PackedAnswers
from mapsto.sequence.packing import round_up_size

if TYPE_CHECKING:
    from mapsto.sequence.piece import Ints, Piece

Vectors = Callable[[], Tensor]  # a function, so that only the vectors that a readout reads are computed


class Readout(ABC):
    """The rule that says which vectors of an example a target's head reads."""

    # Whether the head reads the pooled vector of an example, and no hidden states of tokens.
    pooled: ClassVar[bool] = False
    # Whether each example gets exactly one answer.
    per_example: ClassVar[bool] = False

    @abstractmethod
    def width(self, pooled: int, token: int) -> int:
        """Return the width of the vectors that the head reads.

        pooled: width of pooled vectors. token: width of the hidden states of tokens.
        """

    @abstractmethod
    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        """Return the vectors (m, d) that the head reads.

        pooled: function that computes the pooled vector of each example, (n, d).
        tokens: function that computes the hidden states of all tokens, (r·l, d).
        answers: the tokens to read. If None, the pooled vector of each example is read.
        """

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer that asks for a prediction of an example with these pieces.

        None by default, for readouts whose target must choose the tokens to read.
        """
        return None

    @abstractmethod
    def describe(self, count: int, pooling: str) -> str:
        """Return in words where `count` answers are read, as printed by `mapsto trace`.

        pooling: name of the pooling.
        """


class Pooled(Readout):
    """A readout of the one pooled vector of each example, for answers such as a class or a number."""

    pooled = True
    per_example = True

    def width(self, pooled: int, token: int) -> int:
        return pooled

    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        vectors = pooled()
        return vectors if answers is None else vectors[answers.examples]

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        return Answer(np.zeros((), np.int64))

    def describe(self, count: int, pooling: str) -> str:
        return f"pooled ({pooling})"


class PerToken(Readout):
    """A readout of the hidden states of single tokens, such as hidden tokens that are to be filled in.

    places: the word for these tokens in `describe`.
    """

    def __init__(self, places: str = "hidden places") -> None:
        self.places = places

    def width(self, pooled: int, token: int) -> int:
        return token

    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        assert answers is not None, "answers of tokens are read where they are asked for"
        return _at_places(tokens(), answers)

    def describe(self, count: int, pooling: str) -> str:
        return f"{count} {self.places}"


class Queried(PerToken):
    """A readout of several queries, such as for boxes (DETR, Carion et al. 2020).

    A query is a learnt token or a point between tokens. Each query predicts one part of the answer, such as one box.
    """

    per_example = True

    def __init__(self) -> None:
        super().__init__("places")


def ask_at(places: Ints) -> Answer | None:
    """Return an empty answer that asks for predictions at tokens of an example; None if there are no tokens.

    places: (m,) indices of the tokens in the example.
    """
    return Answer(np.zeros(len(places), np.int64), places) if len(places) else None


def _at_places(states: Tensor, answers: PackedAnswers) -> Tensor:
    """Return the hidden states (m', d) at the tokens of answers; at a point between tokens, their weighted mean.

    states: (r·l, d). The m states are padded to one of few sizes m' ≥ m, since each new size costs a choice of kernel.
    """
    assert answers.at is not None
    extra = round_up_size(len(answers.at)) - len(answers.at)
    if answers.shares is None:
        return F.embedding(F.pad(answers.at, (0, extra)), states)
    places, shares = (F.pad(part, (0, 0, 0, extra)) for part in (answers.at, answers.shares.to(states.dtype)))
    return (states[places] * shares[..., None]).sum(1)
