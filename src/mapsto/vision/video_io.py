"""Videos without a model: decoded by a process of their own, moved about, and counted.

A decoder is a large program in C that reads what strangers wrote. So it runs in a child process: when it crashes or hangs, that
is killed, the file is named, and the next one is decoded by another.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import UsageError
from mapsto.vision import augmentation, features, image_io
from mapsto.vision.pixels import Pixels, Unreadable

INSTALL = "videos need the package PyAV: pip install 'mapsto[video]'"


SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp")


LIMIT, GRACE = 60.0, 2.0  # seconds that decoding a file may take, and a process to end that has said its last


SERVE = "from mapsto.vision.video_worker import serve; serve()"


LONGEST_ANSWER = 4096  # bytes of its first line


MOST_BYTES = 2**30  # of the frames that are given at once


MILLISECONDS = 125  # that a frame is shown for


@dataclass(frozen=True)
class Facts:
    """What a file holds: frames, their size as they are shown, and how long they last."""

    frames: int
    height: int
    width: int
    seconds: float


class Child:
    """The process that decodes, made when it is needed and again when it was lost; threads take turns."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, path: str | None, content: bytes | None, times: Sequence[float] | None) -> Facts | Pixels:
        """What a file holds, or its frames at these times. Raises Unreadable for what it cannot decode, or does not survive."""
        content, seconds = content or b"", None if times is None else list(times)
        whole = path and os.path.abspath(path)  # the process may have been started where we were before
        asked = {"path": whole, "size": len(content), "times": seconds, "limit": math.ceil(LIMIT + GRACE)}
        with self.turn:
            process = self._alive()
            watch = Watch(process)
            try:
                return _exchanged(process, json.dumps(asked).encode() + b"\n" + content, len(seconds or ()))
            except Unreadable:
                raise
            except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
                self.close(GRACE)
                raise Unreadable(watch.told(process)) from error
            finally:
                if watch.ended():
                    self.close()

    def _alive(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            if missing():
                raise UsageError(INSTALL)
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE],  # what stands where we are called is not imported
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt at the terminal is for us: we finish a step and save
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        return self.process

    def close(self, grace: float = 0.0) -> None:
        """End the process, if there is one; one that is about to end by itself has a while for it."""
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with suppress(OSError):  # what was not written yet has no reader
                    stream.close()
            self.process = None


class Watch:
    """Kills a process that takes longer than LIMIT."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.late, self.limit, self.process = False, LIMIT, process
        self.timer = threading.Timer(self.limit, self._kill)
        self.timer.start()

    def _kill(self) -> None:
        self.late = True
        self.process.kill()

    def ended(self) -> bool:
        """Stop watching; whether the process was killed."""
        self.timer.cancel()
        self.timer.join()
        return self.late

    def told(self, process: subprocess.Popen[bytes]) -> str:
        """Why there is no answer."""
        if self.ended():
            return f"decoding the video took more than {self.limit:g} s and was stopped"
        code = process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the decoder broke off over this video ({how})"


def _exchanged(process: subprocess.Popen[bytes], request: bytes, count: int) -> Facts | Pixels:
    """Ask, and read the facts, or `count` frames. Raises Unreadable, which it says itself; OSError, EOFError, KeyError, TypeError
    and ValueError where this is no answer."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    said = json.loads(process.stdout.readline(LONGEST_ANSWER) or "-")
    if "fault" in said:
        raise Unreadable(str(said["fault"]))
    if not count:
        return Facts(int(said["frames"]), int(said["height"]), int(said["width"]), float(said["seconds"]))
    k, h, w, channels = said["shape"]
    size = k * h * w * channels
    if k != count or channels != 3 or not 0 < size <= MOST_BYTES:
        raise ValueError("an answer of another size than was asked for")
    given = process.stdout.read(size)
    if len(given) < size:
        raise EOFError
    return np.frombuffer(given, np.uint8).reshape(k, h, w, channels)


CHILD = Child()


atexit.register(CHILD.close)


def missing() -> bool:
    """Whether there is no PyAV."""
    return importlib.util.find_spec("av") is None


def facts(path: str | None, content: bytes | None = None) -> Facts:
    """What a file, or its `content`, holds; it is decoded whole. Raises OSError, Unreadable, and UsageError without PyAV."""
    _require_file(path)
    found = CHILD.ask(path, content, None)
    assert isinstance(found, Facts)
    return found


def shown(path: str | None, content: bytes | None, times: Sequence[float]) -> Pixels:
    """The frames (k, h, w, 3) that are seen at `times` in seconds, which rise. Raises OSError, Unreadable, UsageError."""
    _require_file(path)
    found = CHILD.ask(path, content, times)
    assert isinstance(found, np.ndarray)
    return found


def _require_file(path: str | None) -> None:
    """Raise OSError unless it can be read, Unreadable for what is there and is no file."""
    if path is not None:
        image_io.require_file(path)
        with open(path, "rb"):
            return


def middles(seconds: float, count: int) -> list[float]:
    """The middle of each of `count` equal parts of so many seconds."""
    return [seconds * (i + 0.5) / count for i in range(count)]


def moving(pixels: Pixels) -> bytes:
    """An animated PNG of the frames."""
    return image_io.encode_moving(list(pixels), MILLISECONDS)


def varied(
    pixels: Pixels, rng: np.random.Generator, how: str, mirror: bool, recolour: bool, bends: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """All frames varied in the same way, and where they come from along time, rows and columns; see augmentation.varied."""
    seed = int(rng.integers(2**63))
    found = [augmentation.varied(frame, np.random.default_rng(seed), how, mirror, recolour, bends) for frame in pixels]
    return np.stack([frame for frame, _ in found]), np.concatenate([[[1.0, 0.0]], found[0][1]])


def disturbed(pixels: Pixels, rng: np.random.Generator) -> dict[str, Pixels]:
    """As another camera would have it; see pictures.disturbed."""
    frames = [features.disturbed(frame, rng) for frame in pixels]
    return {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}


def counting() -> Callable[[Sequence[Pixels]], Any]:
    """From videos to sparse vectors (n, f) of length 1 that need no training: colours and edges of the mean frame, of how the
    second half differs from the first, and of how much a frame differs from the one before."""
    of = features.counting()
    return lambda asked: of([picture for pixels in asked for picture in _summed(pixels)], 3)


def _summed(pixels: Pixels) -> list[Pixels]:
    values = pixels.astype(np.float32)
    half = max(1, len(values) // 2)
    change = 127.5 + (values[half:].mean(0) - values[:half].mean(0)) / 2 if len(values) > 1 else 0 * values[0] + 127.5
    motion = np.abs(np.diff(values, axis=0)).mean(0) if len(values) > 1 else 0 * values[0]
    return [np.clip(picture, 0, 255).astype(np.uint8) for picture in (values.mean(0), change, motion)]
