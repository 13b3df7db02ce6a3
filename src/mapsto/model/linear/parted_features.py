"""Values as features of their parts, the input of linear models: cells of a picture, thirds of a sound.

A token is a part, with its index and its features. Its vector is the product of the features with the part's rows of a table, so
the sum of a value's vectors is a linear map of its features.
Legend of shapes: t tokens, p parts of a value, f features of a part, n values.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.source_capabilities import Explainable, LinearFeatures


class PartedSource(LinearFeatures, Explainable):
    """A source that reads a value as features of its parts, for linear models.

    Its tokens are the index of the part and the part's features.
    """

    family = "linear"
    objectives: ClassVar[Mapping[str, float]] = {}
    # A value in words, such as "picture"; the numbers of parts and of features of a part.
    value_noun: ClassVar[str]
    num_parts: ClassVar[int]
    part_features: ClassVar[int]
    # The entries of config.json that describe the features. A folder with others was written by another version of mapsto.
    settings: ClassVar[Mapping[str, Any]]

    @classmethod
    @abstractmethod
    def describe(cls, value: Any, aligned: bool) -> Piece:
        """Return the piece of a value, (p, 1 + f); with an alignment to its raw coordinates if `aligned`."""

    @property
    def num_features(self) -> int:
        """Return the number p·f of features of a value."""
        return self.num_parts * self.part_features

    @property
    def max_tokens(self) -> int:
        """Return the number of parts of a value."""
        return self.num_parts

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings of the features. Sources with equal hashes encode a value in the same way."""
        return hashlib.sha256(json.dumps(self.settings).encode()).hexdigest()

    @classmethod
    def new(cls, values: Sequence[Any], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source, which learns nothing from `values`. Raises DataError if there are none. size, share: not used."""
        if not values:
            raise DataError(f"there is no {cls.value_noun} to fit a linear model to")
        return cls()

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the linear model saved in `folder`. weights, front: not used.

        Raises CheckpointError if the model was fitted to other features than this version computes.
        """
        config = files.read_json(folder / "config.json")
        saved = {name: config.get(name) for name in cls.settings}
        if saved != cls.settings:
            raise CheckpointError(
                f"{folder}: the model reads {cls.value_noun}s by {saved}, and this version by {cls.settings}"
            )
        return cls()

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Return the entries of config.json that describe the features; no file is written. folder, longest: not used."""
        return dict(self.settings)

    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of all parts for each value.

        aligned: whether each token also has the raw coordinates that its part covers. place: not used.
        """
        return [self.describe(value, aligned) for value in values]

    def embedder(self, width: int) -> nn.Module:
        """Return a PartTable (p·f, width): the vector of a token is its features times the rows of its part."""
        return PartTable(self.num_parts, self.part_features, width)

    def features(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return the features of pieces as an array (n, p·f), with zeros for parts that a piece lacks."""
        features = np.zeros((len(pieces), self.num_parts, self.part_features), np.float32)
        for row, piece in enumerate(pieces):
            features[row, piece.tokens[:, 0].astype(np.int64)] = piece.tokens[:, 1:]
        return features.reshape(len(pieces), -1)

    def feature_vectors(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return the features themselves."""
        return self.features(pieces)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError, since a linear model cannot predict hidden tokens."""
        raise UsageError("a linear model has no tokens to hide; leave --method linear out to pretrain")

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices. The features of the other parts stay as they are."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all features set to 0, those of a value without any contrast."""
        tokens = piece.tokens.copy()
        tokens[:, 1:] = 0
        return replace(piece, tokens=tokens)


class PartTable(nn.Module):
    """A table for tokens (index of the part, features): the vector of a token is its features times the rows of its part."""

    def __init__(self, num_parts: int, part_features: int, width: int) -> None:
        super().__init__()
        self.part_features = part_features
        self.weight = nn.Parameter(torch.zeros(num_parts * part_features, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors (t, width) of tokens (t, 1 + f)."""
        first_rows = tokens[:, :1].long() * self.part_features
        rows = first_rows + torch.arange(self.part_features, device=tokens.device)
        # A weighted sum of rows that never holds the rows of all tokens at once.
        return nn.functional.embedding_bag(rows, self.weight, per_sample_weights=tokens[:, 1:], mode="sum")
