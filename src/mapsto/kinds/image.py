"""image: a picture, read as square patches.

picture.py says what a picture in a cell is, picture_answers.py what pictures are as answers, and patched.py what is the same of
videos.
Legend of shapes: h rows, w columns of pixels, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import BadCell, CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.piece import Alignment, Ints, Part, Piece
from mapsto.task.capabilities import Mark, Mixture, Spatial
from mapsto.text.shingles import Hashes, hashes
from mapsto.vision import augmentation, image_io, image_value, mixup, preprocessor_config
from mapsto.vision.features import ROUNDED, counting, disturbed, strongest
from mapsto.vision.image_targets import ImageTarget, PictureTarget
from mapsto.vision.image_value import THUMBNAIL, Picture
from mapsto.vision.patch_embedding import MOST_SIDE, PatchConfig, PatchEmbedder, PatchPlaces, PictureEmbedder, select
from mapsto.vision.patch_source import (
    ALL,
    CONFIG,
    LARGEST_READ,
    NORMED,
    PROCESSOR,
    PatchedSource,
    PixelScale,
    grid_neighbours,
    normal,
    shaded,
    small,
    spread,
    twice,
    usual_frame,
)
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Frame

PLACED = ("[CLS]", "[distillation]")


OWN = PixelScale(own="patch")  # with `norm_pix_loss` (MAE)


AXES = {  # of weights
    "position_embeddings": 3,
    "projection.weight": 4,
    "cls_token": 3,
    "register_tokens": 3,
    "query_tokens": 3,
    "later_positions": 4,
}


MOST_QUERIES = 200  # what a byte can tell apart, beside the tokens in front


LARGEST_SIDE, SEEN = 224, 500


class ImageSource(PatchedSource, Spatial):
    """Pictures cut into patches. table: rows and columns of the grid that positions were learnt on. placed: tokens in front that
    have a place in the table of positions. registers: those behind them, that have none. masked: whether hidden patches have a
    vector of their own; else they look grey. bias: whether something is added to what is made of the pixels of a patch. front:
    the network that reads whole pictures; then a patch is what one cell of its last grid stands for, nothing can be hidden, and
    no token stands in front. queries: learnt tokens behind the patches. layer_positions: layers that add the positions again."""

    kind = "image"
    family = "dinov2"
    feature_name = "colours and edges"
    size_unit = "pixels"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.6, "mae": 0.75, "simclr": 0.0}
    suffixes = image_io.SUFFIXES
    defaults = replace(PatchedSource.defaults, rows_at_once=32, near_duplicate_threshold=0.8)
    # Things in a mosaic are smaller than in pictures, so that half of the rows are left as they are.
    mixtures: ClassVar[Mapping[str, Mixture]] = {**PatchedSource.mixtures, "mosaic": Mixture(4, "placed", 0.5)}

    def __init__(
        self,
        frame: Frame,
        mean: Sequence[float],
        std: Sequence[float],
        table: tuple[int, int] | None = None,
        registers: int = 0,
        masked: bool = True,
        placed: int = 1,
        bias: bool = True,
        scale: PixelScale = ALL,
        front: ConvolutionConfig | None = None,
        queries: int = 0,
        layer_positions: int = 0,
    ) -> None:
        super().__init__(frame, mean, std, table, scale)
        self.registers, self.masked, self.placed, self.bias = registers, masked, placed, bias
        self.front, self.queries, self.layer_positions = front, queries, layer_positions

    def __str__(self) -> str:
        p, side = self.frame.patch, self.frame.size
        if self.front is not None:
            return f"pictures up to {side} × {side} pixels, read by {self.front}"
        return f"patches of {p} × {p} pixels, of pictures up to {side} × {side}"

    @property
    def leading(self) -> int:
        """Tokens before the patches."""
        return self.placed + self.registers

    @property
    def trailing(self) -> int:
        """Learnt queries behind the patches."""
        return self.queries

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest picture."""
        return self.leading + max(self.frame.largest, math.prod(self.table)) + self.queries

    @classmethod
    def new(cls, values: Sequence[Picture], size: int | None = None, share: float = 1.0) -> Self:
        """Patches so large that a usual picture has about 8 × 8 of them, 16 pixels at most; pictures of up to 224 pixels."""
        if size is not None:
            raise UsageError("--vocabulary is for text; pictures have none")
        if not values:
            raise DataError("there is no picture to learn the size of pictures from")
        frame = usual_frame([max(value.height, value.width) for value in values], LARGEST_SIDE)
        return cls(frame, *normal(value.pixels for value in spread(values, SEEN)))

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """The source that its settings, and the weights of the patches or the network in front, describe."""
        said = files.read_json(folder / PROCESSOR)
        if front is None:
            patch, told = _patches(folder, weights)
        else:
            patch, told = front.stride, {"placed": 0, "masked": False, "front": front}
        if patch > LARGEST_READ or told["placed"] > len(PLACED) or told.get("queries", 0) > MOST_QUERIES:
            raise CheckpointError(
                f"{folder}: patches of {patch} pixels behind {told['placed']} tokens are not supported, nor more than "
                f"{MOST_QUERIES} queries"
            )
        try:
            frame = preprocessor_config.frame_of(said, patch)
            if front is not None and frame.size % patch:
                raise ValueError(f"pictures must be of whole cells of {patch} pixels, not {frame.size}")
            return cls(frame, *preprocessor_config.normal_of(said), **told)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR} says no way to prepare pictures: {error!r}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """preprocessor_config.json; the sizes that a config repeats."""
        frame, said = self.frame, preprocessor_config.written(self.frame, self.mean, self.std)
        files.write_atomic(folder / PROCESSOR, (json.dumps(said, indent=1) + "\n").encode())
        rows, columns = self.table
        side = frame.size if (frame.side, frame.side) == self.table else rows * frame.patch
        both = [rows * frame.patch, columns * frame.patch]
        square = rows == columns and not self.queries  # families with queries want both sides
        sizes: dict[str, Any] = {"image_size": side if square else both, "num_channels": 3}
        sizes |= {NORMED: True} if self.scale == OWN else {}
        return sizes if self.front is not None else {**sizes, "patch_size": frame.patch}

    samples = staticmethod(image_value.samples)
    fits = staticmethod(image_value.fits)
    read = staticmethod(image_value.read)

    @classmethod
    def sketch(cls, value: Picture) -> Hashes:
        """Of its strongest waves."""
        return hashes(strongest(value.small).astype(np.uint64))

    @staticmethod
    def size(value: Picture) -> float:
        """How many pixels there are."""
        return value.height * value.width

    def _framed(self, value: Picture) -> tuple[Pixels, NDArray[np.float64]]:
        return self.frame.framed(value.pixels)

    @staticmethod
    def _whole(value: Picture) -> tuple[float, ...]:
        return value.height, value.width

    _varied = staticmethod(augmentation.varied)

    def mix(self, pieces: Sequence[Piece], rng: np.random.Generator, how: str) -> tuple[Piece, list[Part]]:
        """As of all patches, or four side by side ("mosaic")."""
        if how != "mosaic":
            return super().mix(pieces, rng, how)
        mixed, places = mixup.mosaic(list(map(self.joined, pieces)), self.frame.patch, rng)
        whole = self._shown(pieces[0], mixed)
        return whole, [self._placed(whole, piece, place) for piece, place in zip(pieces, places, strict=True)]

    def _placed(self, whole: Piece, piece: Piece, place: mixup.Place | None) -> Part:
        """What a mosaic has of the picture of `piece`."""
        if place is None:
            return Part(0.0)
        inside = ((whole.positions >= place.begin) & (whole.positions < place.end)).all(1) & ~whole.special
        part = select(whole, np.flatnonzero(inside))
        if piece.alignment is not None:
            part = replace(part, alignment=Alignment(self._regions(piece, part.positions, place.origin)))
        return Part(len(part) / int((~whole.special).sum()), part)

    def require_parts(self) -> None:
        """Raise UsageError where pictures are read whole."""
        if self.front is not None:
            raise UsageError(f"no part of a picture can be hidden or read alone: this start reads {self}")

    def embedder(self, width: int) -> nn.Module:
        """A linear map of the pixels, and where the patch stands; or the network that reads whole pictures."""
        config = PatchConfig(
            self.frame.patch, self.mean, self.std, self.table, self.placed, self.registers, self.masked, self.bias, self.queries,
            self.layer_positions,
        )  # fmt: skip
        return PatchEmbedder(config, width) if self.front is None else PictureEmbedder(config, self.front)

    def decoder_positions(self, width: int) -> nn.Module:
        """Sines and cosines of row and column, zero for the frame, as MAE has them."""
        return PatchPlaces(self.table, width)

    def mask_region(self, piece: Piece, value: Picture, mask: object) -> tuple[Piece, Ints]:
        """The patches hidden in which a pixel of the mask is not black; it is a picture of the same size, or an array (h, w)."""
        self.require_parts()
        marked, size = image_value.marked_by(mask), (value.height, value.width)
        if marked.shape != size:
            wide, high = marked.shape[1], marked.shape[0]
            raise BadCell(f"it has {wide} × {high} pixels, and the picture {value.width} × {value.height}")
        assert piece.alignment is not None
        before = np.pad(marked.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # marked pixels above and to the left
        regions = piece.alignment.regions.round(ROUNDED)
        top, left = np.floor(regions[:, :, 0]).astype(int).clip(0, size).T
        bottom, right = np.ceil(regions[:, :, 1]).astype(int).clip(0, size).T
        inside = before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left]
        hidden = np.flatnonzero((inside > 0) & ~piece.special)
        if not len(hidden):
            raise BadCell(
                "it marks nothing of what is read of the picture: what is to be filled in is white, the rest black"
            )
        return self._hidden(piece, hidden), hidden

    def tokens_around(self, piece: Piece, counts: Sequence[int]) -> tuple[Ints, NDArray[np.float32]]:
        """The patches, or cells of a network, about each place of a grid, two along each axis."""
        patches, shares = grid_neighbours(self.grid(piece), counts)
        return np.flatnonzero(~piece.special)[patches], shares

    def _framing(self) -> list[str]:
        registers, queries = (
            [f"[{what} {i + 1}]" for i in range(n)]
            for what, n in (("register", self.registers), ("query", self.queries))
        )
        return [*PLACED[: self.placed], *registers, *queries]

    def without(self, piece: Piece, tokens: Ints) -> Piece:
        """The other patches, each where it stood; where pictures are read whole, these in the colour of the mean."""
        if self.front is not None:
            return self._painted(piece, np.isin(np.arange(len(piece)), tokens))
        return super().without(piece, tokens)

    @staticmethod
    def excerpt(value: Picture, region: Any) -> str:
        """Which pixels it holds."""
        (top, bottom), (left, right) = region
        return f"y {top:.0f}–{bottom:.0f}, x {left:.0f}–{right:.0f}"

    @classmethod
    def highlight(cls, value: Picture, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """The picture, and beside it with its parts in the colour of what they speak for, the stronger the more."""
        if not regions:
            return small(value.pixels, THUMBNAIL, "a picture")
        return " ".join(twice(value.pixels, THUMBNAIL, "a picture", map(shaded, regions, shades)))

    @classmethod
    def outline(cls, value: Picture, marks: Sequence[Mark]) -> str:
        """The picture with a frame about each region, named where a pointer rests on it."""
        found = []
        for mark in marks:
            (top, bottom), (left, right) = mark.region
            look = (
                'stroke="rgb(var(--for))" stroke-dasharray="6 4"' if mark.from_label else 'stroke="rgb(var(--against))"'
            )
            found.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
                f'stroke-width="2" vector-effect="non-scaling-stroke" pointer-events="all" {look}>'
                f"<title>{html.escape(mark.text)}</title></rect>"
            )
        told = ", ".join(
            f"{n} {name}" for name, n in Counter(mark.text for mark in marks if not mark.from_label).items()
        )
        return small(value.pixels, 2 * THUMBNAIL, f"a picture with {told or 'nothing found'}", found)

    @classmethod
    def draw(cls, value: Picture, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """A PNG of the picture with a frame and a name about each region."""
        return ".png", image_io.outlined(value.pixels, [(mark.region, mark.text) for mark in marks])

    def resize(self, size: int | None) -> ImageSource:
        """Pictures in their own shape, at most `size` pixels to a side."""
        if size is None and not self.frame.cuts:
            return self
        side = max(1, round((size or self.frame.size) / self.frame.patch))
        if side > MOST_SIDE:
            raise UsageError(
                f"--size {size} makes more than {MOST_SIDE} patches of {self.frame.patch} pixels to a side"
            )
        found = copy(self)
        found.frame = Frame(self.frame.patch, side * self.frame.patch, "inside", 0, self.frame.filter)
        return found

    @classmethod
    def fit_features(cls, values: Sequence[Picture]) -> Callable[[Sequence[Picture]], Any]:
        """Histograms of colours and of edges in the parts of the picture."""
        of = counting()
        return lambda asked: of([value.pixels for value in asked])

    @staticmethod
    def perturb(value: Picture, rng: np.random.Generator) -> dict[str, Picture]:
        """With noise, blurred, in half the light."""
        changed = disturbed(value.pixels, rng)
        return {name: Picture.of(image_io.encode(pixels)) for name, pixels in changed.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        told = [
            asdict(self.frame),
            self.mean,
            self.std,
            self.table,
            self.registers,
            self.masked,
            self.placed,
            self.bias,
            asdict(self.scale),
            repr(self.front),
            self.queries,
            self.layer_positions,
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _patches(folder: Path, weights: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    """The side of patches, and what a source says of the tokens, by the weights of an embedder and config.json. Raises
    CheckpointError."""
    sizes = {name: tuple(weights[name].shape) if name in weights else (0,) * axes for name, axes in AXES.items()}
    needed = sizes["position_embeddings"] + sizes["projection.weight"]
    if 0 in needed or any(len(sizes[name]) != axes for name, axes in AXES.items()):
        raise CheckpointError(f"{folder} lacks the weights of its patches, or has them in other shapes")
    placed, queries, patch = sizes["cls_token"][0], sizes["query_tokens"][1], sizes["projection.weight"][3]
    said = files.read_json(folder / CONFIG)
    return patch, {
        "table": _table(max(0, sizes["position_embeddings"][1] - placed - queries), said.get("image_size"), patch),
        "registers": sizes["register_tokens"][1],
        "placed": placed,
        "masked": "mask_token" in weights,
        "bias": "projection.bias" in weights,
        "scale": OWN if said.get(NORMED) is True else ALL,
        "queries": queries,
        "layer_positions": sizes["later_positions"][0],
    }


def _table(places: int, size: Any, patch: int) -> tuple[int, int]:
    """Rows and columns of a grid of so many places, which is square unless config.json says another size (h, w) of pictures."""
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        rows, columns = (side // patch for side in size)
        if rows * columns == places:
            return rows, columns
    return round(places**0.5), round(places**0.5)


source = ImageSource


target = PictureTarget


restored = ImageTarget
