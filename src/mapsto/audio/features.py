"""Compute what needs no model of sounds: variants for tests of robustness, and hashes for near-duplicates."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from mapsto.audio.band_source import frames_of
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_io import resample
from mapsto.audio.sound_value import Sound

# Rows and columns of the small spectrogram that is hashed, and the number of its strongest waves.
HASHED_SIDE, NUM_WAVES = 16, 32

# The rate of a telephone, in Hz, and the deviation of noise beside a sound of deviation 1.
TELEPHONE_RATE, NOISE = 8000, 0.1


def perturb_sound(value: Sound, rng: np.random.Generator) -> dict[str, Sound]:
    """Return variants of a sound by name: with noise 20 dB below it ("noise"), a quarter as loud ("quieter"), and as over a
    telephone, without frequencies above 4 kHz ("telephone").
    """
    samples = value.decode(RATE)
    noise = rng.normal(0, NOISE * float(samples.std()), len(samples)).astype(np.float32)
    narrow = resample(resample(samples, RATE, TELEPHONE_RATE), TELEPHONE_RATE, RATE)
    variants = {"noise": samples + noise, "quieter": samples / 4, "telephone": narrow}
    return {name: Sound.from_samples(varied, RATE) for name, varied in variants.items()}


def strongest_waves(value: Sound) -> NDArray[np.int64]:
    """Return the strongest waves of a sound's small spectrogram as integers, of which near-duplicates share most.

    Wave i of the cosine transform gives 2·i + 1 if its amplitude is positive, else 2·i. They are ranked by amplitude times a
    weight that rises with the frequency. The loudness does not count.
    """
    frames = frames_of(value)
    columns = [frames[np.minimum(len(frames) - 1, part)].mean(0) for part in _parts(len(frames), HASHED_SIDE)]
    small = np.stack([part.mean(0) for part in np.array_split(np.stack(columns).T, HASHED_SIDE)])
    waves = dctn(small, norm="ortho")
    order = np.arange(HASHED_SIDE)
    strength = np.abs(waves) * (1 + order[:, None] + order)
    strength[0, 0] = 0
    ranked = np.argsort(-strength.ravel(), kind="stable")[:NUM_WAVES]
    signed: NDArray[np.int64] = 2 * ranked + (waves.ravel()[ranked] > 0)
    return signed


def _parts(count: int, parts: int) -> list[NDArray[np.int64]]:
    """Return the indices of the frames of each of `parts` equal parts; at least one each, so that few frames are repeated."""
    edges = np.linspace(0, count, parts + 1).astype(np.int64)
    return [np.arange(begin, max(begin + 1, end)) for begin, end in itertools.pairwise(edges)]
