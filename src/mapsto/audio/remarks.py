"""Remarks on the sounds of a table that a user should know before training: levels, channels, lengths and rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_value import Sound

# Seconds below which a sound is very short: it has less than ten frames of log-mel.
SHORT_SECONDS = 0.1

# A sound is very long from so many seconds on, if it is also so many times as long as the median.
LONG_SECONDS, LONG_FACTOR = 30.0, 10.0

# The most rates that a remark lists.
MAX_RATES = 6


def inspect_sounds(values: Sequence[Sound | None]) -> list[tuple[int, str]]:
    """Return (index of a sound, remark about it). values: None for a cell that cannot be read."""
    sounds = [(index, sound) for index, sound in enumerate(values) if sound is not None]
    if not sounds:
        return []
    remarks = [(index, remark) for index, sound in sounds for remark in sound.remarks]
    median = float(np.median([sound.info.seconds for _, sound in sounds]))
    for index, sound in sounds:
        seconds = sound.info.seconds
        if seconds < SHORT_SECONDS:
            remarks.append((index, f"it is very short: {seconds:.3f} s"))
        if seconds >= LONG_SECONDS and seconds > LONG_FACTOR * median:
            remarks.append((index, f"it is very long: {seconds:,.1f} s, and half of all have at most {median:.1f} s"))
    return remarks + _compare_rates(sounds)


def _compare_rates(sounds: Sequence[tuple[int, Sound]]) -> list[tuple[int, str]]:
    """Return a remark about the first sound of the rarest rate if sounds have several. sounds: each with its index."""
    counts = Counter(sound.info.rate for _, sound in sounds)
    if len(counts) < 2:
        return []
    rate_names = [f"{rate:,} Hz ({count:,})" for rate, count in counts.most_common(MAX_RATES)]
    rate_names += ["…"] if len(counts) > MAX_RATES else []
    rarest, _ = counts.most_common()[-1]
    remark = f"sounds of several rates, such as {rarest:,} Hz here, which are all resampled to {RATE:,} Hz: "
    remark += ", ".join(rate_names)
    if min(counts) < RATE <= max(counts):
        remark += "; those of a lower rate lack high frequencies, and a label that goes with the rate is learnt by that"
    return [(next(index for index, sound in sounds if sound.info.rate == rarest), remark)]
