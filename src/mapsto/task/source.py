"""The contract of a kind of value that is read (Source), and what it shares with one that is answered (Kind).

A source turns values into pieces: runs of tokens with positions. What only some kinds can do beyond that stands in
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
    """The length and the learning rate of fits from random weights, or from a starting model made by mapsto."""

    # The number of epochs is whatever comes nearest to `steps` between these two.
    min_epochs: float = 3.0
    max_epochs: float = 10.0
    steps: int = 120
    # The learning rate of a starting model made by mapsto.
    rate: float = 1e-4
    # The heads' learning rate is this many times that of the starting model.
    head_factor: float = 1.0


@dataclass(frozen=True)
class KindDefaults:
    """A source's defaults where the user gives no option."""

    learning: Learning = Learning()
    # How many values are encoded and kept as pieces at once when answering; a bound on memory.
    rows_at_once: int = 4096
    # Whether few labels are best learnt with a supervised contrastive loss.
    contrastive_few_labels: bool = True
    # The Jaccard similarity of two values' sketches from which on they are near-duplicates.
    near_duplicate_threshold: float = 0.7


class Kind(ABC):
    """A kind of value in the cells of a column, be it read or answered."""

    kind: ClassVar[str]

    @staticmethod
    @abstractmethod
    def samples() -> list[Any]:
        """Return a few different cells of this kind, which its laws are tested on."""

    @staticmethod
    @abstractmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether a column with these cells can be of this kind."""

    @staticmethod
    @abstractmethod
    def read(cell: object) -> Any:
        """Return the value in a cell. Raises BadCell."""

    @staticmethod
    def key(value: Any) -> str:
        """Return a string that is equal for equal values."""
        return str(value)


class Source(Kind):
    """A kind of value that is read. One object serves all ports of its kind in an arrow."""

    # The published family (zoo/) whose architecture a new model takes.
    family: ClassVar[str] = "modernbert"
    # The pretraining objectives, each with its share of hidden tokens; 0 where it hides none.
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30}
    defaults: ClassVar[KindDefaults] = KindDefaults()

    @classmethod
    @abstractmethod
    def new(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source fitted to training values: its vocabulary, or the size and the range of its pixels.

        size: of the vocabulary, where there is one. share: the share of the training values that `values` are.
        Raises DataError, UsageError.
        """

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model.

        weights: those of its embedder. front: the convolutional network that embeds its values, where the model has one.
        Raises CheckpointError.
        """

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the files that `open` reads; return the entries of config.json that repeat them. By default there are none.

        longest: the most tokens of an example.
        """
        return {}

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that is equal for sources that encode equal values alike."""

    @property
    def max_tokens(self) -> int | None:
        """Return the most tokens that a value can have; None where values are cut to a length (text)."""
        return None

    @abstractmethod
    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return the values as pieces.

        place: the index of the source port, as the frame of a second text differs from that of the first.
        aligned: whether pieces carry their alignment and units, which takes time.
        """

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens of a piece, its frame kept."""
        return piece.select(np.arange(length))

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Return all of a piece as consecutive pieces of at most `length` tokens, each with the frame."""
        frame, inner = np.flatnonzero(piece.special), np.flatnonzero(~piece.special)
        room = length - len(frame)
        starts = range(0, len(inner), room)
        return [piece.select(np.concatenate([frame, inner[start : start + room]])) for start in starts]

    @abstractmethod
    def embedder(self, width: int) -> nn.Module:
        """Return a module from tokens, (t,) ids or (t, f) features, to vectors (t, width)."""

    @abstractmethod
    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and their indices.

        progress: how much of the training is done, from 0 to 1, for shares that change with it.
        """

    def decoder_positions(self, width: int) -> nn.Module | None:
        """Return a module from tokens to the position vectors (t, width) that a decoder adds; None where it adds none."""
        return None

    @classmethod
    def show(cls, value: Any) -> str:
        """Return the value as HTML."""
        return html.escape(str(value))
