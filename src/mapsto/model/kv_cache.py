"""Keys and values of earlier tokens, kept so that each new token of an answer costs one token's computation.

The keys and values of the sources are recorded by an ordinary forward pass over packed rows, without padding. They are then
copied to one row of a buffer for each answer, behind which each step appends those of one token. A cache takes
2 · layers · key/value heads · head width · 4 bytes for each token of each answer that is generated at the same time.

Legend of shapes: m layers, b answers, n examples, h key/value heads, e width of a head, c capacity of the buffer in tokens,
r rows, l row length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.device import cache_precision
from mapsto.model.config import TransformerConfig

# Keys and values of all layers, (m, b, h, c, e) each.
KeyValueLayers = tuple[Tensor, Tensor]

# The buffers grow by this number of tokens at a time, so that they are seldom copied.
CAPACITY_STEP = 32


def cache_bytes(shape: TransformerConfig) -> int:
    """Return the memory, in bytes, that the keys and values of one token take in all layers of a stack, in fp32."""
    return 2 * shape.layers * shape.key_width * 4


class KeyValueStore(Protocol):
    """A store that takes the keys and values of new tokens, and returns those of all tokens to attend to."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values (r, l, h, e) of new tokens; return those to attend to, (r, l', h, e) each.

        layer: number of the layer, from 0.
        """
        ...


class Recorder:
    """A store that keeps the keys and values of an ordinary forward pass over packed rows.

    num_earlier: number of tokens before those of the rows that every example sees; here none.
    """

    num_earlier = 0

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep and return the keys and values (r, l, h, e)."""
        self.layers.append((keys, values))
        return keys, values

    def gather(self, starts: Tensor, lengths: Tensor, spare: int = 0) -> KeyValueLayers:
        """Return the keys and values of all layers, (m, n, h, c, e) each, each example in a row of its own, as they are kept.

        starts: (n,), flat index r · l of each example's first token. lengths: (n,), its number of tokens.
        spare: number of places for further tokens. Places without a token repeat another token, and are never attended to.
        """
        capacity = int(lengths.max()) + spare
        first, _ = self.layers[0]
        dtype = cache_precision(first.dtype, first.device)
        places = starts[:, None] + torch.arange(capacity, device=starts.device).minimum(lengths[:, None] - 1).clamp(
            min=0
        )
        shape = len(self.layers), len(starts), first.shape[2], capacity, first.shape[3]
        keys, values = (torch.empty(shape, dtype=dtype, device=first.device) for _ in range(2))
        for layer, parts in enumerate(self.layers):
            for buffers, part in zip((keys, values), parts, strict=True):
                buffers[layer].copy_(part.flatten(0, 1)[places].transpose(1, 2))
        return keys, values


