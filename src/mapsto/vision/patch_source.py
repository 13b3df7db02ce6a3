"""The source of values that are cut into patches: images, and stacks of images (videos).

A value is resized to whole patches, and each patch is one token of bytes (patch_embedding.py). An origin maps pixels of
the resized value to the raw value: raw = scale · pixel + shift along each axis.
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

from mapsto.sequence.corruption import Corruption, choose_hidden
from mapsto.sequence.piece import Alignment, Ints, MixturePart, Piece
from mapsto.task.capabilities import FileBacked
from mapsto.task.source import KindDefaults, Learning, Source
from mapsto.task.source_capabilities import Augmentable, Describable, Explainable, Mixture
from mapsto.vision import mixup
from mapsto.vision.patch_embedding import FIRST_SPECIAL, HEADER_BYTES, HIDDEN
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Resizer, join_patches, split_patches

# For new models: patches along a side of an image of median size; the least and the most pixels to a side of a patch.
GRID_SIDE, MIN_PATCH, MAX_PATCH = 8, 2, 16

# The most pixels to a side of a published model's patch.
MAX_PUBLISHED_PATCH = 256

PROCESSOR_FILE, CONFIG_FILE = "preprocessor_config.json", "config.json"

# The entry of config.json that says whether each hidden patch is standardised by its own mean and deviation.
NORM_PIX_LOSS = "norm_pix_loss"


@dataclass(frozen=True)
class PixelScale:
    """The scale in which a model predicts the pixels of hidden patches."""

    # Whether pixels are standardised by the mean and the deviation of all pixels; else they are from 0 to 1.
    standardised: bool = True
    # Whether pixels are then standardised by the statistics of their patch (MAE), or of their colour in it (VideoMAE).
    group: Literal["patch", "colour"] | None = None

    @property
    def is_centred(self) -> bool:
        """Return whether the mean colour has the value zero in this scale."""
        return self.standardised or self.group is not None

    def settings(self) -> dict[str, Any]:
        """Return the scale as a dict for JSON. Saved runs hash it into their fingerprints, so its keys must not change."""
        return {"ranged": self.standardised, "own": self.group}


STANDARDISED = PixelScale()


class PatchSource(Source, FileBacked, Augmentable, Explainable, Describable):
    """A source of values that are cut into patches: the base class of the kinds image and video.

    resizer: how a value is resized to whole patches.
    mean, std: mean and standard deviation of pixels by channel, on the scale from 0 to 1.
    table: rows and columns of the grid of position embeddings; None for those of the largest square image.
    scale: the scale in which pixels of hidden patches are predicted.
    """

    # Bytes of a token in front of its pixels.
    header_bytes: ClassVar[int] = HEADER_BYTES
    augmentations: ClassVar[tuple[str, ...]] = ("move", "mirror", "rand", "crop")
    mixtures: ClassVar[Mapping[str, Mixture]] = {"mixup": Mixture(2, "blended"), "cutmix": Mixture(2, "blended")}
    defaults = KindDefaults(
        Learning(min_epochs=20, max_epochs=100, steps=600, rate=5e-4),
        rows_at_once=64,
        contrastive_few_labels=False,
        linear_rows=1000,
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
        """Return the size of a patch in pixels: (p, p) of an image, (depth, p, p) of a stack."""
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
        """Return the digest of the value's bytes; equal values have equal digests."""
        return str(value.digest)

    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece for each value: special tokens, then patches row by row, then learnt queries.

        place: index of the source port, which makes no difference here.
        aligned: whether a piece tells which region of the raw value each patch shows (alignment), and which patches are to be
        hidden together (units).
        """
        return [self._piece(value, aligned) for value in values]

    @abstractmethod
    def _resize(self, value: Any) -> tuple[Pixels, NDArray[np.float64]]:
        """Return the pixels (…, h, w, 3) of a value after resizing, and their origin (a, 2): a scale and a shift along each axis.

        A coordinate in the raw value is scale · coordinate in the resized one + shift.
        """

    @staticmethod
    @abstractmethod
    def _raw_size(value: Any) -> tuple[float, ...]:
        """Return the size of the raw value along each axis: (height, width) of an image, (seconds, height, width) of a video."""

    @staticmethod
    @abstractmethod
    def _augment_pixels(
        pixels: Pixels, rng: np.random.Generator, method: str, mirror: bool, recolour: bool, warp: bool
    ) -> tuple[Pixels, NDArray[np.float64]]:
        """Return augmented pixels and their origin (a, 2).

        The origin is, along each axis, the scale and shift from coordinates of the result to those of `pixels`.
        method: "move" (shift), "mirror" (mirror and shift), "crop" or "rand" (RandAugment). mirror, recolour, warp: whether
        mirroring, changes of colour, and shears and rotations are allowed.
        """

    def _piece(self, value: Any, aligned: bool) -> Piece:
        """Return the piece of one value: special tokens, then patches row by row, then learnt queries.

        aligned: whether the piece tells which region of the raw value each patch shows (alignment), and which patches are to be
        hidden together (units).
        """
        pixels, origin = self._resize(value)
        axes, first = len(self.block), self.leading
        grid = tuple(size // part for size, part in zip(pixels.shape, self.block, strict=False))
        # Row and column of each patch, in a stack after its index along the stack.
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
        """Return the piece of a value after a random augmentation of its pixels; unchanged if it lacks patches of its value.

        Its alignment, the region of the raw value that each patch shows, is changed accordingly. Without alignment, shears and
        rotations are used too, which an alignment could not express.
        method: "move" (shift), "mirror" (mirror and shift), "crop" or "rand" (RandAugment). recolour: whether colours may change.
        """
        inner, grid = ~piece.special, self.grid(piece)
        # Without all of its patches a piece cannot be joined to an image.
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
        """Return the piece of a mixture of two values, in the size of the first, and each value's share of weight or area.

        method: "mixup" averages the values with random weights, "cutmix" pastes a random rectangle of the second into the first.
        """
        mix = mixup.blend if method == "mixup" else mixup.paste
        mixed, shares = mix(list(map(self.to_pixels, pieces)), rng)
        return self._with_pixels(pieces[0], mixed), [MixturePart(share) for share in shares]

    def _with_pixels(self, piece: Piece, pixels: Pixels, alignment: Alignment | None = None) -> Piece:
        """Return a copy of the piece of a whole value with its patches cut from `pixels`, and with the alignment `alignment`."""
        tokens = piece.tokens.copy()
        tokens[~piece.special, self.header_bytes :] = split_patches(pixels, self.resizer.patch, self.block[0])
        return replace(piece, tokens=tokens, alignment=alignment)

    def _raw_regions(self, piece: Piece, places: Ints, origin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the regions (t, a, 2) of the raw value that patches of an augmented image show: start and end along each axis.

        piece: the piece before augmentation. places: (t, a), row and column of the patches in the augmented image's grid.
        origin: (a, 2), scale and shift from pixel coordinates of the augmented image to those of the image in `piece`.
        """
        assert piece.alignment is not None
        block, (first, last) = np.array(self.block), piece.alignment.ends(piece.positions)
        size = (piece.positions.max(0) + 1) * block
        corners = np.stack([places, places + 1], axis=-1) * block[:, None]
        old_corners = corners * origin[:, 0, None] + origin[:, 1, None]
        return np.sort(first[:, None] + old_corners * ((last - first) / size)[:, None], axis=-1)

    def grid(self, piece: Piece) -> tuple[int, ...]:
        """Return the number of patches along each axis of a value: (rows, columns), of a stack (length, rows, columns)."""
        return tuple(piece.tokens[0, 1 + len(self.block) : self.header_bytes].tolist())

    def to_pixels(self, piece: Piece) -> Pixels:
        """Return the pixels (…, h, w, 3) of a whole value, as resized, from the patches of its piece."""
        patches = piece.tokens[~piece.special, self.header_bytes :]
        return join_patches(patches, self.grid(piece), self.resizer.patch, self.block[0])

    def require_parts(self) -> None:
        """Raise UsageError if the model must read each value whole, so that no patch can be hidden or read without the others.

        By default nothing is raised; the kind image overrides this for convolutional networks.
        """

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the first `length` tokens of the piece; special tokens in front count, and queries at the end may be cut off.

        Raises UsageError if the model must read values whole.
        """
        self.require_parts()
        return super().cut(piece, length)

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return all patches as consecutive pieces of at most `length` tokens, each of which repeats the special tokens.

        Raises UsageError if the model must read values whole.
        """
        self.require_parts()
        return super().windows(piece, length, overlap)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with randomly chosen patches hidden, and the indices (m,) of the tokens of these patches.

        corruption: share and arrangement of hidden patches. progress: finished share of training, 0 to 1, with which the share
        of hidden patches may fall. Raises UsageError if the model must read values whole.
        """
        self.require_parts()
        hidden = choose_hidden(corruption, piece, rng, progress)
        return self._hide(piece, hidden), hidden

    def _hide(self, piece: Piece, hidden: Ints) -> Piece:
        """Return the piece with the tokens at the indices `hidden` marked as hidden, and their pixels set to 0."""
        tokens = piece.tokens.copy()
        tokens[hidden, 0], tokens[hidden, self.header_bytes :] = HIDDEN, 0
        return replace(piece, tokens=tokens)

    def _special_names(self) -> list[str]:
        """Return the names of special tokens and learnt queries, in the order of their token types; by default there are none."""
        return []

    def token_names(self, piece: Piece) -> list[str]:
        """Return a name for each token: "row,column" of a patch, or the name of a special token or learnt query.

        In a stack of images a patch is named "index,row,column".
        """
        special_names = self._special_names()
        return [
            special_names[token_type - FIRST_SPECIAL] if token_type >= FIRST_SPECIAL else ",".join(map(str, place))
            for token_type, *place in piece.tokens[:, : 1 + len(self.block)].tolist()
        ]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at the indices `tokens`. All other tokens keep their positions."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all patches in the mean colour, as the baseline of an attribution."""
        return self._fill_with_mean(piece, ~piece.special)

    def _fill_with_mean(self, piece: Piece, selected: NDArray[np.bool_]) -> Piece:
        """Return the piece with some patches replaced by patches of the mean colour.

        selected: (t,), True for the tokens of the patches to replace.
        """
        # Tokens hold pixels channel by channel.
        mean = np.repeat(np.array(self.mean) * 255, math.prod(self.block)).round().astype(np.uint8)
        tokens = piece.tokens.copy()
        tokens[selected, self.header_bytes :] = mean
        return replace(piece, tokens=tokens)

    @classmethod
    def show(cls, value: Any) -> str:
        """Return the value as HTML: a small picture."""
        return cls.highlight(value, [], [])


