"""Keys and values of earlier tokens, kept so that each new token of an answer costs one token's computation.

The keys and values of the sources are recorded by an ordinary forward pass over packed rows, without padding. They are then
copied to one row of a buffer for each answer, behind which each step appends those of one token. A cache takes
2 · layers · key/value heads · head width · 4 bytes for each token of each answer that is generated at the same time.

Legend of shapes: b answers, n examples, h key/value heads, e width of a head, c capacity of the buffer in tokens, r rows,
l row length.
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

# Keys and values of each layer.
KeyValueLayers = list[tuple[Tensor, Tensor]]

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
        self.layers: KeyValueLayers = []

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep and return the keys and values (r, l, h, e)."""
        self.layers.append((keys, values))
        return keys, values

    def gather(self, starts: Tensor, lengths: Tensor, spare: int = 0) -> KeyValueLayers:
        """Return for each layer the keys and values of each example in a row of its own, (n, h, c, e) each, as they are kept.

        starts: (n,), flat index r · l of each example's first token. lengths: (n,), its number of tokens.
        spare: number of places for further tokens. Places without a token repeat another token, and are never attended to.
        """
        capacity = int(lengths.max()) + spare
        keys, _ = self.layers[0]
        dtype = cache_precision(keys.dtype, keys.device)
        places = starts[:, None] + torch.arange(capacity, device=starts.device).minimum(lengths[:, None] - 1).clamp(
            min=0
        )
        layers = []
        for keys, values in self.layers:
            parts = (part.flatten(0, 1)[places].transpose(1, 2).to(dtype).contiguous() for part in (keys, values))
            layers.append((next(parts), next(parts)))
        return layers


