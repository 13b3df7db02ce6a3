"""What the kinds have in common that are cut into patches: pictures, and stacks of them.

What a token is, patches.py says.
Legend of shapes: t tokens, d width, p side of a patch, f values of a patch, a axes (of a stack 3).
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import BadCell
from mapsto.sequence.corruption import Corruption, choose
from mapsto.sequence.piece import Alignment, Ints, Part, Piece
from mapsto.task.capabilities import (
    FAINTEST_SHADE,
    Augmentable,
    Describable,
    Explainable,
    FileBacked,
    Mixture,
    why_not_local,
)
from mapsto.task.source import KindDefaults, Learning, Source
from mapsto.vision import image_io, mixup, resize
from mapsto.vision.patch_embedding import FIRST_OF_FRAME, HIDDEN, PLACES, select
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Frame

GRID_WANTED, SMALLEST_PATCH, LARGEST_PATCH = 8, 2, 16


LARGEST_READ = 256  # the largest patch of models made elsewhere


PROCESSOR, CONFIG, NORMED = "preprocessor_config.json", "config.json", "norm_pix_loss"


def fit(values: Sequence[object], suffixes: tuple[str, ...], axes: int) -> bool:
    """Whether cells can be files with such endings, their bytes, or pixels of so many axes."""
    known = [value for value in values if value is not None]
    return bool(known) and all(_may_be(value, suffixes, axes) for value in known)


def _may_be(value: object, suffixes: tuple[str, ...], axes: int) -> bool:
    if isinstance(value, str):
        return value.lower().endswith(suffixes)
    shown = hasattr(value, "__array__") and getattr(value, "ndim", axes) == axes
    return isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value) or shown


def encoded(cell: object, what: str, shown: str) -> tuple[str | None, bytes | None]:
    """The file's name or the bytes that a cell holds, also as a dict of either as Hugging Face has it. Raises BadCell."""
    path, content = None, None
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        path = None if content else path
    elif isinstance(cell, bytes):
        content = cell
    elif isinstance(cell, str):
        path = cell.strip()
    elif cell is not None:
        raise BadCell(f"a {what} is a file's name, bytes or {shown}, not {type(cell).__name__}")
    if not content and not path:
        raise BadCell(f"the {what} is blank")
    if path and (reason := why_not_local(path)):
        raise BadCell(f"a {what} is a file here, {reason}")
    return path, content


@dataclass(frozen=True)
class PixelScale:
    """How pixels of hidden patches are told. ranged: less the mean and by the deviation of all pixels; else from 0 to 1. own:
    further less their own mean and by their own deviation, of the patch (MAE) or of each of its colours (VideoMAE)."""

    ranged: bool = True
    own: Literal["patch", "colour"] | None = None

    @property
    def centred(self) -> bool:
        """Whether the mean colour is told as zero."""
        return self.ranged or self.own is not None


ALL = PixelScale()


