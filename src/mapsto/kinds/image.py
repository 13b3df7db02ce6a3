"""image: a picture, read as square patches; and, behind `~`, the hidden patches put back. See patched.py.

Legend of shapes: h rows, w columns of pixels, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import checkpoint, pictures, processor
from mapsto.convolution import ConvolutionConfig
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.kinds import BadCell, Mark
from mapsto.kinds.patched import (
    CONFIG,
    LARGEST_READ,
    PROCESSOR,
    PatchedSource,
    PatchedTarget,
    encoded,
    fit,
    normal,
    shaded,
    small,
    spread,
    usual_frame,
)
from mapsto.patches import MOST_SIDE, PLACES, PatchConfig, PatchEmbedder, PatchPlaces, PictureEmbedder
from mapsto.pictures import Frame, Pixels
from mapsto.sequence import Ints, Piece

NORMED = "norm_pix_loss"
PLACED = ("[CLS]", "[distillation]")
AXES = {"position_embeddings": 3, "projection.weight": 4, "cls_token": 3, "register_tokens": 3}  # of weights
LARGEST_SIDE, SEEN, THUMBNAIL = 224, 500, 160


@dataclass(frozen=True)
class Picture:
    """A picture that can be decoded: encoded in `content`, or in the file `path`. digest: SHA-256 of the encoded bytes, by which
    pictures are equal."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    digest: str
    height: int
    width: int

    @property
    def pixels(self) -> Pixels:
        """(h, w, 3). Raises DataError for a file that is no longer what it was."""
        try:
            return pictures.decode(Path(str(self.path)).read_bytes() if self.content is None else self.content)
        except (OSError, pictures.Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def of(cls, content: bytes, path: str | None = None) -> Picture:
        """The picture that these bytes are. Raises pictures.Unreadable."""
        height, width = pictures.decode(content).shape[:2]
        return cls(path, None if path else content, hashlib.sha256(content).hexdigest(), height, width)

    def __str__(self) -> str:
        return self.path or f"a picture of {self.width} × {self.height} pixels"


def _samples() -> list[Any]:
    """Small ones of different shapes, as a data set of Hugging Face holds them."""
    rng = np.random.default_rng(0)
    sizes = ((16, 16), (16, 8), (12, 16), (16, 16))
    return [
        {"bytes": pictures.encode(rng.integers(0, 256, (*size, 3)).astype(np.uint8)), "path": None} for size in sizes
    ]


def _fits(values: Sequence[object]) -> bool:
    return fit(values, pictures.SUFFIXES, axes=3)


def _read(cell: object) -> Picture:
    """A file's name, encoded bytes, a dict of either as Hugging Face has it, or pixels (h, w, 3) of bytes."""
    if isinstance(cell, Picture):
        return cell
    if hasattr(cell, "__array__"):
        pixels = np.asarray(cell)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadCell(f"pixels are (h, w, 3) of bytes, not {pixels.shape} of {pixels.dtype}")
        cell = pictures.encode(pixels)
    path, content = encoded(cell, "picture", "pixels")
    try:
        return Picture.of(content or Path(str(path)).read_bytes(), path)
    except OSError as error:
        raise BadCell(f"the picture cannot be read: {error.strerror or error}") from error
    except pictures.Unreadable as error:
        raise BadCell(str(error)) from error


class ImageSource(PatchedSource):
    """Pictures cut into patches. table: patches along a side of the grid that positions were learnt on. placed: tokens in front
    that have a place in the table of positions. registers: those behind them, that have none. masked: whether hidden patches have
    a vector of their own; else they look grey. bias: whether something is added to what is made of the pixels of a patch. front:
    the network that reads whole pictures; then a patch is what one cell of its last grid stands for, nothing can be hidden, and
    no token stands in front."""

    kind = "image"
    family = "dinov2"
    features = "colours and edges"
    measured = "pixels"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.6, "mae": 0.75, "simclr": 0.0}
    suffixes = pictures.SUFFIXES
    rows_at_once = 256

    def __init__(
        self,
        frame: Frame,
        mean: Sequence[float],
        std: Sequence[float],
        table: int | None = None,
        registers: int = 0,
        masked: bool = True,
        placed: int = 1,
        bias: bool = True,
        normed: bool = False,
        front: ConvolutionConfig | None = None,
    ) -> None:
        super().__init__(frame, mean, std, table)
        self.registers, self.masked, self.placed, self.bias = registers, masked, placed, bias
        self.normed, self.front = normed, front

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
    def longest(self) -> int:
        """Tokens of the largest picture."""
        return self.leading + max(self.frame.side, self.table) ** 2

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
        said = checkpoint.read_json(folder / PROCESSOR)
        if front is None:
            patch, told = _patches(folder, weights)
        else:
            patch, told = front.stride, {"placed": 0, "masked": False, "front": front}
        if patch > LARGEST_READ or told["placed"] > len(PLACED):
            raise CheckpointError(
                f"{folder}: patches of {patch} pixels behind {told['placed']} tokens are not supported"
            )
        try:
            frame = processor.frame_of(said, patch)
            if front is not None and frame.size % patch:
                raise ValueError(f"pictures must be of whole cells of {patch} pixels, not {frame.size}")
            return cls(frame, *processor.normal_of(said), **told)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR} says no way to prepare pictures: {error!r}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """preprocessor_config.json; the sizes that a config repeats."""
        frame, said = self.frame, processor.written(self.frame, self.mean, self.std)
        checkpoint.write_atomic(folder / PROCESSOR, (json.dumps(said, indent=1) + "\n").encode())
        side = frame.size if frame.side == self.table else self.table * frame.patch
        sizes = {"image_size": side, "num_channels": 3}
        sizes |= {NORMED: True} if self.normed else {}
        return sizes if self.front is not None else {**sizes, "patch_size": frame.patch}

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def extent(value: Picture) -> float:
        """How many pixels there are."""
        return value.height * value.width

    def _framed(self, value: Picture) -> tuple[Pixels, NDArray[np.float64]]:
        return self.frame.framed(value.pixels)

    @staticmethod
    def _varied(pixels: Pixels, rng: np.random.Generator, how: str, mirror: bool) -> tuple[Pixels, NDArray[np.float64]]:
        if how == "crop":
            return pictures.cropped(pixels, rng, mirror)
        return pictures.moved(pixels, rng, mirror and how == "mirror")

    def require_parts(self) -> None:
        """Raise UsageError where pictures are read whole."""
        if self.front is not None:
            raise UsageError(f"no part of a picture can be hidden, asked about or read alone: this start reads {self}")

    def embedder(self, width: int) -> nn.Module:
        """A linear map of the pixels, and where the patch stands; or the network that reads whole pictures."""
        config = PatchConfig(
            self.frame.patch, self.mean, self.std, self.table, self.placed, self.registers, self.masked, self.bias
        )
        return PatchEmbedder(config, width) if self.front is None else PictureEmbedder(config, self.front)

    def placer(self, width: int) -> nn.Module:
        """Sines and cosines of row and column, zero for the frame, as MAE has them."""
        return PatchPlaces(self.table, width)

    def _leaders(self) -> list[str]:
        return [*PLACED[: self.placed], *(f"[register {i + 1}]" for i in range(self.registers))]

    def again(self, piece: Piece, counts: Sequence[int]) -> Piece:
        """The whole picture in a grid of so many patches. Raises UsageError where pictures are read whole."""
        self.require_parts()
        p = self.frame.patch
        places = np.indices(tuple(counts)).reshape(2, -1).T
        tokens = np.zeros((len(places), piece.tokens.shape[1]), np.uint8)
        tokens[:, 1:3], tokens[:, 3:PLACES] = places, counts
        tokens[:, PLACES:] = pictures.patches(pictures.resized(self.joined(piece), (counts[0] * p, counts[1] * p)), p)
        return Piece(self.kind, tokens, places, np.zeros(len(places), np.bool_))

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
    def marked(cls, value: Picture, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """The picture with its parts in the colour of what they speak for, the stronger the more."""
        return small(value.pixels, THUMBNAIL, "a picture", map(shaded, regions, shades))

    @classmethod
    def outlined(cls, value: Picture, marks: Sequence[Mark]) -> str:
        """The picture with a frame about each region, named where a pointer rests on it."""
        found = []
        for mark in marks:
            (top, bottom), (left, right) = mark.region
            look = 'stroke="rgb(var(--for))" stroke-dasharray="6 4"' if mark.true else 'stroke="rgb(var(--against))"'
            found.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" fill="none" '
                f'stroke-width="2" vector-effect="non-scaling-stroke" pointer-events="all" {look}>'
                f"<title>{html.escape(mark.text)}</title></rect>"
            )
        told = ", ".join(f"{n} {name}" for name, n in Counter(mark.text for mark in marks if not mark.true).items())
        return small(value.pixels, 2 * THUMBNAIL, f"a picture with {told or 'nothing found'}", found)

    @classmethod
    def drawn(cls, value: Picture, marks: Sequence[Mark]) -> tuple[str, bytes]:
        """A PNG of the picture with a frame and a name about each region."""
        return ".png", pictures.outlined(value.pixels, [(mark.region, mark.text) for mark in marks])

    def read_whole(self, size: int | None) -> ImageSource:
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
    def classical(cls, values: Sequence[Picture]) -> Callable[[Sequence[Picture]], Any]:
        """Histograms of colours and of edges in the parts of the picture."""
        of = pictures.counting()
        return lambda asked: of([value.pixels for value in asked])

    @staticmethod
    def disturbed(value: Picture, rng: np.random.Generator) -> dict[str, Picture]:
        """With noise, blurred, in half the light."""
        changed = pictures.disturbed(value.pixels, rng)
        return {name: Picture.of(pictures.encode(pixels)) for name, pixels in changed.items()}

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
            self.normed,
            repr(self.front),
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _patches(folder: Path, weights: Mapping[str, Tensor]) -> tuple[int, dict[str, Any]]:
    """The side of patches, and what a source says of the tokens, by the weights of an embedder and config.json. Raises
    CheckpointError."""
    sizes = {name: tuple(weights[name].shape) if name in weights else (0,) * axes for name, axes in AXES.items()}
    needed = sizes["position_embeddings"] + sizes["projection.weight"]
    if 0 in needed or any(len(sizes[name]) != axes for name, axes in AXES.items()):
        raise CheckpointError(f"{folder} lacks the weights of its patches, or has them in other shapes")
    placed = sizes["cls_token"][0]
    return sizes["projection.weight"][3], {
        "table": round(max(0, sizes["position_embeddings"][1] - placed) ** 0.5),
        "registers": sizes["register_tokens"][1],
        "placed": placed,
        "masked": "mask_token" in weights,
        "bias": "projection.bias" in weights,
        "normed": checkpoint.read_json(folder / CONFIG).get(NORMED) is True,
    }


class ImageTarget(PatchedTarget):
    """The hidden patches of `~image`, read where they were hidden."""

    kind = "image"
    stem = "patch_head"

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """A PNG."""
        return ".png", pictures.encode(value)


source = ImageSource
target = ImageTarget
