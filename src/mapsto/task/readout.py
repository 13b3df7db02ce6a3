"""Readouts: the rules by which a target's head reads the pooled vector or single tokens of an example.

Legend of shapes: r rows of a batch, l tokens of a row, n examples, m vectors that are read, k tokens around a point, d width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.sequence.batch import Answer, PackedAnswers
from mapsto.sequence.packing import round_up_size

if TYPE_CHECKING:
    from mapsto.sequence.piece import Ints, Piece

# Numbers that tell where a step of time lies in its token (`TimedTokens`).
NUM_TIMES = 3

Vectors = Callable[[], Tensor]  # a function, so that only the vectors that a readout reads are computed


class Readout(ABC):
    """A rule that selects the vectors of an example from which a target's head computes its outputs."""

    # Whether the head reads the pooled vector of an example, and no hidden states of tokens.
    pooled: ClassVar[bool] = False
    # Whether each example gets exactly one answer.
    per_example: ClassVar[bool] = False

    @abstractmethod
    def width(self, pooled: int, token: int) -> int:
        """Return the width of the vectors that the head reads, one of the two widths in the arguments.

        pooled: width of pooled vectors. token: width of the hidden states of tokens.
        """

    @abstractmethod
    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        """Return the vectors (m, d) that the head reads in a batch. m may be padded, see `_at_places`.

        pooled: function that computes the pooled vector of each example, (n, d).
        tokens: function that computes the hidden states of all tokens, (r·l, d).
        answers: the examples or tokens that are read; None for the pooled vectors of all examples.
        """

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an answer without values that requests a prediction for an example with these source pieces.

        None by default, as for readouts of tokens: their targets choose the tokens to read themselves.
        """
        return None

    @abstractmethod
    def describe(self, count: int, pooling: str) -> str:
        """Return in words from which vectors `count` answers are read, such as "pooled (mean)"; printed by `mapsto trace`.

        pooling: name of the pooling, such as "mean".
        """


class Pooled(Readout):
    """A readout of one vector for each example, the pooled vector, for answers such as a class or a number."""

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
    """A readout of the hidden states of single tokens, such as of hidden tokens that are to be predicted.

    places: the noun for these tokens in the text of `describe`.
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


class PerWord(PerToken):
    """A readout of the hidden states of tokens that stand for words: of each word the first, or all tokens of a passage.

    A row has one answer, which its target composes of the outputs at all words of all windows of the row (see `Composed`).
    """

    per_example = True

    def __init__(self, places: str = "words") -> None:
        super().__init__(places)


class Continued(PerToken):
    """A readout of the hidden states of an answer's tokens, each of which predicts the next token of the answer.

    An example has one answer, which is generated token by token.
    """

    per_example = True

    def __init__(self) -> None:
        super().__init__("tokens of the answer")


class Sides(Readout):
    """A readout of one vector for each value of a matching arrow, each of which is an example of its own.

    The vectors are compared as they are (`Mapping.sentence_vectors`), so no head reads them.
    """

    per_example = True

    def width(self, pooled: int, token: int) -> int:
        return pooled

    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        raise AssertionError("vectors that are compared have no head")

    def describe(self, count: int, pooling: str) -> str:
        return f"one vector for each value ({pooling})"


class Queried(PerToken):
    """A readout of several query vectors for each example, such as one for each box (DETR, Carion et al. 2020).

    A query vector is the hidden state of a learnt token, or is interpolated at a point between tokens.
    """

    per_example = True

    def __init__(self) -> None:
        super().__init__("places")


class TimedTokens(PerToken):
    """A readout of tokens and of steps of time, each of which repeats the hidden state of the token that lasts at that time.

    An answer has first the tokens, then the steps. The first NUM_TIMES numbers of its values, which the head reads behind the
    hidden states, say which of both a row is, and which part of its token a step is.
    """

    def __init__(self) -> None:
        super().__init__("tokens and steps of time")

    def width(self, pooled: int, token: int) -> int:
        return token + NUM_TIMES

    def vectors(self, pooled: Vectors, tokens: Vectors, answers: PackedAnswers | None) -> Tensor:
        states = super().vectors(pooled, tokens, answers)
        assert answers is not None
        times = answers.values[:, :NUM_TIMES].to(states.dtype)
        return torch.cat([states, F.pad(times, (0, 0, 0, len(states) - len(times)))], dim=1)


def ask_at(places: Ints) -> Answer | None:
    """Return an answer without values that requests predictions at these tokens of an example; None if `places` is empty.

    places: (m,), indices of the tokens in the example.
    """
    return Answer(np.zeros(len(places), np.int64), places) if len(places) else None


def _at_places(states: Tensor, answers: PackedAnswers) -> Tensor:
    """Return the hidden states (m', d) at the tokens where `answers` are read; at a point between tokens, the weighted mean.

    states: (r·l, d), of all tokens. The m results are padded with further rows to m' ≥ m, one of a few sizes, because the GPU
    library chooses its kernels anew for each size.
    """
    assert answers.at is not None
    # An exported graph has no sizes of its own to choose kernels for.
    extra = 0 if torch.compiler.is_exporting() else round_up_size(len(answers.at)) - len(answers.at)
    if answers.shares is None:
        return F.embedding(F.pad(answers.at, (0, extra)), states)
    places, shares = (F.pad(part, (0, 0, 0, extra)) for part in (answers.at, answers.shares.to(states.dtype)))
    return (states[places] * shares[..., None]).sum(1)
