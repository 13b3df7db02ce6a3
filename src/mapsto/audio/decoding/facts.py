"""The facts of a decoded recording."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MixedPart:
    """A part of a recording with one rate and number of channels, and how it is mixed to one, so that it can be read again.

    rate: in Hz. channel: the only channel to take; None for the mean of the channels that are not silent.
    num_active: the number of these. by_own_header: whether the decoder needed the header of the file (`Extent.original`).
    """

    rate: int
    channel: int | None
    num_active: int
    by_own_header: bool = False


@dataclass(frozen=True)
class SoundInfo:
    """The facts of a decoded recording: seconds, rate in Hz and channels of the file, and the program that decoded it.

    remarks: facts about the samples that a user should know, such as clipping or a silent channel.
    parts: the parts of a long recording, whose samples are not held but read again in blocks; empty for any other.
    """

    seconds: float
    rate: int
    channels: int
    decoder: str
    remarks: tuple[str, ...] = ()
    parts: tuple[MixedPart, ...] = ()