def grid_neighbours(size: Sequence[int], counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
    """Return patches and weights, (q, 2^a) each, to interpolate patch vectors linearly at q points on a regular grid.

    The patches are the two nearest along each axis of a point, as indices in the flattened grid of patches.
    size: number of patches along each axis. counts: number of points along each axis; their product is q.
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
    """Return the resizer of a new model: it cuts an image of median size into about 8 patches along its longer side.

    The patch side is a power of two from 2 to 16 pixels. sides: longer of height and width of each training image, in pixels.
    max_size: largest height or width that the model reads, in pixels.
    """
    median = float(np.median(sides))
    patch = int(np.clip(2 ** round(np.log2(median / GRID_SIDE)), MIN_PATCH, MAX_PATCH))
    return Resizer(patch, max(1, round(min(median, max_size) / patch)) * patch)


def evenly_spaced(values: Sequence[Any], limit: int) -> Sequence[Any]:
    """Return at most `limit` of the values, every n-th from the first on."""
    return values[:: max(1, len(values) // limit)][:limit]


def pixel_statistics(images: Iterable[Pixels]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of pixels by channel, (3,) each, on the scale from 0 to 1; a deviation is at least 0.01.

    They are estimated from every seventh pixel of the images.
    """
    pixels = np.concatenate([image.reshape(-1, 3)[::7] for image in images]) / 255
    return pixels.mean(0).round(4).tolist(), np.maximum(pixels.std(0), 0.01).round(4).tolist()
