"""The two contracts of a kind, and the registry: the file name is the entry.

A kind is one file here. It defines `source`, a Source class, `target`, a Target class, or both; and `restored`, where what puts
back the hidden part of a source is another Target than what answers a value of its own. Nothing else is edited.
"""

from __future__ import annotations

import html
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from mapsto.arrow import Arrow, restores
from mapsto.errors import UsageError, near
from mapsto.scores import Score, with_interval
from mapsto.sequence import Answer
from mapsto.twins import Hashes, shingles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mapsto.convolution import ConvolutionConfig
    from mapsto.corrupt import Corruption
    from mapsto.sequence import Flat, Ints, Part, Piece
    from mapsto.transformer import TransformConfig

Way = Literal["pooled", "aligned", "appended"]
Mixture = Literal["blended", "placed"]
State = dict[str, Any]
FAINTEST_SHADE = 0.05  # of a part that `marked` colours
Figure = tuple[Any, ...]  # a metric, and the arrays over items that it takes


class BadCell(ValueError):
    """A cell that cannot be read as its kind; the message is the reason, the caller knows file, row and column."""


NO_TEXT = re.compile("[\0\ud800-\udfff]")


def no_text(text: str) -> str | None:
    """What keeps `text` from being text: a NUL, or half a character, which has no UTF-8 form; None for text."""
    found = NO_TEXT.search(text)
    return None if found is None else "a NUL character" if found[0] == "\0" else f"{found[0]!r}, half a character"


@dataclass(frozen=True)
class Learning:
    """How long and how fast answers are learnt from random weights or a start made here: as many epochs as come near `steps`,
    but from `fewest` to `most`. rate: of a start made here. head: how many times faster the heads learn than a start."""

    fewest: float = 3.0
    most: float = 10.0
    steps: int = 120
    rate: float = 1e-4
    head: float = 1.0


@dataclass(frozen=True)
class Mixing:
    """A way to make one value of several. of: how many. result: whether they are seen through or in each other (blended), or each
    has a place of its own (placed). often: the share of the rows to which it is done."""

    of: int
    result: Mixture
    often: float = 1.0


@dataclass(frozen=True)
class Mark:
    """What is said of a region (a, 2) of a value. true: by its label, and not by a model."""

    region: Any
    text: str
    true: bool = False