class PatchedSource(Source, FileBacked, Augmentable, Explainable, Describable):
    """Values cut into patches. places: bytes in front of the pixels of a token. mean, std: of the pixels, from 0 to 1, by
    channel. table: rows and columns of the largest grid that has positions."""

    places: ClassVar[int] = PLACES
    augmentations: ClassVar[tuple[str, ...]] = ("move", "mirror", "rand", "crop")
    mixtures: ClassVar[Mapping[str, Mixture]] = {"mixup": Mixture(2, "blended"), "cutmix": Mixture(2, "blended")}
    defaults = KindDefaults(Learning(20, 100, 600, 5e-4), rows_at_once=64, contrastive_few_labels=False)

    def __init__(
        self,
        frame: Frame,
        mean: Sequence[float],
        std: Sequence[float],
        table: tuple[int, int] | None,
        scale: PixelScale,
    ) -> None:
        self.frame, self.table, self.scale = frame, table or (frame.side, frame.side), scale
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))

    @property
    def block(self) -> tuple[int, ...]:
        """Pixels of a patch along each axis."""
        return self.frame.patch, self.frame.patch

    @property
    def leading(self) -> int:
        """Tokens before the patches."""
        return 0

    @property
    def trailing(self) -> int:
        """Tokens behind the patches."""
        return 0

    @staticmethod
    def key(value: Any) -> str:
        """Equal for the same bytes."""
        return str(value.digest)

    def encode(self, values: Sequence[Any], place: int, aligned: bool = False) -> list[Piece]:
        """The tokens in front, patches row by row, and the queries."""
        return [self._piece(value, aligned) for value in values]

    @abstractmethod
    def _framed(self, value: Any) -> tuple[Pixels, NDArray[np.float64]]:
        """The pixels in the size that is read, and along each axis the scale and shift from them to the raw value."""

    @staticmethod
    @abstractmethod
    def _whole(value: Any) -> tuple[float, ...]:
        """How long the raw value is along each axis."""

    @staticmethod
    @abstractmethod
    def _varied(
        pixels: Pixels, rng: np.random.Generator, how: str, mirror: bool, recolour: bool, bends: bool
    ) -> tuple[Pixels, NDArray[np.float64]]:
        """The pixels as `augment` shows them, and where they come from, as `_framed` says it; with `bends` they may be brought to
        where no scale and shift brings them."""

    def _piece(self, value: Any, aligned: bool) -> Piece:
        pixels, origin = self._framed(value)
        axes, first = len(self.block), self.leading
        grid = tuple(whole // part for whole, part in zip(pixels.shape, self.block, strict=False))
        places = np.indices(grid).reshape(axes, -1).T
        tokens = np.zeros((first + len(places) + self.trailing, self.places + 3 * math.prod(self.block)), np.uint8)
        inner, special = slice(first, first + len(places)), np.ones(len(tokens), np.bool_)
        special[inner] = False
        tokens[special, 0] = FIRST_OF_FRAME + np.arange(first + self.trailing)
        tokens[inner, 1 : 1 + axes], tokens[:, 1 + axes : self.places] = places, grid
        tokens[inner, self.places :] = resize.patches(pixels, self.frame.patch, self.block[0])
        alignment = units = None
        if aligned:
            corners = np.stack([places, places + 1], axis=-1) * np.array(self.block)[:, None]
            regions = np.zeros((len(tokens), axes, 2))
            regions[inner] = corners * origin[:, 0, None] + origin[:, 1, None]
            alignment = Alignment(regions, np.array([[0, end] for end in self._whole(value)]))
            in_picture = np.arange(-first, len(tokens) - first) % (grid[-2] * grid[-1])
            units = np.where(special, -1, in_picture)
        return Piece(self.kind, tokens, tokens[:, 1 : 1 + axes].astype(np.int64), special, alignment, units)

    def augment(self, piece: Piece, rng: np.random.Generator, how: str, recolour: bool = True) -> Piece:
        """The value moved a little, with "mirror" as often as not mirrored; with "rand" after two operations out of many, with
        "crop" a part of it in other colours."""
        inner, grid = ~piece.special, self.grid(piece)
        if inner.sum() != math.prod(grid):
            return piece  # a part of a value
        tells = grid[-1] > 1  # where there is one column of patches, nothing would tell that it was mirrored
        changed, origin = self._varied(self.joined(piece), rng, how, tells, recolour, bends=piece.alignment is None)
        alignment = None
        if piece.alignment is not None:
            regions = piece.alignment.regions.copy()
            regions[inner] = self._regions(piece, piece.positions[inner], origin)
            alignment = replace(piece.alignment, regions=regions)
        return self._shown(piece, changed, alignment)

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, how: str) -> tuple[Piece, list[Part]]:
        """Two values seen through each other ("mixup") or one in the other ("cutmix"), in the size of the first."""
        mixed, shares = (mixup.blended if how == "mixup" else mixup.pasted)(list(map(self.joined, pieces)), rng)
        return self._shown(pieces[0], mixed), [Part(share) for share in shares]

    def _shown(self, piece: Piece, pixels: Pixels, alignment: Alignment | None = None) -> Piece:
        """The piece of a whole value with these pixels in its stead."""
        tokens = piece.tokens.copy()
        tokens[~piece.special, self.places :] = resize.patches(pixels, self.frame.patch, self.block[0])
        return replace(piece, tokens=tokens, alignment=alignment)

    def _regions(self, piece: Piece, places: Ints, origin: NDArray[np.float64]) -> NDArray[np.float64]:
        """The raw regions (t, a, 2) of patches at `places` (t, a) that come from the value of `piece` as `origin` says, in the
        way of `_framed`."""
        assert piece.alignment is not None
        block, (first, last) = np.array(self.block), piece.alignment.ends(piece.positions)
        size = (piece.positions.max(0) + 1) * block
        corners = np.stack([places, places + 1], axis=-1) * block[:, None]
        before = corners * origin[:, 0, None] + origin[:, 1, None]
        return np.sort(first[:, None] + before * ((last - first) / size)[:, None], axis=-1)

    def grid(self, piece: Piece) -> tuple[int, ...]:
        """Patches along each axis of the value that a piece is of."""
        return tuple(piece.tokens[0, 1 + len(self.block) : self.places].tolist())

    def joined(self, piece: Piece) -> Pixels:
        """The pixels (…, h, w, 3) of all patches of a value."""
        found = piece.tokens[~piece.special, self.places :]
        return resize.joined(found, self.grid(piece), self.frame.patch, self.block[0])

    def require_parts(self) -> None:
        """Raise UsageError where values are read whole, so that no part of one can be hidden or read alone."""

    def cut(self, piece: Piece, length: int) -> Piece:
        """The first patches."""
        self.require_parts()
        return select(piece, np.arange(length))

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Patches in the order of the grid, each window behind the frame."""
        self.require_parts()
        frame, inner = np.flatnonzero(piece.special), np.flatnonzero(~piece.special)
        room = length - len(frame)
        return [select(piece, np.concatenate([frame, inner[at : at + room]])) for at in range(0, len(inner), room)]

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Some patches hidden. Raises UsageError where values are read whole."""
        self.require_parts()
        hidden = choose(corruption, piece, rng, progress)
        return self._hidden(piece, hidden), hidden

    def _hidden(self, piece: Piece, hidden: Ints) -> Piece:
        tokens = piece.tokens.copy()
        tokens[hidden, 0], tokens[hidden, self.places :] = HIDDEN, 0
        return replace(piece, tokens=tokens)

    def _framing(self) -> list[str]:
        """What the tokens are called that are no patches."""
        return []

    def token_names(self, piece: Piece) -> list[str]:
        """Row and column of each patch; of a stack, before that, its place along it."""
        frame = self._framing()
        return [
            frame[what - FIRST_OF_FRAME] if what >= FIRST_OF_FRAME else ",".join(map(str, at))
            for what, *at in piece.tokens[:, : 1 + len(self.block)].tolist()
        ]

    def without(self, piece: Piece, tokens: Ints) -> Piece:
        """The other patches, each where it stood."""
        return select(piece, np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """The colour of the mean everywhere."""
        return self._painted(piece, ~piece.special)

    def _painted(self, piece: Piece, which: NDArray[np.bool_]) -> Piece:
        """The patches `which` (t,) in the colour of the mean."""
        mean = np.repeat(np.array(self.mean) * 255, math.prod(self.block)).round().astype(np.uint8)
        tokens = piece.tokens.copy()
        tokens[which, self.places :] = mean
        return replace(piece, tokens=tokens)

    @classmethod
    def show(cls, value: Any) -> str:
        """A thumbnail."""
        return cls.highlight(value, [], [])


def grid_neighbours(size: Sequence[int], counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
    """Return the patches (q, k) around each of q places on a regular grid, two along each axis, and their linear weights (q, k).

    size: patches along each axis. counts: places along each axis; their product is q.
    """
    sizes = np.array(size)
    places = np.indices(tuple(counts)).reshape(len(sizes), -1).T
    at = np.clip((places + 0.5) / counts * sizes - 0.5, 0, sizes - 1)
    low = np.floor(at).astype(np.int64)
    far = (at - low).astype(np.float32)
    ends = [
        [(low[:, a], 1 - far[:, a]), (np.minimum(low[:, a] + 1, most), far[:, a])] for a, most in enumerate(sizes - 1)
    ]
    corners = [tuple(zip(*corner, strict=True)) for corner in itertools.product(*ends)]
    patches = np.stack([np.ravel_multi_index(about, sizes) for about, _ in corners], 1)
    return patches, np.stack([math.prod(shares) for _, shares in corners], 1)


def usual_frame(sides: Sequence[int], largest: int) -> Frame:
    """How pictures are cut whose longer sides are `sides`: at most `largest` pixels, a usual one into about 8 × 8 patches."""
    usual = float(np.median(sides))
    patch = int(np.clip(2 ** round(np.log2(usual / GRID_WANTED)), SMALLEST_PATCH, LARGEST_PATCH))
    return Frame(patch, max(1, round(min(usual, largest) / patch)) * patch)


def spread(values: Sequence[Any], most: int) -> Sequence[Any]:
    """At most so many of the values, from all over."""
    return values[:: max(1, len(values) // most)][:most]


def normal(shown: Iterable[Pixels]) -> tuple[list[float], list[float]]:
    """Mean and deviation of pixels, from 0 to 1, by channel."""
    pixels = np.concatenate([part.reshape(-1, 3)[::7] for part in shown]) / 255
    return pixels.mean(0).round(4).tolist(), np.maximum(pixels.std(0), 0.01).round(4).tolist()


def shaded(region: Any, shade: float) -> str:
    """A rectangle in the colour of what it speaks for, the stronger the more."""
    if abs(shade) < FAINTEST_SHADE:
        return ""
    (top, bottom), (left, right) = region
    side = "against" if shade < 0 else "for"
    return (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
        f'fill="rgba(var(--{side}), {0.7 * abs(shade):.2f})"/>'
    )


def small(pixels: Pixels, side: int, told: str, over: Iterable[str] = ()) -> str:
    """An SVG of a picture, `side` wide or high where it is shown, with shapes over it in its own pixels."""
    return _drawing(pixels, side, told, [_image(pixels, side, ""), *over])


def twice(pixels: Pixels, side: int, told: str, over: Iterable[str]) -> tuple[str, str]:
    """Such a picture as it is, and with shapes over it; it is kept once, since pages hold many."""
    name = f"p{hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]}"
    plain = _drawing(pixels, side, told, [_image(pixels, side, f' id="{name}"')])
    return plain, _drawing(pixels, side, f"{told}, with what decided", [f'<use href="#{name}"/>', *over])


def _drawing(pixels: Pixels, side: int, told: str, inner: Iterable[str]) -> str:
    h, w = pixels.shape[:2]
    return (
        f'<svg role="img" aria-label="{html.escape(told)}" width="{round(side * w / max(h, w))}" viewBox="0 0 {w} {h}">'
        f"{''.join(inner)}</svg>"
    )


def _image(pixels: Pixels, side: int, named: str) -> str:
    """The picture itself, in twice as many pixels as are shown, for screens that have as many."""
    h, w = pixels.shape[:2]
    scale = min(1.0, 2 * side / max(h, w))
    shown = Frame(1, max(1, round(max(h, w) * scale))).framed(pixels)[0]
    content = base64.b64encode(image_io.thumbnail(shown)).decode()
    return (
        f'<image{named} width="{w}" height="{h}" preserveAspectRatio="none" href="data:image/jpeg;base64,{content}"/>'
    )
