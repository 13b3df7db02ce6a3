"""The one Transformer: a stack whose configuration covers the published families.

Legend of shapes: r rows, l row length, k length of the memory, d width, f width inside the feed-forward part, a axes of position.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.attention import additive, rotary_angles, self_attention, visible
from mapsto.model.config import TransformerConfig
from mapsto.model.dropout import Dropout
from mapsto.model.layers import LayerNorm, Linear, RMSNorm, gated


def make_norm(config: TransformerConfig, width: int | None = None, epsilon: float | None = None) -> nn.Module:
    """The normalisation that `config` asks for, over its width or another, with its epsilon or another."""
    width, epsilon = width or config.width, config.norm_epsilon if epsilon is None else epsilon
    if config.norm == "rms":
        return RMSNorm(width, eps=epsilon)
    return LayerNorm(width, eps=epsilon, bias=config.norm_bias)


def make_map(width: int, config: TransformerConfig) -> Linear:
    """What brings tokens of another width to that of `config`."""
    return Linear(width, config.width, bias=config.bias and config.map_bias)


class Attention(nn.Module):
    """Multi-head attention with one fused projection; over `memory` when it is given (cross-attention)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        keyless = config.bias and not config.key_bias
        self.qkv = Linear(config.width, 3 * config.width, bias=config.bias and not keyless)
        self.qv_bias = nn.Parameter(torch.zeros(2 * config.width)) if keyless else None
        self.out = Linear(config.width, config.width, bias=config.bias)

    def forward(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None = None, memory: Tensor | None = None
    ) -> Tensor:
        """x: (r, l, d); memory: (r, k, d) or None for self-attention; mask: (r, 1, l, k)."""
        dropout = self.dropout if self.training else 0.0
        if memory is None:
            mixed = self_attention(self._projected(x), mask, self.heads, rotary, dropout)
        else:
            d = x.shape[-1]
            weight, bias = self.qkv.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
            q = F.linear(x, weight[:d], None if bias is None else bias[:d])
            kv = F.linear(memory, weight[d:], None if bias is None else bias[d:])
            parts = (y.reshape(*y.shape[:2], self.heads, -1) for y in (q, *kv.chunk(2, dim=-1)))
            q, k, v = (part.transpose(1, 2) for part in parts)
            mixed = (
                F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(2)
            )
        out: Tensor = self.out(mixed)
        return out

    def _projected(self, x: Tensor) -> Tensor:
        """Queries, keys and values, (r, l, 3d)."""
        qkv: Tensor = self.qkv(x)
        bias = None if self.qv_bias is None else self.bias
        return qkv if bias is None else qkv + bias.to(qkv.dtype)

    @property
    def bias(self) -> Tensor | None:
        """Of queries, keys and values, (3d,)."""
        if self.qv_bias is None:
            return self.qkv.bias
        q, v = self.qv_bias.chunk(2)
        return torch.cat([q, torch.zeros_like(q), v])


class FeedForward(nn.Module):
    """The position-wise part; gated as in GLU variants (Shazeer 2020) when the config says so."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, config.activation
        self.up = Linear(config.width, config.hidden * (2 if config.gated else 1), bias=config.bias)
        self.down = Linear(config.hidden, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = gated(self.up(x), self.activation) if self.gated else self.up(x, self.activation)
        out: Tensor = self.down(x)
        return out


class Block(nn.Module):
    """One layer: attention, optional cross-attention, feed-forward, each with its norm and residual."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.pre = config.norm_place == "pre"
        unnormed = self.pre and layer == 0 and config.embedding_norm and not config.first_norm
        unnormed &= not config.shared_layers
        self.attention_norm = nn.Identity() if unnormed else make_norm(config)
        self.attention = Attention(config)
        self.cross_norm = make_norm(config) if config.cross_attention else None
        self.cross = Attention(config) if config.cross_attention else None
        self.feed_norm = make_norm(config)
        self.feed = FeedForward(config)
        self.dropout = Dropout(config.dropout)
        scales = config.layer_scale
        self.attention_scale, self.feed_scale = (
            None if scales is None else nn.Parameter(torch.full((config.width,), scales)) for _ in range(2)
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor] | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """x: (r, l, d) → (r, l, d)."""
        x = self._residual(x, self.attention_norm, lambda y: self.attention(y, mask, rotary), self.attention_scale)
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x = self._residual(x, self.cross_norm, lambda y: cross(y, memory_mask, None, memory))
        return self._residual(x, self.feed_norm, self.feed, self.feed_scale)

    def _residual(
        self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], scale: Tensor | None = None
    ) -> Tensor:
        if self.pre:
            added = part(norm(x))
            return torch.add(x, self.dropout(added if scale is None else added * scale.to(x.dtype)))
        out: Tensor = norm(x + self.dropout(part(x)))
        return out


