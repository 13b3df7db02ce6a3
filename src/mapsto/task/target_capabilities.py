"""Capabilities of targets: abilities that some kinds of answers have beyond the contract of a target (see `capabilities`)."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeGuard

import numpy as np

from mapsto.sequence.batch import Answer
from mapsto.task.item_counts import ItemCounts
from mapsto.task.label_spelling import appearance, same_value
from mapsto.task.source_capabilities import Mark, MixtureLayout
from mapsto.task.target import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mapsto.metrics.intervals import Score
    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import Ints, MixturePart, Piece
    from mapsto.task.source import Learning


# The share of a window that the next one repeats, for answers that are parts of a value, such as spans of a text.
OVERLAP = 0.25


@dataclass(frozen=True)
class Repair:
    """A proposed correction of the answer of one row: the index of the row, the new cell, the old part of it, and the reason."""

    row: int
    cell: Any
    quoted: str
    reason: str


class RowFault(NamedTuple):
    """A row whose answer is probably wrong.

    row: its index. reason: the evidence, in words; with an `earlier_row` it ends where the place of that row follows.
    earlier_row: the index of a row that it is compared with; None if there is none.
    """

    row: int
    reason: str
    earlier_row: int | None = None


class Reconstruction(Target):
    """A target that predicts new content for tokens of the source of its kind: for those hidden by `~`, or for all tokens."""

    # How tokens are hidden; set only if the target fills in tokens hidden by `~`.
    corruption: Corruption
    # Name of the task on the Hugging Face hub, by source port. A port without `~` stands for a model without this head.
    hub_tasks: ClassVar[Mapping[str, str]] = {}

    def restore(self, corruption: Corruption) -> None:
        """Store the settings by which pretraining hides tokens, so that prediction can hide tokens in the same way."""
        self.corruption = corruption

    @abstractmethod
    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Any:
        """Return a copy of the value in which the hidden tokens have the predicted content.

        piece: the piece of `value`, with its alignment.
        hidden: (h,), indices of the hidden tokens.
        output: (h, …), the head's outputs for these tokens.
        """

    @staticmethod
    def file(value: Any) -> tuple[str, bytes] | None:
        """Return (file suffix, file content) for a value returned by `complete`; None for kinds written to cells of a table."""
        return None

    @property
    def nothing_hidden(self) -> str:
        """The error message to be raised for a value in which no token is hidden."""
        return "nothing is asked of this value"


class Located(Target):
    """A target whose answers are given in raw coordinates of a source, such as boxes in pixels of an image.

    If an augmentation moves parts of the source value, the true answer is moved in the same way.
    """

    # The kind of the source in whose coordinates answers are given. Of several sources of this kind it is the last one.
    lies_in: ClassVar[str]
    # True if an answer is computed from the source value and looks like it. Augmentation must then not recolour it.
    resembles: ClassVar[bool] = False
    # Whether the capitals of words help to find the answer, such as a name, so that the source shall tell them.
    reads_capitals: ClassVar[bool] = False
    # Whether the answer needs a token for each letter of a text.
    spells: ClassVar[bool] = False
    # Whether a value that is longer than the model reads is answered in windows, which `join` puts together.
    joins_windows: ClassVar[bool] = False

    @property
    def learning(self) -> Learning | None:
        """Return the default length and learning rates of a fit with this target.

        None if the defaults of the starting model or of the source kind are to be used.
        """
        return None

    @staticmethod
    def prepare_source(cell: object) -> object:
        """Return a cell of the source in a form that it reads, such as a list of words as a text; by default unchanged."""
        return cell

    @staticmethod
    def place(answer: Any, value: Any) -> Any:
        """Return an answer with what takes the source value in the same row, such as where a text stands in it.

        By default the answer unchanged. Raises BadCell if there is no such place.
        """
        return answer

    @staticmethod
    def misplaced(answer: Any, value: Any) -> str:
        """Return a message if an answer has a part that cannot lie in `value`, the source's value in the same row; "" if all can.

        By default "".
        """
        return ""

    @staticmethod
    def find_repairs(answers: Sequence[Any], values: Sequence[Any]) -> list[Repair]:
        """Return corrections of answers that probably lie beside the place that was meant, such as one character too far.

        answers, values: the answer and the source value of each row; None where one cannot be read. By default none are found.
        """
        return []

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the answers in annotation files, by the path of the image (or other media file) to which they belong.

        path: an annotation file or a folder. within: function that lists all files below a folder.
        By default the result is empty. Raises DataError for a damaged file, OSError for one that cannot be read.
        """
        return {}

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return the regions in an answer, such as the rectangles of boxes, as marks to be drawn; by default none.

        true: True if the answer is a true one, False if it is a prediction; stored in the marks.
        """
        return []

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return one output for each example, (n, …), in raw coordinates of its source; by default `output` unchanged.

        output: (m, …), the head's outputs, of which an example has one for each token or point that is read.
        pieces: the source pieces of each example.
        """
        return output

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return `evidence` with one entry for each example, (n, …), as `metrics` needs it; by default the result of `gather`.

        evidence: (m, …), the result of `Target.evidence`. pieces: the source pieces of each example.
        """
        return self.gather(evidence, pieces)

    @staticmethod
    def join(parts: Sequence[Any]) -> Any:
        """Return the answer of a row from those of its windows, in order; by default the only one. For targets that resemble."""
        (part,) = parts
        return part

    def show(self, answer: Any) -> str:
        """Return a predicted or true answer as HTML, by default its `brief` text."""
        return html.escape(self.brief(answer))


class TwiceRead(Target):
    """A target whose outputs for an example say what else is to be read, such as as many frames of a sound as its tokens take."""

    @abstractmethod
    def ask_again(self, pieces: Sequence[Piece], output: Tensor) -> Answer:
        """Return the question of the second reading of an example, from which its answer is computed.

        pieces: the source pieces of the example. output: (m, …), the outputs for the answer of `questions`.
        """


class Composed(Located):
    """A located target whose answer to a row is composed of outputs at many tokens, such as the entities in a text.

    A long value is read in windows. Each part of the answer is taken from the window that shows most around it.
    """

    # The share of a window that the next one repeats.
    window_overlap: ClassVar[float] = OVERLAP
    # Whether an answer can be divided among the windows of a long value, so that training reads these too.
    is_divisible: ClassVar[bool] = True

    @property
    def longest_window(self) -> int | None:
        """Return the most tokens of a window in prediction, as the longest value that was learnt from; None for no such limit."""
        return None

    @abstractmethod
    def split(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> list[Tensor]:
        """Return for each of n examples a tensor (k, …) that holds all that `compose` needs, with k of its own.

        output: (m, …), the head's outputs at all tokens that are read. pieces: the source pieces of each example, aligned.
        """

    @abstractmethod
    def compose(self, windows: Sequence[Tensor]) -> Tensor:
        """Return the answer of a row, (k, …), with k of its own. windows: the results of `split` for the windows of the row."""

    def pad(self, answers: Sequence[Tensor]) -> Tensor:
        """Return the answers of n rows, (k, …) each, in one tensor (n, max k, …). Entries that a row does not have are −1."""
        from torch.nn.utils.rnn import pad_sequence  # this module is imported without torch

        return pad_sequence(list(answers), batch_first=True, padding_value=-1.0)

    def unpad(self, padded: Tensor) -> list[Tensor]:
        """Return the n tensors (k, …) of which `pad` made a tensor (n, max k, …)."""
        return [rows[: int((rows != -1).any(1).sum())] for rows in padded]

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        return self.pad([self.compose([part]) for part in self.split(output, pieces)])

    def withhold(self, answer: dict[str, Any]) -> None:
        """Take out of a decoded answer what gives it away, where it is too unsure to be given."""
        answer[self.kind] = None

    def add_excerpts(self, answer: dict[str, Any], value: Any) -> None:
        """Add to a decoded answer what takes the source value of its row, such as the texts of entities; by default nothing."""


class Extracted(Composed):
    """A composed target whose answers are parts of a source value, such as spans of a text."""

    # The rule of `fit_baseline` in words, such as "the commonest tag of each word".
    baseline_rule: ClassVar[str]
    # The arrow of a published model with this head.
    published_arrow: ClassVar[str]

    @abstractmethod
    def fit_baseline(
        self, answers: Sequence[Any], sources: Sequence[Sequence[Any]], port: int
    ) -> Callable[[Sequence[Sequence[Any]]], Tensor]:
        """Fit a baseline without a network to training answers; return the function from sources to outputs like `gather`'s.

        sources: for each source port the values of all n rows. port: index of the source that the answers lie in.
        """

    @property
    @abstractmethod
    def width(self) -> int:
        """Return the number of columns of the results of `split`."""

    @abstractmethod
    def main_part(self, outputs: Tensor) -> Tensor:
        """Return for each example the part of its answer that is explained, (n, …), such as its most probable span.

        outputs: (n, max k, …), the padded results of `split`.
        """

    @abstractmethod
    def describe_part(self, part: Tensor, value: Any) -> str:
        """Return a part from `main_part`, (…), in words, such as "Paris (place)". value: the source value of its row."""


class Free(Target):
    """A target whose answers are values of any content, such as texts, and none of a few classes or parts of a source.

    The baseline without a network answers each row as the training row does whose features are most similar.
    """

    # The rule of the baseline that needs no network.
    baseline_rule: ClassVar[str] = "the answer of the nearest training row"

    @abstractmethod
    def pack_values(self, values: Sequence[Any]) -> Tensor:
        """Return values that the model did not answer, such as those of a baseline, in the form of outputs, (n, …)."""

    @abstractmethod
    def describe_metrics(self, answers: Sequence[Any]) -> str:
        """Return the settings of the metrics for these true answers in words, so that others can compute the same numbers."""

    @abstractmethod
    def mark_differences(self, value: Any, reference: Any) -> tuple[str, str]:
        """Return an answer and the true one as HTML: <del> is what the answer alone has, <ins> what it lacks."""


class HeadRows(Target):
    """A target whose head has one row of weights for each of a list of names, such as classes or characters.

    The weights of a starting model's head are kept if it has the same names in the same order.
    """

    # The names, in the order of the outputs.
    classes: list[str]
    # The prefix of the head's weights with one row for each name.
    class_weight_names: ClassVar[str] = ""

    @abstractmethod
    def unknown_names(self, answers: Sequence[Any]) -> list[str]:
        """Return what true answers have and `classes` lacks, such as the names of other classes, each once."""


class Confident(Target):
    """A target whose answers come with a probability that they are right."""

    @abstractmethod
    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the target's own estimate of the probability that each answer is right, (m,). output: (m, …), of the head."""

    @abstractmethod
    def correctness(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32]:
        """Return the score of each answer, (m,), from 0 (wrong) to 1 (right), with which calibration compares `confidence`.

        output: (m, …), of the head. answers: the true answers.
        """

    @abstractmethod
    def notes(self, answers: Sequence[Any]) -> list[str]:
        """Return warnings to print with the scores on `answers`, such as that some true classes were never seen in training."""


