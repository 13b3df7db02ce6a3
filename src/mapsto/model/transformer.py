"""The Transformer (Vaswani et al. 2017): one stack whose configuration covers all published families.

Legend of shapes: r rows, l row length, d width, h heads, g heads of keys and values, e width of a head, a axes of position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.attention import (
    BiasGate,
    GatedBias,
    Rotary,
    additive_mask,
    attend,
    relative_buckets,
    rotary_angles,
    self_attention,
    sinusoids,
    split_heads,
    visibility,
)
from mapsto.model.config import TransformerConfig
from mapsto.model.cross_attention import CrossAttention, EncodedSources, Sources
from mapsto.model.kv_cache import KeyValueCache, KeyValueStore, Recorder
from mapsto.model.layers import Dropout, LayerNorm, Linear, RMSNorm, gated_activation
from mapsto.model.wave.positions import PositionConvolution
from mapsto.sequence.piece import Role

# What is added to the scores of attention: a mask, or a mask and a bias that each layer scales; None for nothing.
Mask = Tensor | GatedBias | None


class TokenLayout(Protocol):
    """The tensors from which the Transformer knows the example, role, position and source of each token in packed rows.

    `Batch` is such a layout.
    """

    @property
    def segments(self) -> Tensor:
        """Number of each token's example within its row, (r, l), from 1 on; 0 is padding."""

    @property
    def roles(self) -> Tensor:
        """Role of each token (source, causal or parallel), (r, l)."""

    @property
    def positions(self) -> Tensor:
        """Position of each token in its example along each of a axes, (r, l, a): one axis in text, two in images."""

    @property
    def places(self) -> Tensor:
        """Index of the piece of each token within its example, (r, l); for a source token it is the index of the source port."""


@dataclass(frozen=True)
class SingleExampleLayout:
    """Layout of rows that each hold one example of one source, without padding.

    positions: position of each token in its example, (r, l, a).
    """

    positions: Tensor

    @property
    def segments(self) -> Tensor:
        """Number of each token's example within its row, (r, l): 1 for all tokens, since a row holds one example."""
        return torch.ones(self.positions.shape[:2], dtype=torch.long, device=self.positions.device)

    @property
    def roles(self) -> Tensor:
        """Role of each token, (r, l): all are source tokens."""
        return Role.SOURCE * self.segments

    @property
    def places(self) -> Tensor:
        """Index of the source port that each token came from, (r, l): 0 for all tokens."""
        return 0 * self.segments


def make_norm(config: TransformerConfig, width: int | None = None, epsilon: float | None = None) -> nn.Module:
    """Build the layer norm or RMS norm that `config` describes. `width` and `epsilon`, if given, replace those of `config`."""
    width, epsilon = width or config.width, config.norm_epsilon if epsilon is None else epsilon
    if config.norm == "rms":
        return RMSNorm(width, eps=epsilon)
    return LayerNorm(width, eps=epsilon, bias=config.norm_bias)


def make_projection(width: int, config: TransformerConfig) -> Linear:
    """Build the linear map from vectors of `width` to vectors of `config.width`, the width of a stack."""
    return Linear(width, config.width, bias=config.bias and config.projection_bias)


@dataclass(frozen=True)
class LayerState:
    """The state of a layer while answers are generated: kept keys and values, and the sources of an encoder–decoder.

    layer: number of the layer, from 0. store: where keys and values of earlier tokens are kept; None for none.
    sources: the source tokens that a decoder attends to by cross-attention; None for a stack without it.
    """

    layer: int
    store: KeyValueStore | None
    sources: Sources | None


