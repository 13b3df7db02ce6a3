"""The interface of a kind of values that are read (Source), and of any kind of values (Kind).

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
    """Default length and learning rates of a fit: numbers of epochs and steps, and the rates of the starting model and heads."""

    # The smallest and the largest number of epochs. Between them, fits run for `steps` training steps.
    min_epochs: float = 3.0
    max_epochs: float = 10.0
    steps: int = 120
    # The learning rate of the weights of a starting model made by mapsto.
    rate: float = 1e-4
    # The heads' learning rate is this many times that of the starting model.
    head_factor: float = 1.0


@dataclass(frozen=True)
class KindDefaults:
    """Default settings of a source kind for training, prediction and the search for near-duplicates."""

    learning: Learning = Learning()
    # How many values are encoded at once in prediction, which bounds memory.
    rows_at_once: int = 4096
    # Whether fits with few labels use a supervised contrastive loss by default.
    contrastive_few_labels: bool = True
    # The smallest Jaccard similarity of near-duplicates, between the sets of hashes from `Describable.sketch`.
    near_duplicate_threshold: float = 0.7


class Kind(ABC):
    """A kind of values that the cells of a column can hold, such as text or label."""

    # The name of the kind in arrows, such as "text".
    kind: ClassVar[str]

    @staticmethod
    @abstractmethod
    def samples() -> list[Any]:
        """Return a few different cells of this kind, on which tests that every kind must pass are run."""

    @staticmethod
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether a column with these cells can be of this kind."""

    @staticmethod
    @abstractmethod
    def read(cell: object) -> Any:
        """Return the value that a cell holds. Raises BadCell if the cell holds no value of this kind."""

    @staticmethod
    def key(value: Any) -> str:
        """Return a string that is equal for equal values."""
        return str(value)


class Source(Kind):
    """A kind of values that are read. One object encodes the values of all source ports of its kind in an arrow."""

    # The published family (zoo/) whose architecture a new model takes.
    family: ClassVar[str] = "modernbert"
    # The pretraining objectives by name, each with its share of hidden tokens; 0 for one that hides none.
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30}
    defaults: ClassVar[KindDefaults] = KindDefaults()

    @classmethod
    @abstractmethod
    def new(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source fitted to training values: with a vocabulary for them, or with the size and statistics of their pixels.

        size: number of tokens of the vocabulary, for kinds that have one.
        share: the share of all training values that `values` are.
        Raises DataError if there are no values, UsageError for a `size` of a kind without vocabulary.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the model that is saved in `folder`. Raises CheckpointError.

        weights: the weights of the source's embedder, by name.
        front: settings of a convolutional network that embeds the values; None if the model has none.
        """

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the files that `open` reads into `folder`; return those of their settings that config.json repeats.

        By default no file is written and the dict is empty. longest: number of tokens of the longest example.
        """
        return {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that is equal for sources that encode equal values in the same way."""

    @property
    def max_tokens(self) -> int | None:
        """Return the largest number of tokens of a value, special ones included; None for kinds without a limit (text)."""
        return None

    @abstractmethod
    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return each value as a piece.

        place: index of the source port. The second text of an example gets other special tokens than the first.
        aligned: whether pieces also say which region and which unit (word) of the raw value each token is, at a cost in time.
        """

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens of the piece. A kind with special tokens at the end keeps these within `length`."""
        return piece.select(np.arange(length))

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Return the whole value as consecutive pieces (windows) of at most `length` tokens, each with all special tokens."""
        # Each window repeats the special tokens, so it has room for fewer others.
        frame, inner = np.flatnonzero(piece.special), np.flatnonzero(~piece.special)
        room = length - len(frame)
        starts = range(0, len(inner), room)
        return [piece.select(np.concatenate([frame, inner[start : start + room]])) for start in starts]

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """Return the module that maps tokens, (t,) ids or (t, f) features, to vectors (t, width)."""

    @abstractmethod
    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and the indices (m,) of the tokens to predict.

        corruption: the rate and shape of hidden tokens. progress: the finished share of training, 0 to 1, which the rate may
            depend on.
        """

    def decoder_positions(self, width: int) -> nn.Module | None:
        """Return a module from tokens to the position embeddings (t, width) that a decoder adds; None if a decoder adds none."""
        return None

    @classmethod
    def show(cls, value: Any) -> str:
        """Return the value as HTML; by default as text."""
        return html.escape(str(value))