class Advising(Target):
    """A target that says what to do with a table of which no column can be its answers."""

    @classmethod
    @abstractmethod
    def advise(cls, columns: Mapping[str, Sequence[object]], folder: Path) -> str:
        """Return a sentence on columns that are probably meant, and how to write them; "" if there are none.

        columns: the first cells of each column. folder: that of the table's file.
        """


class Classes(Confident, HeadRows):
    """A target that answers with one or several of the classes in the training labels, each with a probability."""

    # True if an answer is exactly one class.
    exclusive: ClassVar[bool] = False
    # What answers consist of, in the plural.
    item_name: ClassVar[str] = "classes"
    # Label smoothing (Szegedy et al. 2016): share of the label spread over all classes. A training option, never saved.
    label_smoothing: float = 0.0
    # Whether a class name of another table is the class that looks like it, as `--fold-labels` took them in training.
    folds: bool = False
    # Name of the task on the Hugging Face hub, by source port.
    hub_tasks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of this kind's head in a published model; None if the model has no such head.

        tensors: the model's weights, renamed to the parameter names of mapsto's models.
        """

    @classmethod
    def prepare_column(cls, cells: Sequence[object]) -> Sequence[object]:
        """Return the cells of a column as `read` takes them, where the form of one is decided by all; by default unchanged."""
        return cells

    @classmethod
    def find_column_fault(cls, cells: Sequence[object]) -> tuple[int, str] | None:
        """Return a cell that is probably read otherwise than it is meant, as (index, problem in words); None if none is."""
        return None

    @property
    def known_names(self) -> Sequence[str]:
        """Return the names that `class_names` can give and that training has seen; by default the classes."""
        return self.classes

    def recognise(self, answer: Any) -> Any:
        """Return the true answer as training had it if another table writes it otherwise.

        Names of the same number or boolean are one, as a DataFrame may have 1.0 for "1"; with `folds` also names that look alike.
        """
        known = self.known_names
        unknown = [name for name in self.class_names(answer) if name not in known]
        if not unknown:
            return answer
        by_appearance = {appearance(name): name for name in known} if self.folds else {}
        spellings = {name: by_appearance.get(appearance(name)) or same_value(name, known) or name for name in unknown}
        return self.rename(answer, spellings)

    def unknown_names(self, answers: Sequence[Any]) -> list[str]:
        known = set(self.known_names)
        return list(dict.fromkeys(name for answer in answers for name in self.class_names(answer) if name not in known))

    @abstractmethod
    def class_names(self, answer: Any) -> Sequence[str]:
        """Return the names of the classes in a true answer, which may be one, several or none."""

    def rename(self, answer: Any, names: Mapping[str, str]) -> Any:
        """Return a cell with the answer in which classes have other names; by default unchanged. names: new names by old ones."""
        return answer

    def answered_names(self, output: Tensor) -> list[Sequence[str]]:
        """Return the names of the classes in each answer, (m,). output: (m, …), of the head."""
        return [self.class_names(answer[self.kind]) for answer in self.decode(output)]

    def item_counts(self, output: Tensor, answers: Sequence[Any]) -> ItemCounts:
        """Return the numbers of right, answered and true items by row and class, for precision and recall.

        By default an item is a class that an answer names; kinds whose items have a place compare the places too.
        output: (m, …), of the head. answers: the true answers.
        """
        pairs = zip(
            map(Counter, self.answered_names(output)), map(Counter, map(self.class_names, answers)), strict=True
        )
        return ItemCounts.collect((answered & true, answered, true) for answered, true in pairs)

    def confusion(self, output: Tensor, answers: Sequence[Any]) -> dict[str, dict[str, int]]:
        """Return the confusion matrix as {true class: {predicted class: number of rows}}; {} if this kind has none.

        output: (m, …), of the head. answers: the true answers.
        """
        return {}


class WeightedClasses(Classes):
    """A target whose classes can have weights in the loss: what a mistake on a row of each class costs.

    weights: of each class, in the order of `classes`; None if all count alike.
    """

    weights: list[float] | None

    @abstractmethod
    def weigh_classes(self, answers: Sequence[Any], weights: Mapping[str, float]) -> None:
        """Set the weights of the classes. answers: the training answers. weights: by class; 1 for those that are not there."""


class Calibratable(Confident):
    """A target whose logits are divided by a temperature, so that confidence equals accuracy."""

    @abstractmethod
    def calibration_loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss that the temperature minimises on rows that the model was not fitted to, summed over answers.

        output: (m, …), of the head, divided by a temperature; of a composed target those at the tokens of all windows.
        values: (m, …), encoded true answers.
        """

    def count_answers(self, values: Tensor) -> int:
        """Return how many answers encoded true answers (m, …) are; by default m."""
        return len(values)


