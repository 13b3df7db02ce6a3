"""video: a stack of pictures, read as patches of two frames; and, behind `~`, the hidden patches put back. See patched.py.

As many frames are read as the source says, evenly over the whole video.
Legend of shapes: k frames, h rows, w columns of pixels, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import BadCell, CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.vision import preprocessor_config, video_io
from mapsto.vision.patch_embedding import MOST_SIDE, STACKED, PatchConfig, StackEmbedder, StackPlaces
from mapsto.vision.patch_reconstruction import PatchedTarget
from mapsto.vision.patch_source import (
    ALL,
    CONFIG,
    LARGEST_READ,
    NORMED,
    PROCESSOR,
    PatchedSource,
    PixelScale,
    encoded,
    fit,
    normal,
    shaded,
    spread,
    twice,
    usual_frame,
)
from mapsto.vision.pixels import Pixels, Unreadable
from mapsto.vision.resize import Frame

DEPTH, MOST_FRAMES, LARGEST_SIDE = 2, 16, 112


MOST_TOKENS = 2**16  # of models made elsewhere


SEEN, GLANCE = 100, 8  # videos that the range of pixels is taken from; frames that a video is counted by


THUMBNAIL, SHOWN = 120, 4


PREPARES = "VideoMAEImageProcessor"


# By `norm_pix_loss`, which a model made here does not say.
SCALES = {None: ALL, False: PixelScale(ranged=False), True: PixelScale(ranged=False, own="colour")}


@dataclass(frozen=True)
class Video:
    """A video that can be decoded: in the file `path`, in `content`, or as `frames` (k, h, w, 3) of a second each. digest:
    SHA-256 of its bytes, by which videos are equal."""

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    frames: Pixels | None = field(compare=False, repr=False)
    digest: str
    facts: video_io.Facts

    def sampled(self, count: int) -> Pixels:
        """(count, h, w, 3), what is seen in the middle of as many equal parts. Raises DataError for a file that is no longer what
        it was."""
        times = video_io.middles(self.facts.seconds, count)
        if self.frames is not None:
            return self.frames[np.array(times).astype(np.int64)]
        try:
            return video_io.shown(self.path, self.content, times)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def of(cls, frames: Pixels) -> Video:
        """The video of these frames."""
        k, h, w, _ = frames.shape
        digest = hashlib.sha256(str(frames.shape).encode() + frames.tobytes()).hexdigest()
        return cls(None, None, frames, digest, video_io.Facts(k, h, w, float(k)))

    @classmethod
    def encoded(cls, path: str | None, content: bytes | None) -> Video:
        """The video in a file or in its bytes. Raises OSError, Unreadable."""
        facts = video_io.facts(path, content)
        digest = hashlib.sha256(content).hexdigest() if content is not None else files.hash_file(Path(str(path)))
        return cls(path, content, None, digest, facts)

    def __str__(self) -> str:
        facts = self.facts
        return self.path or f"a video of {facts.frames} frames of {facts.width} × {facts.height} pixels"


def _samples() -> list[Any]:
    """Small ones of different shapes and lengths."""
    rng = np.random.default_rng(0)
    sizes = ((6, 16, 16), (4, 16, 8), (1, 12, 16), (6, 16, 16))
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def _fits(values: Sequence[object]) -> bool:
    return fit(values, video_io.SUFFIXES, axes=4)


def _read(cell: object) -> Video:
    """A file's name, encoded bytes, a dict of either as Hugging Face has it, or frames (k, h, w, 3) of bytes."""
    if isinstance(cell, Video):
        return cell
    if hasattr(cell, "__array__"):
        frames = np.asarray(cell)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise BadCell(f"the frames of a video are (k, h, w, 3) of bytes, not {frames.shape} of {frames.dtype}")
        return Video.of(frames)
    path, content = encoded(cell, "video", "frames")
    try:
        return Video.encoded(path, content)
    except OSError as error:
        raise BadCell(f"the video cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        raise BadCell(str(error)) from error


class VideoSource(PatchedSource):
    """Videos cut into patches. frames: how many are read of each. depth: of how many a patch is. table: rows and columns of
    the largest grid; positions are fixed, none is learnt."""

    kind = "video"
    places = STACKED
    family = "videomae"
    feature_name = "colours and changes"
    size_unit = "seconds"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.75, "mae": 0.9}
    suffixes = video_io.SUFFIXES

    def __init__(
        self,
        frame: Frame,
        mean: Sequence[float],
        std: Sequence[float],
        frames: int,
        depth: int = DEPTH,
        table: tuple[int, int] | None = None,
        scale: PixelScale = ALL,
    ) -> None:
        super().__init__(frame, mean, std, table, scale)
        self.frames, self.depth = frames, depth

    @property
    def block(self) -> tuple[int, ...]:
        """Frames, rows and columns of a patch."""
        return self.depth, *super().block

    def __str__(self) -> str:
        p, side = self.frame.patch, self.frame.size
        return f"patches of {self.depth} × {p} × {p} pixels, of {self.frames} frames up to {side} × {side}"

    @property
    def max_tokens(self) -> int:
        """Tokens of the largest video."""
        return self.frames // self.depth * math.prod(self.table)

    @classmethod
    def new(cls, values: Sequence[Video], size: int | None = None, share: float = 1.0) -> Self:
        """Patches as of pictures, of two frames; of up to 112 pixels and 16 frames, and no more than a usual video has."""
        if size is not None:
            raise UsageError("--vocabulary is for text; videos have none")
        if not values:
            raise DataError("there is no video to learn the size of videos from")
        usual = float(np.median([value.facts.frames for value in values]))
        frame = usual_frame([max(value.facts.height, value.facts.width) for value in values], LARGEST_SIDE)
        mean, std = normal(value.sampled(1) for value in spread(values, SEEN))
        return cls(frame, mean, std, max(1, round(min(usual, MOST_FRAMES) / DEPTH)) * DEPTH)

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """The source that its settings and the weights of the patches describe."""
        said, config = files.read_json(folder / PROCESSOR), files.read_json(folder / CONFIG)
        kernel = tuple(weights["projection.weight"].shape[2:]) if "projection.weight" in weights else ()
        if len(kernel) != 3 or kernel[1] != kernel[2] or not 0 < kernel[1] <= LARGEST_READ or not kernel[0]:
            raise CheckpointError(f"{folder} lacks the weights of its patches, or has them in other shapes")
        depth, patch = kernel[:2]
        try:
            frames, side = int(config.get("num_frames", MOST_FRAMES)), config.get("image_size", 224)
            height, width = (side, side) if isinstance(side, int) else map(int, side)
            frame = preprocessor_config.frame_of(said, patch)
            table = height // patch
            if frames % depth or height != width or frame.side != table:
                raise ValueError(f"{frames} frames of {height} × {width} pixels do not fit {frame.size} and {kernel}")
            if config.get(NORMED) not in SCALES:
                raise ValueError(f"{NORMED} must be true or false, not {config[NORMED]!r}")
            if not 0 < frames // depth <= MOST_SIDE or frames // depth * table**2 > MOST_TOKENS:
                raise ValueError(f"{frames} frames of {table} × {table} patches are not supported")
            return cls(frame, *preprocessor_config.normal_of(said), frames, depth, scale=SCALES[config.get(NORMED)])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR} says no way to prepare videos: {error!r}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """preprocessor_config.json; the sizes that a config repeats."""
        said = preprocessor_config.written(self.frame, self.mean, self.std)
        said |= {"image_processor_type": PREPARES, "do_center_crop": self.frame.cuts}
        files.write_atomic(folder / PROCESSOR, (json.dumps(said, indent=1) + "\n").encode())
        sizes = {
            "image_size": self.frame.size,
            "patch_size": self.frame.patch,
            "num_channels": 3,
            "num_frames": self.frames,
            "tubelet_size": self.depth,
        }
        normed = next(said for said, scale in SCALES.items() if scale == self.scale)
        return sizes if normed is None else {**sizes, NORMED: normed}

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def size(value: Video) -> float:
        """How long it lasts."""
        return value.facts.seconds

    def _framed(self, value: Video) -> tuple[Pixels, NDArray[np.float64]]:
        framed = [self.frame.framed(frame) for frame in value.sampled(self.frames)]
        time = [[value.facts.seconds / self.frames, 0.0]]
        return np.stack([pixels for pixels, _ in framed]), np.concatenate([time, framed[0][1]])

    @staticmethod
    def _whole(value: Video) -> tuple[float, ...]:
        return value.facts.seconds, value.facts.height, value.facts.width

    _varied = staticmethod(video_io.varied)

    def _config(self) -> PatchConfig:
        return PatchConfig(
            self.frame.patch,
            self.mean,
            self.std,
            self.table,
            placed=0,
            registers=0,
            masked=False,
            bias=True,
            depth=self.depth,
            length=self.frames // self.depth,
        )

    def embedder(self, width: int) -> nn.Module:
        """A linear map of the pixels, and fixed waves of where the patch stands."""
        return StackEmbedder(self._config(), width)

    def decoder_positions(self, width: int) -> nn.Module:
        """The same waves in another width."""
        return StackPlaces(self._config(), width)

    @staticmethod
    def excerpt(value: Video, region: Any) -> str:
        """Which seconds and pixels it holds."""
        (begin, end), (top, bottom), (left, right) = region
        return f"{begin:.2f}–{end:.2f} s, y {top:.0f}–{bottom:.0f}, x {left:.0f}–{right:.0f}"

    @classmethod
    def highlight(cls, value: Video, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """A few frames in a row, and below each with the parts that it shows in the colour of what they speak for."""
        count = min(SHOWN, value.facts.frames)
        found = []
        for at, pixels in zip(video_io.middles(value.facts.seconds, count), value.sampled(count), strict=True):
            here = [
                shaded(place, shade)
                for ((begin, end), *place), shade in zip(regions, shades, strict=True)
                if begin <= at < end
            ]
            found.append(twice(pixels, THUMBNAIL, f"a video at {at:.2f} s", here))
        rows = list(zip(*found, strict=True))[: 2 if regions else 1]
        return f'<span title="{html.escape(str(value))}">{"<br>".join(map(" ".join, rows))}</span>'

    @classmethod
    def fit_features(cls, values: Sequence[Video]) -> Callable[[Sequence[Video]], Any]:
        """Histograms of colours and of edges, of a video's mean and of what changes in it."""
        of = video_io.counting()
        return lambda asked: of([value.sampled(GLANCE) for value in asked])

    @staticmethod
    def perturb(value: Video, rng: np.random.Generator) -> dict[str, Any]:
        """With noise, blurred, in half the light."""
        changed = video_io.disturbed(value.sampled(MOST_FRAMES), rng)
        return {name: Video.of(frames) for name, frames in changed.items()}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings."""
        told = [asdict(self.frame), self.mean, self.std, self.table, self.frames, self.depth, asdict(self.scale)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


class VideoTarget(PatchedTarget):
    """The hidden patches of `~video`, read where they were hidden."""

    kind = "video"

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """A PNG that moves."""
        return ".png", video_io.moving(value)


source = VideoSource


target = VideoTarget
