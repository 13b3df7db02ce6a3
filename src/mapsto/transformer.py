"""The one Transformer: a stack whose configuration covers the published families.

Legend of shapes: r rows, l row length, k length of the memory, d width, f width inside the feed-forward part, a axes of position.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from mapsto import device
from mapsto.attention import additive, rotary_angles, self_attention, visible
from mapsto.dropout import Dropout

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh"]
STEEPNESS = 1.702  # of the quick gelu


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that tells one published stack from another.

    hidden: width inside the feed-forward part (after gating). window: tokens seen to either side in local layers, for
    layers that are not a multiple of `global_every`. rotary_base_local: base of the rotary angles in local layers.
    embedding_width: width of the embeddings, where a linear map brings them to `width` (None: they have it already).
    shared_layers: all layers are one and the same. languages: rows of a table that is kept but not added, as the
    reference does where no language is named. layer_scale: what each part of a layer is multiplied by at first, channel by
    channel, before it is added (CaiT, Touvron et al. 2021); None where it is added as it is. vector_norm: of the first token
    alone, where the vector of a bare model is asked for; no head reads it, so it is kept and not trained. key_bias: whether keys
    have a bias where the rest of a layer has, which attention cannot tell. map_bias: likewise whether a linear map has one that
    brings tokens of another width to this one. final_epsilon: of the norm at the end, where it is another.
    """

    width: int = 256
    embedding_width: int | None = None
    layers: int = 6
    shared_layers: bool = False
    heads: int = 4
    hidden: int = 688
    norm: Literal["layer", "rms"] = "layer"
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = False
    bias: bool = False
    activation: Activation = "gelu"
    gated: bool = True
    positions: Literal["rotary", "absolute", "none"] = "rotary"
    max_positions: int = 512
    position_offset: int = 0
    axes: int = 1
    rotary_base: float = 10_000.0
    rotary_base_local: float = 10_000.0
    window: int | None = None
    global_every: int = 1
    token_types: int = 0
    languages: int = 0
    embedding_norm: bool = True
    first_norm: bool = False
    final_norm: bool = True
    cross_attention: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_scale: float | None = None
    vector_norm: bool = False
    key_bias: bool = True
    map_bias: bool = True
    final_epsilon: float | None = None

    @property
    def longest(self) -> int:
        """Tokens the stack can take at once."""
        return self.max_positions - self.position_offset

    @property
    def input_width(self) -> int:
        """Width of the embedded tokens that the stack takes."""
        return self.embedding_width or self.width

    @property
    def blocks(self) -> int:
        """Layers with weights of their own."""
        return 1 if self.shared_layers else self.layers

    def is_local(self, layer: int) -> bool:
        """Whether `layer` sees its window only."""
        return self.window is not None and layer % self.global_every != 0


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: F.silu(STEEPNESS * x) / STEEPNESS,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class Linear(nn.Linear):
    """A linear map that computes in the precision of its input while its weights stay as they are.

    So fp32 weights are their own masters: a bf16 step needs no second copy and no autocast.
    """

    packed: Tensor | None = None

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """`activation` of the linear map of x, (…, in) → (…, out)."""
        if self.packed is not None and activation in device.POST_OPS:
            return device.packed_linear(x, self.packed, self.bias, activation)
        x = self.product(x)
        return x if activation is None else ACTIVATIONS[activation](x)

    def product(self, x: Tensor) -> Tensor:
        """The linear map alone."""
        if self.packed is not None:
            return device.packed_linear(x, self.packed, self.bias, None)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return device.product(x, self.weight.to(x.dtype), bias)

    def pack(self) -> None:
        """Give up learning: only answer from now on, with the weights laid out as the products want them."""
        self.packed = device.pack(self.weight)
        if self.packed is not None:
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


def new_head(width: int, out: int) -> Linear:
    """A linear map (m, width) → (m, out) that begins near zero."""
    head = Linear(width, out)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


class LayerNorm(nn.LayerNorm):
    """Layer normalisation in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, list(self.normalized_shape), self.weight.to(x.dtype), self.eps)


def make_norm(config: TransformerConfig, width: int | None = None, epsilon: float | None = None) -> nn.Module:
    """The normalisation that `config` asks for, over its width or another, with its epsilon or another."""
    width, epsilon = width or config.width, config.norm_epsilon if epsilon is None else epsilon
    if config.norm == "rms":
        return RMSNorm(width, eps=epsilon)
    return LayerNorm(width, eps=epsilon, bias=config.norm_bias)


def make_map(width: int, config: TransformerConfig) -> Linear:
    """What brings tokens of another width to that of `config`."""
    return Linear(width, config.width, bias=config.bias and config.map_bias)


@dataclass(frozen=True)
class TransformConfig:
    """The dense layer between a vector read out and the head: its activation, biases and optional norm; or that norm alone."""

    activation: Activation = "gelu"
    bias: bool = False
    norm: bool = True
    norm_bias: bool = False
    norm_epsilon: float = 1e-5
    dense: bool = True


class Transform(nn.Module):
    """Dense → activation → norm, (m, d) → (m, o), as the heads of published encoders have it; o is d unless given."""

    def __init__(self, width: int, config: TransformConfig, out: int | None = None) -> None:
        super().__init__()
        out = out or width
        self.activation = config.activation
        self.dense = Linear(width, out, bias=config.bias) if config.dense else None
        self.norm = LayerNorm(out, config.norm_epsilon, bias=config.norm_bias) if config.norm else nn.Identity()
        if self.dense is not None:
            nn.init.normal_(self.dense.weight, std=0.02)
            if config.bias:
                nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x if self.dense is None else self.dense(x, self.activation))
        return out

    @torch.no_grad()
    def pass_through(self) -> None:
        """Start as (nearly) the identity up to scale, so that a new head sees what the start has learned.

        Every activation here is close to linear for small inputs.
        """
        if self.dense is not None:
            self.dense.weight.copy_(0.1 * torch.eye(len(self.dense.weight)))


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


class GatedGelu(torch.autograd.Function):
    """gelu(value) × gate of (…, 2f) → (…, f), keeping nothing but its input.

    The gradient is written straight into the two halves; autograd would keep the activation, and join the halves by a copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        value, gate = x.chunk(2, dim=-1)
        return F.gelu(value).mul_(gate)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        value, gate = x.chunk(2, dim=-1)
        found = torch.empty_like(x)
        of_value, of_gate = found.chunk(2, dim=-1)
        spare = F.gelu(value)
        torch.mul(spare, gradients[0], out=of_gate)
        torch.mul(gate, gradients[0], out=spare)
        torch.ops.aten.gelu_backward.grad_input(spare, value, grad_input=of_value)
        return found


def gated(x: Tensor, activation: Activation) -> Tensor:
    """activation(value) × gate of (…, 2f) → (…, f); a TorchFunctionMode may do it in another way (see relevance.py)."""
    if has_torch_function_unary(x):
        other: Tensor = handle_torch_function(gated, (x,), x, activation)
        return other
    if activation == "gelu":
        found: Tensor = GatedGelu.apply(x)  # type: ignore[no-untyped-call]
        return found
    value, gate = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](value) * gate


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
