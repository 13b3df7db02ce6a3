"""image: a picture, read as square patches; behind `~`, the hidden patches put back; and a picture made of another one.

What is the same of videos, patched.py has.
Legend of shapes: h rows, w columns of pixels, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import augmentation, checkpoint, likeness, mixing, pictures, processor
from mapsto.convolution import ConvolutionConfig
from mapsto.errors import BadCell, CheckpointError, DataError, UsageError
from mapsto.kinds.patched import (
    CONFIG,
    LARGEST_READ,
    NORMED,
    PROCESSOR,
    PatchedSource,
    PatchedTarget,
    PixelScale,
    encoded,
    fit,
    normal,
    shaded,
    small,
    spread,
    usual_frame,
)
from mapsto.patches import MOST_SIDE, PLACES, PatchConfig, PatchEmbedder, PatchPlaces, PictureEmbedder, by_grid, select
from mapsto.pictures import Frame, Pixels
from mapsto.scores import Score
from mapsto.sequence import Alignment, Answer, Ints, Part, Piece
from mapsto.source import Mark, Mixing, Source
from mapsto.target import Figure, State
from mapsto.twins import Hashes, hashes

PLACED = ("[CLS]", "[distillation]")
ALL, OWN = PixelScale(), PixelScale(own="patch")  # without and with `norm_pix_loss` (MAE)
AXES = {  # of weights
    "position_embeddings": 3,
    "projection.weight": 4,
    "cls_token": 3,
    "register_tokens": 3,
    "query_tokens": 3,
    "later_positions": 4,
}
MOST_QUERIES = 200  # what a byte can tell apart, beside the tokens in front
LARGEST_SIDE, SEEN, THUMBNAIL = 224, 500, 160
MOST_DECODED = 128 * 2**20


class Decoded:
    """Pixels of pictures that were read a moment ago, each for the one who asks next: what is answered is read to see whether it
    can be, and encoded at once. room: bytes that are kept."""

    def __init__(self, room: int) -> None:
        self.room, self.kept, self.turn = room, OrderedDict[str, Pixels](), threading.Lock()

    def put(self, digest: str, pixels: Pixels) -> None:
        """Keep these, and forget those that wait longest where there is no room."""
        with self.turn:
            self._forget(digest)
            self.kept[digest], self.room = pixels, self.room - pixels.nbytes
            while self.room < 0:
                self._forget(next(iter(self.kept)))

    def take(self, digest: str) -> Pixels | None:
        """The pixels of the picture, once."""
        with self.turn:
            return self._forget(digest)

    def _forget(self, digest: str) -> Pixels | None:
        pixels = self.kept.pop(digest, None)
        self.room += 0 if pixels is None else pixels.nbytes
        return pixels


DECODED = Decoded(MOST_DECODED)


@dataclass(frozen=True)
class Picture:
    """A picture that can be decoded: encoded in `content`, or in the file `path`. digest: SHA-256 of the encoded bytes, by which
    pictures are equal. small: its grey values, by which nearly equal ones are found."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    digest: str
    height: int
    width: int
    small: bytes = field(compare=False, repr=False)

    @property
    def pixels(self) -> Pixels:
        """(h, w, 3). Raises DataError for a file that is no longer what it was."""
        if (known := DECODED.take(self.digest)) is not None:
            return known
        try:
            return pictures.decode(pictures.content_of(str(self.path)) if self.content is None else self.content)
        except (OSError, pictures.Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def of(cls, content: bytes, path: str | None = None) -> Picture:
        """The picture that these bytes are. Raises pictures.Unreadable."""
        pixels, digest = pictures.decode(content), hashlib.sha256(content).hexdigest()
        (height, width), small = pixels.shape[:2], pictures.small(pixels)
        DECODED.put(digest, pixels)
        return cls(path, None if path else content, digest, height, width, small)

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
    others = [value for value in values if value is not None and not pictures.is_opened(value)]
    return fit(others, pictures.SUFFIXES, axes=3) if others else any(map(pictures.is_opened, values))


def _read(cell: object) -> Picture:
    """A file's name, encoded bytes, a dict of either as Hugging Face has it, a picture of Pillow's, or pixels (h, w, 3) of
    bytes."""
    if isinstance(cell, Picture):
        return cell
    if pictures.is_opened(cell):
        try:
            cell = pictures.encode(pictures.pixels_of(cell))
        except pictures.Unreadable as error:
            raise BadCell(str(error)) from error
    if hasattr(cell, "__array__"):
        pixels = np.asarray(cell)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise BadCell(f"pixels are (h, w, 3) of bytes, not {pixels.shape} of {pixels.dtype}")
        cell = pictures.encode(pixels)
    path, content = encoded(cell, "picture", "pixels")
    try:
        return Picture.of(content or pictures.content_of(str(path)), path)
    except OSError as error:
        raise BadCell(f"the picture cannot be read: {error.strerror or error}") from error
    except pictures.Unreadable as error:
        raise BadCell(str(error)) from error


def _marked(mask: object) -> NDArray[np.bool_]:
    """Where (h, w) a mask is not black. Raises BadCell."""
    plain = hasattr(mask, "__array__") and np.ndim(np.asarray(mask)) == 2
    values = np.asarray(mask) if plain else _read(mask).pixels.max(axis=2)
    return values.astype(np.bool_)


class ImageSource(PatchedSource):
    """Pictures cut into patches. table: rows and columns of the grid that positions were learnt on. placed: tokens in front that
    have a place in the table of positions. registers: those behind them, that have none. masked: whether hidden patches have a
    vector of their own; else they look grey. bias: whether something is added to what is made of the pixels of a patch. front:
    the network that reads whole pictures; then a patch is what one cell of its last grid stands for, nothing can be hidden, and
    no token stands in front. queries: learnt tokens behind the patches. between: layers behind which it is told again where
    tokens stand."""

    kind = "image"
    family = "dinov2"
    features = "colours and edges"
    measured = "pixels"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.6, "mae": 0.75, "simclr": 0.0}
    suffixes = pictures.SUFFIXES
    rows_at_once = 32
    # Things in a mosaic are smaller than in pictures, so that half of the rows are left as they are.
    mixings: ClassVar[Mapping[str, Mixing]] = {**PatchedSource.mixings, "mosaic": Mixing(4, "placed", 0.5)}
    alike = 0.8

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
        between: int = 0,
    ) -> None:
        super().__init__(frame, mean, std, table, scale)
        self.registers, self.masked, self.placed, self.bias = registers, masked, placed, bias
        self.front, self.queries, self.between = front, queries, between

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
        said = checkpoint.read_json(folder / PROCESSOR)
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
        rows, columns = self.table
        side = frame.size if (frame.side, frame.side) == self.table else rows * frame.patch
        both = [rows * frame.patch, columns * frame.patch]
        square = rows == columns and not self.queries  # families with queries want both sides
        sizes: dict[str, Any] = {"image_size": side if square else both, "num_channels": 3}
        sizes |= {NORMED: True} if self.scale == OWN else {}
        return sizes if self.front is not None else {**sizes, "patch_size": frame.patch}

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @classmethod
    def sketch(cls, value: Picture) -> Hashes:
        """Of its strongest waves."""
        return hashes(pictures.strongest(value.small).astype(np.uint64))

    @staticmethod
    def extent(value: Picture) -> float:
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
        mixed, places = mixing.mosaic(list(map(self.joined, pieces)), self.frame.patch, rng)
        whole = self._shown(pieces[0], mixed)
        return whole, [self._placed(whole, piece, place) for piece, place in zip(pieces, places, strict=True)]

    def _placed(self, whole: Piece, piece: Piece, place: mixing.Place | None) -> Part:
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
            self.between,
        )  # fmt: skip
        return PatchEmbedder(config, width) if self.front is None else PictureEmbedder(config, self.front)

    def placer(self, width: int) -> nn.Module:
        """Sines and cosines of row and column, zero for the frame, as MAE has them."""
        return PatchPlaces(self.table, width)

    def covered(self, piece: Piece, value: Picture, mask: object) -> tuple[Piece, Ints]:
        """The patches hidden in which a pixel of the mask is not black; it is a picture of the same size, or an array (h, w)."""
        self.require_parts()
        marked, size = _marked(mask), (value.height, value.width)
        if marked.shape != size:
            wide, high = marked.shape[1], marked.shape[0]
            raise BadCell(f"it has {wide} × {high} pixels, and the picture {value.width} × {value.height}")
        assert piece.alignment is not None
        before = np.pad(marked.cumsum(0).cumsum(1), ((1, 0), (1, 0)))  # marked pixels above and to the left
        regions = piece.alignment.regions.round(pictures.ROUNDED)
        top, left = np.floor(regions[:, :, 0]).astype(int).clip(0, size).T
        bottom, right = np.ceil(regions[:, :, 1]).astype(int).clip(0, size).T
        inside = before[bottom, right] - before[top, right] - before[bottom, left] + before[top, left]
        hidden = np.flatnonzero((inside > 0) & ~piece.special)
        if not len(hidden):
            raise BadCell(
                "it marks nothing of what is read of the picture: what is to be filled in is white, the rest black"
            )
        return self._hidden(piece, hidden), hidden

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
            asdict(self.scale),
            repr(self.front),
            self.queries,
            self.between,
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
    said = checkpoint.read_json(folder / CONFIG)
    return patch, {
        "table": _table(max(0, sizes["position_embeddings"][1] - placed - queries), said.get("image_size"), patch),
        "registers": sizes["register_tokens"][1],
        "placed": placed,
        "masked": "mask_token" in weights,
        "bias": "projection.bias" in weights,
        "scale": OWN if said.get(NORMED) is True else ALL,
        "queries": queries,
        "between": sizes["later_positions"][0],
    }