@dataclass(frozen=True)
class ProbeSettings:
    """The settings by which a linear head is fitted to features of m rows.

    selection_features: (k, d), used in place of the first k features to choose the regularisation strength; needed if a model was
        trained on the same answers or if the features hold several variants of a row, because these look better than new rows
        would. None for the features themselves.
    starts_training: whether training of all weights goes on from the head. Then a head for classes is fitted with a strong
        penalty, because one that is sure of the rows already leaves the other weights little to learn.
    weights: (m,), by which the loss of each row is multiplied; None if all count alike.
    """

    selection_features: Any = None
    starts_training: bool = False
    weights: NDArray[np.float32] | None = None


DEFAULT_PROBE = ProbeSettings()


class LinearProbe(Target):
    """A target whose linear head can be fitted by ridge or logistic regression on the pooled vectors of a frozen model."""

    @abstractmethod
    def probe(
        self, features: Any, values: NDArray[Any], seed: int, settings: ProbeSettings = DEFAULT_PROBE
    ) -> tuple[Tensor, Tensor]:
        """Return weight (c, d) and bias (c,) of the linear head that a regression finds on fixed features.

        features: (m, d), vectors of a frozen model, or sparse features of unit norm. values: (m, …), the encoded answers.
        seed: for random choices, such as the rows on which the regularisation strength is chosen.
        """


