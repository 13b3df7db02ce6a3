"""Video files: decoding in a child process, augmentation of all frames alike, and classical features.

A decoder is a large C program that reads files from strangers, so it runs in a child process (video_worker.py). If the child
crashes or hangs, it is killed, the file is reported as unreadable, and a new child decodes the next file.
A decoded video is (k, h, w, 3) of bytes: k frames, h rows, w columns of pixels, red, green and blue.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import UsageError
from mapsto.vision import augmentation, features, image_io
from mapsto.vision.pixels import Pixels, Unreadable

INSTALL_PYAV = "videos need the package PyAV: pip install 'mapsto[video]'"

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp")

# Seconds that decoding a file may take, and that a child whose pipe broke gets to exit by itself.
TIME_LIMIT, GRACE = 60.0, 2.0

# The program of the child process.
WORKER_CODE = "from mapsto.vision.video_worker import serve; serve()"

# The most bytes of the first line of an answer, and of the frames behind it.
MAX_HEADER_BYTES, MAX_FRAME_BYTES = 4096, 2**30

# How long an animation shows a frame.
FRAME_MILLISECONDS = 125


@dataclass(frozen=True)
class VideoInfo:
    """The number of frames of a video, the height and width of a frame after rotation, and the duration in seconds."""

    frames: int
    height: int
    width: int
    seconds: float


class DecoderProcess:
    """The child process that decodes videos. It is started at the first request, and again after a crash.

    A lock lets only one thread at a time send a request.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def request(self, path: str | None, content: bytes | None, times: Sequence[float] | None) -> VideoInfo | Pixels:
        """Return the VideoInfo of a video if `times` is None; else the frames (k, h, w, 3) that it shows at these k seconds.

        path, content: the file, or the bytes of the video if `path` is None.
        Raises Unreadable for a file that the decoder cannot read, or on which it crashes or hangs; UsageError without PyAV.
        """
        content, seconds = content or b"", None if times is None else list(times)
        absolute = path and os.path.abspath(path)  # the process may have been started in another working directory
        request = {
            "path": absolute, "size": len(content), "times": seconds, "limit": math.ceil(TIME_LIMIT + GRACE)
        }  # fmt: skip
        with self.lock:
            process = self._running()
            watchdog = Watchdog(process)
            try:
                return _exchange(process, json.dumps(request).encode() + b"\n" + content, len(seconds or ()))
            except Unreadable:
                raise
            except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
                self.close(GRACE)
                raise Unreadable(watchdog.explain(process)) from error
            finally:
                if watchdog.stop():
                    self.close()

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the child process, started if it is not running. Raises UsageError without PyAV."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            if is_pyav_missing():
                raise UsageError(INSTALL_PYAV)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", WORKER_CODE],  # -P: import nothing from the working directory
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the parent, which finishes its step and saves
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        return self.process

    def close(self, grace: float = 0.0) -> None:
        """Kill the child process, if there is one. grace: seconds that it first gets to exit by itself."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with suppress(OSError):  # closing flushes, and there is no reader
                    stream.close()
            self.process = None


class Watchdog:
    """A timer that kills a process after TIME_LIMIT seconds, unless `stop` is called before."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.has_killed, self.limit, self.process = False, TIME_LIMIT, process
        self.timer = threading.Timer(self.limit, self._kill)
        self.timer.start()

    def _kill(self) -> None:
        self.has_killed = True
        self.process.kill()

    def stop(self) -> bool:
        """Stop the timer and return whether it has killed the process."""
        self.timer.cancel()
        # From here on `has_killed` cannot change any more.
        self.timer.join()
        return self.has_killed

    def explain(self, process: subprocess.Popen[bytes]) -> str:
        """Stop the timer and return why the process gave no answer: it took too long, or how it ended (signal or exit code)."""
        if self.stop():
            return f"decoding the video took more than {self.limit:g} s and was stopped"
        code = process.returncode
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the decoder broke off over this video ({reason})"


def _exchange(process: subprocess.Popen[bytes], request: bytes, count: int) -> VideoInfo | Pixels:
    """Send a request to the child process; return the VideoInfo if `count` is 0, else `count` frames (k, h, w, 3).

    request: a line of JSON and the bytes of the video, as video_worker.py describes them.
    Raises Unreadable for a file that the decoder refuses, and OSError, EOFError, KeyError, TypeError or ValueError if there
    is no complete answer.
    """
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    header = json.loads(process.stdout.readline(MAX_HEADER_BYTES) or "-")
    if "fault" in header:
        raise Unreadable(str(header["fault"]))
    if not count:
        return VideoInfo(int(header["frames"]), int(header["height"]), int(header["width"]), float(header["seconds"]))
    k, h, w, channels = header["shape"]
    size = k * h * w * channels
    if k != count or channels != 3 or not 0 < size <= MAX_FRAME_BYTES:
        raise ValueError("an answer of another size than was asked for")
    content = process.stdout.read(size)
    if len(content) < size:
        raise EOFError
    return np.frombuffer(content, np.uint8).reshape(k, h, w, channels)


DECODER = DecoderProcess()


def _renew_forked_decoder() -> None:
    """Let a forked child start a decoder of its own: answers of the parent's would reach whichever of the two reads first."""
    DECODER.lock, DECODER.process = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_forked_decoder)
atexit.register(DECODER.close)


def is_pyav_missing() -> bool:
    """Return whether PyAV is not installed."""
    return importlib.util.find_spec("av") is None


def probe_video(path: str | None, content: bytes | None = None) -> VideoInfo:
    """Decode a whole video to check it, and return its VideoInfo.

    path, content: the file, or the bytes of the video if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it cannot be decoded, and UsageError without PyAV.
    """
    _require_file(path)
    info = DECODER.request(path, content, None)
    assert isinstance(info, VideoInfo)
    return info


def decode_frames(path: str | None, content: bytes | None, times: Sequence[float]) -> Pixels:
    """Return the frames (k, h, w, 3) that a video shows at `times`, k rising numbers of seconds from the first frame.

    path, content: the file, or the bytes of the video if `path` is None.
    Raises OSError if the file cannot be opened, Unreadable if it cannot be decoded, and UsageError without PyAV.
    """
    _require_file(path)
    frames = DECODER.request(path, content, times)
    assert isinstance(frames, np.ndarray)
    return frames


def _require_file(path: str | None) -> None:
    """Raise OSError if `path` cannot be opened, and Unreadable if it is no regular file; do nothing if it is None."""
    if path is not None:
        image_io.require_file(path)
        with open(path, "rb"):
            return


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
