"""Random variants of log-mel frames: SpecAugment (Park et al. 2019), and voices of another size.

Bands are moved by up to a tenth of their place, as by a vocal tract of another length (Jaitly & Hinton 2013), the loudness is
changed by up to 6 dB, and some bands and moments get the mean of all sounds.
Legend of shapes: m frames, b bands.
"""

from __future__ import annotations

import numpy as np

from mapsto.audio.log_mel import Frames

# The largest share by which a band's place is moved, and the largest change of loudness: 6 dB of energy on the scale of frames.
MAX_WARP, MAX_GAIN = 0.1, 0.15

# How many stretches of bands and of frames get the mean, and the largest share of all that a stretch covers.
NUM_STRETCHES, MAX_STRETCH = 2, 0.12


def augment_frames(frames: Frames, mean: Frames, rng: np.random.Generator) -> Frames:
    """Return a random variant of frames (m, b). mean: (b,), what covered bands and moments get."""
    m, b = frames.shape
    places = np.clip(np.arange(b) * rng.uniform(1 - MAX_WARP, 1 + MAX_WARP), 0, b - 1)
    low = np.floor(places).astype(np.int64)
    share = (places - low).astype(np.float32)
    varied: Frames = frames[:, low] * (1 - share) + frames[:, np.minimum(low + 1, b - 1)] * share
    varied = varied + np.float32(rng.uniform(-MAX_GAIN, MAX_GAIN))
    for _ in range(NUM_STRETCHES):
        begin, end = _stretch(b, rng)
        varied[:, begin:end] = mean[begin:end]
        begin, end = _stretch(m, rng)
        varied[begin:end] = mean
    return varied


def _stretch(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return begin and end of a random stretch of up to a share MAX_STRETCH of `size`."""
    length = int(rng.integers(0, max(1, round(MAX_STRETCH * size)) + 1))
    begin = int(rng.integers(0, size - length + 1))
    return begin, begin + length
