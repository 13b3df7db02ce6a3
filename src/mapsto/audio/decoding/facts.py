"""The facts of a decoded recording."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SoundInfo:
    """The facts of a decoded recording: seconds, rate in Hz and channels of the file, and the program that decoded it.

    remarks: facts about the samples that a user should know, such as clipping or a silent channel.
    """

    seconds: float
    rate: int
    channels: int
    decoder: str
    remarks: tuple[str, ...] = ()
