"""The source of values that are cut into patches: images, and stacks of them (videos).

A value is resized to whole patches, and each patch is one token of bytes (patch_embedding.py). Regions of the raw value are laid
on tokens by an affine origin: raw = scale · pixel + shift along each axis.
Legend of shapes: t tokens, d width, p side of a patch, f values of a patch, a axes (2, of a stack 3).
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import BadCell
from mapsto.sequence.corruption import Corruption, choose_hidden
from mapsto.sequence.piece import Alignment, Ints, MixturePart, Piece
from mapsto.task.capabilities import Augmentable, Describable, Explainable, FileBacked, Mixture, why_not_local
from mapsto.task.source import KindDefaults, Learning, Source
from mapsto.vision import mixup
from mapsto.vision.patch_embedding import FIRST_SPECIAL, HEADER_BYTES, HIDDEN
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Resizer, join_patches, split_patches

# A new model's patches to a side of a usual image, and the least and the most pixels to a side of such a patch.
GRID_SIDE, MIN_PATCH, MAX_PATCH = 8, 2, 16

# The most pixels to a side of a published model's patch.
MAX_PUBLISHED_PATCH = 256

PROCESSOR_FILE, CONFIG_FILE = "preprocessor_config.json", "config.json"

# The entry of config.json that says whether hidden patches are standardised by themselves.
NORM_PIX_LOSS = "norm_pix_loss"


def are_media(values: Sequence[object], suffixes: tuple[str, ...], axes: int) -> bool:
    """Return whether cells can be files with these suffixes, their bytes, or arrays of pixels with so many axes."""
    cells = [value for value in values if value is not None]
    return bool(cells) and all(_may_be_media(cell, suffixes, axes) for cell in cells)


def _may_be_media(cell: object, suffixes: tuple[str, ...], axes: int) -> bool:
    if isinstance(cell, str):
        return cell.lower().endswith(suffixes)
    is_array = hasattr(cell, "__array__") and getattr(cell, "ndim", axes) == axes
    return isinstance(cell, bytes) or (isinstance(cell, dict) and "bytes" in cell) or is_array


def read_media_cell(cell: object, noun: str, array_noun: str) -> tuple[str | None, bytes | None]:
    """Return the file name or the bytes in a cell, also in a dict of either (Hugging Face). Raises BadCell.

    noun, array_noun: what messages call the value, and its form as an array.
    """
    path, content = None, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        path = None if content else path
    elif isinstance(cell, bytes):
        content = cell
    elif isinstance(cell, str):
        path = cell.strip()
    elif cell is not None:
        raise BadCell(f"a {noun} is a file's name, bytes or {array_noun}, not {type(cell).__name__}")
    if not content and not path:
        raise BadCell(f"the {noun} is blank")
    if path and (reason := why_not_local(path)):
        raise BadCell(f"a {noun} is a file here, {reason}")
    return path, content


@dataclass(frozen=True)
class PixelScale:
    """The scale in which a model predicts the pixels of hidden patches."""

    # Whether they are standardised by the mean and the deviation of all pixels; else they are from 0 to 1.
    standardised: bool = True
    # Whether they are further standardised by themselves: each patch (MAE), or each of its colours (VideoMAE).
    group: Literal["patch", "colour"] | None = None

    @property
    def is_centred(self) -> bool:
        """Return whether the mean colour is zero in this scale."""
        return self.standardised or self.group is not None

    def settings(self) -> dict[str, Any]:
        """Return the scale as JSON; its keys are part of the fingerprints of saved runs."""
        return {"ranged": self.standardised, "own": self.group}


STANDARDISED = PixelScale()


class PatchSource(Source, FileBacked, Augmentable, Explainable, Describable):
    """A source of values that are cut into patches.

    resizer: how a value becomes a grid of patches.
    mean, std: of the pixels, from 0 to 1, by channel.
    table: rows and columns of the largest grid that has position embeddings.
    scale: that of predicted pixels.
    """

    # Bytes of a token in front of its pixels.
    header_bytes: ClassVar[int] = HEADER_BYTES
    augmentations: ClassVar[tuple[str, ...]] = ("move", "mirror", "rand", "crop")
    mixtures: ClassVar[Mapping[str, Mixture]] = {"mixup": Mixture(2, "blended"), "cutmix": Mixture(2, "blended")}
    defaults = KindDefaults(
        Learning(min_epochs=20, max_epochs=100, steps=600, rate=5e-4), rows_at_once=64, contrastive_few_labels=False
    )

    def __init__(
        self,
        resizer: Resizer,
        mean: Sequence[float],
        std: Sequence[float],
        table: tuple[int, int] | None,
        scale: PixelScale,
    ) -> None:
        side = resizer.patches_per_side
        self.resizer, self.table, self.scale = resizer, table or (side, side), scale
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    @property
    def block(self) -> tuple[int, ...]:
        """Return the pixels of a patch along each axis."""
        return self.resizer.patch, self.resizer.patch

    @property
    def leading(self) -> int:
        """Return the number of special tokens in front of the patches."""
        return 0

    @property
    def trailing(self) -> int:
        """Return the number of learnt queries behind the patches."""
        return 0

    @staticmethod
    def key(value: Any) -> str:
        """Return the digest of the value's bytes."""
        return str(value.digest)

    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return for each value a piece of special tokens, patches row by row, and queries."""
        return [self._piece(value, aligned) for value in values]

    @abstractmethod
    def _resize(self, value: Any) -> tuple[Pixels, NDArray[np.float64]]:
        """Return the resized pixels and their origin (a, 2): scale and shift from them to the raw value along each axis."""

    @staticmethod
    @abstractmethod
    def _raw_size(value: Any) -> tuple[float, ...]:
        """Return the length of the raw value along each axis."""

    @staticmethod
    @abstractmethod
    def _augment_pixels(
        pixels: Pixels, rng: np.random.Generator, method: str, mirror: bool, recolour: bool, warp: bool
    ) -> tuple[Pixels, NDArray[np.float64]]:
        """Return augmented pixels and their origin, as augmentation.augment_image does."""

    def _piece(self, value: Any, aligned: bool) -> Piece:
        pixels, origin = self._resize(value)
        axes, first = len(self.block), self.leading
        grid = tuple(size // part for size, part in zip(pixels.shape, self.block, strict=False))
        places = np.indices(grid).reshape(axes, -1).T
        width = self.header_bytes + 3 * math.prod(self.block)
        tokens = np.zeros((first + len(places) + self.trailing, width), np.uint8)
        inner, special = slice(first, first + len(places)), np.ones(len(tokens), np.bool_)
        special[inner] = False
        tokens[special, 0] = FIRST_SPECIAL + np.arange(first + self.trailing)
        tokens[inner, 1 : 1 + axes], tokens[:, 1 + axes : self.header_bytes] = places, grid
        tokens[inner, self.header_bytes :] = split_patches(pixels, self.resizer.patch, self.block[0])
        alignment = units = None
        if aligned:
            corners = np.stack([places, places + 1], axis=-1) * np.array(self.block)[:, None]
            regions = np.zeros((len(tokens), axes, 2))
            regions[inner] = corners * origin[:, 0, None] + origin[:, 1, None]
            alignment = Alignment(regions, np.array([[0, end] for end in self._raw_size(value)]))
            # A unit is a place in the image: in a stack, all patches of one place are hidden together (tubes).
            in_image = np.arange(-first, len(tokens) - first) % (grid[-2] * grid[-1])
            units = np.where(special, -1, in_image)
        return Piece(self.kind, tokens, tokens[:, 1 : 1 + axes].astype(np.int64), special, alignment, units)

    def augment(self, piece: Piece, rng: np.random.Generator, method: str, recolour: bool = True) -> Piece:
        """Return the piece of a varied value; see augmentation.py for the methods.

        The piece itself where it is a part of a value. It is sheared and rotated only where it has no alignment to keep.
        """
        inner, grid = ~piece.special, self.grid(piece)
        if inner.sum() != math.prod(grid):
            return piece
        mirror = grid[-1] > 1  # the alignment of a single column of patches could not tell that it was mirrored
        pixels, origin = self._augment_pixels(
            self.to_pixels(piece), rng, method, mirror, recolour, warp=piece.alignment is None
        )
        alignment = None
        if piece.alignment is not None:
            regions = piece.alignment.regions.copy()
            regions[inner] = self._raw_regions(piece, piece.positions[inner], origin)
            alignment = replace(piece.alignment, regions=regions)
        return self._with_pixels(piece, pixels, alignment)

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, method: str) -> tuple[Piece, list[MixturePart]]:
        """Return two values blended ("mixup"), or one pasted into the other ("cutmix"), in the size of the first."""
        mix = mixup.blend if method == "mixup" else mixup.paste
        mixed, shares = mix(list(map(self.to_pixels, pieces)), rng)
        return self._with_pixels(pieces[0], mixed), [MixturePart(share) for share in shares]

    def _with_pixels(self, piece: Piece, pixels: Pixels, alignment: Alignment | None = None) -> Piece:
        """Return the piece of a whole value with other pixels."""
        tokens = piece.tokens.copy()
        tokens[~piece.special, self.header_bytes :] = split_patches(pixels, self.resizer.patch, self.block[0])
        return replace(piece, tokens=tokens, alignment=alignment)

    def _raw_regions(self, piece: Piece, places: Ints, origin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the raw regions (t, a, 2) of patches at `places` (t, a) of an image made from that of `piece`.

        origin: (a, 2), scale and shift from the new image to the one of `piece`.
        """
        assert piece.alignment is not None
        block, (first, last) = np.array(self.block), piece.alignment.ends(piece.positions)
        size = (piece.positions.max(0) + 1) * block
        corners = np.stack([places, places + 1], axis=-1) * block[:, None]
        old_corners = corners * origin[:, 0, None] + origin[:, 1, None]
        return np.sort(first[:, None] + old_corners * ((last - first) / size)[:, None], axis=-1)

    def grid(self, piece: Piece) -> tuple[int, ...]:
        """Return the number of patches along each axis of the piece's value."""
        return tuple(piece.tokens[0, 1 + len(self.block) : self.header_bytes].tolist())

    def to_pixels(self, piece: Piece) -> Pixels:
        """Return the pixels (…, h, w, 3) of a whole value's patches."""
        patches = piece.tokens[~piece.special, self.header_bytes :]
        return join_patches(patches, self.grid(piece), self.resizer.patch, self.block[0])

    def require_parts(self) -> None:
        """Raise UsageError where values are read whole, so that no part of one can be hidden or read alone."""

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens."""
        self.require_parts()
        return super().cut(piece, length)

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Return consecutive runs of patches, each behind the special tokens."""
        self.require_parts()
        return super().windows(piece, length)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some patches hidden, and their indices. Raises UsageError where values are read whole."""
        self.require_parts()
        hidden = choose_hidden(corruption, piece, rng, progress)
        return self._hide(piece, hidden), hidden

    def _hide(self, piece: Piece, hidden: Ints) -> Piece:
        tokens = piece.tokens.copy()
        tokens[hidden, 0], tokens[hidden, self.header_bytes :] = HIDDEN, 0
        return replace(piece, tokens=tokens)

    def _special_names(self) -> list[str]:
        """Return the names of the tokens that are no patches."""
        return []

    def token_names(self, piece: Piece) -> list[str]:
        """Return "row,column" for each patch (of a stack "index,row,column"), and the names of special tokens."""
        special_names = self._special_names()
        return [
            special_names[token_type - FIRST_SPECIAL] if token_type >= FIRST_SPECIAL else ",".join(map(str, place))
            for token_type, *place in piece.tokens[:, : 1 + len(self.block)].tolist()
        ]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece of the other patches, each at its position."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all patches in the mean colour."""
        return self._fill_with_mean(piece, ~piece.special)

    def _fill_with_mean(self, piece: Piece, selected: NDArray[np.bool_]) -> Piece:
        """Return the piece with the selected (t,) patches in the mean colour."""
        mean = np.repeat(np.array(self.mean) * 255, math.prod(self.block)).round().astype(np.uint8)
        tokens = piece.tokens.copy()
        tokens[selected, self.header_bytes :] = mean
        return replace(piece, tokens=tokens)

    @classmethod
    def show(cls, value: Any) -> str:
        """Return a thumbnail as HTML."""
        return cls.highlight(value, [], [])


