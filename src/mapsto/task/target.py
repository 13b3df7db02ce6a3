"""The interface of a kind of values that a model predicts. Abilities that only some kinds have are in capabilities.py.

Legend of shapes: m answers of a batch, or, for kinds with several predictions in an example, m predictions; d width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mapsto.task.source import Kind, Source

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mapsto.model.layers import TransformConfig
    from mapsto.sequence.batch import Answer
    from mapsto.sequence.piece import Piece
    from mapsto.task.readout import Readout

State = dict[str, Any]
Metric = tuple[Any, ...]  # (function, *arrays): the metric is function(*arrays), and arrays have one entry per item


class Target(Kind):
    """A kind of values that a model predicts. Each target port of an arrow has its own Target object."""

    # The rule that says which vectors the head reads.
    readout: ClassVar[Readout]
    # The prefix of the head's weights among ours of a published model; empty if published models have no such head.
    head_name: ClassVar[str] = ""

    @staticmethod
    def key(value: Any) -> str:
        """Return a string that is the same for equal answers, to compare answers."""
        return str(value)

    @abstractmethod
    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn from the training answers the settings of the head, such as the classes, or the mean and standard deviation.

        balance: whether the model learns to answer as if all classes were equally frequent.
        Raises DataError if the answers do not suffice, such as if all are of one class.
        """

    @abstractmethod
    def state(self) -> State:
        """Return the constructor's arguments that rebuild this target, such as the settings from `learn`, in JSON types."""

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the sources that this target uses, such as the text source for its tokenizer; by default nothing.

        sources: the arrow's sources, by kind. transform: the model family's settings of the layer before the output weights.
        Raises UsageError if the arrow lacks a source that this target needs.
        """

    @abstractmethod
    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Return a true answer as numbers, with the indices of the tokens from which it is predicted (None if pooled).

        pieces: the source pieces of the example.
        """

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an answer without true values, which requests predictions for an example; None if there is nothing to predict.

        It has the indices of the tokens from which to predict (None for the pooled vector). pieces: the source pieces of the
        example.
        """
        return self.readout.question(pieces)

    @abstractmethod
    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a new module from the vectors (m, width) that `readout` selects to outputs (m, …).

        embedder: the embedder of the source of this target's kind; None if the arrow has no such source.
        """

    @abstractmethod
    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss of outputs (m, …) against encoded true answers (m, …), summed over answers, as an fp32 scalar."""

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the error of a batch of held-out rows, summed over answers. The weights with the lowest error are kept.

        By default it is the loss. output: (m, …), of the head. values: (m, …), encoded true answers.
        """
        return self.loss(output, values)

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the part of the outputs, (m, …), from which `metrics` is computed later.

        By default these are the outputs; kinds with large outputs return a summary, to save memory.
        output: (m, …), of the head. values: (m, …), encoded true answers.
        """
        return output

    @abstractmethod
    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return a dict for each answer: {kind: answer}, and "probability" for kinds with a confidence.

        output: (m, …), of the head. Some kinds name or add entries otherwise, such as "scores".
        """

    @abstractmethod
    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return {name: (function, *arrays)}.

        The value of a metric is function(*arrays), and each array has one entry for each answer.
        So the function can also be evaluated on a sample of the answers, for confidence intervals.
        output: (m, …), from `evidence`. answers: the true answers.
        """

    @abstractmethod
    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return metrics on `answers`, as `metrics` does, for the best constant answer, which is the same for every row."""

    def brief(self, answer: Any) -> str:
        """Return a predicted or true answer as a short text, for tables and messages."""
        return str(answer)
