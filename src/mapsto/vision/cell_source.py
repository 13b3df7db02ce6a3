"""Pictures as the edges and colours of their cells, the input of linear models.

A token is a cell, a rectangle of the picture, with its features (see features.py). Its vector is the product of the features
with the cell's rows of a table, so the sum of a picture's vectors is a linear map of its features.
Legend of shapes: t tokens, c cells of a picture, f features of a cell, n pictures.
"""

from __future__ import annotations

import hashlib
import json
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
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source import KindDefaults
from mapsto.task.source_capabilities import Explainable, LinearFeatures
from mapsto.vision import features, image_value
from mapsto.vision.features import CELL_FEATURES, CELLS_PER_SIDE, NUM_CELLS
from mapsto.vision.image_value import ImageValue
from mapsto.vision.patch_source import CONFIG_FILE

# The entries of config.json that describe the features. A folder with others was written by another version of mapsto.
SETTINGS = {
    "image_size": features.DESCRIBED_SIDE,
    "cell_size": features.CELL_SIDE,
    "block_size": features.CELLS_PER_BLOCK,
    "num_directions": features.NUM_DIRECTIONS,
    "colour_norm": features.COLOUR_NORM,
}


class CellSource(LinearFeatures, Explainable):
    """A source that reads a picture as 6 × 6 cells, for linear models.

    Its tokens are the index of the cell, row by row, and the cell's features.
    """

    kind = "image"
    family = "linear"
    objectives: ClassVar[Mapping[str, float]] = {}
    # Pictures need much memory before they are cells.
    defaults = KindDefaults(rows_at_once=32)
    num_features = NUM_CELLS * CELL_FEATURES

    def __str__(self) -> str:
        return f"edges and colours of {CELLS_PER_SIDE} × {CELLS_PER_SIDE} parts of a picture"

    @classmethod
    def new(cls, values: Sequence[ImageValue], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source, which learns nothing from the pictures `values`. Raises DataError if there are none.

        size, share: not used.
        """
        if not values:
            raise DataError("there is no picture to fit a linear model to")
        return cls()

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the linear model saved in `folder`. weights, front: not used.

        Raises CheckpointError if the model was fitted to other features than this version computes.
        """
        config = files.read_json(folder / CONFIG_FILE)
        saved = {name: config.get(name) for name in SETTINGS}
        if saved != SETTINGS:
            raise CheckpointError(f"{folder}: the model reads pictures by {saved}, and this version by {SETTINGS}")
        return cls()

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Return the entries of config.json that describe the features; no file is written. folder, longest: not used."""
        return dict(SETTINGS)

    samples = staticmethod(image_value.sample_images)
    fits = staticmethod(image_value.fits_images)
    read = staticmethod(image_value.read_image)
    excerpt = staticmethod(image_value.excerpt)
    highlight = staticmethod(image_value.highlight)

    @staticmethod
    def key(value: ImageValue) -> str:
        """Return the digest of the picture's bytes; equal pictures have equal digests."""
        return value.digest

    @classmethod
    def show(cls, value: ImageValue) -> str:
        """Return the picture as HTML."""
        return cls.highlight(value, [], [])

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the settings of the features. Sources with equal hashes encode a picture in the same way."""
        return hashlib.sha256(json.dumps(SETTINGS).encode()).hexdigest()

    @property
    def max_tokens(self) -> int:
        """Return the number of cells of a picture."""
        return NUM_CELLS

    def encode(self, values: Sequence[ImageValue], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of all cells for each picture.

        aligned: whether each token also has the region of the raw picture that its cell covers. place: not used.
        """
        return [_piece(value, aligned) for value in values]

    def embedder(self, width: int) -> nn.Module:
        """Return a CellTable (c·f, width): the vector of a token is its features times the rows of its cell."""
        return CellTable(width)

    def features(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return the features of pieces as an array (n, c·f), with zeros for cells that a piece lacks."""
        features = np.zeros((len(pieces), NUM_CELLS, CELL_FEATURES), np.float32)
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
        raise UsageError("a linear model has no tokens to hide; pretraining needs a model that reads patches")

    def token_names(self, piece: Piece) -> list[str]:
        """Return "row,column" of each token's cell."""
        return [f"{row},{column}" for row, column in piece.positions.tolist()]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices. The features of the other cells stay as they are."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all features set to 0, those of a flat mid-grey picture."""
        tokens = piece.tokens.copy()
        tokens[:, 1:] = 0
        return replace(piece, tokens=tokens)


class CellTable(nn.Module):
    """A table for tokens (cell index, features): the vector of a token is its features times the rows of its cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUM_CELLS * CELL_FEATURES, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors (t, width) of tokens (t, 1 + f)."""
        first_rows = tokens[:, :1].long() * CELL_FEATURES
        rows = first_rows + torch.arange(CELL_FEATURES, device=tokens.device)
        # A weighted sum of rows that never holds the rows of all tokens at once.
        return nn.functional.embedding_bag(rows, self.weight, per_sample_weights=tokens[:, 1:], mode="sum")


def _piece(value: ImageValue, aligned: bool) -> Piece:
    """Return the piece of a picture; with an alignment to its raw pixels if `aligned`."""
    (cells,) = features.cell_features([value.pixels])
    numbers = np.arange(NUM_CELLS, dtype=np.float32)
    positions = np.indices((CELLS_PER_SIDE, CELLS_PER_SIDE)).reshape(2, -1).T
    alignment = None
    if aligned:
        size = np.array([value.height, value.width])
        regions = np.stack([positions, positions + 1], axis=-1) * (size / CELLS_PER_SIDE)[:, None]
        alignment = Alignment(regions, np.stack([np.zeros(2), size], axis=-1))
    return Piece(
        kind="image",
        tokens=np.concatenate([numbers[:, None], cells], axis=1),
        positions=positions,
        special=np.zeros(NUM_CELLS, np.bool_),
        alignment=alignment,
    )