class Source(ABC):
    """A kind of value that is read. One object serves all ports of its kind in an arrow.

    flat: whether its pieces can be made again from their tokens, so that a corpus of it may be larger than memory.
    features: the field's name for what `classical` makes of its values; empty where a kind has none. family: the published one
    whose shape a new model takes. objectives: what pretraining can ask, and the share that `~` hides then unless told; 0 where
    nothing is hidden. learning: how fits of it are run. contrasts: whether few labels are best contrasted. augmented: how
    `augment` can vary values, the usual way first and the strongest last. mixings: how `mix` can make one value of several.
    alike: what share of two sketches is in both where values are nearly the same (Jaccard). measured: what `extent` counts.
    suffixes: of files that are a value each, for kinds whose cells may name files. alone: whether an arrow reads one value of it,
    since nothing would tell several apart. rows_at_once: how many values are held as pieces when answering. queries: learnt
    tokens at the end of every piece, which answers about places are read from; where there are none, these are read between its
    tokens. between: layers behind which its embedder's `between` adds something.
    """

    kind: ClassVar[str]
    flat: ClassVar[bool] = False
    features: ClassVar[str] = ""
    family: ClassVar[str] = "modernbert"
    measured: ClassVar[str] = "length"
    suffixes: ClassVar[tuple[str, ...]] = ()
    alone: ClassVar[bool] = False
    rows_at_once: ClassVar[int] = 4096
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30}
    learning: ClassVar[Learning] = Learning()
    contrasts: ClassVar[bool] = True
    augmented: ClassVar[tuple[str, ...]] = ()
    mixings: ClassVar[Mapping[str, Mixing]] = {}
    alike: ClassVar[float] = 0.7
    queries: int = 0
    between: int = 0

    @property
    def longest(self) -> int | None:
        """The most tokens that a value makes; None where that depends on how much of it is read."""
        return None

    @classmethod
    @abstractmethod
    def new(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Self:
        """A source made from training values alone, or from a `share` of them; `size` is its vocabulary, where it has one.

        Raises DataError.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """The source that a model folder brings; `weights` are those of its embedder, `front` the network that this is, where it
        is one of its own. Raises CheckpointError."""

    def extended(self, words: Sequence[str]) -> tuple[Source, dict[int, Ints]]:
        """A source with these words in its vocabulary, and by new id the tokens that each stood for before. Raises UsageError
        for a kind that has no vocabulary."""
        raise UsageError(f"{self.kind!r} has no vocabulary to add words to")

    @abstractmethod
    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the files that `open` reads, for examples of at most `longest` tokens; what config.json repeats of them."""

    @staticmethod
    @abstractmethod
    def samples() -> list[Any]:
        """A few different values of this kind, on which its laws are tested."""

    @staticmethod
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Whether a column with these values can be of this kind."""

    @staticmethod
    @abstractmethod
    def read(cell: object) -> Any:
        """The value in a cell. Raises BadCell."""

    @staticmethod
    def located(cell: object, folder: Path) -> object:
        """The cell of a table in `folder`, for kinds whose cells may name files beside it."""
        return cell

    @staticmethod
    def extent(value: Any) -> float:
        """How large a value is."""
        return len(str(value))

    @staticmethod
    def key(value: Any) -> str:
        """Equal for values that a reader takes for the same."""
        return str(value)

    @classmethod
    def sketch(cls, value: Any) -> Hashes:
        """Different hashes of parts of a value, sorted; values that are nearly the same have most in common, others few. Those of
        the characters of its key, unless a kind knows better."""
        return shingles(cls.key(value))

    @abstractmethod
    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Values as pieces, with their alignment and units when `aligned` (it costs time).

        `place` counts the source ports, for frames that differ behind the first one.
        """

    def flatten(self, values: Sequence[Any], units: bool = False) -> Flat:
        """The tokens of values end to end, for kinds that are `flat`; with `units`, also where units begin."""
        raise NotImplementedError

    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Tokens from `flatten`, of a whole value or of a window of one, as the piece that `encode` makes of it."""
        raise NotImplementedError

    def augment(self, piece: Piece, rng: np.random.Generator, how: str, recolour: bool = True) -> Piece:
        """The piece of a value that means the same, as many tokens, its alignment moved with it; the piece itself for kinds that
        have none. recolour: whether it may look another way too, and not only lie elsewhere."""
        return piece

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, how: str) -> tuple[Piece, list[Part]]:
        """One piece made of so many as the mixing `how` takes, as long as the first of them, and what it has of each; for kinds
        that name mixings."""
        raise NotImplementedError

    @abstractmethod
    def cut(self, piece: Piece, length: int) -> Piece:
        """The start of `piece`, `length` tokens with its frame kept."""

    @abstractmethod
    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """The whole of `piece` in consecutive pieces of at most `length` tokens, each with the frame."""

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """From tokens, (t,) ids or (t, f) features, to (t, width)."""

    def placer(self, width: int) -> nn.Module | None:
        """From tokens to fixed vectors (t, width) of where they stand, for a decoder; None where stacks are told positions."""
        return None

    @abstractmethod
    def corrupt(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """The piece with some tokens hidden, and their indices."""

    def covered(self, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
        """The piece of `value`, which has its alignment, with the tokens hidden that a mask touches, and their indices. mask: a
        cell, such as the name of a file. Raises BadCell for a mask that does not fit, UsageError for kinds that have none."""
        raise UsageError(f"there are no masks for {self.kind!r}")

    def words(self, piece: Piece) -> list[str]:
        """What each token is, for people."""
        return [str(i) for i in range(len(piece))]

    def between_tokens(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """Of `counts` places along the axes of a value, q in all, the tokens (q, k) about each, and the shares (q, k) by which
        these are near. Raises UsageError for kinds that have no such axes."""
        raise UsageError(f"nothing can be asked about places in {self.kind!r}")

    def require_parts(self) -> None:
        """Raise UsageError where values are read whole, so that no part of one can be hidden or asked about."""

    def without(self, piece: Piece, tokens: Ints) -> Piece:
        """The piece as if these tokens had not stood in the value; its frame stays. Raises UsageError for kinds without parts."""
        raise UsageError(f"nothing can be left out of {self.kind!r} yet")

    def blank(self, piece: Piece) -> Piece:
        """The piece as long as it is, with nothing in it. Raises UsageError for a kind without parts."""
        raise UsageError(f"{self.kind!r} has no blank value yet")

    @staticmethod
    def excerpt(value: Any, region: Any) -> str:
        """What stands in a region (a, 2) of the value, for people."""
        return ""

    @classmethod
    def marked(cls, value: Any, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """The value as HTML with regions in shades from −1 (class `against`) to 1 (class `for`)."""
        return html.escape(str(value))

    @classmethod
    def outlined(cls, value: Any, marks: Sequence[Mark]) -> str:
        """The value as HTML with these regions outlined, those that are true with a broken line."""
        return html.escape(str(value))

    @classmethod
    def drawn(cls, value: Any, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """The ending and the content of a file of the value with these regions outlined. Raises UsageError for kinds that have no
        such file."""
        raise UsageError(f"nothing is drawn into {cls.kind!r}")

    def read_whole(self, size: int | None) -> Source:
        """The source that reads values whole, nothing cut off, and brings larger ones down to `size` along each axis, by default
        to what it reads now. Raises UsageError for kinds that know no size."""
        raise UsageError(f"--size is for pictures, and {self.kind!r} has no size")

    @classmethod
    def classical(cls, values: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """The map from values to features (n, f), sparse or not, that need no pretraining, made from training values; for kinds
        that name them in `features`."""
        raise NotImplementedError

    @staticmethod
    def disturbed(value: Any, rng: np.random.Generator) -> dict[str, Any]:
        """The value as others would give it without meaning anything else, by what is different."""
        return {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for sources that make the same pieces of the same values."""

    def show(self, value: Any) -> str:
        """The value as HTML."""
        return html.escape(str(value))


class Target(ABC):
    """A kind of value that is answered. One object for each target port.

    named: whether an answer is one of a few names; then `classes` holds them, in the order of the outputs. likely: whether the
    loss is the −log of a probability. stem: what weights of a start call its head, where models of others have such a one under
    the name of its kind. corruption: what hides the answer, where it stands behind `~`. gain: the field's name for the mean of
    `gains`. smooth: the share of a named answer that its loss spreads over all classes; a matter of training, never saved.
    naming: how those weights of its head are called that say what the classes are, which a start lends to the same ones alone; by
    default all. lies_in: the kind of source whose raw coordinates its answers are in; they are laid anew where that is augmented.
    resembles: whether they also look as that does, so that augmentation may move it and must not recolour it, and an answer is
    made of the value. mixes: of which mixtures of values `mixed` can tell the answer. suffixes: of files that are an answer each.
    """

    kind: ClassVar[str]
    way: ClassVar[Way]
    lies_in: ClassVar[str] = ""
    resembles: ClassVar[bool] = False
    mixes: ClassVar[tuple[Mixture, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()
    named: ClassVar[bool] = False
    likely: ClassVar[bool] = True
    stem: ClassVar[str] = ""
    gain: ClassVar[str] = ""
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
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Whether a column with these values can be of this kind."""

    @staticmethod
    @abstractmethod
    def samples() -> list[Any]:
        """A few different answers of this kind, on which its laws are tested."""

    @staticmethod
    @abstractmethod
    def read(cell: object) -> Any:
        """The answer in a cell. Raises BadCell."""

    @staticmethod
    def located(cell: object, folder: Path) -> object:
        """The cell of a table in `folder`, for kinds whose cells may name files beside it."""
        return cell

    @staticmethod
    def key(value: Any) -> str:
        """Equal for answers that are the same."""
        return str(value)

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

    def question(self, pieces: Sequence[Piece]) -> Answer | None:
        """Where an answer that is not pooled is read, without saying what is true; None where nothing is asked."""
        at = self.asked(pieces)
        return Answer(np.zeros(len(at), np.int64), at) if len(at) else None

    def whole(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """One output an example, (n, …), out of what was read (m, …) for examples of these pieces; in raw coordinates for kinds
        that lie in a source."""
        return output

    def probe(self, features: Any, values: Ints, seed: int) -> tuple[Tensor, Tensor] | None:
        """Weight (c, d) and bias (c,) of the best linear head on frozen vectors (m, d), or on sparse ones of length 1; None
        when this kind has none."""
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
        """What each answer is worth, (m,) from 0 to 1: their mean is what comparisons are about. None where a kind has none."""
        return None

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


@cache
def names(role: Literal["source", "target"]) -> tuple[str, ...]:
    """The kinds that can stand on one side of an arrow."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if hasattr(_module(name), role))


@cache
def media() -> dict[str, tuple[str, ...]]:
    """The endings of files that are a value each, by kind."""
    return {kind: source(kind).suffixes for kind in names("source") if source(kind).suffixes}


def source(kind: str) -> type[Source]:
    """The Source of `kind`. Raises UsageError naming the kinds there are."""
    _require(kind, "source")
    found: type[Source] = _module(kind).source
    return found


def target(kind: str, restored: bool = False) -> type[Target]:
    """The Target of `kind`, or the one that puts back what `~` hides of it. Raises UsageError naming the kinds there are."""
    _require(kind, "target")
    module = _module(kind)
    found: type[Target] = getattr(module, "restored", module.target) if restored else module.target
    return found


def answering(arrow: Arrow) -> list[type[Target]]:
    """The Target of each port behind an arrow. Raises UsageError."""
    return [target(port.kind, of is not None) for port, of in zip(arrow.targets, restores(arrow), strict=True)]


def _require(kind: str, role: Literal["source", "target"]) -> None:
    if kind not in names(role):
        raise UsageError(f"no {role} kind {kind!r} here{near(kind, names(role))}; there are: {', '.join(names(role))}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