def _table(places: int, size: Any, patch: int) -> tuple[int, int]:
    """Rows and columns of a grid of so many places, which is square unless config.json says another size (h, w) of pictures."""
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
        rows, columns = (side // patch for side in size)
        if rows * columns == places:
            return rows, columns
    return round(places**0.5), round(places**0.5)


class ImageTarget(PatchedTarget):
    """The hidden patches of `~image`, read where they were hidden."""

    kind = "image"

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """A PNG."""
        return ".png", pictures.encode(value)


class PictureTarget(ImageTarget):
    """A picture made of the one that is read, patch by patch on its grid and in its size: what is told of each patch is how it
    differs from the source's own, so that what stays costs nothing and no detail goes through the narrow stack."""

    lies_in = "image"
    resembles = True
    suffixes = pictures.SUFFIXES
    stem = ""
    gain = "ssim"

    def __init__(self) -> None:
        """Nothing is known but what the source says."""

    def beside(self, source: Source | None, transform: Any) -> None:
        """Take how pictures are read from the source. Raises UsageError where it has none."""
        super().beside(source, transform)
        self.scale = ALL  # the mean and deviation of patches are part of what is told

    located = staticmethod(ImageSource.located)
    key = staticmethod(ImageSource.key)

    def encode(self, answer: Picture, pieces: Sequence[Piece]) -> Answer:
        """(m, 2, f): for each patch of the source what of the answer, whatever its size, lies there; and the patch itself."""
        piece, at = self._among(pieces)
        assert piece.alignment is not None and piece.alignment.whole is not None
        first, last = piece.alignment.ends(piece.positions)
        begin, end = piece.alignment.whole.T
        scale = np.array([answer.height, answer.width]) / (end - begin)
        box = np.stack([(first - begin) * scale, (last - begin) * scale], axis=1)
        p, grid = self.source.frame.patch, self.source.grid(piece)
        truth = pictures.seen(answer.pixels, box, (grid[0] * p, grid[1] * p), self.source.frame.filter)
        source = piece.tokens[~piece.special, PLACES:]
        return Answer(np.stack([pictures.patches(truth, p), source], axis=1), at)

    def asked(self, pieces: Sequence[Piece]) -> Ints:
        """All patches."""
        return self._among(pieces)[1]

    def _among(self, pieces: Sequence[Piece]) -> tuple[Piece, Ints]:
        """The picture among the pieces of an example, and where its patches are, counted from the first token."""
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        return pieces[port], sum(map(len, pieces[:port])) + np.flatnonzero(~pieces[port].special)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map to the pixels of a patch that begins at those of the source."""
        head = super().head(width, embedder)
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        return head

    def _told(self, output: Tensor, source: Tensor) -> Tensor:
        """What outputs (m, f) make of the patches of a source (m, f)."""
        return output.float() + self._seen(source)

    def drawn(self, output: Tensor, values: Tensor, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each shape that there is, what is said, what is true and the source, pictures (n, 3, h, w) from 0 to 1; the first
        with gradients, and not cut off at black and white. tokens: (m, 5 + f), those of the patches read."""
        mean, std = (torch.tensor(v, device=values.device).view(3, 1, 1) for v in (self.source.mean, self.source.std))
        source, truth = (self._seen(values[:, which]) for which in (1, 0))
        p, found = self.source.frame.patch, []
        for rows, columns, here in by_grid(tokens):
            grid = -1, rows, columns, p, p, 3
            laid = (
                part[here].view(grid).permute(0, 5, 1, 3, 2, 4) for part in (output.float() + source, truth, source)
            )
            said, true, read = (part.reshape(len(part), 3, rows * p, columns * p) * std + mean for part in laid)
            found.append((said, true, read))
        return found

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The mean squared error over the pixels of each patch, summed over patches."""
        return ((self._told(output, values[:, 1]) - self._seen(values[:, 0])) ** 2).mean(-1).sum()

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """(m, 3, f) of bytes: what is said, what is true, and the source."""
        said = self._bytes(self._told(output, values[:, 1])).to(values.device)
        return torch.stack([said, values[:, 0], values[:, 1]], dim=1)

    def by_example(self, evidence: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """(n, 4): how like what is true the answer is, and the source unchanged, each by PSNR and SSIM."""
        read, p = [self._among(one) for one in pieces], self.source.frame.patch
        found = []
        for (piece, _), part in zip(read, torch.split(evidence, [len(at) for _, at in read]), strict=True):
            patches = part.byte().numpy()
            said, truth, source = (pictures.joined(patches[:, i], self.source.grid(piece), p) for i in range(3))
            found.append([of(one, truth) for one in (said, source) for of in (likeness.psnr, likeness.ssim)])
        return torch.tensor(found)

    def completed(self, value: Any, piece: Piece, hidden: Ints, output: Tensor) -> Pixels:
        """The pixels (h, w, 3) of the answer in the size in which the source is read."""
        source = torch.from_numpy(piece.tokens[hidden, PLACES:])
        return super().completed(value, piece, hidden, self._told(output.cpu(), source))

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """How each patch differs from the source's, (p, p, 3) in steps of a byte."""
        steps = output.float().cpu().view(-1, *self.source.block, 3) * torch.tensor(self.source.std) * 255
        return [{"change": patch.round().tolist()} for patch in steps]

    def figures(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Figure]:
        """PSNR in dB and SSIM of the answers, of the sources unchanged, and by how many dB the answers are better."""
        psnr, ssim, source_psnr, source_ssim = output.double().numpy().T
        return {
            "psnr": (np.mean, psnr),
            "ssim": (np.mean, ssim),
            "psnr_unchanged": (np.mean, source_psnr),
            "ssim_unchanged": (np.mean, source_ssim),
            "psnr_gained": (np.mean, psnr - source_psnr),
        }

    def gains(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32] | None:
        """The SSIM of each answer."""
        found: NDArray[np.float32] = output[:, 1].numpy().astype(np.float32)
        return found

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """None: what reads nothing has no picture to change."""
        return {}

    def show(self, answer: Any) -> str:
        """A thumbnail of an answer, or of a true one."""
        value = answer if isinstance(answer, Picture) else Picture.of(pictures.encode(answer))
        return ImageSource.marked(value, [], [])

    def state(self) -> State:
        """Nothing: all is the source's."""
        return {}


source = ImageSource
target = PictureTarget
restored = ImageTarget
