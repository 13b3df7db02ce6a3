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


def inspect_sounds(values: Sequence[Sound | None]) -> list[tuple[int | None, str]]:
    """Return (index of a sound, remark about it); None in place of the index for a remark about all sounds together.

    values: None for a cell that cannot be read.
    """
    sounds = [(index, sound) for index, sound in enumerate(values) if sound is not None]
    remarks: list[tuple[int | None, str]] = [(index, remark) for index, sound in sounds for remark in sound.remarks]
    if not sounds:
        return remarks
    median = float(np.median([sound.info.seconds for _, sound in sounds]))
    for index, sound in sounds:
        seconds = sound.info.seconds
        if seconds < SHORT_SECONDS:
            remarks.append((index, f"it is very short: {seconds:.3f} s"))
        if seconds >= LONG_SECONDS and seconds > LONG_FACTOR * median:
            remarks.append((index, f"it is very long: {seconds:,.1f} s, and half of all have at most {median:.1f} s"))
    return [*remarks, *((None, remark) for remark in _compare_rates([sound for _, sound in sounds]))]


def _compare_rates(sounds: Sequence[Sound]) -> list[str]:
    """Return a remark if sounds have several rates, and say what that costs."""
    counts = Counter(sound.info.rate for sound in sounds)
    if len(counts) < 2:
        return []
    listed = [f"{rate:,} Hz ({count:,})" for rate, count in counts.most_common(MAX_RATES)]
    listed += ["…"] if len(counts) > MAX_RATES else []
    remark = f"sounds of several rates, which are all resampled to {RATE:,} Hz: {', '.join(listed)}"
    if min(counts) < RATE <= max(counts):
        remark += "; those of a lower rate lack high frequencies, and a label that goes with the rate is learnt by that"
    return [remark]