class Attention(nn.Module):
    """Multi-head or grouped-query self-attention with one fused projection of queries, keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dropout = config.heads, config.num_kv_heads, config.attention_dropout
        query_width, key_width = config.query_width, config.key_width
        # The bias of the fused projection includes the keys. Without a bias for keys, a smaller one replaces it.
        without_key_bias = config.has_qkv_bias and not config.key_bias
        self.qkv = Linear(config.width, query_width + 2 * key_width, bias=config.has_qkv_bias and config.key_bias)
        self.qv_bias = nn.Parameter(torch.zeros(query_width + key_width)) if without_key_bias else None
        self.out = Linear(query_width, config.width, bias=config.has_out_bias)
        self.scale = None if config.scaled_scores else 1.0
        self.query_norm, self.key_norm = (
            RMSNorm(config.width_per_head, eps=config.norm_epsilon) if config.qk_norm else None for _ in range(2)
        )
        self.bias_gate = BiasGate(config.heads, config.width_per_head) if config.gated_relative else None

    def forward(self, x: Tensor, mask: Mask, rotary: Rotary | None = None, state: LayerState | None = None) -> Tensor:
        """Return the output of self-attention, (r, l, d) → (r, l, d).

        mask: mask to add to the scores, (r, 1, l, l), possibly with a bias; None if every token of a row sees every other.
        rotary: cosines and sines from `rotary_angles`; None for no rotary positions.
        state: where keys and values of earlier tokens are kept; None for tokens that are computed once.
        """
        mask = self._scale_bias(x, mask)
        if state is not None and state.store is not None:
            queries, keys, values = self.queries_keys_values(x, rotary)
            return self.attend(queries, *state.store.extend(state.layer, keys, values), mask)
        # The kernel of plain matrix products, which may be faster, is for as many keys as queries, and one mask for all heads.
        is_general = mask is not None and mask.shape[1] > 1
        if is_general or self._norms is not None or self.kv_heads != self.heads or self.scale is not None:
            return self.attend(*self.queries_keys_values(x, rotary), mask)
        out: Tensor = self.out(self_attention(self._projected(x), mask, self.heads, rotary, self._dropout_now))
        return out

    def _scale_bias(self, x: Tensor, mask: Mask) -> Tensor | None:
        """Return the mask to add to the scores, with its bias of relative positions scaled by the gate of x (r, l, d)."""
        if not isinstance(mask, GatedBias):
            return mask
        assert self.bias_gate is not None
        scaled: Tensor = self.bias_gate(x, mask)
        return scaled

    def queries_keys_values(self, x: Tensor, rotary: Rotary | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries (r, l, h, e), keys and values (r, l, g, e) of x (r, l, d), with their biases, norms and rotation.

        rotary: cosines and sines from `rotary_angles`; None for no rotary positions.
        """
        return split_heads(self._projected(x), self.heads, self.kv_heads, rotary, self._norms)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output of attention, (r, l, d), given queries, keys and values from `queries_keys_values`.

        q: queries (r, l, h, e). k, v: keys and values (r, s, g, e), such as those kept from earlier steps of decoding.
        mask: mask to add to the scores, (r, 1, l, s); None if every query sees every key of its row.
        """
        out: Tensor = self.out(attend(q, k, v, mask, self._dropout_now, self.scale))
        return out

    @property
    def _dropout_now(self) -> float:
        """Probability with which an attention weight is dropped: 0 outside training."""
        return self.dropout if self.training else 0.0

    @property
    def _norms(self) -> tuple[nn.Module, nn.Module] | None:
        """Norms of the queries and of the keys; None if there are none."""
        return None if self.query_norm is None or self.key_norm is None else (self.query_norm, self.key_norm)

    def _projected(self, x: Tensor) -> Tensor:
        """Return queries, keys and values of x (r, l, d), concatenated, (r, l, (h + 2g) × e)."""
        qkv: Tensor = self.qkv(x)
        bias = None if self.qv_bias is None else self.bias
        return qkv if bias is None else qkv + bias.to(qkv.dtype)

    @property
    def bias(self) -> Tensor | None:
        """Bias of queries, keys and values, ((h + 2g) × e,), zero for keys without a bias; None if none of them has one."""
        if self.qv_bias is None:
            return self.qkv.bias
        q, v = self.qv_bias[: self.out.in_features], self.qv_bias[self.out.in_features :]
        return torch.cat([q, torch.zeros_like(v), v])


class FeedForward(nn.Module):
    """Position-wise feed-forward part of a layer; gated (GLU variants, Shazeer 2020) if `config.gated`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, config.activation
        self.up = Linear(config.width, config.feed_forward_width * (2 if config.gated else 1), bias=config.bias)
        self.down = Linear(config.feed_forward_width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = gated_activation(self.up(x), self.activation) if self.gated else self.up(x, self.activation)
        out: Tensor = self.down(x)
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward part, each with a norm and a residual connection.

    layer: number of the layer, from 0.
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.pre = config.norm_place == "pre"
        # If the embeddings are normalised, the first pre-norm layer needs no norm (ModernBERT). Shared layers cannot differ.
        is_normalised = self.pre and layer == 0 and config.embedding_norm and not config.first_norm
        is_normalised &= not config.shared_layers
        self.attention_norm = nn.Identity() if is_normalised else make_norm(config)
        self.attention = Attention(config)
        self.cross_norm = make_norm(config) if config.cross_attention else None
        self.cross = CrossAttention(config) if config.cross_attention else None
        self.feed_norm = make_norm(config)
        self.feed = FeedForward(config)
        self.dropout = Dropout(config.dropout)
        scale = config.layer_scale
        self.attention_scale, self.feed_scale = (
            None if scale is None else nn.Parameter(torch.full((config.width,), scale)) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Mask, rotary: Rotary | None = None, state: LayerState | None = None) -> Tensor:
        """Return the output of the layer, (r, l, d) → (r, l, d).

        mask: mask to add to the scores, (r, 1, l, l); None if every token of a row sees every other.
        rotary: cosines and sines from `rotary_angles`; None for no rotary positions.
        state: kept keys and values, and the sources of cross-attention; None for a stack that has neither.
        """
        x = self._residual(
            x, self.attention_norm, lambda y: self.attention(y, mask, rotary, state), self.attention_scale
        )
        cross, sources = self.cross, None if state is None else state.sources
        if cross is not None and self.cross_norm is not None:
            assert state is not None and sources is not None, "cross-attention needs the states of the sources"
            layer, attended = state.layer, sources
            x = self._residual(x, self.cross_norm, lambda y: cross(y, layer, attended))
        return self._residual(x, self.feed_norm, self.feed, self.feed_scale)

    def _residual(
        self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], scale: Tensor | None = None
    ) -> Tensor:
        """Return x + dropout(scale × part(norm(x))) in a pre-norm layer, norm(x + dropout(part(x))) in a post-norm layer.

        part: attention or feed-forward part. scale: factor for each channel, (d,), in pre-norm layers only; None for 1.
        """
        if self.pre:
            update = part(norm(x))
            return torch.add(x, self.dropout(update if scale is None else update * scale.to(x.dtype)))
        out: Tensor = norm(x + self.dropout(part(x)))
        return out