class Comparable(Target):
    """A target with a score for each answer. The mean of the scores is the metric by which models are compared."""

    # The name of the metric that is the mean of `per_item_metric`, such as "accuracy".
    primary_metric: ClassVar[str]
    # The metrics that may be larger than 1.
    unbounded_metrics: ClassVar[tuple[str, ...]] = ()
    # The constant baseline in words, such as "always the mean"; empty if the kind has none.
    constant_rule: ClassVar[str] = ""

    def describe_scores(self, scores: Mapping[str, Score]) -> str:
        """Return the score that matters to people in a clause about the model, such as "it is right on 90.2 % of the rows".

        scores: those of `metrics`, by name.
        """
        name = self.primary_metric
        return f"its {name.replace('_', ' ')} is {100 * scores[name].value:.1f} %"

    @property
    def field_metric(self) -> str | None:
        """Return the metric at which people of the field look first, if it is no mean over answers; None for the primary one."""
        return None

    @abstractmethod
    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the score of each answer, (m,), at most 1; None if `answers` have no score, such as R² for equal numbers.

        output: the head's outputs; for kinds with several predictions in an example, the result of `evidence` or `gather`.
        answers: the true answers.
        """

    def constant_output(self, values: NDArray[Any]) -> Tensor | None:
        """Return the output (c,) that, if used for all examples, fits the training answers best; None if this kind has none.

        values: (m, …), the encoded training answers.
        """
        return None


class Paired(Target):
    """A target whose answers are values like the sources, such as translations, so that rows with a wrong pair can be found."""

    @staticmethod
    @abstractmethod
    def find_faults(sources: Sequence[Sequence[Any] | None], answers: Sequence[Any]) -> list[RowFault]:
        """Return the rows whose answer is probably wrong, such as one that is swapped with its source.

        sources: for each row its source values of the target's kind, in the order of the ports. answers: the answer of each row.
        Both are None for a row that cannot be read.
        """


class Transcribed(Target):
    """A target whose answers may be what is said in recordings, so that wrong transcripts can be found."""

    @staticmethod
    @abstractmethod
    def find_transcript_faults(seconds: Sequence[float | None], answers: Sequence[Any]) -> list[RowFault]:
        """Return the rows whose answer is probably not what is said, or is written otherwise than the rest.

        seconds: the length of each recording. answers: the answer of each row. Both are None for a row that cannot be read.
        """


class Voiced(Target):
    """A target whose answers are recordings of what the source says, so that wrong pairs can be found."""

    @staticmethod
    @abstractmethod
    def find_misread(answers: Sequence[Any]) -> list[RowFault]:
        """Return the rows whose recording is probably not one of their text.

        answers: the recording of each row with its text; None for a row that cannot be read.
        """

    @abstractmethod
    def count_unspoken(self, pieces: Sequence[Piece]) -> int:
        """Return how many tokens of an example cannot be spoken and are left out. pieces: its source pieces."""


class Attributable(Target):
    """A target with a score of an answer, which an attribution method divides among the parts of the source value."""

    # The unit of `answer_score`.
    score_unit: ClassVar[str] = "log-odds"

    @abstractmethod
    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return a score, (m,), that is higher the more each output (m, …) speaks for a fixed answer, in `score_unit`.

        reference: (m, …), the outputs whose answers are the fixed ones, usually for the unchanged input. So the score shows
            how a change of the input changes the support for the answer.
        """


