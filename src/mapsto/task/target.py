"""The contract of a kind of values that are predicted. Abilities that only some kinds have are in capabilities.py.

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
    """A kind of values that are predicted. An arrow has one object for each of its target ports."""

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

        balance: whether all classes weigh the same in the loss, however many rows they have.
        Raises DataError if nothing can be learnt from these answers.
        """

    @abstractmethod
    def state(self) -> State:
        """Return what `learn` has learnt, as JSON values by name. The constructor takes them as keyword arguments."""

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Take the settings that answers depend on from the sources of the arrow.

        sources: the sources by kind. transform: settings of the family's vocabulary head.
        Raises UsageError if a source that the answers need is missing.
        """

    @abstractmethod
    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Return an answer as numbers, with the tokens where it is read.

        pieces: the source pieces of its example.
        """

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer with the tokens where a prediction is read; None if nothing is to be predicted.

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
        """Return the error, summed over answers, by which held-out rows choose the best weights.

        By default it is the loss. output: (m, …). values: (m, …), encoded answers.
        """
        return self.loss(output, values)

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the part (m, …) of the outputs that `metrics` needs. By default it is all of them.

        Kinds with large outputs keep less, to save memory. values: (m, …), encoded answers.
        """
        return output

    @abstractmethod
    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return one dict for each output (m, …), with the answer and, for most kinds, its confidence."""

    @abstractmethod
    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the metrics by name, each as its function and the function's arguments.

        output: (m, …), from `evidence`. answers: the true answers.
        """

    @abstractmethod
    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """Return by name the scores on `answers` of the best constant answer, which ignores the sources."""

    def brief(self, answer: Any) -> str:
        """Return a predicted or true answer in a few words."""
        return str(answer)