class Transformer(nn.Module):
    """The stack of layers, from embedded tokens to hidden states.

    Before the first layer it adds learnt embeddings of positions and of token types, if the configuration has them.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        if config.layers and not config.fits_heads:
            raise ValueError(
                f"width {config.width} does not split into {config.heads} heads of an even width, or these heads do not split "
                f"into {config.num_kv_heads} groups"
            )
        is_absolute = config.positions == "absolute"
        width = config.input_width
        self.position_table = nn.Embedding(config.max_positions, width) if is_absolute else None
        is_sinusoidal, is_relative = (config.positions == name for name in ("sinusoidal", "relative"))
        # Not a weight, so it is computed and not saved.
        self.sinusoids: Tensor | None
        self.register_buffer("sinusoids", sinusoids(config.max_positions, width) if is_sinusoidal else None, False)
        # One bias for each bucket of distances and each head, the same in all layers.
        self.relative_table = nn.Embedding(config.relative_buckets, config.heads) if is_relative else None
        self.position_convolution = (
            PositionConvolution(width, config.position_kernel, config.position_groups, config.position_activation)
            if config.position_kernel
            else None
        )
        self.type_table = nn.Embedding(config.token_types, width) if config.token_types else None
        self.language_table = nn.Embedding(config.languages, width).requires_grad_(False) if config.languages else None
        self.embedding_norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.embedding_map = make_projection(width, config) if config.embedding_width else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_blocks))
        self.final_norm = make_norm(config, epsilon=config.final_epsilon) if config.final_norm else nn.Identity()
        self.vector_norm = make_norm(config).requires_grad_(False) if config.vector_norm else None
        self.initialise()

    def initialise(self) -> None:
        """Set biases to zero and draw matrices from a normal distribution with standard deviation 0.02.

        In pre-norm stacks, weights of linear maps whose output is added to the residual stream are divided by
        √(2 × layers) (Radford et al. 2019).
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_onto_stream = name.endswith(("out.weight", "down.weight")) and self.config.norm_place == "pre"
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers) if is_onto_stream else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def pack(self, dtype: torch.dtype, quantize: bool = False) -> None:
        """Convert the layers to `dtype` and pack their weights for bf16 prediction on a CPU (see Linear.pack).

        Afterwards the stack cannot be trained any more.
        """
        self.blocks.to(dtype)
        for module in self.blocks.modules():
            if isinstance(module, Linear):
                module.pack(quantize)

    def forward(
        self,
        x: Tensor,
        layout: TokenLayout,
        every_layer: bool = False,
        mid_positions: Tensor | None = None,
        store: Recorder | None = None,
        sources: Sources | None = None,
    ) -> Tensor | list[Tensor]:
        """Return the hidden states (r, l, d) after the last layer and its norm.

        x: embedded tokens, (r, l, input_width). layout: segments, roles, positions and places of the tokens, such as the batch.
        every_layer: whether to return instead the list of the first layer's input and each layer's output, the last one normed.
        mid_positions: position embeddings to add after each layer but the last, (layers - 1, r, l, d); None to add nothing.
        store: keeps the keys and values of all layers; None if they are not needed again.
        sources: the source tokens that a decoder attends to by cross-attention.
        """
        config = self.config
        num_earlier = 0 if store is None else store.num_earlier
        positions = layout.positions + num_earlier
        if self.position_convolution is not None:
            x = x + self.position_convolution(x, layout.segments, layout.roles)
        x = self._embed(x, positions, layout.places)
        seen = {
            is_local: additive_mask(
                F.pad(visibility(layout.segments, layout.roles, window, config.causal), (num_earlier, 0), value=True),
                x.dtype,
            )
            for is_local, window in self._windows.items()
        }
        index = torch.arange(x.shape[1], device=x.device)
        masks = self._add_bias(seen, index[None], index, x.dtype)
        rotary = self._rotary(positions, x.dtype)
        states = [x]
        for i in range(config.layers):
            is_local = config.is_local(i)
            state = None if store is None and sources is None else LayerState(i, store, sources)
            # With shared layers there is a single block.
            x = self.blocks[i % config.num_blocks](x, masks[is_local], rotary[is_local], state)
            if every_layer:
                states.append(x)
            if mid_positions is not None and i + 1 < config.layers:
                x = torch.add(x, mid_positions[i])
        x = self.final_norm(x)
        return [*states[: config.layers], x] if every_layer else x

    def step(self, x: Tensor, place: int, cache: KeyValueCache) -> Tensor:
        """Return the hidden states (b, d) of one new token of each answer, and keep its keys and values.

        x: embedded tokens, (b, input_width). place: index of the answer's piece within an example.
        cache: keys and values of all earlier tokens; each new token gets the position after the last of them.
        """
        cache.begin_step()
        # A text has one axis of position; further axes, of pictures, stay 0.
        positions = F.pad(cache.lengths[:, None, None], (0, cache.axes - 1))
        x = self._embed(x[:, None], positions, torch.full_like(cache.lengths[:, None], place))
        seen: dict[bool, Tensor | None] = {is_local: cache.mask(window) for is_local, window in self._windows.items()}
        index = torch.arange(cache.top, device=x.device)
        masks = self._add_bias(seen, cache.lengths[:, None], index, cache.dtype)
        rotary = self._rotary(positions, x.dtype)
        for i in range(self.config.layers):
            is_local = self.config.is_local(i)
            state = LayerState(i, cache, cache.memory)
            x = self.blocks[i % self.config.num_blocks](x, masks[is_local], rotary[is_local], state)
        cache.advance()
        out: Tensor = self.final_norm(x)[:, 0]
        return out

    def record_sources(self, states: Tensor, recorder: Recorder) -> None:
        """Record the keys and values that cross-attention computes in each layer of source states (r, s, d)."""
        sources = EncodedSources(states, None, recorder)
        for layer in range(self.config.layers):
            block: Any = self.blocks[layer % self.config.num_blocks]
            sources.keys_values(layer, block.cross)

    def _embed(self, x: Tensor, positions: Tensor, places: Tensor) -> Tensor:
        """Return the input of the first layer, (r, l, d): embedded tokens x (r, l, input_width) with what the stack adds to them.

        positions: (r, l, a), positions of the tokens. places: (r, l), index of the piece of each token within its example.
        """
        config = self.config
        if config.embedding_scale is not None:
            x = x * config.embedding_scale
        if self.position_table is not None:
            x = x + self.position_table(positions[..., 0] + config.position_offset).to(x.dtype)
        if self.sinusoids is not None:
            x = x + self.sinusoids[positions[..., 0]].to(x.dtype)
        if self.type_table is not None:
            x = x + self.type_table(places.clamp(max=config.token_types - 1)).to(x.dtype)
        out: Tensor = self.embedding_map(self.dropout(self.embedding_norm(x)))
        return out

    def _add_bias(
        self, masks: dict[bool, Tensor | None], queries: Tensor, keys: Tensor, dtype: torch.dtype
    ) -> dict[bool, Mask]:
        """Return the masks with the bias of relative positions added, (r, h, l, s); unchanged without such positions.

        If the layers scale the bias, each mask is returned beside it.
        queries: (1 or r, l), position of each query. keys: (s,), position of each key. Only distances within an example matter.
        """
        if self.relative_table is None:
            return {**masks}
        distances = keys - queries[:, :, None]
        config = self.config
        buckets = relative_buckets(distances, config.relative_buckets, config.relative_distance, config.causal)
        bias = self.relative_table(buckets).permute(0, 3, 1, 2).to(dtype)
        if config.gated_relative:
            return {is_local: GatedBias(mask, bias) for is_local, mask in masks.items()}
        return {is_local: bias if mask is None else mask + bias for is_local, mask in masks.items()}

    @property
    def _windows(self) -> dict[bool, int | None]:
        """Return by locality, False for global and True for local layers, how far their tokens see; None for no limit."""
        config = self.config
        return {
            is_local: config.window if is_local else None for is_local in map(config.is_local, range(config.layers))
        }

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> dict[bool, Rotary | None]:
        """Return by locality the cosines and sines of the rotary angles at positions (r, l, a); None for other positions."""
        config = self.config
        if config.positions != "rotary":
            return {False: None, True: None}
        bases = {False: config.rotary_base, True: config.rotary_base_local}
        settings = dtype, config.rotary_scaling, config.rotary_width
        return {
            is_local: rotary_angles(positions, config.width_per_head, bases[is_local], *settings)
            for is_local in self._windows
        }
