"""Readouts: which vectors a target's head reads, and how many answers an example gets.

Legend of shapes: r rows, l row length, n examples, m read-out places, k tokens about a place, d width.
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

Vectors = Callable[[], Tensor]  # computes vectors only where a readout reads them


class Readout(ABC):
    """The rule by which a target's answers are read in the hidden states of an example."""

    # Whether the head reads the one pooled vector of an example, which can be computed once and kept.
    pooled: ClassVar[bool] = False
    # Whether each example gets exactly one answer.
    per_example: ClassVar[bool] = False

    @abstractmethod
    def width(self, pooled: int, token: int) -> int:
        """Return the width of the vectors read, from those of pooled vectors and of the hidden states of tokens."""

    @abstractmethod
    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        """Return the vectors (m, d) that the head reads.

        pooled: computes the pooled vector of each example, (n, d).
        tokens: computes the hidden states of all places, (r·l, d).
        answers: where answers are asked for; None asks every example for a pooled one.
        """

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer that asks an example of `pieces` for one; None where the target places its own questions."""
        return None

    @abstractmethod
    def describe(self, count: int, pooling: str) -> str:
        """Return in words where `count` answers were read."""


class Pooled(Readout):
    """One pooled vector an example, as a class or a number is read."""

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
    """The hidden states of single tokens, as hidden tokens are put back. places: what `describe` calls these tokens."""

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
    """Learnt tokens, or places between tokens, that each propose a part of the one answer of an example (DETR, Carion et al.
    2020), as boxes are read."""

    per_example = True

    def __init__(self) -> None:
        super().__init__("places")


def ask_at(places: Ints) -> Answer | None:
    """Return an empty answer that asks about the tokens at these places (m,) of an example; None where there are none."""
    return Answer(np.zeros(len(places), np.int64), places) if len(places) else None


def _at_places(states: Tensor, answers: PackedAnswers) -> Tensor:
    """Return the states (m', d) at the flat places of answers, or their means weighted by the shares about each place.

    Padded to few different sizes m' ≥ m, since each new size costs a kernel its choice of algorithm.
    """
    assert answers.at is not None
    extra = round_up_size(len(answers.at)) - len(answers.at)
    if answers.shares is None:
        return F.embedding(F.pad(answers.at, (0, extra)), states)
    places, shares = (F.pad(part, (0, 0, 0, extra)) for part in (answers.at, answers.shares.to(states.dtype)))
    return (states[places] * shares[..., None]).sum(1)
