"""Capabilities of sources: abilities that some kinds of values have beyond the contract of a source (see `capabilities`)."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mapsto.task.shingles import Hashes, shingle_batch, shingles
from mapsto.task.source import Kind, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mapsto.sequence.piece import FlatValues, Ints, MixturePart, Piece

# The weakest shade of a region that `highlight` colours.
FAINTEST_SHADE = 0.05

# Values of a mixture are blended (averaged, or pasted into each other), or each is placed in a region of its own.
MixtureLayout = Literal["blended", "placed"]


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

    So its values can be stored as ids, in a corpus that is larger than memory, and words can be added to its vocabulary.
    """

    @classmethod
    @abstractmethod
    def new_reversible(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Source:
        """Return a source as `new` does, whose tokens give each value back exactly, so that it can be generated.

        values, size, share: as for `new`.
        """

    @classmethod
    @abstractmethod
    def new_spelled(cls, values: Sequence[Any]) -> Source:
        """Return a source for a new model with a token for each letter of the training values.

        Raises DataError if there are none.
        """

    @abstractmethod
    def flatten(self, values: Sequence[Any], units: bool = False) -> FlatValues:
        """Return the token ids of all values in one array, without special tokens, and the number of tokens of each value.

        units: whether to return too, for each token, whether it begins a unit of its kind (a word of a text).
        """

    @abstractmethod
    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Return the piece of a value, or of a window of it, from its token ids, given as `flatten` returns them.

        The special tokens are added, so that the piece of a whole value equals the one from `encode`.
        begins: (t,), True for tokens that begin a unit (word); None if units are not needed.
        """

    @abstractmethod
    def extend_vocabulary(self, words: Sequence[str]) -> tuple[Source, dict[int, Ints]]:
        """Return a source that reads each of `words` as one token, and {id of each new token: ids of the tokens it replaces}.

        The replaced tokens are those into which the word was split.
        """

    @abstractmethod
    def is_unknown(self, tokens: Ints) -> NDArray[np.bool_]:
        """Return which of the tokens (t,) are the unknown token, which stands for text outside the vocabulary."""

    @abstractmethod
    def count_dropped(self, values: Sequence[Any]) -> tuple[int, int]:
        """Return (number of visible characters for which there is no token, number of all visible characters) of values."""


class Augmentable(Kind):
    """A source whose values can be randomly augmented and mixed for training."""

    # The methods of `augment`: the default first, the strongest last.
    augmentations: ClassVar[tuple[str, ...]]
    # The methods of `mix`, by name.
    mixtures: ClassVar[Mapping[str, Mixture]]

    @abstractmethod
    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a random variant of a value, with the same meaning and number of tokens.

        piece: the piece of the value. method: one of `augmentations`. recolour: whether colours may change, besides positions.
        If `piece` has an alignment, the new one gives the place of each token in the original value.
        """

    @abstractmethod
    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Return (mixed piece, parts): a random mixture of values, and for each value its share and its tokens in the mixture.

        pieces: the pieces of the values. method: a key of `mixtures`, which sets the number of values.
        The mixed piece has as many tokens as the first piece.
        """


class Outlinable(Kind):
    """A source in whose values regions can be outlined on a page."""

    @classmethod
    @abstractmethod
    def outline(cls, value: Any, marks: Sequence[Mark]) -> str:
        """Return the value as HTML with each mark's region outlined: dashed if it is from a true label, solid if predicted."""


class Spatial(Outlinable):
    """A source whose values have rows and columns (images), so that answers and masks can refer to places in a value."""

    # Number of learnt query tokens at the end of each piece, where boxes are read; 0 if they are read between patches.
    queries: int
    # Number of layers that add position embeddings to their output once more.
    layer_positions: int

    @abstractmethod
    def tokens_around(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """Return for each of q points the indices of the k tokens around it, (q, k), and their bilinear weights, (q, k).

        The points lie on a regular grid over the value.
        counts: number of points along each axis of the value; q is their product.
        """

    @abstractmethod
    def resize(self, size: int | None) -> Source:
        """Return a source that reads whole values, not cropped, and scales values larger than `size` pixels a side down to it.

        size: None for the largest side that this source reads. Raises UsageError if `size` is too large.
        """

    @abstractmethod
    def mask_region(self, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
        """Return the piece with all tokens hidden that contain a point to hide, and the indices of these tokens.

        piece: the piece of `value`, with its alignment. mask: a cell that marks the points to hide, such as an image file's name.
        Raises BadCell if the mask does not fit the value, UsageError if the model cannot hide parts of a value.
        """

    @classmethod
    @abstractmethod
    def draw(cls, value: Any, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """Return (file suffix, file content) of a picture of the value, with the region of each mark outlined and captioned."""


class Cased(Kind):
    """A source that can tell capitals from small letters even if its tokens do not."""

    @abstractmethod
    def with_capitals(self, is_wanted: bool) -> Source:
        """Return a source that tells capitals from small letters, by its tokens or beside them; or one that has tokens alone."""


class Windowed(Kind):
    """A source whose published models read values of one length at most, to which some pad shorter ones (Whisper: 30 seconds)."""

    @abstractmethod
    def fits_window(self, value: Any) -> bool:
        """Return whether a published model reads a value at once."""

    @abstractmethod
    def with_padding(self, generates: bool) -> Source:
        """Return a source that pads values as an arrow needs it.

        generates: whether answers are generated token by token, by a decoder that has only seen padded values.
        """


class LiveValue(ABC):
    """A value that is read while it is made, such as a sound that is being recorded."""

    @abstractmethod
    def stop(self) -> None:
        """End the value with what was read of it; called by a handler of a signal."""


class Streamed(Kind):
    """A source whose long values are read window by window, so that a value need not fit into memory."""

    @classmethod
    @abstractmethod
    def open_live(cls, path: Path | None, raw: int | None = None) -> Any:
        """Return the value of a file that may grow, of a named pipe, or of standard input (None), for `read_windows`.

        It is a LiveValue unless the file is complete. raw: the rate of values without a header. Raises DataError if it cannot be
        opened.
        """

    @abstractmethod
    def is_longer(self, value: Any, length: int) -> bool:
        """Return whether a value has more than `length` tokens."""

    @abstractmethod
    def read_windows(self, value: Any, length: int, aligned: bool = False) -> Iterator[Piece]:
        """Yield the windows of a value, of at most `length` tokens each and as values of their own, as they are read.

        aligned: as for `encode`; the raw coordinates and units are those of the whole value.
        """


class Spoken(Kind):
    """A source of sounds: a text that answers it may be what is said, which word and character error rates score."""

    @property
    @abstractmethod
    def token_seconds(self) -> float:
        """Return the duration of a token in seconds."""

    def is_silent(self, piece: Piece) -> bool:
        """Return whether a piece holds nothing that could be speech, so that nothing is said in it; by default False."""
        return False


class Explainable(Kind):
    """A source whose tokens can be named, removed and highlighted, to attribute an answer to single tokens."""

    @abstractmethod
    def token_names(self, piece: Piece) -> list[str]:
        """Return a name for each token of the piece: its spelling in a text; for other kinds its place, as "row,column"."""

    @abstractmethod
    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices.

        If the model can only read whole values, the tokens stay but lose their content.
        tokens: (k,), indices of tokens that are not special.
        """

    @abstractmethod
    def blank(self, piece: Piece) -> Piece:
        """Return the piece with the content of all tokens removed, except of special tokens; its length is unchanged.

        It is the reference input with which an attribution method compares the value.
        """

    @staticmethod
    @abstractmethod
    def excerpt(value: Any, region: Any) -> str:
        """Return a region of the value in words: the text in the region, or its coordinates.

        region: (a, 2), begin and end along each axis of the value, in raw coordinates.
        """

    @classmethod
    def highlight(cls, value: Any, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """Return the value as HTML with its regions shaded, for some kinds beside the value without shades.

        By default: the value as text, then the excerpt of each region, shaded.
        regions: (a, 2) each. shades: one for each region, from −1 (speaks against the answer) to 1 (speaks for it).
        """
        parts = [
            f'<mark class="{"against" if shade < 0 else "for"}" style="--shade:{abs(shade):.2f}">'
            f"{html.escape(cls.excerpt(value, region))}</mark>"
            for region, shade in zip(regions, shades, strict=True)
        ]
        return " ".join([html.escape(str(value)), *parts])


class Describable(Kind):
    """A source whose values have features, a size, variants and hashes that are computed without a model.

    They serve baselines, data checks and error analysis.
    """

    # The name of the features that `fit_features` computes, such as "TF-IDF".
    feature_name: ClassVar[str]
    # The unit of `size`.
    size_unit: ClassVar[str] = "length"

    @classmethod
    def linear_source(cls) -> type[LinearFeatures] | None:
        """Return the Source class by which a linear model reads values of this kind; None if this kind has no linear models."""
        return None

    @classmethod
    @abstractmethod
    def fit_features(cls, values: Sequence[Any]) -> Callable[[Sequence[Any]], Any]:
        """Fit a classical feature extractor, such as TF-IDF, on training values; return the function from values to features.

        The features are a dense array or a sparse matrix (n, f).
        """

    # The name of the ranking by `fit_ranker`, beside which matching is scored.
    ranker_name: ClassVar[str] = "cosines of features"

    @classmethod
    def fit_ranker(cls, candidates: Sequence[Any]) -> Callable[[Sequence[Any]], NDArray[Any]]:
        """Return the function from queries to their scores (q, c) for all candidates, without a model.

        By default these are the cosines of the classical features, standardised over the candidates.
        """
        extract = cls.fit_features(candidates)

        def dense(values: Sequence[Any]) -> NDArray[Any]:
            features = extract(values)
            return np.asarray(features.toarray() if hasattr(features, "toarray") else features, np.float64)

        known = dense(candidates)
        mean, deviation = known.mean(0), known.std(0)

        def scale(features: NDArray[Any]) -> NDArray[Any]:
            scaled = (features - mean) / np.where(deviation > 0, deviation, 1.0)
            unit: NDArray[Any] = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
            return unit

        known = scale(known)
        return lambda queries: scale(dense(queries)) @ known.T

    @staticmethod
    @abstractmethod
    def perturb(value: Any, rng: np.random.Generator) -> dict[str, Any]:
        """Return {name of the change: changed value}, such as "typing errors" or "darker". The changes keep the value's meaning.

        They are used to test whether a model's answers are robust.
        """

    @staticmethod
    def size(value: Any) -> float:
        """Return the size of a value in the unit `size_unit`; by default the number of characters of its text."""
        return len(str(value))

    @classmethod
    def sketch(cls, value: Any) -> Hashes:
        """Return sorted distinct hashes of the parts of a value. Near-duplicates share most of their hashes, other values few.

        By default the parts are all substrings of five characters of the value's `key`.
        """
        return shingles(cls.key(value))

    @classmethod
    def sketch_batch(cls, values: Sequence[Any]) -> tuple[Hashes, NDArray[np.int64]]:
        """Return the hashes of each value, as `sketch` but in any order and with repetitions, one value after the other.

        Also the number of hashes of each value, (n,).
        """
        if cls.sketch.__func__ is Describable.sketch.__func__:  # type: ignore[attr-defined]
            return shingle_batch([cls.key(value) for value in values])
        sketches = [cls.sketch(value) for value in values]
        counts = np.fromiter(map(len, sketches), np.int64, len(sketches))
        return np.concatenate([np.zeros(0, np.uint64), *sketches]), counts


class Inspectable(Kind):
    """A source whose values are inspected for facts that a user should know before training, such as a silent recording."""

    @staticmethod
    @abstractmethod
    def inspect(values: Sequence[Any]) -> list[tuple[int, str]]:
        """Return (index of a value, remark about it). values: of all rows; None for a cell that cannot be read."""


class Varied(Source):
    """A kind whose published models read values in several ways, each by a source class of its own, such as waves of sounds."""

    # The source classes besides the kind's own, by the name that a family in zoo/ gives in `source_variant`.
    variants: ClassVar[Mapping[str, type[Source]]]


class Grouped(Kind):
    """A source whose values come in groups that are alike, such as recordings of one speaker.

    Columns that name the groups are found by their names (see task/group_names.py). Splits keep groups together, and intervals
    resample them.
    """

    # What the values of a group have in common, in the order of importance: nouns of task/group_names.py.
    group_nouns: ClassVar[tuple[str, ...]]


class LinearFeatures(Source):
    """A source for linear models.

    A value's tokens are embedded so that their sum is a linear map of the value's classical features.
    """

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Return the number f of features of a value; the weight of the embedder has the shape (f, width)."""

    @abstractmethod
    def features(self, pieces: Sequence[Piece]) -> Any:
        """Return the classical features of n pieces, a dense array or a sparse matrix (n, f)."""

    @abstractmethod
    def feature_vectors(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return a dense vector for each of n pieces, (n, d), whose cosines are about those of the pieces' features."""


def linear_source(kind: type[Source]) -> type[LinearFeatures] | None:
    """Return the Source class by which a linear model reads values of a kind; None if there is none."""
    return kind.linear_source() if issubclass(kind, Describable) else None
