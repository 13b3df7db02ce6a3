"""Resampling, and joining of recordings that follow each other in one file, which may differ in rate and channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.facts import SoundInfo
from mapsto.audio.decoding.libsndfile import INSTALL_SOUND
from mapsto.audio.decoding.limits import require_length
from mapsto.audio.decoding.mixing import Samples
from mapsto.errors import UsageError

# The number of lengths and of rates that a remark lists.
MAX_LISTED = 4

# Samples of a block of a recording that is read in blocks: a second or more.
MIN_BLOCK = 2**16


def resample(samples: NDArray[np.float32], rate: float, new_rate: float) -> Samples:
    """Return samples (n,) at another rate, by soxr with its quality "HQ"; the same array if the rates are equal.

    rate, new_rate: in Hz. Raises UsageError if the package soxr is not installed.
    """
    if rate == new_rate:
        return samples
    resampled: Samples = _load_soxr().resample(samples, rate, new_rate, quality="HQ")
    # Of a few samples none may be left, and a recording has at least one.
    return resampled if len(resampled) else samples[:1]


def resample_blocks(blocks: Iterable[Samples], rate: float, new_rate: float) -> Iterator[Samples]:
    """Yield a recording that comes in blocks of samples (n,) at another rate: the same samples as by `resample` of the whole.

    rate, new_rate: in Hz. Raises UsageError if the package soxr is not installed.
    """
    if rate == new_rate:
        yield from blocks
        return
    stream = _load_soxr().ResampleStream(rate, new_rate, 1, dtype="float32", quality="HQ")
    first, is_empty = np.zeros(0, np.float32), True
    for block in blocks:
        first = first if len(first) else block[:1]
        resampled: Samples = stream.resample_chunk(block)
        is_empty = is_empty and not len(resampled)
        yield resampled
    rest: Samples = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    yield first if is_empty and not len(rest) else rest


def join_blocks(blocks: Iterable[Samples], size: int = MIN_BLOCK) -> Iterator[Samples]:
    """Yield the samples of blocks (n,) in blocks of at least `size` samples, but for the last one."""
    parts: list[Samples] = []
    count = 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count >= size:
            yield np.concatenate(parts)
            parts, count = [], 0
    if count:
        yield np.concatenate(parts)


def _load_soxr() -> Any:
    """Import and return the package soxr. Raises UsageError if it is not installed."""
    try:
        import soxr
    except ImportError as error:
        raise UsageError(INSTALL_SOUND) from error
    return soxr


def join_recordings(recordings: Sequence[tuple[Samples | None, SoundInfo]]) -> tuple[Samples | None, SoundInfo]:
    """Return several recordings, each of samples (n,) and facts, as one at the highest rate of them, with a remark that says so.

    Where samples of one are not held (None), none are, and the facts have the parts to read again.
    Raises Unreadable if all together exceed a limit, UsageError as `resample`.
    """
    if len(recordings) == 1:
        return recordings[0]
    infos = [info for _, info in recordings]
    rate = max(info.rate for info in infos)
    require_length(round(sum(info.seconds for info in infos) * rate), rate)
    held_parts = [(part, info) for part, info in recordings if part is not None]
    is_held = len(held_parts) == len(recordings)
    samples = np.concatenate([resample(part, info.rate, rate) for part, info in held_parts]) if is_held else None
    rates = list(dict.fromkeys(info.rate for info in infos))
    at_rates = f" at {_list([f'{rate:,}' for rate in rates])} Hz, resampled to {rate:,} Hz" if len(rates) > 1 else ""
    lengths = _list([f"{info.seconds:.2f}" for info in infos])
    remark = f"{len(infos):,} recordings are joined in it, of {lengths} s{at_rates}; all are read"
    remarks = dict.fromkeys([remark, *(remark for info in infos for remark in info.remarks)])
    channels, decoders = max(info.channels for info in infos), dict.fromkeys(info.decoder for info in infos)
    seconds = sum(info.seconds for info in infos) if samples is None else len(samples) / rate
    parts = () if is_held else tuple(part for info in infos for part in info.parts)
    return samples, SoundInfo(seconds, rate, channels, ", ".join(decoders), tuple(remarks), parts)


def _list(names: Sequence[str]) -> str:
    """Return the first names, such as "1.00, 2.00, …"."""
    return ", ".join([*names[:MAX_LISTED], *(["…"] if len(names) > MAX_LISTED else [])])
