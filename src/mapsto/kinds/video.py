"""video: a stack of frames, read as patches that span two frames; as an answer, the hidden patches of `~video`.

A source reads the same number of frames from every video, at equal distances in time. See vision/patch_source.py for the
tokens and vision/video_io.py for the decoding.
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
from mapsto.media.cells import Unreadable, are_media, read_media_cell
from mapsto.model.convolution import ConvolutionConfig
from mapsto.vision import image_io, preprocessor_config, video_io
from mapsto.vision.patch_embedding import (
    MAX_GRID_SIDE,
    STACK_HEADER_BYTES,
    PatchConfig,
    StackEmbedder,
    StackPositions,
)
from mapsto.vision.patch_reconstruction import MaskedPatches
from mapsto.vision.patch_source import (
    CONFIG_FILE,
    MAX_PUBLISHED_PATCH,
    NORM_PIX_LOSS,
    PROCESSOR_FILE,
    STANDARDISED,
    PatchSource,
    PixelScale,
    choose_resizer,
    evenly_spaced,
    pixel_statistics,
)
from mapsto.vision.pixels import Pixels
from mapsto.vision.resize import Resizer

# For new models: frames that a patch spans, the most frames of a video, and the most pixels a side.
PATCH_DEPTH, MAX_FRAMES, MAX_SIZE = 2, 16, 112

# The most tokens of a published model's video.
MAX_PUBLISHED_TOKENS = 2**16

# The number of videos from which pixel statistics are computed, and of frames from which classical features are.
STATISTICS_SAMPLE, FEATURE_FRAMES = 100, 8

# Pixels to the longer side of a frame on a page, and how many frames of a video are shown.
THUMBNAIL, NUM_THUMBNAILS = 120, 4

# The image processor of `transformers` that prepares videos.
PROCESSOR_TYPE = "VideoMAEImageProcessor"

# The scale of predicted pixels by the entry `norm_pix_loss` of config.json, which models made here leave out.
SCALES = {
    None: STANDARDISED,
    False: PixelScale(standardised=False),
    True: PixelScale(standardised=False, group="colour"),
}


@dataclass(frozen=True)
class Video:
    """A video that has been checked to be decodable.

    Its frames are in one of: the file `path`, the encoded bytes `content`, `frames`.
    frames: (k, h, w, 3), each of which counts as one second long.
    """

    path: str | None = field(compare=False)
    content: bytes | None = field(compare=False, repr=False)
    frames: Pixels | None = field(compare=False, repr=False)
    # SHA-256 of the video's bytes; videos with the same digest are equal.
    digest: str
    info: video_io.VideoInfo

    def sample(self, count: int) -> Pixels:
        """Return `count` frames (count, h, w, 3), each from the middle of one of `count` equal parts of the video.

        Raises DataError if the file can no longer be decoded.
        """
        times = video_io.middle_times(self.info.seconds, count)
        if self.frames is not None:
            return self.frames[np.array(times).astype(np.int64)]
        try:
            return video_io.decode_frames(self.path, self.content, times)
        except (OSError, Unreadable) as error:
            raise DataError(f"{self} changed while it was read: {error}") from error

    @classmethod
    def from_frames(cls, frames: Pixels) -> Video:
        """Return the video of decoded frames (k, h, w, 3), each of which lasts one second."""
        k, h, w, _ = frames.shape
        # The shape is hashed too: the same bytes in another shape are another video.
        digest = hashlib.sha256(str(frames.shape).encode() + frames.tobytes()).hexdigest()
        return cls(None, None, frames, digest, video_io.VideoInfo(k, h, w, float(k)))

    @classmethod
    def from_file(cls, path: str | None, content: bytes | None) -> Video:
        """Return the video in the file `path`; if `content` is not None, the video in these encoded bytes instead.

        Raises OSError if the file cannot be opened, Unreadable if it holds no video that can be decoded.
        """
        info = video_io.probe_video(path, content)
        digest = hashlib.sha256(content).hexdigest() if content is not None else files.hash_file(Path(str(path)))
        return cls(path, content, None, digest, info)

    def __str__(self) -> str:
        info = self.info
        return self.path or f"a video of {info.frames} frames of {info.width} × {info.height} pixels"


def _samples() -> list[Any]:
    """Return four cells: the frames (k, h, w, 3) of small videos of random pixels."""
    rng = np.random.default_rng(0)
    sizes = ((6, 16, 16), (4, 16, 8), (1, 12, 16), (6, 16, 16))
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def _fits(values: Sequence[object]) -> bool:
    """Return whether all cells of a column look like videos: file names with a video suffix, encoded bytes, or 4-d arrays."""
    return are_media(values, video_io.VIDEO_SUFFIXES, axes=4)


def _read(cell: object) -> Video:
    """Return the video in a cell. Raises BadCell if the cell holds no video that can be decoded.

    cell: a file name, encoded bytes, a dict {"path", "bytes"} with one of them (Hugging Face), or frames (k, h, w, 3) of uint8.
    """
    if isinstance(cell, Video):
        return cell
    if hasattr(cell, "__array__"):
        frames = np.asarray(cell)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise BadCell(f"the frames of a video are (k, h, w, 3) of bytes, not {frames.shape} of {frames.dtype}")
        return Video.from_frames(frames)
    path, content = read_media_cell(cell, "video", "frames")
    try:
        return Video.from_file(path, content)
    except Unreadable as error:
        raise BadCell(str(error)) from error
    except (OSError, UnicodeError) as error:  # a UnicodeError is that of a name that no file can have
        raise BadCell(f"the video cannot be read: {getattr(error, 'strerror', None) or error}") from error


class VideoSource(PatchSource):
    """A source of videos, whose tokens are patches of pixels over several frames, with fixed position embeddings.

    frames: number of frames that are read from every video. depth: number of these frames, one after another, in a patch.
    """

    kind = "video"
    header_bytes = STACK_HEADER_BYTES
    family = "videomae"
    feature_name = "colours and changes"
    size_unit = "seconds"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.75, "mae": 0.9}
    suffixes = video_io.VIDEO_SUFFIXES
    decoders = ("av", "pillow")

    def __init__(
        self,
        resizer: Resizer,
        mean: Sequence[float],
        std: Sequence[float],
        frames: int,
        depth: int = PATCH_DEPTH,
        scale: PixelScale = STANDARDISED,
    ) -> None:
        super().__init__(resizer, mean, std, None, scale)
        self.frames, self.depth = frames, depth

    @property
    def block(self) -> tuple[int, ...]:
        """Return the size of a patch along each axis: number of frames, rows and columns of pixels."""
        return self.depth, *super().block

    def __str__(self) -> str:
        p, side = self.resizer.patch, self.resizer.size
        return f"patches of {self.depth} × {p} × {p} pixels, of {self.frames} frames up to {side} × {side}"

    @property
    def max_tokens(self) -> int:
        """Return the number of tokens of a video with frames of the largest size that is read. There are no special tokens."""
        return self.frames // self.depth * math.prod(self.table)

    @classmethod
    def new(cls, values: Sequence[Video], size: int | None = None, share: float = 1.0) -> Self:
        """Return the source of a new model, fitted to the training videos `values`.

        It reads at most 112 pixels a side and 16 frames.
        Fewer frames are read if the median number of frames of a training video is smaller. share: not used.
        Raises DataError if there are no videos, and UsageError for a `size`, since videos have no vocabulary.
        """
        if size is not None:
            raise UsageError("--vocabulary is for text; videos have none")
        if not values:
            raise DataError("there is no video to learn the size of videos from")
        # The median, since one long or large video should not decide the size of the model.
        median = float(np.median([value.info.frames for value in values]))
        resizer = choose_resizer([max(value.info.height, value.info.width) for value in values], MAX_SIZE)
        # One frame of each video is enough, since the frames of a video have similar colours.
        mean, std = pixel_statistics(value.sample(1) for value in evenly_spaced(values, STATISTICS_SAMPLE))
        return cls(resizer, mean, std, max(1, round(min(median, MAX_FRAMES) / PATCH_DEPTH)) * PATCH_DEPTH)

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model from the settings in `folder`, and the embedder's `weights`, whose shapes count.

        front: not used, since no supported video model has a convolutional network that embeds the values.
        Raises CheckpointError if the settings or weights are missing, invalid or not supported.
        """
        processor, config = files.read_json(folder / PROCESSOR_FILE), files.read_json(folder / CONFIG_FILE)
        kernel = tuple(weights["projection.weight"].shape[2:]) if "projection.weight" in weights else ()
        if len(kernel) != 3 or kernel[1] != kernel[2] or not 0 < kernel[1] <= MAX_PUBLISHED_PATCH or not kernel[0]:
            raise CheckpointError(f"{folder} lacks the weights of its patches, or has them in other shapes")
        depth, patch = kernel[:2]
        try:
            frames, side = int(config.get("num_frames", MAX_FRAMES)), config.get("image_size", 224)
            height, width = (side, side) if isinstance(side, int) else map(int, side)
            resizer = preprocessor_config.read_resizer(processor, patch)
            table = height // patch
            if frames % depth or height != width or resizer.patches_per_side != table:
                raise ValueError(f"{frames} frames of {height} × {width} pixels do not fit {resizer.size} and {kernel}")
            if config.get(NORM_PIX_LOSS) not in SCALES:
                raise ValueError(f"{NORM_PIX_LOSS} must be true or false, not {config[NORM_PIX_LOSS]!r}")
            if not 0 < frames // depth <= MAX_GRID_SIDE or frames // depth * table**2 > MAX_PUBLISHED_TOKENS:
                raise ValueError(f"{frames} frames of {table} × {table} patches are not supported")
            mean, std = preprocessor_config.read_normalisation(processor)
            return cls(resizer, mean, std, frames, depth, scale=SCALES[config.get(NORM_PIX_LOSS)])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / PROCESSOR_FILE} says no way to prepare videos: {error!r}") from error

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write preprocessor_config.json to `folder`; return sizes of frames and patches and number of frames for config.json.

        longest: not used.
        """
        processor = preprocessor_config.to_config(self.resizer, self.mean, self.std)
        processor |= {"image_processor_type": PROCESSOR_TYPE, "do_center_crop": self.resizer.crops}
        files.write_atomic(folder / PROCESSOR_FILE, (json.dumps(processor, indent=1) + "\n").encode())
        sizes = {
            "image_size": self.resizer.size,
            "patch_size": self.resizer.patch,
            "num_channels": 3,
            "num_frames": self.frames,
            "tubelet_size": self.depth,
        }
        norm_pix_loss = next(entry for entry, scale in SCALES.items() if scale == self.scale)
        return sizes if norm_pix_loss is None else {**sizes, NORM_PIX_LOSS: norm_pix_loss}

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def size(value: Video) -> float:
        """Return the duration of a video in seconds."""
        return value.info.seconds

    def _resize(self, value: Video) -> tuple[Pixels, NDArray[np.float64]]:
        resized = [self.resizer.resize(frame) for frame in value.sample(self.frames)]
        # All frames are resized alike, so the first one's scale and shift are those of the video.
        time_origin = [[value.info.seconds / self.frames, 0.0]]
        return np.stack([pixels for pixels, _ in resized]), np.concatenate([time_origin, resized[0][1]])

    @staticmethod
    def _raw_size(value: Video) -> tuple[float, ...]:
        return value.info.seconds, value.info.height, value.info.width

    _augment_pixels = staticmethod(video_io.augment_video)

    def _config(self) -> PatchConfig:
        """Return the settings of the patch embedder."""
        return PatchConfig(
            self.resizer.patch,
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
        """Return the module from tokens (t, 7 + f) to vectors (t, width): a linear map of pixels plus fixed positions.

        A token is bytes: a header of 7 (its type, its position, and the number of patches along each axis), then f pixel values.
        """
        return StackEmbedder(self._config(), width)

    def decoder_positions(self, width: int) -> nn.Module:
        """Return a module from tokens to the position embeddings (t, width) that a decoder adds: fixed, as in the embedder."""
        return StackPositions(self._config(), width)

    @staticmethod
    def excerpt(value: Video, region: Any) -> str:
        """Return the seconds and the pixel coordinates of a region in words, such as "0.00–1.00 s, y 0–16, x 16–32"."""
        (begin, end), (top, bottom), (left, right) = region
        return f"{begin:.2f}–{end:.2f} s, y {top:.0f}–{bottom:.0f}, x {left:.0f}–{right:.0f}"

    @classmethod
    def highlight(cls, value: Video, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """Return up to four frames in a row as HTML; if there are regions, also a second row of the frames with these shaded.

        regions: ((begin, end), (top, bottom), (left, right)) of each region, in seconds and raw pixels.
        shades: one number for each region, from −1 (speaks against the answer) to 1 (speaks for it).
        """
        count = min(NUM_THUMBNAILS, value.info.frames)
        times = video_io.middle_times(value.info.seconds, count)
        pairs = []
        for time, pixels in zip(times, value.sample(count), strict=True):
            shapes = [
                image_io.svg_shade(place, shade)
                for ((begin, end), *place), shade in zip(regions, shades, strict=True)
                if begin <= time < end
            ]
            pairs.append(image_io.svg_pair(pixels, THUMBNAIL, f"a video at {time:.2f} s", shapes))
        rows = list(zip(*pairs, strict=True))[: 2 if regions else 1]
        return f'<span title="{html.escape(str(value))}">{"<br>".join(map(" ".join, rows))}</span>'

    @classmethod
    def fit_features(cls, values: Sequence[Video]) -> Callable[[Sequence[Video]], Any]:
        """Return the function from videos to features of edges, colours and changes between frames, an array (n, f).

        values: not used, since these features need no fitting.
        """
        return lambda videos: video_io.video_features([video.sample(FEATURE_FRAMES) for video in videos])

    @staticmethod
    def perturb(value: Video, rng: np.random.Generator) -> dict[str, Any]:
        """Return variants of a video by name: with noise ("noise"), out of focus ("blurred") and in less light ("darker")."""
        variants = video_io.perturb_video(value.sample(MAX_FRAMES), rng)
        return {name: Video.from_frames(frames) for name, frames in variants.items()}

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of this source's settings, such as size and normalisation.

        Equal hashes mean equal encodings of a video.
        """
        settings = [
            asdict(self.resizer), self.mean, self.std, self.table, self.frames, self.depth, self.scale.settings()
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()


class MaskedVideoTarget(MaskedPatches):
    """A target that predicts the pixels of the hidden patches of `~video`."""

    kind = "video"

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    @staticmethod
    def file(value: Pixels) -> tuple[str, bytes] | None:
        """Return the suffix ".png" and the frames `value` (k, h, w, 3) as an animated PNG."""
        return ".png", video_io.animate(value)


source = VideoSource
target = MaskedVideoTarget