class Continuation(Recorder):
    """A recorder of packed rows whose examples all continue the same beginning, which was read once before.

    beginning: keys and values of its p tokens in each layer, (1, h, p, e) each, from `Recorder.gather`.
    """

    def __init__(self, beginning: KeyValueLayers) -> None:
        super().__init__()
        self.beginning = beginning
        self.num_earlier = beginning[0][0].shape[2]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values (r, l, h, e); return them behind those of the beginning, (r, p + l, h, e) each."""
        super().extend(layer, keys, values)
        earlier_keys, earlier_values = (
            part.to(keys.dtype).transpose(1, 2).expand(len(keys), -1, -1, -1) for part in self.beginning[layer]
        )
        return torch.cat([earlier_keys, keys], 1), torch.cat([earlier_values, values], 1)

    def gather(self, starts: Tensor, lengths: Tensor, spare: int = 0) -> KeyValueLayers:
        """Return for each layer the keys and values of the beginning and of each example, (n, h, p + c, e) each.

        starts, lengths, spare: as for `Recorder.gather`, without the beginning.
        """
        pairs = zip(self.beginning, super().gather(starts, lengths, spare), strict=True)
        return [tuple(_behind(*parts) for parts in zip(earlier, later, strict=True)) for earlier, later in pairs]  # type: ignore[misc]


@dataclass
class Memory:
    """Keys and values of the source tokens that a decoder attends to by cross-attention, fixed while an answer is generated.

    layers: for each layer keys and values, (n, h, s, e) each. lengths: (n,), number of source tokens of each example.
    """

    layers: KeyValueLayers
    lengths: Tensor
    # Nothing looks at the attention of single steps.
    observe: None = None

    def select(self, examples: Tensor) -> Memory:
        """Return the memory of the examples at these indices."""
        lengths = self.lengths[examples]
        longest = int(lengths.max())
        return Memory([(k[examples, :, :longest], v[examples, :, :longest]) for k, v in self.layers], lengths)

    @classmethod
    def join(cls, memories: Sequence[Memory]) -> Memory:
        """Return the memory of the examples of several ones, in order."""
        layers = _join_layers([memory.layers for memory in memories])
        return cls(layers, torch.cat([memory.lengths for memory in memories]))

    @property
    def nbytes(self) -> int:
        """Return the size of all keys and values in bytes."""
        return sum(part.nbytes for layer in self.layers for part in layer)

    @property
    def mask(self) -> Tensor | None:
        """Return the mask to add to the scores of cross-attention, (n, 1, 1, s): 0 for source tokens, −∞ elsewhere."""
        keys, _ = self.layers[0]
        return _length_mask(self.lengths, keys.shape[2], keys.dtype)

    def keys_values(self, layer: int, attention: object) -> tuple[Tensor, Tensor]:
        """Return the keys and values (n, s, h, e) of the source tokens for a layer. attention: the module of this layer."""
        keys, values = self.layers[layer]
        return keys.transpose(1, 2), values.transpose(1, 2)


class KeyValueCache:
    """The keys and values of all tokens before the next one, for several answers that are generated at the same time.

    layers: for each layer keys and values, (b, h, c, e) each. lengths: (b,), number of tokens of each answer's row so far.
    memory: keys and values for cross-attention; None for a model without it.
    axes: number of axes of the positions of the tokens that were read.
    active: indices of the answers that go on; None if all do. The others keep their length.
    """

    active: Tensor | None = None

    def __init__(self, layers: KeyValueLayers, lengths: Tensor, memory: Memory | None = None, axes: int = 1) -> None:
        self.layers, self.lengths, self.memory, self.axes = layers, lengths, memory, axes
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
        return self.layers[0][0].dtype

    def reserve(self) -> None:
        """Make room for one more token of every answer."""
        capacity = self.layers[0][0].shape[2]
        if self.top > capacity:
            extra = -(-(self.top - capacity) // CAPACITY_STEP) * CAPACITY_STEP
            self.layers = [(F.pad(k, (0, 0, 0, extra)), F.pad(v, (0, 0, 0, extra))) for k, v in self.layers]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the keys and values (b, 1, h, e) of each answer's new token; return those of all tokens, (b, top, h, e)."""
        for buffer, new in zip(self.layers[layer], (keys, values), strict=True):
            if self.is_even:
                buffer[:, :, self.top - 1] = new[:, 0]
            else:
                buffer[torch.arange(len(keys), device=keys.device), :, self.lengths] = new[:, 0].to(buffer.dtype)
        all_keys, all_values = self.layers[layer]
        return all_keys[:, :, : self.top].transpose(1, 2), all_values[:, :, : self.top].transpose(1, 2)

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
        layers = [(k[answers, :, :capacity], v[answers, :, :capacity]) for k, v in self.layers]
        memory = None if self.memory is None else self.memory.select(examples)
        return KeyValueCache(layers, lengths, memory, self.axes)

    def reorder(self, places: Tensor, parents: Tensor) -> None:
        """Replace the answers at `places` (k,) by those at `parents` (k,), of the same examples, in a step of beam search."""
        is_moved = places != parents
        places, parents = places[is_moved], parents[is_moved]
        if not len(places):
            return
        top = self.top
        for buffers in self.layers:
            for buffer in buffers:
                buffer[places, :, :top] = buffer[parents, :, :top]

    def repeat(self, count: int) -> KeyValueCache:
        """Return the cache with `count` copies of every answer, side by side; they share the memory of their example."""
        layers = [(k.repeat_interleave(count, 0), v.repeat_interleave(count, 0)) for k, v in self.layers]
        return KeyValueCache(layers, self.lengths.repeat_interleave(count), self.memory, self.axes)

    @classmethod
    def join(cls, caches: Sequence[KeyValueCache]) -> KeyValueCache:
        """Return the cache of the answers of several ones, in order."""
        if len(caches) == 1:
            return caches[0]
        layers = _join_layers([cache.layers for cache in caches])
        memories = [cache.memory for cache in caches if cache.memory is not None]
        memory = Memory.join(memories) if memories else None
        return cls(layers, torch.cat([cache.lengths for cache in caches]), memory, caches[0].axes)


def _length_mask(lengths: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return a mask to add to attention scores, (b, 1, 1, count): 0 at the first `lengths` (b,) places, −∞ at the others."""
    is_beyond = torch.arange(count, device=lengths.device) >= lengths[:, None]
    return torch.zeros(is_beyond.shape, dtype=dtype, device=lengths.device).masked_fill_(is_beyond, -torch.inf)[
        :, None, None
    ]


def _behind(beginning: Tensor, rows: Tensor) -> Tensor:
    """Return a copy of `beginning` (1, h, p, e) in front of each of `rows` (n, h, c, e)."""
    return torch.cat([beginning.expand(len(rows), -1, -1, -1), rows], 2)


def _join_layers(parts: Sequence[KeyValueLayers]) -> KeyValueLayers:
    """Return the keys and values of several groups of answers, one group behind the other, for each layer.

    The buffers (b, h, c, e) of a group are padded with places without a token to the capacity of the largest.
    """
    layers = []
    for group in zip(*parts, strict=True):
        capacity = max(keys.shape[2] for keys, _ in group)
        keys, values = (
            torch.cat([F.pad(buffers[side], (0, 0, 0, capacity - buffers[side].shape[2])) for buffers in group])
            for side in range(2)
        )
        layers.append((keys, values))
    return layers
