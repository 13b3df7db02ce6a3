"""Resampling, and joining of recordings that follow each other in one file, which may differ in rate and channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.libsndfile import INSTALL_SOUND
from mapsto.audio.decoding.limits import require_length
from mapsto.audio.decoding.mixing import Samples
from mapsto.errors import UsageError

# The number of lengths and of rates that a remark lists.
MAX_LISTED = 4


def resample(samples: NDArray[np.float32], rate: float, new_rate: float) -> Samples:
    """Return samples (n,) at another rate, by soxr with its quality "HQ"; the same array if the rates are equal.

    rate, new_rate: in Hz. Raises UsageError if the package soxr is not installed.
    """
    if rate == new_rate:
        return samples
    try:
        import soxr
    except ImportError as error:
        raise UsageError(INSTALL_SOUND) from error
    resampled: Samples = soxr.resample(samples, rate, new_rate, quality="HQ")
    # Of a few samples none may be left, and a recording has at least one.
    return resampled if len(resampled) else samples[:1]


def join_recordings(recordings: Sequence[tuple[Samples, SoundInfo]]) -> tuple[Samples, SoundInfo]:
    """Return several recordings, each of samples (n,) and facts, as one at the highest rate of them, with a remark that says so.

    Raises Unreadable if all together exceed a limit, UsageError as `resample`.
    """
    if len(recordings) == 1:
        return recordings[0]
    infos = [info for _, info in recordings]
    rate = max(info.rate for info in infos)
    require_length(round(sum(info.seconds for info in infos) * rate), rate)
    samples = np.concatenate([resample(part, info.rate, rate) for part, info in recordings])
    rates = list(dict.fromkeys(info.rate for info in infos))
    at_rates = f" at {_list([f'{rate:,}' for rate in rates])} Hz, resampled to {rate:,} Hz" if len(rates) > 1 else ""
    lengths = _list([f"{info.seconds:.2f}" for info in infos])
    remark = f"{len(infos):,} recordings are joined in it, of {lengths} s{at_rates}; all are read"
    remarks = dict.fromkeys([remark, *(remark for info in infos for remark in info.remarks)])
    channels, decoders = max(info.channels for info in infos), dict.fromkeys(info.decoder for info in infos)
    return samples, SoundInfo(len(samples) / rate, rate, channels, ", ".join(decoders), tuple(remarks))


def _list(names: Sequence[str]) -> str:
    """Return the first names, such as "1.00, 2.00, …"."""
    return ", ".join([*names[:MAX_LISTED], *(["…"] if len(names) > MAX_LISTED else [])])
