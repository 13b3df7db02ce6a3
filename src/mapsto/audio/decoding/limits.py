"""Limits of the recordings that are read."""

from __future__ import annotations

from mapsto.media.cells import Unreadable

# The rates in Hz, the number of channels, the seconds and the samples of one channel (2 GiB of memory) that are read.
MIN_RATE, MAX_RATE, MAX_CHANNELS, MAX_SECONDS, MAX_SAMPLES = 1_000, 384_000, 64, 24 * 3600, 2**29

# The largest file that is read.
MAX_BYTES = 2**32

# Samples of one channel (32 MiB) that are held while a recording is checked. A longer one is read again in blocks.
MAX_HELD = 2**23

# Samples of all channels that are decoded at once. What an error loses is less than a block.
BLOCK_SAMPLES = 2**12


def require_size(size: int) -> None:
    """Raise Unreadable if a file is empty or too large. size: in bytes."""
    if not size:
        raise Unreadable("the file is empty")
    if size > MAX_BYTES:
        raise Unreadable(f"{size:,} bytes are more than the {MAX_BYTES:,} that are read")


def require_limits(rate: int, channels: int) -> None:
    """Raise Unreadable if a recording has a rate in Hz, or a number of channels, that is not read."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise Unreadable(f"its rate is {rate:,} Hz, and {MIN_RATE:,} to {MAX_RATE:,} Hz are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unreadable(f"it has {channels:,} channels, and 1 to {MAX_CHANNELS} are read")


def require_length(num_samples: int, rate: int) -> None:
    """Raise Unreadable if a recording has more samples of one channel than are read. rate: in Hz."""
    if num_samples > MAX_SECONDS * rate:
        raise Unreadable(f"it is longer than the {MAX_SECONDS // 3600} hours that are read")
    if num_samples > MAX_SAMPLES:
        raise Unreadable(f"it has more than the {MAX_SAMPLES:,} samples that are read: split it, or lower its rate")
