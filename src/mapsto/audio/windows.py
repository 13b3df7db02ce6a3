"""Windows of long sounds: where a sound is cut that a model cannot read at once, and how it is read window by window.

A cut inside a word loses it or doubles it. So a window ends where the sound is quietest in its second half, which is a pause
if there is one. A window of 30 seconds is then 15 to 30 seconds long. Where the next cut is depends on no more than the samples
of a window, so a sound of any length is cut in constant memory, also one that is still being recorded.
Legend of shapes: n samples, t tokens, m frames, b bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.mixing import Samples
from mapsto.audio.log_mel import FLOOR, OFFSET, Frames

# Tokens over which loudness is averaged: about 0.3 seconds, longer than the closure of a consonant.
SMOOTHED = 15


@dataclass(frozen=True)
class Window:
    """A part of a sound: its samples (n,), the number of its first token in the sound, and whether it is the last one.

    loudest: the loudest band of the sound up to the end of the window, on the scale of frames; it sets the floor.
    """

    samples: Samples
    begin: int
    is_last: bool
    loudest: float

    def raise_floor(self, frames: Frames) -> Frames:
        """Return frames of the window with the floor that the sound has set so far, 80 dB below its loudest band."""
        return np.maximum(frames, np.float32(self.loudest - FLOOR / OFFSET))


def choose_cut(loudness: NDArray[np.float32], length: int) -> int:
    """Return the number of tokens, up to `length`, after which a sound is cut. loudness: that of each token, (t,)."""
    smooth = np.convolve(loudness, np.ones(SMOOTHED) / SMOOTHED, "same")
    # The last one of several places that are equally quiet.
    return length - int(smooth[max(1, length // 2) : length + 1][::-1].argmin())


def split_windows(
    blocks: Iterable[Samples], token: int, length: int, measure: Callable[[Samples], NDArray[np.float32]]
) -> Iterator[Window]:
    """Yield the windows of a sound that comes in blocks of samples (n,), each of at most `length` tokens, as soon as it is there.

    token: samples of a token. measure: returns the loudness of each token of samples, (t,), on the scale of frames.
    Together the windows have all samples, each once.
    """
    buffer, begin, loudest = np.zeros(0, np.float32), 0, -np.inf
    # What is averaged around the last place of a cut, too.
    needed = (length + SMOOTHED) * token
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) > needed:
            window, buffer = _take_window(buffer, needed, token, length, begin, loudest, measure)
            begin, loudest = begin + len(window.samples) // token, window.loudest
            yield window
    while len(buffer) > length * token:
        window, buffer = _take_window(buffer, len(buffer), token, length, begin, loudest, measure)
        begin, loudest = begin + len(window.samples) // token, window.loudest
        yield window
    if len(buffer):
        yield Window(buffer, begin, True, max(loudest, float(measure(buffer).max())))


def _take_window(
    buffer: Samples,
    size: int,
    token: int,
    length: int,
    begin: int,
    loudest: float,
    measure: Callable[[Samples], NDArray[np.float32]],
) -> tuple[Window, Samples]:
    """Return the first window of samples (n,) that go on, and the samples behind it.

    size: samples that are looked at. begin, loudest: of the window, and of the sound before it. Others as for `split_windows`.
    """
    loudness = measure(buffer[:size])
    floored = np.maximum(loudness, np.float32(max(loudest, float(loudness[:length].max())) - FLOOR / OFFSET))
    count = choose_cut(floored, length)
    loudest = max(loudest, float(loudness[:count].max()))
    return Window(buffer[: count * token], begin, False, loudest), buffer[count * token :]
