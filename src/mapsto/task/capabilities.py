"""Capabilities: abilities that some kinds of values have beyond the contract of a source or a target.

A kind inherits from its capabilities. Callers check for one by `isinstance` (object) or `issubclass` (class), or call
`require`, which raises a readable error. No caller compares the names of kinds.
"""

from __future__ import annotations

import html
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard, TypeVar, overload

import numpy as np

from mapsto.errors import BadCell, UsageError
from mapsto.sequence.batch import Answer
from mapsto.task.shingles import Hashes, shingles
from mapsto.task.source import Kind, Source
from mapsto.task.target import Target

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import FlatValues, Ints, MixturePart, Piece
    from mapsto.task.source import Learning

Capability = TypeVar("Capability", bound=Kind)

# The weakest shade of a region that `highlight` colours.
FAINTEST_SHADE = 0.05

# Values of a mixture are blended (averaged, or pasted into each other), or each is placed in a region of its own.
MixtureLayout = Literal["blended", "placed"]


@overload
def require(kind: type[Kind], capability: type[Capability], ability: str) -> type[Capability]: ...


@overload
def require(kind: Kind, capability: type[Capability], ability: str) -> Capability: ...


def require(kind: Any, capability: type[Kind], ability: str) -> Any:
    """Return `kind` unchanged, but typed as having a capability. Raises UsageError if it lacks it.

    kind: an object or a class.
    ability: participle for the message: "explained" gives "'number' cannot be explained".
    """
    if not (issubclass(kind, capability) if isinstance(kind, type) else isinstance(kind, capability)):
        raise UsageError(f"{kind.kind!r} cannot be {ability}")
    return kind


# Capabilities of sources and targets


class FileBacked(Kind):
    """A kind whose cells may be names of files. Such a file can also be given to a model without a table, as a single value."""

    # The suffixes of such files in lower case, with the dot.
    suffixes: ClassVar[tuple[str, ...]]

    @staticmethod
    def locate(cell: object, folder: Path | None) -> object:
        """Return a cell with its file name resolved: beside the table or, failing that, below the working directory.

        cell: a file name, or a dict with a "path" (Hugging Face). Anything else is returned unchanged, such as bytes or a URL.
        folder: the folder of the table file; None if the table is in no file, which leaves the cell unchanged.
        Raises BadCell if the file is missing, or is outside both folders, since a table may come from a stranger.
        """
        if isinstance(cell, dict) and not cell.get("bytes"):
            return {**cell, "path": FileBacked.locate(cell.get("path"), folder)}
        if folder is None or not isinstance(cell, str) or not (name := cell.strip()) or why_not_local(name):
            return cell
        path = str(folder / name) if os.path.exists(folder / name) else name
        if ".." in Path(name).parts or not any(
            Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)) for root in (folder, Path())
        ):
            raise BadCell(
                "a table names files below its own folder, or below the one that mapsto is run in, and no others"
            )
        if not os.path.exists(path):
            raise BadCell(f"there is no such file below {folder}, nor below the folder that mapsto is run in")
        return path


def why_not_local(name: str) -> str:
    """Return why no local file can have this name, as words for a message; an empty string if a file can."""
    if "\0" in name:
        return "whose name has no NUL character"
    return "and no address: nothing is fetched from the network" if "://" in name else ""


# Capabilities of sources


@dataclass(frozen=True)
class Mixture:
    """An augmentation that replaces a training example by a weighted mixture of several rows' values, such as mixup."""

    # Number of rows that are mixed into one.
    num_values: int
    layout: MixtureLayout
    # The probability that a row is mixed with others.
    probability: float = 1.0


@dataclass(frozen=True)
class Mark:
    """A region of a value with a caption, to be outlined where the value is displayed."""

    # (a, 2): begin and end along each of the value's axes, in raw coordinates.
    region: Any
    text: str
    # True for a region of a true label, False for a predicted region.
    from_label: bool = False