class Continuation(Recorder):
    """A recorder of packed rows whose examples all continue the same beginning, which was read once before.

    beginning: keys and values of its p tokens in all layers, (m, 1, h, p, e) each, from `Recorder.gather`.
    """

    def __init__(self, beginning: KeyValueLayers) -> None:
        super().__init__()
        self.beginning = beginning
        self.num_earlier = beginning[0].shape[3]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values (r, l, h, e); return them behind those of the beginning, (r, p + l, h, e) each."""
        super().extend(layer, keys, values)
        earlier_keys, earlier_values = (
            part[layer].to(keys.dtype).transpose(1, 2).expand(len(keys), -1, -1, -1) for part in self.beginning
        )
        return torch.cat([earlier_keys, keys], 1), torch.cat([earlier_values, values], 1)

    def gather(self, starts: Tensor, lengths: Tensor, spare: int = 0) -> KeyValueLayers:
        """Return the keys and values of the beginning and of each example in all layers, (m, n, h, p + c, e) each.

        starts, lengths, spare: as for `Recorder.gather`, without the beginning.
        """
        keys, values = (
            torch.cat([earlier.expand(-1, len(starts), -1, -1, -1), later], 3)
            for earlier, later in zip(self.beginning, super().gather(starts, lengths, spare), strict=True)
        )
        return keys, values


@dataclass
class Memory:
    """Keys and values of the source tokens that a decoder attends to by cross-attention, fixed while an answer is generated.

    keys, values: of all layers, (m, n, h, s, e) each. lengths: (n,), number of source tokens of each example.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    # Nothing looks at the attention of single steps.
    observe: None = None

    def select(self, examples: Tensor) -> Memory:
        """Return the memory of the examples at these indices."""
        lengths = self.lengths[examples]
        longest = int(lengths.max())
        return Memory(self.keys[:, examples, :, :longest], self.values[:, examples, :, :longest], lengths)

    @classmethod
    def join(cls, memories: Sequence[Memory]) -> Memory:
        """Return the memory of the examples of several ones, in order."""
        keys, values = (
            _join_buffers(parts) for parts in zip(*((memory.keys, memory.values) for memory in memories), strict=True)
        )
        return cls(keys, values, torch.cat([memory.lengths for memory in memories]))

    @property
    def nbytes(self) -> int:
        """Return the size of all keys and values in bytes."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def mask(self) -> Tensor | None:
        """Return the mask to add to the scores of cross-attention, (n, 1, 1, s): 0 for source tokens, −∞ elsewhere."""
        return _length_mask(self.lengths, self.keys.shape[3], self.keys.dtype)

    def keys_values(self, layer: int, attention: object) -> tuple[Tensor, Tensor]:
        """Return the keys and values (n, s, h, e) of the source tokens for a layer. attention: the module of this layer."""
        return self.keys[layer].transpose(1, 2), self.values[layer].transpose(1, 2)


class KeyValueCache:
    """The keys and values of all tokens before the next one, for several answers that are generated at the same time.

    keys, values: of all layers, (m, b, h, c, e) each. lengths: (b,), number of tokens of each answer's row so far.
    memory: keys and values for cross-attention; None for a model without it.
    axes: number of axes of the positions of the tokens that were read.
    active: indices of the answers that go on; None if all do. The others keep their length.
    """

    active: Tensor | None = None

    def __init__(
        self, keys: Tensor, values: Tensor, lengths: Tensor, memory: Memory | None = None, axes: int = 1
    ) -> None:
        self.keys, self.values, self.lengths, self.memory, self.axes = keys, values, lengths, memory, axes
        self._measure()

    def _measure(self) -> None:
        """Note what all layers of the next step need to know of the lengths, which would have to be found in each.

        top: number of places that the step attends to: that of the longest answer, with its new token.
        is_even: whether all answers are equally long, so that no place has to be masked.
        """
        shortest, longest = (int(length) for length in self.lengths.aminmax())
        self.top, self.is_even = longest + 1, shortest == longest

    @property
    def dtype(self) -> torch.dtype:
        """Return the number format in which keys and values are kept, and steps attend to them."""
        return self.keys.dtype

    def begin_step(self) -> None:
        """Make room for one more token of every answer, and cut the buffers into what each layer of the step sees."""
        if self.top > (capacity := self.keys.shape[3]):
            extra = -(-(self.top - capacity) // CAPACITY_STEP) * CAPACITY_STEP
            self.keys, self.values = (F.pad(part, (0, 0, 0, extra)) for part in (self.keys, self.values))
        # All layers at once: cutting each anew would take longer than writing a token to it.
        buffers = self.keys, self.values
        self._seen = [part[:, :, :, : self.top].transpose(2, 3).unbind() for part in buffers]
        self._last = [part[:, :, :, self.top - 1].unbind() for part in buffers]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (b, 1, h, e) of each answer's new token; return those of all tokens, (b, top, h, e)."""
        for seen, last, new in zip(self._seen, self._last, (keys, values), strict=True):
            if self.is_even:
                last[layer].copy_(new[:, 0])
            else:
                rows = torch.arange(len(new), device=new.device)
                seen[layer][rows, self.lengths] = new[:, 0].to(self.dtype)
        return self._seen[0][layer], self._seen[1][layer]

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Write and count the keys and values (m, b, 1, h, e) of each answer's new token, which were computed elsewhere."""
        self.begin_step()
        for layer, parts in enumerate(zip(keys, values, strict=True)):
            self.extend(layer, *parts)
        self.advance()

    def mask(self, window: int | None = None) -> Tensor | None:
        """Return the mask to add to the scores of a step, (b, 1, 1, top): 0 for tokens of the answer's row, −∞ elsewhere.

        None if every answer sees all places.
        window: largest distance in tokens at which one token sees another; None for no limit.
        """
        if self.is_even and (window is None or self.top <= window + 1):
            return None
        mask = _length_mask(self.lengths + 1, self.top, self.dtype)
        if window is None:
            return mask
        is_far = torch.arange(self.top, device=mask.device) < (self.lengths - window)[:, None]
        return mask.masked_fill(is_far[:, None, None], -torch.inf)

    def advance(self) -> None:
        """Count the token that the last step wrote for every active answer."""
        if self.active is None:
            self.lengths = self.lengths + 1
        else:
            self.lengths = self.lengths.index_add(0, self.active, torch.ones_like(self.active))
        self._measure()

    def select(self, answers: Tensor, examples: Tensor) -> KeyValueCache:
        """Return the cache of the answers at these indices. examples: their examples, in the order of the answers."""
        lengths = self.lengths[answers]
        capacity = int(lengths.max()) + CAPACITY_STEP
        keys, values = (part[:, answers, :, :capacity] for part in (self.keys, self.values))
        memory = None if self.memory is None else self.memory.select(examples)
        return KeyValueCache(keys, values, lengths, memory, self.axes)

    def reorder(self, places: Tensor, parents: Tensor) -> None:
        """Replace the answers at `places` (k,) by those at `parents` (k,), of the same examples, in a step of beam search."""
        is_moved = places != parents
        places, parents = places[is_moved], parents[is_moved]
        if not len(places):
            return
        # One layer after another, so that copies need little memory.
        for buffer in (*self.keys, *self.values):
            buffer[places, :, : self.top] = buffer[parents, :, : self.top]

    def repeat(self, count: int) -> KeyValueCache:
        """Return the cache with `count` copies of every answer, side by side; they share the memory of their example."""
        if count == 1:
            return self
        keys, values = (part.repeat_interleave(count, 1) for part in (self.keys, self.values))
        return KeyValueCache(keys, values, self.lengths.repeat_interleave(count), self.memory, self.axes)

    @classmethod
    def join(cls, caches: Sequence[KeyValueCache]) -> KeyValueCache:
        """Return the cache of the answers of several ones, in order."""
        if len(caches) == 1:
            return caches[0]
        keys, values = (
            _join_buffers(parts) for parts in zip(*((cache.keys, cache.values) for cache in caches), strict=True)
        )
        memories = [cache.memory for cache in caches if cache.memory is not None]
        memory = Memory.join(memories) if memories else None
        return cls(keys, values, torch.cat([cache.lengths for cache in caches]), memory, caches[0].axes)


def _length_mask(lengths: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to attention scores, (b, 1, 1, count): 0 at the first `lengths` (b,) places, −∞ at the others."""
    is_beyond = torch.arange(count, device=lengths.device) >= lengths[:, None]
    return torch.zeros(is_beyond.shape, dtype=dtype, device=lengths.device).masked_fill_(is_beyond, -torch.inf)[
        :, None, None
    ]


def _join_buffers(parts: Sequence[Tensor]) -> Tensor:
    """Return the keys, or the values, of several groups of answers, one group behind the other.

    The buffers (m, b, h, c, e) are padded with places without a token to the capacity of the largest.
    """
    capacity = max(part.shape[3] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, capacity - part.shape[3])) for part in parts], 1)