def grid_neighbours(size: Sequence[int], counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
    """Return the patches (q, k) around each of q places on a regular grid, two along each axis, and their linear weights (q, k).

    size: patches along each axis. counts: places along each axis; their product is q.
    """
    sizes = np.array(size)
    places = np.indices(tuple(counts)).reshape(len(sizes), -1).T
    centres = np.clip((places + 0.5) / counts * sizes - 0.5, 0, sizes - 1)
    low = np.floor(centres).astype(np.int64)
    fraction = (centres - low).astype(np.float32)
    ends = [
        [(low[:, a], 1 - fraction[:, a]), (np.minimum(low[:, a] + 1, last), fraction[:, a])]
        for a, last in enumerate(sizes - 1)
    ]
    corners = [tuple(zip(*corner, strict=True)) for corner in itertools.product(*ends)]
    patches = np.stack([np.ravel_multi_index(indices, size) for indices, _ in corners], 1)
    return patches, np.stack([math.prod(weights) for _, weights in corners], 1)


def choose_resizer(sides: Sequence[int], max_size: int) -> Resizer:
    """Return the resizer of a new model: images of at most `max_size` pixels, a usual one cut into about 8 × 8 patches.

    sides: the longer sides of the training images.
    """
    median = float(np.median(sides))
    patch = int(np.clip(2 ** round(np.log2(median / GRID_SIDE)), MIN_PATCH, MAX_PATCH))
    return Resizer(patch, max(1, round(min(median, max_size) / patch)) * patch)


def evenly_spaced(values: Sequence[Any], limit: int) -> Sequence[Any]:
    """Return at most `limit` of the values, evenly spaced."""
    return values[:: max(1, len(values) // limit)][:limit]


def pixel_statistics(images: Iterable[Pixels]) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of pixels, from 0 to 1, by channel; of every seventh pixel."""
    pixels = np.concatenate([image.reshape(-1, 3)[::7] for image in images]) / 255
    return pixels.mean(0).round(4).tolist(), np.maximum(pixels.std(0), 0.01).round(4).tolist()
