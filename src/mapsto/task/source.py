"""What every kind says of its values, and the contract of one that is read."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from mapsto.errors import UsageError
from mapsto.text.shingles import Hashes, shingles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from mapsto.model.convolution import ConvolutionConfig
    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import Flat, Ints, Part, Piece


Mixture = Literal["blended", "placed"]


FAINTEST_SHADE = 0.05  # of a part that `marked` colours


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


class Kind(ABC):
    """What a kind says of the cells that its values stand in, be they read or answered.

    suffixes: of files that are a value each, for kinds whose cells may name files.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()

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
    def located(cell: object, folder: Path | None) -> object:
        """The cell of a table in a file in `folder`, for kinds whose cells may name files beside it; the cell as it is where no
        file holds the table. Raises BadCell for what leads out of there."""
        return cell


class Source(Kind):
    """A kind of value that is read. One object serves all ports of its kind in an arrow.

    flat: whether its pieces can be made again from their tokens, so that a corpus of it may be larger than memory.
    features: the field's name for what `classical` makes of its values; empty where a kind has none. family: the published one
    whose shape a new model takes. objectives: what pretraining can ask, and the share that `~` hides then unless told; 0 where
    nothing is hidden. learning: how fits of it are run. contrasts: whether few labels are best contrasted. augmented: how
    `augment` can vary values, the usual way first and the strongest last. mixings: how `mix` can make one value of several.
    alike: what share of two sketches is in both where values are nearly the same (Jaccard). measured: what `extent` counts.
    alone: whether an arrow reads one value of it, since nothing would tell several apart. rows_at_once: how many values are held
    as pieces when answering. queries: learnt tokens at the end of every piece, which answers about places are read from; where
    there are none, these are read between its tokens. between: layers behind which its embedder's `between` adds something.
    """

    flat: ClassVar[bool] = False
    features: ClassVar[str] = ""
    family: ClassVar[str] = "modernbert"
    measured: ClassVar[str] = "length"
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

    def unknown(self, tokens: Ints) -> int:
        """How many tokens stand for what this source has no token for."""
        return 0

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
        """The value as HTML with regions in shades from −1 (class `against`) to 1 (class `for`), beside what these would hide."""
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
