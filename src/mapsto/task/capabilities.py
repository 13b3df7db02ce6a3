"""Capabilities: what some kinds of values can do beyond the contract of a source or a target.

A kind inherits the capabilities that it has. Callers ask with `isinstance` (an object) or `issubclass` (a class), and `require`
says in words what a kind cannot do. No caller asks for a kind by its name.
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
from mapsto.task.source import Kind, Source
from mapsto.task.target import Target
from mapsto.text.shingles import Hashes, shingles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import FlatValues, Ints, MixturePart, Piece
    from mapsto.task.source import Learning

Capability = TypeVar("Capability", bound=Kind)

# The weakest shade that `highlight` colours.
FAINTEST_SHADE = 0.05

# How a mixture shows its values: through or in each other, or each at a place of its own.
MixtureLayout = Literal["blended", "placed"]


@overload
def require(kind: type[Kind], capability: type[Capability], ability: str) -> type[Capability]: ...


@overload
def require(kind: Kind, capability: type[Capability], ability: str) -> Capability: ...


def require(kind: Any, capability: type[Kind], ability: str) -> Any:
    """Return a kind, an object or a class, as one that has a capability.

    ability: the participle for the message: "explained" becomes "'number' cannot be explained".
    Raises UsageError where the kind lacks it.
    """
    if not (issubclass(kind, capability) if isinstance(kind, type) else isinstance(kind, capability)):
        raise UsageError(f"{kind.kind!r} cannot be {ability}")
    return kind


# Capabilities of sources and targets


class FileBacked(Kind):
    """A kind whose cells may name files, and whose files may each be one value."""

    # The lower-case endings of such files, with the dot.
    suffixes: ClassVar[tuple[str, ...]]

    @staticmethod
    def locate(cell: object, folder: Path | None) -> object:
        """Return the cell with the file that it names resolved: beside the table, else below the working directory.

        cell: also a dict with a "path" (Hugging Face). Anything that names no local file is returned unchanged.
        folder: the table's folder; None where no file holds the table.
        Raises BadCell for a missing file, and for one outside of both folders, since tables come from strangers.
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
    """Return why no local file can have this name, for a message; an empty string where one can."""
    if "\0" in name:
        return "whose name has no NUL character"
    return "and no address: nothing is fetched from the network" if "://" in name else ""


# Capabilities of sources


@dataclass(frozen=True)
class Mixture:
    """A method that makes one value of several rows."""

    # How many rows are mixed into one.
    num_values: int
    layout: MixtureLayout
    # The probability that a row is mixed at all.
    probability: float = 1.0


@dataclass(frozen=True)
class Mark:
    """A region of a value and its caption, to be drawn into the value."""

    # (a, 2): begin and end along each of the value's axes, in raw coordinates.
    region: Any
    text: str
    # Whether the region is a label, and not a prediction.
    from_label: bool = False


class Tokenized(Source):
    """A source whose pieces are ids of a vocabulary and can be rebuilt from them alone.

    So a corpus of it may be larger than memory, words can be added to the vocabulary, and the frame's ids separate several values
    of one example.
    """

    @abstractmethod
    def flatten(self, values: Sequence[Any], units: bool = False) -> FlatValues:
        """Return the tokens of all values end to end, without frames; with `units`, also the tokens that begin a unit (word)."""

    @abstractmethod
    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Return the piece that `encode` makes of tokens from `flatten`, of a whole value or of a window of one.

        begins: (t,), the tokens that begin a unit.
        """

    @abstractmethod
    def extend_vocabulary(self, words: Sequence[str]) -> tuple[Source, dict[int, Ints]]:
        """Return a source with these words in its vocabulary and, by new id, the tokens that stood for the word before."""

    @abstractmethod
    def count_unknown(self, tokens: Ints) -> int:
        """Return how many of the tokens are the vocabulary's unknown token."""


class Augmentable(Kind):
    """A source whose values can be varied and mixed at random, as training data."""

    # What `augment` takes, the usual method first and the strongest last.
    augmentations: ClassVar[tuple[str, ...]]
    # The methods of `mix`, by name.
    mixtures: ClassVar[Mapping[str, Mixture]]

    @abstractmethod
    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a varied value that means the same: as many tokens, its alignment moved with it.

        recolour: whether colours may change too, and not only places.
        """

    @abstractmethod
    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Return one piece made of several, as long as the first of them, and the part that each has in it.

        pieces: as many as the mixture `method` takes.
        """


