"""Pictures as the edges and colours of their cells, the input of linear models.

A token is a cell, a rectangle of the picture, with its features (see features.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mapsto.model.linear.parted_features import PartedSource
from mapsto.sequence.piece import Alignment, Piece
from mapsto.task.source import KindDefaults
from mapsto.vision import features, image_value
from mapsto.vision.features import CELL_FEATURES, CELLS_PER_SIDE, NUM_CELLS
from mapsto.vision.image_value import ImageValue


class CellSource(PartedSource):
    """A source that reads a picture as 6 × 6 cells, row by row, for linear models."""

    kind = "image"
    # Pictures need much memory before they are cells.
    defaults = KindDefaults(rows_at_once=32)
    value_noun = "picture"
    num_parts, part_features = NUM_CELLS, CELL_FEATURES
    settings: ClassVar[Mapping[str, Any]] = {
        "image_size": features.DESCRIBED_SIDE,
        "cell_size": features.CELL_SIDE,
        "block_size": features.CELLS_PER_BLOCK,
        "num_directions": features.NUM_DIRECTIONS,
        "colour_norm": features.COLOUR_NORM,
    }
    samples = staticmethod(image_value.sample_images)
    fits = staticmethod(image_value.fits_images)
    read = staticmethod(image_value.read_image)
    excerpt = staticmethod(image_value.excerpt)
    highlight = staticmethod(image_value.highlight)

    def __str__(self) -> str:
        return f"edges and colours of {CELLS_PER_SIDE} × {CELLS_PER_SIDE} parts of a picture"

    @staticmethod
    def key(value: ImageValue) -> str:
        """Return the digest of the picture's bytes; equal pictures have equal digests."""
        return value.digest

    @classmethod
    def show(cls, value: ImageValue) -> str:
        """Return the picture as HTML."""
        return cls.highlight(value, [], [])

    @classmethod
    def describe(cls, value: ImageValue, aligned: bool) -> Piece:
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
            kind=cls.kind,
            tokens=np.concatenate([numbers[:, None], cells], axis=1),
            positions=positions,
            special=np.zeros(NUM_CELLS, np.bool_),
            alignment=alignment,
        )

    def token_names(self, piece: Piece) -> list[str]:
        """Return "row,column" of each token's cell."""
        return [f"{row},{column}" for row, column in piece.positions.tolist()]
