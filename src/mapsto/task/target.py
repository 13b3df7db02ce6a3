"""The contract of an answer kind: a core of 20 members; what only some kinds can do stands in capabilities.py.

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
Metric = tuple[Any, ...]  # a metric function, and the arrays over items that it takes


class Target(Kind):
    """A kind of value that is answered. An arrow has one object for each of its target ports."""

    # Which vectors the head reads.
    readout: ClassVar[Readout]
    # The name of the head's weights in a starting model, where published models of the family have such a head.
    head_name: ClassVar[str] = ""

    @staticmethod
    def key(value: Any) -> str:
        """Return a text that is equal for equal answers."""
        return str(value)

    @abstractmethod
    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn from the training answers what the head must know, such as classes, or mean and standard deviation.

        balance: classes weigh the same in the loss, however many rows they have.

        Raises DataError for answers that nothing can be learnt from.
        """

    @abstractmethod
    def state(self) -> State:
        """Return what `learn` learnt as JSON; the class takes it back as keyword arguments."""

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Take from the arrow's sources, by kind, what the answers depend on.

        transform: the shape of the family's vocabulary head.

        Raises UsageError where a source that the answers need is missing.
        """

    @abstractmethod
    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """Return the answer as numbers, with the places in its example's `pieces` where it is read."""

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer with the places where an example of `pieces` is read; None where nothing is asked."""
        return self.readout.question(pieces)

    @abstractmethod
    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the head that computes outputs (m, …) from the vectors (m, width) that `readout` reads.

        embedder: of the source of the same kind, where the arrow has one.
        """

    @abstractmethod
    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed loss of outputs (m, …) against encoded answers (m, …), a scalar in fp32."""

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed error by which held-out rows choose the best weights; the loss unless a kind has a better one."""
        return self.loss(output, values)

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return what `metrics` needs of outputs (m, …); kinds with large outputs keep less than all of it."""
        return output

    @abstractmethod
    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return the answers, each with its confidence, from outputs (m, …)."""

    @abstractmethod
    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the metrics of the evidence (m, …) against the true answers, by name."""

    @abstractmethod
    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """Return the scores on `answers` of the best constant answer, which reads nothing."""

    def brief(self, answer: Any) -> str:
        """Return a predicted or true answer in a few words."""
        return str(answer)
