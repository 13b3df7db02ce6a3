"""The contract of a kind of value that is answered."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mapsto.errors import UsageError
from mapsto.metrics.intervals import Score, with_interval
from mapsto.sequence.batch import Answer
from mapsto.task.capabilities import Mark, MixtureLayout
from mapsto.task.source import Kind, Learning, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mapsto.model.layers import TransformConfig
    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import Ints, Part, Piece


Way = Literal["pooled", "aligned", "appended"]


State = dict[str, Any]


Figure = tuple[Any, ...]  # a metric, and the arrays over items that it takes


class Target(Kind):
    """A kind of value that is answered. One object for each target port.

    named: whether an answer is one of a few names; then `classes` holds them, in the order of the outputs. likely: whether
    the loss is the −log of a probability. blindly: what a model does that reads nothing. stem: what weights of a start call
    its head, where models of others have such a one under the name of its kind. corruption: what hides the answer, where it
    stands behind `~`. gain: the field's name for the mean of `gains`. amounts: those of its `figures` that may be larger
    than 1, which the others are at best. strength: for what `told` measures. smooth: the share of a named answer that its
    loss spreads over all classes; a matter of training, never saved. naming: how those weights of its head are called that
    say what the classes are, which a start lends to the same ones alone; by default all. lies_in: the kind of source whose
    raw coordinates its answers are in; they are laid anew where that is augmented. resembles: whether they also look as
    that does, so that augmentation may move it and must not recolour it, and an answer is made of the value. mixes: of
    which mixtures of values `mixed` can tell the answer.
    """

    way: ClassVar[Way]
    lies_in: ClassVar[str] = ""
    resembles: ClassVar[bool] = False
    mixes: ClassVar[tuple[MixtureLayout, ...]] = ()
    named: ClassVar[bool] = False
    likely: ClassVar[bool] = True
    blindly: ClassVar[str] = "always the commonest answer"
    stem: ClassVar[str] = ""
    gain: ClassVar[str] = ""
    amounts: ClassVar[tuple[str, ...]] = ()
    strength: ClassVar[str] = "log-odds"
    naming: ClassVar[str] = ""
    classes: list[str]
    corruption: Corruption
    smooth: float = 0.0

    @property
    def learning(self) -> Learning | None:
        """How fits are run, where the answers take longer to learn than the kind that is read says."""
        return None

    @property
    def whole_rows(self) -> bool:
        """Whether `decode` and `score` take one output a row: a pooled one, or what `whole` puts together."""
        return self.way == "pooled" or bool(self.lies_in and not self.resembles)

    @staticmethod
    def key(value: Any) -> str:
        """Equal for answers that are the same."""
        return str(value)

    @staticmethod
    def misplaced(answer: Any, value: Any) -> str:
        """Why an answer cannot lie in a value of the kind that it lies in; nothing where it can."""
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """The cells that are kept beside files which are a value each, in a folder or in a file of their own, by the names of
        those files; nothing where there are none. within: the files of a folder. Raises DataError, OSError."""
        return {}

    def meet(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """See `beside`."""
        self.beside(sources.get(self.lies_in or self.kind), transform)

    def beside(self, source: Source | None, transform: TransformConfig | None) -> None:
        """Meet the source that its answers lie in, else that of the same kind, where the arrow has one; and the family's shape of
        a vocabulary head."""

    @abstractmethod
    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Take from the training answers what the head must know: classes, mean and spread, …

        With `balance`, classes of a named kind weigh the same in the loss, however many rows they have.
        """

    def restore(self, corruption: Corruption) -> None:
        """The answer is what `corruption` hides of a source of this kind. Raises UsageError where that cannot be."""
        raise UsageError(f"{self.kind!r} cannot be put back from a hidden source")

    @staticmethod
    def file(value: Any) -> tuple[str, bytes] | None:
        """What `completed` gives as the ending and the content of a file; None for kinds that are cells of a table."""
        return None

    def completed(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Any:
        """The value that `piece`, which has its alignment, was made of, with what outputs (m, …) say in the place of its `hidden`
        tokens (m,): for aligned kinds that lie in a source, the answer. Raises UsageError for kinds that cannot be put back."""
        raise UsageError(f"{self.kind!r} cannot be put back from a hidden source")

    @abstractmethod
    def encode(self, answer: Any, pieces: Sequence[Piece]) -> Answer:
        """The answer as numbers, laid against the pieces of its example."""

    def mixed(self, answers: Sequence[Any], pieces: Sequence[Piece], parts: Sequence[Part]) -> Answer:
        """The answer to `pieces` that were mixed, from the answers to the values they have `parts` of: the mean, weighed by their
        shares (Zhang et al. 2018), unless a kind knows better; for kinds that name mixtures in `mixes`."""
        told = [self.encode(answer, pieces).values for answer in answers]
        return Answer(np.asarray(np.average(told, axis=0, weights=[part.share for part in parts]), np.float32))

    def asked(self, pieces: Sequence[Piece]) -> Ints:
        """Where an aligned answer is read when none is given: every token of the value, counted from the first."""
        return np.flatnonzero(~np.concatenate([piece.special for piece in pieces]))

    @property
    def unasked(self) -> str:
        """What to say of a value of which no target asks anything."""
        return "nothing is asked of this value"

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        """Where an answer that is not pooled is read, without saying what is true; None where nothing is asked."""
        at = self.asked(pieces)
        return Answer(np.zeros(len(at), np.int64), at) if len(at) else None

    def whole(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """One output an example, (n, …), out of what was read (m, …) for examples of these pieces; in raw coordinates for kinds
        that lie in a source."""
        return output

    def probe(self, features: Any, values: Ints, seed: int, chosen_by: Any = None) -> tuple[Tensor, Tensor] | None:
        """Weight (c, d) and bias (c,) of the best linear head on frozen vectors (m, d), or on sparse ones of length 1; None
        when this kind has none. chosen_by: features that choose how strongly it is held back, where the others were learnt from
        the same answers, which look easier in them than they are."""
        return None

    def calibrate(self, head: nn.Module, output: Tensor, values: Tensor) -> float | None:
        """Make `head` as sure as it is right on held-out outputs (m, …) with true values (m, …), and no answer another one: the
        temperature it was divided by; None where a kind has none or there is too little to tell."""
        return None

    def blind(self, values: Ints) -> Tensor | None:
        """The output (c,) of a model that reads nothing, from training values; None where a kind has none."""
        return None

    def told(self, output: Tensor, answered: Tensor) -> Tensor | None:
        """How strongly outputs (m, …) say what the outputs `answered` (m, …) answer, (m,), for explanations; None where a
        kind has no such figure."""
        return None

    def confidence(self, output: Tensor) -> NDArray[np.float64] | None:
        """The probability (m,) that the target itself gives its answers; None where it gives none."""
        return None

    def gains(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """What each answer is worth, (m,): their mean, 1 at best, is what comparisons are about. Takes the evidence of kinds that
        are not answered by whole rows. None where a kind has none, or `answers` give nothing to measure by."""
        return None

    def borne_out(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """How far each answer (m,) turned out as its `confidence` says: what it is worth, unless a kind is sure of something
        else."""
        return self.gains(output, answers)

    @abstractmethod
    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """From the vectors read out, (m, width), to this kind's outputs (m, …)."""

    @abstractmethod
    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The sum of the losses of `output` (m, …) against `values` (m, …), a scalar in fp32."""

    def error(self, output: Tensor, values: Tensor) -> Tensor:
        """What held-out rows choose the best weights by, summed over the answers; the loss unless a kind knows better."""
        return self.loss(output, values)

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """What `score` needs of outputs (m, …); kinds with large outputs keep less than all of it."""
        return output

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """One row an example, (n, …), of the evidence (m, …) for examples of these pieces, for kinds that lie in a source."""
        return self.whole(evidence, pieces)

    @abstractmethod
    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The answers, each with its confidence, from outputs (m, …)."""

    @abstractmethod
    def figures(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Figure]:
        """What tells how good the evidence (m, …) is against the true answers."""

    def score(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Score]:
        """The figures, each with its number of items and 95 % interval."""
        return {
            name: with_interval(metric, *arrays) for name, (metric, *arrays) in self.figures(output, answers).items()
        }

    @abstractmethod
    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """What a model that reads nothing would reach on `answers`."""

    def confusion(self, output: Tensor, answers: Sequence[Any]) -> dict[str, dict[str, int]]:
        """How often each true answer got each answer, for kinds with few of them."""
        return {}

    def names(self, answer: Any) -> Sequence[str]:
        """The classes that a true answer names, whose rows are looked at by themselves."""
        return ()

    def notes(self, answers: Sequence[Any]) -> list[str]:
        """What a reader of the scores must know about these true answers."""
        return []

    @abstractmethod
    def state(self) -> State:
        """What `learn` found, as JSON; the class takes it back as keyword arguments."""

    def brief(self, answer: Any) -> str:
        """An answer, or a true one, in a few words."""
        return str(answer)

    @staticmethod
    def marks(answer: Any, true: bool = False) -> list[Mark]:
        """The regions that an answer names, for kinds that lie in a source."""
        return []

    def show(self, answer: Any) -> str:
        """The answer as HTML."""
        return html.escape(self.brief(answer))