class Spatial(Kind):
    """A source whose values have rows and columns, so that answers and masks can lie at places in them."""

    # Learnt tokens at the end of every piece that answers about places are read from; 0 where those are read between the patches.
    queries: int
    # How many layers add the position embeddings again to their output.
    layer_positions: int

    @abstractmethod
    def tokens_around(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """Return the tokens (q, k) around each of q places on a regular grid and their bilinear weights (q, k).

        counts: places along each axis of the value; their product is q.
        """

    @abstractmethod
    def resize(self, size: int | None) -> Source:
        """Return the source that reads values uncropped, and scales larger ones down to `size` pixels along each axis.

        size: None for the size that it reads now. Raises UsageError for one that is too large.
        """

    @abstractmethod
    def mask_region(self, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
        """Return the piece with the tokens hidden that a mask touches, and their indices.

        piece: of `value`, with its alignment. mask: a cell, such as the name of a file.
        Raises BadCell for a mask that does not fit, UsageError where no part can be hidden.
        """

    @classmethod
    @abstractmethod
    def outline(cls, value: Any, marks: Sequence[Mark]) -> str:
        """Return the value as HTML with the marks' regions outlined, labels with a broken line."""

    @classmethod
    @abstractmethod
    def draw(cls, value: Any, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """Return the suffix and the content of a file of the value with the marks' regions outlined and captioned."""


class Explainable(Kind):
    """A source whose tokens can be named, removed and highlighted, so that an answer can be attributed to them."""

    @abstractmethod
    def token_names(self, piece: Piece) -> list[str]:
        """Return what each token is, in words."""

    @abstractmethod
    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece as if these tokens had not stood in the value; its frame stays."""

    @abstractmethod
    def blank(self, piece: Piece) -> Piece:
        """Return a piece of the same length with nothing in it: the baseline of an attribution."""

    @staticmethod
    @abstractmethod
    def excerpt(value: Any, region: Any) -> str:
        """Return in words what stands in a region (a, 2) of the value."""

    @classmethod
    def highlight(cls, value: Any, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """Return the value as HTML with shaded regions, beside the bare value where the shades would hide it.

        shades: one for each region, from −1 (colour `against`) to 1 (colour `for`).
        By default the value, and a shaded list of what stands in its regions.
        """
        parts = [
            f'<mark class="{"against" if shade < 0 else "for"}" style="--shade:{abs(shade):.2f}">'
            f"{html.escape(cls.excerpt(value, region))}</mark>"
            for region, shade in zip(regions, shades, strict=True)
        ]
        return " ".join([html.escape(str(value)), *parts])


class Describable(Kind):
    """A source whose values can be measured, compared and varied without a model: by baselines, checks and error analysis."""

    # The field's name for what `fit_features` computes.
    feature_name: ClassVar[str]
    # What `size` counts.
    size_unit: ClassVar[str] = "length"

    @classmethod
    @abstractmethod
    def fit_features(cls, values: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Fit classical features on training values; return the function from values to features (n, f), sparse or not."""

    @staticmethod
    @abstractmethod
    def perturb(value: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Return variants of the value with the same meaning, as others would write or record it, by what was changed."""

    @staticmethod
    def size(value: Any) -> float:
        """Return how large a value is, in `size_unit`."""
        return len(str(value))

    @classmethod
    def sketch(cls, value: Any) -> Hashes:
        """Return sorted, distinct hashes of a value's parts; near-duplicates share most of them, other values few."""
        return shingles(cls.key(value))


# Capabilities of targets


class Reconstruction(Target):
    """A target whose answer replaces tokens of a source of its kind: those that `~` hides, or all of them."""

    # How tokens are hidden, where the answer is what `~` hides.
    corruption: Corruption
    # What the hub calls the task, by the source port that is read; a port without `~` stands for a body without a head.
    hub_tasks: ClassVar[Mapping[str, str]] = {}
    # Whether weights that a published classifier shares with this head are the classifier's alone.
    yields_to_classifier: ClassVar[bool] = False

    def restore(self, corruption: Corruption) -> None:
        """Keep how a source is hidden, so that questions ask for tokens hidden in the same way."""
        self.corruption = corruption

    @abstractmethod
    def complete(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Any:
        """Return the value with the tokens that were predicted in place of the hidden ones.

        piece: of `value`, with its alignment.
        hidden: (h,), the indices of the hidden tokens.
        output: (h, …), the outputs at these.
        """

    @staticmethod
    def file(value: Any) -> tuple[str, bytes] | None:
        """Return the suffix and the content of a file of a completed value; None for kinds that are cells of a table."""
        return None

    @property
    def nothing_hidden(self) -> str:
        """Return the message for a value in which nothing is hidden."""
        return "nothing is asked of this value"


class Located(Target):
    """A target whose answers lie in the raw coordinates of a source, and so move where that is augmented."""

    # The kind of that source.
    lies_in: ClassVar[str]
    # Whether an answer also looks like the source, which augmentation then must not recolour, and is made out of its value.
    resembles: ClassVar[bool] = False

    @property
    def learning(self) -> Learning | None:
        """Return how long and how fast fits learn; None to leave that to the source kind."""
        return None

    @staticmethod
    def misplaced(answer: Any, value: Any) -> str:
        """Return why an answer cannot lie in a value of the source; an empty string where it can."""
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the answers kept in annotation files at `path`, by the files that they are about; empty where there are none.

        within: lists the files of a folder. Raises DataError, OSError.
        """
        return {}

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return the regions that an answer names, as marks to draw. true: whether it is a label, and not a prediction."""
        return []

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return one output an example, (n, …), in raw coordinates, from the outputs (m, …) read in examples of `pieces`."""
        return output

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return one row of evidence an example, (n, …), from the evidence (m, …) of examples of `pieces`."""
        return self.gather(evidence, pieces)

    def show(self, answer: Any) -> str:
        """Return a predicted or true answer as HTML, such as a thumbnail."""
        return html.escape(self.brief(answer))


class Classes(Target):
    """A target whose answers are named out of classes seen in training, each with a probability."""

    # The classes, in the order of the outputs.
    classes: list[str]
    # Whether an answer is exactly one of the classes.
    exclusive: ClassVar[bool] = False
    # The prefix of those weights of the head whose rows are the classes; a start lends them to the same classes alone.
    class_weight_names: ClassVar[str] = ""
    # The share of an answer that its loss spreads over all classes (Szegedy et al. 2016); an option of training, never saved.
    label_smoothing: float = 0.0
    # What the hub calls the task, by the source port that is read.
    hub_tasks: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return how many classes the head among a published model's weights, under our names, has; None without a head."""

    @abstractmethod
    def class_names(self, answer: Any) -> Sequence[str]:
        """Return the classes that a true answer names."""

    def confusion(self, output: Tensor, answers: Sequence[Any]) -> dict[str, dict[str, int]]:
        """Return how often each true class was answered by each class; empty where that is no table."""
        return {}

    @abstractmethod
    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability (m,) that the target itself gives to each of its answers."""

    @abstractmethod
    def correctness(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32]:
        """Return how far each answer (m,) is right in the sense of its `confidence`."""

    def calibrate(self, head: nn.Module, output: Tensor, values: Tensor) -> float | None:
        """Rescale `head` so that its confidence is right on held-out outputs (m, …) with encoded answers (m, …).

        No answer changes. Returns the temperature; None where the kind has none, or there are too few rows to tell.
        """
        return None

    @abstractmethod
    def notes(self, answers: Sequence[Any]) -> list[str]:
        """Return what a reader of the scores must know about these true answers, such as classes never seen in training."""


class LinearProbe(Target):
    """A target read from the pooled vector whose best linear head can be computed from frozen vectors."""

    @abstractmethod
    def probe(
        self, features: Any, values: NDArray[Any], seed: int, selection_features: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Return weight (c, d) and bias (c,) of the best linear head on vectors.

        features: (m, d), frozen vectors, or sparse features of length 1.
        values: (m, …), the encoded answers.
        selection_features: (m, d), features to choose the regularisation by, where the others were learnt from the same answers
            and make them look easier than they are.
        """


class Comparable(Target):
    """A target whose answers each have a worth, whose mean is what comparisons are about."""

    # The field's name for the mean of `per_item_metric`.
    primary_metric: ClassVar[str]
    # Those of its metrics that may be larger than 1.
    unbounded_metrics: ClassVar[tuple[str, ...]] = ()
    # The constant answer in words, such as "always the mean"; empty where there is none.
    constant_rule: ClassVar[str] = ""

    @abstractmethod
    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """Return the worth of each answer, (m,), 1 at best; None where `answers` give nothing to measure by.

        output: the outputs of kinds with one answer an example, the evidence of others.
        """

    def constant_output(self, values: NDArray[Any]) -> Tensor | None:
        """Return the output (c,) that gives the constant answer, from encoded training answers; None where there is none."""
        return None


class Attributable(Target):
    """A target whose answers have a strength that can be attributed to parts of the source."""

    # What `answer_score` measures.
    score_unit: ClassVar[str] = "log-odds"

    @abstractmethod
    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return how strongly outputs (m, …) give the answers that the outputs `reference` (m, …) give, (m,)."""


class Mixable(Target):
    """A target that knows the answer to a mixture of several rows."""

    # The mixtures to which it knows the answer.
    mixture_layouts: ClassVar[tuple[MixtureLayout, ...]] = ("blended", "placed")

    def mix_answers(self, answers: Sequence[Any], pieces: Sequence[Piece], parts: Sequence[MixturePart]) -> Answer:
        """Return the answer to mixed `pieces`: the mean of the rows' answers, weighted by their shares (Zhang et al. 2018).

        parts: the part of each row in the mixture.
        """
        values = [self.encode(answer, pieces).values for answer in answers]
        return Answer(np.asarray(np.average(values, axis=0, weights=[part.share for part in parts]), np.float32))


def has_exclusive_classes(target: Target | type[Target]) -> bool:
    """Return whether each answer is exactly one out of several classes."""
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, Classes) and kind.exclusive


def is_located(target: Target | type[Target]) -> TypeGuard[Located | type[Located]]:
    """Return whether the answers of a target, an object or a class, lie in a source."""
    return issubclass(target if isinstance(target, type) else type(target), Located)


def gather_outputs(target: Target, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    """Return one output an example, (n, …), of a target with one answer an example."""
    return target.gather(output, pieces) if isinstance(target, Located) else output
