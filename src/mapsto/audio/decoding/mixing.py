"""Mixing of channels to one, with the facts about a recording that a user should know.

The mean of the channels is taken, of those that are not silent. Where the mean cancels (channels of opposite phase), the loudest
channel is taken instead.
Legend of shapes: n samples, c channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapsto.audio.decoding.facts import MixedPart
from mapsto.media.cells import Unreadable

# Samples of one channel in [-1, 1], which floating-point files may exceed.
Samples = NDArray[np.float32]

# The largest sample that is read. Larger ones are not scaled to 1, and nothing says what their full scale is.
MAX_SAMPLE = 100.0

# The level of a channel, relative to the loudest, below which it is silent; that of the mean below which the channels cancel.
SILENT_LEVEL, CANCELLED_LEVEL = 1e-3, 3e-2

# The level, relative to the loudest channel, from which another is as loud.
SAME_LEVEL = 0.995

# The root mean squares below which a recording is silent or very quiet: -90 and -60 dB of full scale.
SILENT_RMS, QUIET_RMS = 10 ** (-90 / 20), 10 ** (-60 / 20)

# The least mean that counts as an offset (DC).
MIN_OFFSET = 0.02

# The sample from which a repeated value counts as clipped, and the least share of clipped samples that is reported.
FULL_SCALE, MIN_CLIPPED = 0.99, 1e-3


def _add_channels(block: NDArray[np.float32], channel: int | None) -> Samples:
    """Return the sum of the channels of a block (n, c), or one channel of it if `channel` is not None."""
    is_single = block.shape[1] == 1 or channel is not None
    return np.ascontiguousarray(block[:, channel or 0] if is_single else block.sum(1))


def _average(samples: Samples, num_active: int) -> Samples:
    """Divide the sums (n,) of channels in place by the number of those that are not silent, and return them."""
    samples /= np.int64(num_active)
    return samples


def mix_again(block: NDArray[np.float32], part: MixedPart) -> Samples:
    """Return a block (n, c) of a recording that was mixed before, mixed in the same way to the same samples (n,)."""
    mixed = _add_channels(block, part.channel)
    return _average(mixed, part.num_active) if part.num_active > 1 else mixed


@dataclass(frozen=True)
class Mixture:
    """The result of mixing: samples (n,), or the channel to take instead of their mean; and remarks in words.

    samples: None if they are too many to be held. num_active: the number of channels of which they are the mean.
    """

    samples: Samples | None
    channel: int | None
    remarks: tuple[str, ...]
    num_active: int


class Mixer:
    """Mixes blocks of a recording to one channel, and measures its channels on the way.

    num_channels: number of channels. channel: the only one to take; None for the mean of those that are not silent.
    """

    def __init__(self, num_channels: int, channel: int | None = None) -> None:
        self.num_channels, self.channel = num_channels, channel
        # None if they are too many to be held.
        self.blocks: list[Samples] | None = []
        self.num_samples = 0
        self.energies, self.sums = np.zeros(num_channels), np.zeros(num_channels)
        self.peak, self.num_clipped, self.mixed_energy = 0.0, 0, 0.0

    def add(self, block: NDArray[np.float32]) -> None:
        """Add a block (n, c). Raises Unreadable if a sample is no finite number, or too large to be a share of full scale."""
        if not len(block):
            return
        peaks = np.maximum(block.max(0), -block.min(0))
        if not np.isfinite(peaks).all():
            raise Unreadable("some of its samples are no finite numbers")
        self.peak = max(self.peak, float(peaks.max()))
        if self.peak > MAX_SAMPLE:
            raise Unreadable(
                f"its samples reach {self.peak:,.0f}, and ±1 is full scale: divide them by their full scale"
            )
        if self.peak >= FULL_SCALE:
            is_full = np.abs(block[1:]) >= FULL_SCALE
            self.num_clipped += int((is_full & (block[1:] == block[:-1])).any(1).sum())
        # Energies of float32 products, summed in float64 for each block.
        self.energies += np.einsum("nc,nc->c", block, block, dtype=np.float64)
        self.sums += block.sum(0, dtype=np.float64)
        mixed = _add_channels(block, self.channel)
        self.mixed_energy += float(np.einsum("n,n->", mixed, mixed, dtype=np.float64))
        if self.blocks is not None:
            self.blocks.append(mixed)
        self.num_samples += len(block)

    def drop(self) -> None:
        """Hold no samples from now on, but go on measuring them."""
        self.blocks = None

    def finish(self) -> Mixture:
        """Return the mixture of all blocks. Its `channel` is not None where the blocks must be mixed again, to that channel."""
        samples = None if self.blocks is None else np.concatenate([np.zeros(0, np.float32), *self.blocks])
        self.blocks = []
        # The first channel that is as loud as any, since an encoder changes equal ones a little.
        loudest = int((self.energies >= SAME_LEVEL**2 * self.energies.max()).argmax())
        active = self.energies > SILENT_LEVEL**2 * self.energies[loudest]
        num_active = int(active.sum()) if self.channel is None and active.any() else 1
        if num_active > 1:
            samples = None if samples is None else _average(samples, num_active)
            mean_energy = self.mixed_energy / num_active**2
            if mean_energy < CANCELLED_LEVEL**2 * self.energies[loudest]:
                return Mixture(samples, loudest, (), num_active)
        return Mixture(samples, None, (*self._channel_remarks(active), *self._level_remarks()), num_active)

    def _channel_remarks(self, active: NDArray[np.bool_]) -> Sequence[str]:
        """Return remarks about channels. active: (c,), whether a channel is not silent."""
        if self.channel is not None:
            return [f"its channels cancel out, so channel {self.channel + 1} of {self.num_channels} is taken"]
        if not active.any() or active.all():
            return []
        names = ", ".join(str(index + 1) for index in np.flatnonzero(~active)[:4])
        rest = ", …" if (~active).sum() > 4 else ""
        noun, verb = ("channel", "is") if (~active).sum() == 1 else ("channels", "are")
        return [f"{noun} {names}{rest} of {self.num_channels} {verb} silent and left out"]

    def _level_remarks(self) -> list[str]:
        """Return remarks about silence, low level, clipping and an offset."""
        if not self.num_samples:
            return []
        rms = float(np.sqrt(self.energies.max() / self.num_samples))
        if rms < SILENT_RMS:
            return ["it is silent"]
        remarks = []
        if rms < QUIET_RMS:
            remarks.append(f"it is very quiet ({20 * np.log10(rms):.0f} dB of full scale)")
        if (share := self.num_clipped / self.num_samples) >= MIN_CLIPPED:
            remarks.append(f"{100 * share:.1f} % of its samples are clipped")
        offset = float(np.abs(self.sums).max() / self.num_samples)
        if offset >= MIN_OFFSET:
            remarks.append(f"it has an offset (DC) of {offset:.2f} of full scale")
        return remarks
