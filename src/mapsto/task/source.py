"""The interfaces of kinds: Kind for any kind of values, and Source for a kind of values that a model reads.

A source encodes each value as a piece: a sequence of tokens with positions. Abilities that only some kinds have are in
capabilities.py.
Legend of shapes: t tokens, f features of a token, a axes of a value.
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mapsto.model.convolution import ConvolutionConfig
    from mapsto.sequence.corruption import Corruption
    from mapsto.sequence.piece import Ints, Piece


@dataclass(frozen=True)
class Learning:
    """Default settings of a fit: numbers of epochs and steps, and learning rates of the starting model and the heads."""

    # The smallest and the largest number of epochs. Between them, fits run for `steps` training steps.
    min_epochs: float = 3.0
    max_epochs: float = 10.0
    steps: int = 120
    # The learning rate of the weights of a starting model made by mapsto.
    rate: float = 1e-4
    # Whether such weights are trained as new ones are, by their optimizer and at its learning rate.
    as_new: bool = False
    # The heads' learning rate is this many times that of the starting model.
    head_factor: float = 1.0
    # Number of examples of a training step.
    batch: int = 32


@dataclass(frozen=True)
class KindDefaults:
    """Default settings of a source kind for new models, training, prediction and the search for near-duplicates."""

    learning: Learning = Learning()
    # The shape of a new model: the width and the number of layers of its Transformer.
    width: int = 256
    layers: int = 6
    # The number of tokens of one update in pretraining.
    pretrain_tokens: int = 4096
    # How many values are encoded at once in prediction, which bounds memory.
    rows_at_once: int = 4096
    # Whether fits with few labels use a supervised contrastive loss by default.
    contrastive_few_labels: bool = True
    # With fewer rows and no starting model, a linear model is fitted without trying to train: on all sets that were measured it
    # was better than new weights, which take a hundred times as long.
    linear_rows: int = 0
    # The smallest Jaccard similarity of near-duplicates, between the sets of hashes from `Describable.sketch`.
    near_duplicate_threshold: float = 0.7


class Kind(ABC):
    """A kind of values that the cells of a column can hold, such as text or label."""

    # The name of the kind in arrows, such as "text".
    kind: ClassVar[str]

    @staticmethod
    @abstractmethod
    def samples() -> list[Any]:
        """Return a few different example cells of this kind, used by the tests that every kind must pass."""

    @staticmethod
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether a column with these cells can be of this kind. Cells that are None are ignored."""

    @staticmethod
    @abstractmethod
    def read(cell: object) -> Any:
        """Return the value in a cell. Raises BadCell if the cell holds no value of this kind."""

    @staticmethod
    def key(value: Any) -> str:
        """Return a string that is the same for equal values, to compare values and find duplicates."""
        return str(value)


class Source(Kind):
    """A kind of values that a model reads.

    An arrow has one Source object for each kind, shared by all source ports of this kind.
    """

    # The published family (zoo/) whose architecture a new model takes.
    family: ClassVar[str] = "modernbert"
    # The pretraining objectives by name, each with its share of hidden tokens; 0 for one that hides none.
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30}
    defaults: ClassVar[KindDefaults] = KindDefaults()

    @classmethod
    @abstractmethod
    def new(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source for a new model, fitted to training values: its vocabulary, or the size and statistics of their pixels.

        size: number of tokens of the vocabulary; None for the default. share: the share of the training values that are in
        `values`, if these are a sample.
        Raises DataError if there are no values, UsageError if `size` is set for a kind without vocabulary.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the model saved in `folder`. Raises CheckpointError if its files are damaged or not supported.

        weights: the weights of the source's embedder, by name.
        front: settings of the convolutional network that embeds the values; None if the model has none.
        """

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the files that `open` reads into `folder`; return the entries of config.json that describe this source.

        By default no file is written and no entry is returned. longest: number of tokens of the longest example.
        """
        return {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of all settings that affect `encode`. Sources with equal hashes encode a value in the same way."""

    @property
    def max_tokens(self) -> int | None:
        """Return the largest number of tokens that a model reads at once, special tokens included; None for no limit (text)."""
        return None

    @abstractmethod
    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece for each value.

        place: index of the source port. A text at a port after the first gets other special tokens than at the first.
        aligned: whether pieces also have, for each token, its region in the raw value and its unit (word), which takes more time.
        """

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the piece cut to its first `length` tokens.

        Kinds with special tokens at the end cut the tokens before these instead; the special tokens count towards `length`.
        """
        return piece.select(np.arange(length))

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return the tokens of a piece as consecutive pieces (windows) of at most `length` tokens each.

        Each window has all the special tokens, which count towards `length`.
        overlap: the share of a window that the next one repeats. By default windows do not overlap; only text has others.
        """
        assert not overlap, "only windows of text overlap"
        # Each window repeats the special tokens, so it has room for fewer others.
        frame, inner = np.flatnonzero(piece.special), np.flatnonzero(~piece.special)
        room = length - len(frame)
        starts = range(0, len(inner), room)
        return [piece.select(np.concatenate([frame, inner[start : start + room]])) for start in starts]

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """Return a new module that maps tokens, ids (t,) or features (t, f), to vectors (t, width)."""

    @abstractmethod
    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and the indices (m,) of the tokens to predict.

        corruption: how many tokens to hide, and in which shape.
        progress: the finished share of training, 0 to 1, on which the share of hidden tokens may depend.
        """

    def decoder_positions(self, width: int) -> nn.Module | None:
        """Return a module from tokens to the position embeddings (t, width) that an MAE decoder adds; None if it adds none."""
        return None

    @classmethod
    def show(cls, value: Any) -> str:
        """Return the value as HTML, by default as escaped text."""
        return html.escape(str(value))
