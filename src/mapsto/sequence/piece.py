"""A piece, the tokens of one value, and the alignment of its tokens with raw coordinates of the value.

Legend of shapes: t tokens, n values, f features, a axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]


class Role(IntEnum):
    """The attention rule of a token: which tokens of its example attend to it.

    SOURCE: all of them. The token is from a source.
    CAUSAL: itself and the causal tokens after it. The token is from an answer, or the model is a causal language model.
    PARALLEL: all parallel tokens. The token is from an answer.
    """

    SOURCE = 0
    CAUSAL = 1
    PARALLEL = 2


@dataclass(frozen=True, slots=True)
class Alignment:
    """The regions of the raw value, in raw coordinates (characters, pixels, seconds), that the tokens of a piece cover.

    regions: (t, a, 2), start and end of each token's region on each raw axis. If both are equal, the token covers nothing, as
        [CLS] does.
    whole: (a, 2), start and end of the whole raw value on each axis; None for source kinds that do not need it. It is needed to
        scale an answer of another size than the source, such as a picture.
    """

    regions: NDArray[Any]
    whole: NDArray[Any] | None = None

    def to_raw(self, tokens: Sequence[int] | Ints) -> NDArray[Any] | None:
        """Return the smallest raw region (a, 2) that contains some tokens; None if they cover nothing of the raw value.

        tokens: the indices of the tokens.
        """
        regions = self.regions[np.asarray(tokens, dtype=np.int64)]
        # An empty region, such as that of [CLS], would stretch the result to its place.
        regions = regions[(regions[:, :, 0] < regions[:, :, 1]).all(axis=1)]
        if not len(regions):
            return None
        return np.stack([regions[:, :, 0].min(axis=0), regions[:, :, 1].max(axis=0)], axis=1)

    def ends(self, positions: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (start, end): the raw coordinates at which the tokens' lowest and highest position lie on each axis, (a,) each.

        positions: (t, a), the positions of the piece's tokens.
        Start is the raw start of the tokens at the lowest position, end the raw end of those at the highest. Along an axis on
        which augmentation flipped the value, the start is larger than the end.
        """
        has_region = (self.regions[:, :, 0] < self.regions[:, :, 1]).all(axis=1)
        regions, token_positions = self.regions[has_region], positions[has_region]
        axes = range(token_positions.shape[1])
        low, high = (
            np.stack([regions[token_positions[:, a] == extreme(token_positions[:, a]), a][0] for a in axes])
            for extreme in (np.min, np.max)
        )
        # In a mirrored image the lowest position lies at the highest raw coordinate.
        is_flipped = low[:, 0] > high[:, 0]
        return np.where(is_flipped, low[:, 1], low[:, 0]), np.where(is_flipped, high[:, 0], high[:, 1])


@dataclass(frozen=True, slots=True)
class Piece:
    """One value as a sequence of tokens.

    kind: name of the value's kind, such as "text".
    tokens: (t,) ids or (t, f) features.
    positions: (t, a), position of each token along each axis.
    special: (t,), True for special tokens ([CLS], [SEP], …), which are no part of the value.
    alignment: the raw regions of the tokens; None if not computed.
    units: (t,), index of the word (or other natural unit) of each token; −1 for special tokens; None if not computed.
    role: attention rule of all tokens.
    """

    kind: str
    tokens: NDArray[Any]
    positions: Ints
    special: NDArray[np.bool_]
    alignment: Alignment | None = None
    units: Ints | None = None
    role: Role = Role.SOURCE

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, indices: Ints) -> Piece:
        """Return the piece with only the tokens at `indices`, in that order. Each token keeps its position."""
        return replace(
            self,
            tokens=self.tokens[indices],
            positions=self.positions[indices],
            special=self.special[indices],
            alignment=None
            if self.alignment is None
            else replace(self.alignment, regions=self.alignment.regions[indices]),
            units=None if self.units is None else self.units[indices],
        )

    @property
    def nbytes(self) -> int:
        """Return the size of the piece's arrays in bytes."""
        regions = None if self.alignment is None else self.alignment.regions
        arrays = (self.tokens, self.positions, self.special, regions, self.units)
        return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True, slots=True)
class MixturePart:
    """The contribution of one value to a mixture of several values (mixup, CutMix, mosaic).

    share: weight of the value. The shares of all parts of a mixture add up to 1.
    piece: in a mosaic, where each value has a region of its own, the tokens of the mixture that show this value, aligned to
        raw coordinates of this value. None in other mixtures, and if no token shows the value.
    """

    share: float
    piece: Piece | None = None


@dataclass(frozen=True, slots=True)
class FlatValues:
    """The tokens of several values end to end, without special tokens.

    tokens: (t,), ids.
    lengths: (n,), number of tokens of each value.
    begins: (t,), True where a unit (word) begins; None unless requested.
    """

    tokens: Ints
    lengths: Ints
    begins: NDArray[np.bool_] | None = None
