"""Spoken-like words of two syllables in several voices, made by formant synthesis, for the demo of sounds.

A voice is a pitch and the length of a vocal tract. A vowel is the sum of the pitch's harmonics, as loud as three resonances let
them be (Peterson & Barney 1952 give their places); a consonant is noise in a band of frequency, or a hum. Words share their
syllables, so that their order counts too.
Legend of shapes: n samples, h harmonics, s stretches of a word (consonants and vowels).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RATE = 16_000

# Vowels: the frequencies in Hz of their three resonances, in a vocal tract of average length.
VOWELS = {
    "a": (790, 1250, 2500),
    "e": (500, 1850, 2500),
    "i": (300, 2300, 3000),
    "o": (480, 880, 2400),
    "u": (320, 800, 2250),
}
# Consonants of noise: the lowest and highest frequency in Hz, duration in seconds, and loudness beside a vowel.
NOISES = {
    "s": (4500, 7800, 0.11, 0.25),
    "sh": (2200, 5000, 0.11, 0.3),
    "t": (2800, 6500, 0.02, 0.5),
    "k": (1300, 2600, 0.03, 0.5),
}
# A hum: its resonances, duration and loudness.
HUM = ((250, 1100, 2200), 0.09, 0.35)
WORDS = ("ma-ta", "ta-ma", "su-mi", "mi-su", "sho-ke", "ke-sho", "ti-so", "so-ti")
# The silence in front of a stop, the duration of a vowel, and over how long the mouth moves from one sound to the next.
STOP_SECONDS, VOWEL_SECONDS, GLIDE_SECONDS = 0.04, 0.16, 0.03
# The longest silence in front of a word and behind it in seconds, and the largest deviation of the noise of a room.
MAX_SILENCE, MAX_NOISE = 0.5, 0.02
# The width of a resonance in Hz, and the highest harmonic.
RESONANCE_WIDTH, HIGHEST = 110.0, 5000.0

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Voice:
    """A voice: its pitch in Hz, the place of its resonances beside the average, and how loud its breath is."""

    pitch: float
    tract: float
    breath: float


@dataclass(frozen=True)
class Stretch:
    """A consonant or vowel in time: seconds of its duration, its resonances in Hz, and its loudness."""

    seconds: float
    resonances: tuple[float, ...]
    loudness: float
    # The band of a consonant of noise in Hz, and its loudness.
    noise: tuple[float, float, float] | None = None


def make_voices(count: int, seed: int) -> list[Voice]:
    """Return `count` voices, the same ones for the same seed, from deep to high: a higher voice has a shorter tract."""
    rng = np.random.default_rng([seed, 0])
    heights = (np.arange(count) + rng.uniform(0.2, 0.8, count)) / count
    return [
        Voice(85 * 2.8**height, 0.84 + 0.32 * height + rng.normal(0, 0.03), float(rng.uniform(0.002, 0.02)))
        for height in heights
    ]


def make_recordings(voices: list[Voice], each: int, seed: int) -> list[dict[str, Any]]:
    """Return `each` recordings of each word in each voice, as rows with the cells `sound` (samples and rate) and `label`.

    No two are the same: speed, pitch, its fall, loudness and noise differ. seed: all rows are the same for the same seed.
    """
    rng = np.random.default_rng([seed, 1])
    return [
        {"sound": {"array": speak(word, voice, rng), "sampling_rate": RATE}, "label": word}
        for voice in voices
        for word in WORDS
        for _ in range(each)
    ]


def speak(word: str, voice: Voice, rng: np.random.Generator) -> Samples:
    """Return the samples (n,) of a word such as "ma-ta", spoken in a voice with random variations."""
    stretches = [stretch for syllable in word.split("-") for stretch in _stretches(syllable)]
    tempo = rng.uniform(0.85, 1.25)
    lengths = [max(1, round(stretch.seconds * tempo * rng.uniform(0.85, 1.15) * RATE)) for stretch in stretches]
    samples = _voiced(stretches, lengths, voice, rng)
    begin = 0
    for stretch, length in zip(stretches, lengths, strict=True):
        if stretch.noise is not None:
            low, high, loudness = stretch.noise
            samples[begin : begin + length] += loudness * _band_noise(length, low, high, rng)
        begin += length
    # A word begins anywhere in its recording, so that the same moment holds another part of it each time.
    before, after = (np.zeros(int(rng.uniform(0.02, MAX_SILENCE) * RATE)) for _ in range(2))
    samples = np.concatenate([before, samples, after])
    samples = samples / np.abs(samples).max() * rng.uniform(0.2, 0.7)
    noisy: Samples = (samples + rng.normal(0, rng.uniform(0.001, MAX_NOISE), len(samples))).astype(np.float32)
    return noisy


def _stretches(syllable: str) -> list[Stretch]:
    """Return the consonant of a syllable, with the silence in front of a stop, and its vowel."""
    consonant, vowel = syllable[:-1], Stretch(VOWEL_SECONDS, VOWELS[syllable[-1]], 1.0)
    if consonant == "m":
        return [Stretch(HUM[1], HUM[0], HUM[2]), vowel]
    low, high, seconds, loudness = NOISES[consonant]
    stop = [Stretch(STOP_SECONDS, vowel.resonances, 0.0)] if consonant in "tk" else []
    return [*stop, Stretch(seconds, vowel.resonances, 0.0, (low, high, loudness)), vowel]


def _voiced(
    stretches: list[Stretch], lengths: list[int], voice: Voice, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the voiced part (n,) of a word: harmonics of a falling pitch, as loud as the resonances of each moment let them.

    lengths: (s,), the number of samples of each stretch.
    """
    total = sum(lengths)
    wobble = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(3, 6) * np.arange(total) / RATE)
    pitch = voice.pitch * rng.uniform(0.9, 1.1) * np.linspace(1.08, rng.uniform(0.8, 0.95), total) * wobble
    tract = voice.tract * rng.uniform(0.98, 1.02)
    resonances = [_glide(np.repeat([s.resonances[i] * tract for s in stretches], lengths)) for i in range(3)]
    loudness = _glide(np.repeat([stretch.loudness for stretch in stretches], lengths), "constant")
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    samples = np.zeros(total)
    for harmonic in range(1, int(HIGHEST / pitch.max()) + 1):
        frequency = harmonic * pitch
        # Higher resonances are weaker, and so are the higher harmonics of a voice.
        gain = sum(0.5**i / (1 + ((frequency - place) / RESONANCE_WIDTH) ** 2) for i, place in enumerate(resonances))
        samples += gain / harmonic**0.5 * np.sin(harmonic * phase)
    breath = voice.breath * rng.standard_normal(total)
    return loudness * (samples + breath)


def _glide(values: NDArray[np.float64], edges: Literal["edge", "constant"] = "edge") -> NDArray[np.float64]:
    """Return values (n,) smoothed over GLIDE_SECONDS, as a mouth moves from one sound to the next.

    edges: what lies before the first and behind the last value: copies of it ("edge"), or zeros ("constant").
    """
    width = round(GLIDE_SECONDS * RATE)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode=edges)
    sums = np.cumsum(np.concatenate([[0.0], padded]))
    means: NDArray[np.float64] = (sums[width:] - sums[:-width]) / width
    return means


def _band_noise(length: int, low: float, high: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise (length,) between two frequencies in Hz, which rises and falls, with a deviation of about 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / RATE)
    noise = np.fft.irfft(spectrum * ((frequencies >= low) & (frequencies <= high)), length)
    shaped: NDArray[np.float64] = noise / (noise.std() + 1e-9) * np.hanning(length + 2)[1:-1] ** 0.5
    return shaped