class Transformer(nn.Module):
    """Positions, token types and the stack of blocks, from embedded tokens to hidden states."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        if config.layers and (config.width % config.heads or (config.width // config.heads) % 2):
            raise ValueError(f"width {config.width} does not split into {config.heads} heads of an even width")
        absolute = config.positions == "absolute"
        width = config.input_width
        self.position_table = nn.Embedding(config.max_positions, width) if absolute else None
        self.type_table = nn.Embedding(config.token_types, width) if config.token_types else None
        self.language_table = nn.Embedding(config.languages, width).requires_grad_(False) if config.languages else None
        self.embedding_norm = make_norm(config, width) if config.embedding_norm else nn.Identity()
        self.embedding_map = make_map(width, config) if config.embedding_width else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.blocks))
        self.final_norm = make_norm(config, epsilon=config.final_epsilon) if config.final_norm else nn.Identity()
        self.vector_norm = make_norm(config).requires_grad_(False) if config.vector_norm else None
        self.initialise()

    def initialise(self) -> None:
        """Normal weights of deviation 0.02; projections onto the residual stream shrink with depth (Radford et al. 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                onto_stream = name.endswith(("out.weight", "down.weight")) and self.config.norm_place == "pre"
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers) if onto_stream else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def pack(self, dtype: torch.dtype) -> None:
        """Give up learning: only answer from now on, in `dtype`."""
        self.blocks.to(dtype)
        for part in self.blocks.modules():
            if isinstance(part, Linear) and not self.config.cross_attention:  # which takes its weights in slices
                part.pack()

    def forward(
        self,
        x: Tensor,
        segments: Tensor,
        roles: Tensor,
        positions: Tensor,
        places: Tensor,
        memory: Tensor | None = None,
        memory_segments: Tensor | None = None,
        every_layer: bool = False,
        between: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Hidden states (r, l, d) of embedded tokens `x` (r, l, input_width); with `every_layer` the list of all from the first
        layer's input on.

        segments, roles, places: (r, l); positions: (r, l, a). memory: (r, k, d) with memory_segments (r, k), for a stack
        with cross-attention: a token sees the memory of its own segment. between: (layers - 1, r, l, d), added behind every layer
        but the last.
        """
        config = self.config
        if self.position_table is not None:
            x = x + self.position_table(positions[..., 0] + config.position_offset).to(x.dtype)
        if self.type_table is not None:
            x = x + self.type_table(places.clamp(max=config.token_types - 1)).to(x.dtype)
        x = self.embedding_map(self.dropout(self.embedding_norm(x)))
        masks = {False: additive(visible(segments, roles), x.dtype)}
        rotary: dict[bool, tuple[Tensor, Tensor] | None] = {False: None, True: None}
        locals_ = {config.is_local(i) for i in range(config.layers)}
        if True in locals_:
            masks[True] = additive(visible(segments, roles, config.window), x.dtype)
        if config.positions == "rotary":
            for local in locals_:
                base = config.rotary_base_local if local else config.rotary_base
                rotary[local] = rotary_angles(positions, config.width // config.heads, base, x.dtype)
        memory_mask = None
        if memory is not None and memory_segments is not None:
            memory_mask = additive(segments[:, :, None] == memory_segments[:, None, :], x.dtype)
        states = [x]
        for i in range(config.layers):
            local = config.is_local(i)
            x = self.blocks[i % config.blocks](x, masks[local], rotary[local], memory, memory_mask)
            if every_layer:
                states.append(x)
            if between is not None and i + 1 < config.layers:
                x = torch.add(x, between[i])
        x = self.final_norm(x)
        return [*states[: config.layers], x] if every_layer else x