class Tokenized(Source):
    """A source whose pieces consist of vocabulary ids and can be rebuilt from the ids alone.

    So its ids can be stored as a corpus that is larger than memory, and words can be added to its vocabulary.
    """

    @abstractmethod
    def flatten(self, values: Sequence[Any], units: bool = False) -> FlatValues:
        """Return the token ids of all values end to end, without special tokens, and the number of tokens of each value.

        units: whether to compute too which tokens begin a unit (word).
        """

    @abstractmethod
    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Return the piece of a value, or of a window of it, from its token ids as `flatten` returns them.

        The piece has special tokens too, and equals what `encode` returns for the same value.
        begins: (t,), True for tokens that begin a unit (word).
        """

    @abstractmethod
    def extend_vocabulary(self, words: Sequence[str]) -> tuple[Source, dict[int, Ints]]:
        """Return a source whose vocabulary has these words too, and {new id: earlier ids} of the words.

        The earlier ids are the tokens into which the word was split before.
        """

    @abstractmethod
    def count_unknown(self, tokens: Ints) -> int:
        """Return how many of the tokens are the unknown token, which stands for text outside the vocabulary."""


class Augmentable(Kind):
    """A source whose values can be randomly augmented and mixed for training."""

    # The methods of `augment`: the default first, the strongest last.
    augmentations: ClassVar[tuple[str, ...]]
    # The methods of `mix`, by name.
    mixtures: ClassVar[Mapping[str, Mixture]]

    @abstractmethod
    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a random variant of the value, with the same meaning and number of tokens.

        The alignment of the new piece still points to the raw coordinates of the original value.
        method: one of `augmentations`. recolour: whether colours may change too, and not only positions.
        """

    @abstractmethod
    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Return (mixed piece, parts): a random mixture of values, and the contribution of each value to the mixture.

        pieces: one piece for each value that the mixture `method` takes. The mixed piece has as many tokens as the first.
        """


class Spatial(Kind):
    """A source whose values have rows and columns, so that answers and masks can refer to places in them."""

    # Number of learnt query tokens at the end of each piece, where boxes are read; 0 if they are read between patches.
    queries: int
    # Number of layers that add position embeddings to their output once more.
    layer_positions: int

    @abstractmethod
    def tokens_around(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """Return for q points on a regular grid the k tokens around each, (q, k), and their bilinear weights (q, k).

        counts: number of points along each axis of the value; q is their product.
        """

    @abstractmethod
    def resize(self, size: int | None) -> Source:
        """Return a source that reads values without cropping, and scales larger values down to `size` pixels a side.

        size: None for the size that this source reads. Raises UsageError if `size` is too large.
        """

    @abstractmethod
    def mask_region(self, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
        """Return the piece with the tokens hidden that a mask touches, and the indices of these tokens.

        piece: the piece of `value`, with its alignment. mask: a cell, such as the name of an image file.
        Raises BadCell if the mask does not fit the value, UsageError if the model cannot hide parts of a value.
        """

    @classmethod
    @abstractmethod
    def outline(cls, value: Any, marks: Sequence[Mark]) -> str:
        """Return the value as HTML with the regions of the marks outlined: dashed for true labels, solid for predictions."""

    @classmethod
    @abstractmethod
    def draw(cls, value: Any, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """Return (suffix, content) of a file that shows the value with the marks outlined and captioned."""


class Explainable(Kind):
    """A source whose tokens can be named, removed and highlighted, to attribute an answer to single tokens."""

    @abstractmethod
    def token_names(self, piece: Piece) -> list[str]:
        """Return a name for each token of the piece: its text or, for other kinds, a description such as "row,column"."""

    @abstractmethod
    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices, or with these tokens blanked if a model reads values whole.

        tokens: (k,), indices of tokens that are not special.
        """

    @abstractmethod
    def blank(self, piece: Piece) -> Piece:
        """Return a piece of the same length whose tokens have no content, except special ones: the baseline of an attribution."""

    @staticmethod
    @abstractmethod
    def excerpt(value: Any, region: Any) -> str:
        """Return a region (a, 2) of the value in words: the text in it, or its coordinates."""

    @classmethod
    def highlight(cls, value: Any, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """Return the value as HTML with its regions shaded; by default the value as text, then an excerpt of each region, shaded.

        regions: (a, 2) each. shades: one for each region, from −1 (speaks against the answer) to 1 (speaks for it).
        Kinds whose shading covers the value, such as images, also show the value without shades.
        """
        parts = [
            f'<mark class="{"against" if shade < 0 else "for"}" style="--shade:{abs(shade):.2f}">'
            f"{html.escape(cls.excerpt(value, region))}</mark>"
            for region, shade in zip(regions, shades, strict=True)
        ]
        return " ".join([html.escape(str(value)), *parts])


class Describable(Kind):
    """A source whose values can be measured, compared and varied without a model, for baselines, checks and error analysis."""

    # The name of the features that `fit_features` computes, such as "TF-IDF".
    feature_name: ClassVar[str]
    # The unit of `size`.
    size_unit: ClassVar[str] = "length"

    @classmethod
    def linear_source(cls) -> type[LinearFeatures] | None:
        """Return the source by which a linear model reads these values; None if there is none for this kind."""
        return None

    @classmethod
    @abstractmethod
    def fit_features(cls, values: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Fit classical features on training values; return the function from values to features.

        The features are an array or a sparse matrix (n, f).
        """

    @staticmethod
    @abstractmethod
    def perturb(value: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Return variants of a value with the same meaning, by the name of the change, such as "typing errors" or "darker".

        They test whether a model's answers are robust.
        """

    @staticmethod
    def size(value: Any) -> float:
        """Return the size of a value in the unit `size_unit`; by default the number of characters of its text."""
        return len(str(value))

    @classmethod
    def sketch(cls, value: Any) -> Hashes:
        """Return the sorted distinct hashes of the parts of a value, by default of short runs of characters of its key.

        Near-duplicates share most hashes, and other values few.
        """
        return shingles(cls.key(value))


class LinearFeatures(Source):
    """A source for linear models: the sum of a value's embedded tokens is a linear map of its classical features."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Return the number f of features of a value; the embedder's `weight` is (f, width)."""

    @abstractmethod
    def features(self, pieces: Sequence[Piece]) -> Any:
        """Return the features (n, f) of n pieces, sparse or not."""


# Capabilities of targets


class Reconstruction(Target):
    """A target whose answer replaces tokens of the source of its kind: the tokens hidden by `~`, or all tokens."""

    # How tokens are hidden; set only if the target fills in tokens hidden by `~`.
    corruption: Corruption
    # Name of the task on the Hugging Face hub, by source port. A port without `~` stands for a model without this head.
    hub_tasks: ClassVar[Mapping[str, str]] = {}
    # True if this head is not looked for in published models with a classifier, as both share names of weights.
    yields_to_classifier: ClassVar[bool] = False

    def restore(self, corruption: Corruption) -> None:
        """Store the corruption of pretraining, so that prediction asks for tokens hidden in the same way."""
        self.corruption = corruption

    @abstractmethod
    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Any:
        """Return the value with predicted content in place of the hidden tokens.

        piece: the piece of `value`, with its alignment.
        hidden: (h,), indices of the hidden tokens.
        output: (h, …), the outputs for these tokens.
        """

    @staticmethod
    def file(value: Any) -> tuple[str, bytes] | None:
        """Return (suffix, content) of a file for a value with its filled-in tokens; None for kinds written to table cells."""
        return None

    @property
    def nothing_hidden(self) -> str:
        """The error message for a value in which no token is hidden."""
        return "nothing is asked of this value"


class Located(Target):
    """A target whose answers are given in raw coordinates of a source, such as boxes in pixels of an image.

    If augmentation moves the content of the source, the answers move with it.
    """

    # The kind of the source in whose coordinates answers are given.
    lies_in: ClassVar[str]
    # True if an answer is computed from the source value and looks like it. Augmentation must then not recolour it.
    resembles: ClassVar[bool] = False

    @property
    def learning(self) -> Learning | None:
        """Return the length and learning rate of fits for this target; None for those of the starting model or source kind."""
        return None

    @staticmethod
    def misplaced(answer: Any, value: Any) -> str:
        """Return a message if an answer cannot lie in a value of the source; an empty string if it can."""
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the answers in annotation files at `path`, by the media file that they belong to; may be empty.

        within: function that lists the files of a folder. Raises DataError, OSError.
        """
        return {}

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return the regions that an answer names, as marks to be drawn.

        true: whether the answer is a true label, not a prediction.
        """
        return []

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return one output for each example, (n, …), in raw coordinates; by default the outputs unchanged.

        output: (m, …), the outputs of the head at every place that it reads. pieces: the source pieces of each example.
        """
        return output

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return what `metrics` needs of the outputs, one entry for each example, (n, …); by default computed by `gather`.

        evidence: (m, …), what `Target.evidence` returned. pieces: the source pieces of each example.
        """
        return self.gather(evidence, pieces)

    def show(self, answer: Any) -> str:
        """Return a predicted or true answer as HTML, such as a thumbnail."""
        return html.escape(self.brief(answer))


class Classes(Target):
    """A target that answers with one or several of the classes in the training labels, each with a probability."""

    # The classes, in the order of the outputs.
    classes: list[str]
    # True if an answer is exactly one class.
    exclusive: ClassVar[bool] = False
    # The prefix of head weights with one row a class. They are taken from a starting model only for the same classes.
    class_weight_names: ClassVar[str] = ""
    # Label smoothing (Szegedy et al. 2016): share of the label spread over all classes. A training option, never saved.
    label_smoothing: float = 0.0
    # Name of the task on the Hugging Face hub, by source port.
    hub_tasks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of the head in a published model; None if it has no such head.

        tensors: the weights of the model under the names that mapsto uses.
        """

    @abstractmethod
    def class_names(self, answer: Any) -> Sequence[str]:
        """Return the names of the classes in a true answer."""

    def confusion(self, output: Tensor, answers: Sequence[Any]) -> dict[str, dict[str, int]]:
        """Return the confusion matrix as {true class: {predicted class: count}}; empty if the kind has none."""
        return {}

    @abstractmethod
    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return for each answer the probability, as the target estimates it, that the answer is right, (m,)."""

    @abstractmethod
    def correctness(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32]:
        """Return how far each answer is right, (m,), from 0 (wrong) to 1 (right), to compare with `confidence`.

        answers: the true answers.
        """

    def calibrate(self, head: nn.Module, output: Tensor, values: Tensor) -> float | None:
        """Rescale `head` so that its confidence matches its accuracy on held-out rows; the answers stay the same.

        output: (m, …), outputs for the held-out rows. values: (m, …), their encoded true answers.
        Return the temperature; None if the kind is not calibrated or there are too few rows.
        """
        return None

    @abstractmethod
    def notes(self, answers: Sequence[Any]) -> list[str]:
        """Return sentences to print with the scores, such as that some true classes were never seen in training."""


class LinearProbe(Target):
    """A target whose linear head can be fitted by ridge or logistic regression on pooled vectors of a model kept fixed."""

    @abstractmethod
    def probe(
        self, features: Any, values: NDArray[Any], seed: int, selection_features: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return weight (c, d) and bias (c,) of the best linear head on frozen features.

        features: (m, d), vectors of a model, or sparse features of unit norm. values: (m, …), the encoded answers.
        seed: for random choices, such as the folds of cross-validation.
        selection_features: (m, d), used in place of `features` to choose the regularisation strength; needed if a model was
            trained on the same answers, because its `features` look better on these rows than on new ones.
        """


class Comparable(Target):
    """A target with a score for each answer, whose mean is the metric by which models are compared."""

    # The name of the metric that is the mean of `per_item_metric`, such as "accuracy".
    primary_metric: ClassVar[str]
    # The metrics that may be larger than 1.
    unbounded_metrics: ClassVar[tuple[str, ...]] = ()
    # The constant baseline in words, such as "always the mean"; empty if the kind has none.
    constant_rule: ClassVar[str] = ""

    @abstractmethod
    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the score of each answer, (m,), at best 1; None if `answers` cannot be scored.

        output: the head's outputs; for kinds with several answers in an example, what `evidence` made of them.
        answers: the true answers.
        """

    def constant_output(self, values: NDArray[Any]) -> Tensor | None:
        """Return the output (c,) that answers every example alike and best fits the training answers; None if the kind has none.

        values: (m, …), the encoded training answers.
        """
        return None


class Attributable(Target):
    """A target whose answers have a score that can be attributed to parts of the source."""

    # The unit of `answer_score`.
    score_unit: ClassVar[str] = "log-odds"

    @abstractmethod
    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return how strongly each output (m, …) supports an answer that is kept fixed, (m,), in `score_unit`.

        reference: (m, …), the outputs that give the fixed answers, usually those for the unchanged input. The score then shows
            what a change of the input does to the answer.
        """


class Mixable(Target):
    """A target that can compute the true answer to a weighted mixture of several rows."""

    # The layouts of the mixtures whose answer it can compute.
    mixture_layouts: ClassVar[tuple[MixtureLayout, ...]] = ("blended", "placed")

    def mix_answers(self, answers: Sequence[Any], pieces: Sequence[Piece], parts: Sequence[MixturePart]) -> Answer:
        """Return the encoded answer to a mixture: the rows' encoded answers, averaged by their shares (mixup, Zhang et al. 2018).

        answers: the true answer of each row. pieces: the source pieces of the mixed example.
        parts: the contribution of each row to the mixture.
        """
        values = [self.encode(answer, pieces).values for answer in answers]
        return Answer(np.asarray(np.average(values, axis=0, weights=[part.share for part in parts]), np.float32))


def has_exclusive_classes(target: Target | type[Target]) -> bool:
    """Return whether each answer of a target, an object or a class, is exactly one of several classes."""
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, Classes) and kind.exclusive


def is_located(target: Target | type[Target]) -> TypeGuard[Located | type[Located]]:
    """Return whether the answers of a target, an object or a class, are given in raw coordinates of a source."""
    return issubclass(target if isinstance(target, type) else type(target), Located)


def gather_outputs(target: Target, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    """Return one output for each example, (n, …), in raw coordinates for a located target, else `output` unchanged.

    target: one with a single answer an example. output: (m, …), the outputs of its head at every place that it reads.
    pieces: the source pieces of each example.
    """
    return target.gather(output, pieces) if isinstance(target, Located) else output
