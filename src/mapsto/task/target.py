"""The interface of a kind of values that are predicted. Abilities that only some kinds have are in capabilities.py.

Legend of shapes: m answers of a batch, d width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mapsto.metrics.intervals import Score
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
    """A kind of values that are predicted. Each target port of an arrow has its own object."""

    # The rule that says which vectors the head reads.
    readout: ClassVar[Readout]
    # The prefix of the head's weights among ours of a published model; empty if published models have no such head.
    head_name: ClassVar[str] = ""

    @staticmethod
    def key(value: Any) -> str:
        """Return a string that is equal for equal answers."""
        return str(value)

    @abstractmethod
    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn from the training answers what the head needs, such as the classes, or mean and standard deviation.

        balance: whether all classes get the same total weight in the loss, however many rows they have.
        Raises DataError if nothing can be learnt from these answers, such as from a single class.
        """

    @abstractmethod
    def state(self) -> State:
        """Return what `learn` has learnt, as JSON values by name. The constructor takes them as keyword arguments."""

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store what this target needs of the arrow's sources, such as the tokenizer; by default nothing.

        sources: the sources by kind. transform: settings of the vocabulary head in the model family.
        Raises UsageError if a source that the answers need is missing.
        """

    @abstractmethod
    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Return an answer as numbers, with the tokens of the example at which it is read.

        pieces: the source pieces of the example.
        """

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer that names the tokens at which to predict; None if nothing is to be predicted.

        pieces: the source pieces of the example.
        """
        return self.readout.question(pieces)

    @abstractmethod
    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the module that maps the vectors (m, width), which `readout` selects, to outputs (m, …).

        embedder: the embedder of the source of the same kind; None if the arrow has no such source.
        """

    @abstractmethod
    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss of outputs (m, …) against encoded answers (m, …), summed over answers, as an fp32 scalar."""

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the error, summed over answers, that is computed on held-out rows to choose the best weights.

        By default it is the loss. output: (m, …). values: (m, …), encoded answers.
        """
        return self.loss(output, values)

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return what `metrics` needs of the outputs, (m, …): by default the outputs, for large ones a summary to save memory.

        output: (m, …), of the head. values: (m, …), encoded answers.
        """
        return output

    @abstractmethod
    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return one dict for each output: the answer under the kind's name, and a "probability" if the kind has a confidence.

        output: (m, …), of the head.
        """

    @abstractmethod
    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return each metric by name as a tuple of a function and its arguments, which are arrays with one entry for each item.

        output: (m, …), from `evidence`. answers: the true answers.
        """

    @abstractmethod
    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """Return the scores on `answers` of the best constant answer, which ignores the sources, by name of the metric."""

    def brief(self, answer: Any) -> str:
        """Return a predicted or true answer in a few words, for tables and messages."""
        return str(answer)
