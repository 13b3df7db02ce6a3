"""Video files: decoding in a child process, augmentation of all frames alike, and classical features.

The child process runs video_worker.py.
A decoded video is (k, h, w, 3) of bytes: k frames, h rows, w columns of pixels, red, green and blue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mapsto.media.cells import require_readable
from mapsto.media.decoder_process import DecoderProcess, read_exactly
from mapsto.vision import augmentation, features, image_io
from mapsto.vision.pixels import Pixels

INSTALL_PYAV = "videos need the package PyAV: pip install 'mapsto[video]'"

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp")

# The program of the child process.
WORKER_CODE = "from mapsto.vision.video_worker import serve; serve()"

# The most bytes of the frames in an answer.
MAX_FRAME_BYTES = 2**30

# How long an animation shows a frame.
FRAME_MILLISECONDS = 125


@dataclass(frozen=True)
class VideoInfo:
    """The number of frames of a video, the height and width of a frame after rotation, and the duration in seconds."""

    frames: int
    height: int
    width: int
    seconds: float


def _parse_info(header: Mapping[str, Any], stream: IO[bytes]) -> VideoInfo:
    """Return the description of a video from an answer. stream: not used."""
    return VideoInfo(int(header["frames"]), int(header["height"]), int(header["width"]), float(header["seconds"]))


def _parse_frames(count: int, header: Mapping[str, Any], stream: IO[bytes]) -> Pixels:
    """Return `count` frames (k, h, w, 3) from an answer. Raises EOFError, KeyError, TypeError or ValueError if it has others."""
    k, h, w, channels = header["shape"]
    size = k * h * w * channels
    if k != count or channels != 3 or not 0 < size <= MAX_FRAME_BYTES:
        raise ValueError("an answer of another size than was asked for")
    return np.frombuffer(read_exactly(stream, size), np.uint8).reshape(k, h, w, channels)


DECODER = DecoderProcess(WORKER_CODE, "video", INSTALL_PYAV)


def probe_video(path: str | None, content: bytes | None = None) -> VideoInfo:
    """Decode a whole video to check it, and return its VideoInfo.

    path, content: the file, or the bytes of the video if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it cannot be decoded, and UsageError without PyAV.
    """
    require_readable(path)
    return DECODER.request(path, content, {"times": None}, _parse_info)


def decode_frames(path: str | None, content: bytes | None, times: Sequence[float]) -> Pixels:
    """Return the frames (k, h, w, 3) that a video shows at `times`, k rising numbers of seconds from the first frame.

    path, content: the file, or the bytes of the video if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it cannot be decoded, and UsageError without PyAV.
    """
    require_readable(path)
    return DECODER.request(path, content, {"times": list(times)}, partial(_parse_frames, len(times)))


def middle_times(seconds: float, count: int) -> list[float]:
    """Return the times in seconds of the middles of `count` equal parts of a video. seconds: duration of the video."""
    return [seconds * (i + 0.5) / count for i in range(count)]


def animate(frames: Pixels) -> bytes:
    """Return the frames (k, h, w, 3) as an animated PNG with eight frames a second."""
    return image_io.encode_animation(list(frames), FRAME_MILLISECONDS)


def augment_video(
    pixels: Pixels, rng: np.random.Generator, method: str, mirror: bool, recolour: bool, warp: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """Return a video with all frames augmented alike, and its origin (3, 2): scale and shift along time, y and x.

    The origin leads from coordinates of the result to those of `pixels`; time stays as it is. method: "move" (shift), "mirror"
    (mirror and shift), "crop" or "rand" (RandAugment). mirror, recolour, warp: whether mirroring, changes of colour, and shears
    and rotations are allowed.
    """
    # Frames are augmented alike because each starts from the same seed.
    seed = int(rng.integers(2**63))
    augmented = [
        augmentation.augment_image(frame, np.random.default_rng(seed), method, mirror, recolour, warp)
        for frame in pixels
    ]
    return np.stack([frame for frame, _ in augmented]), np.concatenate([[[1.0, 0.0]], augmented[0][1]])


def perturb_video(pixels: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """Return variants of a video (k, h, w, 3) as if another camera had taken it, by name, to test a model's robustness.

    They are "noise" (normal, with a standard deviation of 16), "blurred" (mean of 3 × 3 pixels) and "darker" (half as bright).
    """
    frames = [features.perturb_image(frame, rng) for frame in pixels]
    return {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}


def video_features(videos: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return features (n, f) of n videos, with rows of unit norm.

    They are the edges and colours of the three images that `_summary_images` makes of a video: its mean frame, the change from
    its first half to its second, and its motion.
    """
    return features.joined_features([image for pixels in videos for image in _summary_images(pixels)], 3)


def _summary_images(pixels: Pixels) -> list[Pixels]:
    """Return three images of a video: the mean frame, the change from its first half to its second, and its motion.

    The change is half the difference of the two halves' mean frames, plus 127.5 because it can be negative. The motion is the
    mean absolute difference of consecutive frames.
    """
    values = pixels.astype(np.float32)
    # A change can be negative, so mid-grey (127.5) stands for none.
    half = max(1, len(values) // 2)
    change = 127.5 + (values[half:].mean(0) - values[:half].mean(0)) / 2 if len(values) > 1 else 0 * values[0] + 127.5
    motion = np.abs(np.diff(values, axis=0)).mean(0) if len(values) > 1 else 0 * values[0]
    return [np.clip(image, 0, 255).astype(np.uint8) for image in (values.mean(0), change, motion)]