class Mixable(Target):
    """A target that can compute the true answer for a mixture of several rows, such as by mixup."""

    # The layouts of the mixtures whose answer it can compute.
    mixture_layouts: ClassVar[tuple[MixtureLayout, ...]] = ("blended", "placed")

    def mix_answers(self, answers: Sequence[Any], pieces: Sequence[Piece], parts: Sequence[MixturePart]) -> Answer:
        """Return the encoded answer for a mixture of rows: by default their encoded answers' weighted mean (Zhang et al. 2018).

        answers: the true answer of each row. pieces: the source pieces of the mixture.
        parts: the part of each row in the mixture; its share is the weight.
        """
        values = [self.encode(answer, pieces).values for answer in answers]
        return Answer(np.asarray(np.average(values, axis=0, weights=[part.share for part in parts]), np.float32))


class Standardised(Target):
    """A target of numbers, whose mean and deviation are learnt from the training rows."""

    @staticmethod
    @abstractmethod
    def find_outliers(answers: Sequence[Any]) -> list[tuple[int, str]]:
        """Return (index, reason) of each answer that is so far from all others that it alone makes the deviation.

        answers: as `read` returns them; None for a row without an answer.
        """


def has_exclusive_classes(target: Target | type[Target]) -> bool:
    """Return whether a target's answer is always exactly one of its classes. target: an object or a class."""
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, Classes) and kind.exclusive


def located_port(target: Located | type[Located], source_kinds: Sequence[str]) -> int:
    """Return the index of the source in whose values the answers of a target lie: the last one of the kind that it lies in.

    source_kinds: the kinds of the source ports, or of the pieces of an example, in order.
    """
    return max(port for port, kind in enumerate(source_kinds) if kind == target.lies_in)


def is_located(target: Target | type[Target]) -> TypeGuard[Located | type[Located]]:
    """Return whether a target is Located: its answers are given in raw coordinates of a source. target: an object or a class."""
    return issubclass(target if isinstance(target, type) else type(target), Located)


def gather_outputs(target: Target, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    """Return one output for each example, (n, …): for a Located target the result of `gather`, for others `output` unchanged.

    target: a target with a single answer in each example. pieces: the source pieces of each example.
    output: (m, …), the head's outputs, one for each pooled vector, token or point that is read.
    """
    return target.gather(output, pieces) if isinstance(target, Located) else output
