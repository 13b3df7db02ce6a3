"""Attention over packed rows, each of which holds several examples end to end: the mask, the kernels, and rotary positions.

There are two kernels: torch's fused one, and one made of plain matrix products, which is faster on a CPU in bf16
(`benchmarks/attention.py` measures both). `choose_kernel` is the only place that decides.

Legend of shapes: r rows, l row length, h heads, g heads of keys and values, e width of a head, d = h × e, a axes of position,
m = rows × heads of the part of a batch whose scores are computed at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.device import has_amx
from mapsto.model.config import RotaryScaling
from mapsto.model.layers import Linear, dropout_mask
from mapsto.sequence.piece import Role

# Cosines and sines of rotary angles, (r, l, 1, e / 2) each.
Rotary = tuple[Tensor, Tensor]

# On a CPU in bf16 the plain products beat the fused kernel, forward and backward, at every length, except over a single short
# row. For this, only as many scores are computed at a time as fit a core's cache. On a CPU with AMX the plain products were
# found faster only in training on short rows. In fp32 the fused kernel wins.
MAX_SCORES_AT_ONCE = 2**20
MAX_PLAIN_LENGTH_WITH_AMX = 256
MAX_FUSED_LENGTH_OF_SINGLE_ROW = 64

# Attention weights of longer rows are computed again in the backward pass, which costs less than saving them.
MAX_SAVED_LENGTH = 256

# On a CPU, single queries of so many rows at least attend faster by plain products than by the fused kernel.
MIN_ROWS_OF_PRODUCTS = 16


def visibility(segments: Tensor, roles: Tensor, window: int | None = None, causal: bool = False) -> Tensor:
    """Return the attention mask, (r, l, l) of bool: entry (i, j) of a row says whether its token i may attend to its token j.

    Every token sees the source tokens of its example. A causal token also sees itself and the causal tokens before it, a
    parallel token also all parallel tokens. Padding sees only padding: a token that saw none would get NaN from the softmax.

    segments: number of each token's example within the row, (r, l); 0 is padding. roles: `Role` of each token, (r, l).
    window: largest distance in tokens at which one token sees another; None for no limit.
    causal: whether every token sees only itself and the tokens of its example before it, whatever the roles.
    """
    index = torch.arange(segments.shape[1], device=segments.device)
    distance = index[:, None] - index[None, :]
    query_roles, key_roles = roles[:, :, None], roles[:, None, :]
    is_causal = (key_roles == Role.CAUSAL) & (query_roles == Role.CAUSAL) & (distance >= 0)
    is_parallel = (key_roles == Role.PARALLEL) & (query_roles == Role.PARALLEL)
    allowed = distance >= 0 if causal else (key_roles == Role.SOURCE) | is_causal | is_parallel
    # Packed rows hold several examples, which must not see each other.
    allowed = allowed & (segments[:, :, None] == segments[:, None, :])
    return allowed if window is None else allowed & (distance.abs() <= window)


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return the mask to add to the attention scores, (r, 1, l, l): 0 where attention is allowed, −∞ elsewhere.

    None if it is allowed everywhere, as in rows that hold one picture each: kernels are faster without a mask.
    allowed: (r, l, l), from `visibility`.
    """
    # An exported graph serves every batch, so it always has the mask.
    if not torch.compiler.is_exporting() and bool(allowed.all()):
        return None
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)[:, None]


def choose_kernel(rows: int, length: int, dtype: torch.dtype, device: str, training: bool) -> Literal["plain", "fused"]:
    """Return the attention kernel that was faster in measurements: plain matrix products ("plain") or torch's fused one.

    rows, length: number of packed rows, and of tokens in each. device: torch's device type, such as "cpu".
    training: whether gradients are computed.
    """
    if device != "cpu" or dtype != torch.bfloat16:
        return "fused"
    if has_amx():
        return "plain" if training and length <= MAX_PLAIN_LENGTH_WITH_AMX else "fused"
    return "fused" if not training and rows == 1 and length <= MAX_FUSED_LENGTH_OF_SINGLE_ROW else "plain"


def self_attention(
    qkv: Tensor, mask: Tensor | None, heads: int, rotary: Rotary | None = None, dropout: float = 0.0
) -> Tensor:
    """Return the output of multi-head self-attention, (r, l, d), to which the layer has yet to apply its output projection.

    qkv: queries, keys and values of all heads, concatenated in this order, (r, l, 3d).
    mask: from `additive_mask`, (r, 1, l, l); None if every token of a row sees every other.
    rotary: cosines and sines from `rotary_angles`; None for no rotary positions.
    dropout: probability with which an attention weight is dropped.
    """
    training = torch.is_grad_enabled() and qkv.requires_grad
    if choose_kernel(qkv.shape[0], qkv.shape[1], qkv.dtype, qkv.device.type, training) == "plain":
        out: Tensor = PlainAttention.apply(qkv, mask, heads, rotary, dropout)  # type: ignore[no-untyped-call]
        return out
    return attend(*split_heads(qkv, heads, heads, rotary), mask, dropout)


def split_heads(
    qkv: Tensor, heads: int, kv_heads: int, rotary: Rotary | None, norms: tuple[nn.Module, nn.Module] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries (r, l, h, e), keys and values (r, l, g, e) of a fused projection, normalised and rotated.

    qkv: queries, keys and values of all heads, concatenated in this order, (r, l, (h + 2g) × e).
    kv_heads: number of heads g of keys and values.
    rotary: cosines and sines from `rotary_angles`; None for no rotary positions.
    norms: norms of the queries and of the keys, over the width of a head; None for no norm.
    """
    parts = qkv.view(*qkv.shape[:2], heads + 2 * kv_heads, -1)
    qk, v = parts[:, :, :-kv_heads], parts[:, :, -kv_heads:]
    if norms is not None:
        qk = torch.cat([norms[0](qk[:, :, :heads]), norms[1](qk[:, :, heads:])], dim=2)
    # Queries and keys are rotated together, in one pass over memory.
    if rotary is not None:
        # Without gradients the function alone is called, which is quicker for the single tokens of decoding.
        is_inference = torch.is_inference_mode_enabled()
        qk = _rotate(qk, rotary, inverse=False) if is_inference else Rotate.apply(qk, *rotary)  # type: ignore[no-untyped-call]
    return qk[:, :, :heads], qk[:, :, heads:], v


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Return the output of torch's fused attention, (r, l, h × e), to which the layer has yet to apply its output projection.

    q: queries (r, l, h, e). k, v: keys and values (r, s, g, e), possibly of other tokens than the queries; g divides h.
    mask: mask to add to the scores, (r, 1, l, s) or (r, h, l, s); None if every query sees every key of its row.
    dropout: probability with which an attention weight is dropped. scale: factor of the scores; None for e^-½.

    The computation is in the precision of the keys, which may be kept in another one than the queries have.
    """
    dtype = q.dtype
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    q = q.to(k.dtype)
    # Sizes are looked at last: in an exported graph, which is not traced in inference mode, they are not known.
    is_inference = torch.is_inference_mode_enabled() and k.device.type == "cpu"
    if is_inference and q.shape[2] == 1 and len(k) >= MIN_ROWS_OF_PRODUCTS:
        out = _attend_once(q, k, v, mask, q.shape[3] ** -0.5 if scale is None else scale)
    else:
        is_grouped = {"enable_gqa": True} if k.shape[1] != q.shape[1] else {}
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale, **is_grouped)
    return out.transpose(1, 2).flatten(2).to(dtype)


def _attend_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return softmax(scale × q kᵀ + mask) v by matrix products, for a single query in each row, (r, h, 1, e).

    q: (r, h, 1, e). k, v: (r, g, s, e), where g divides h. mask: (r, 1, 1, s) or (r, h, 1, s); None for none.
    """
    grouped = q.reshape(len(q), k.shape[1], -1, q.shape[3])
    scores = torch.matmul(grouped * scale, k.mT)
    if mask is not None:
        scores += mask if mask.shape[1] == 1 else mask.reshape(len(mask), *grouped.shape[1:3], -1)
    return torch.matmul(scores.softmax(-1), v).view_as(q)


class PlainAttention(torch.autograd.Function):
    """Multi-head self-attention by plain matrix products, for a few rows or heads at a time so that the scores stay in cache.

    The input is the concatenation of queries, keys and values, (r, l, 3d). One pass over memory rotates and scales queries and
    keys and copies them to the layout that the products need. The three gradients are written straight into one tensor
    (r, l, 3d); autograd would make a transposed copy of each and then concatenate them.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, mask: Tensor | None, heads: int, rotary: Rotary | None, dropout: float
    ) -> Tensor:
        parts = qkv.view(*qkv.shape[:2], 3, heads, -1)
        stacked = qkv.new_empty(3, len(qkv), heads, qkv.shape[1], parts.shape[-1])
        ctx.scale = parts.shape[-1] ** -0.5
        _rotate_qkv(parts, stacked.transpose(2, 3), rotary, ctx.scale, inverse=False)
        weights, drop, scores = None, None, _Scores(stacked, mask)
        # Saved weights spare the backward pass the computation of the scores, but take memory that grows with l².
        # The drawn mask cannot be drawn again in the backward pass, so with dropout the weights are saved at any length.
        if ctx.needs_input_grad[0] and (dropout or stacked.shape[3] <= MAX_SAVED_LENGTH):
            weights = stacked.new_empty(*stacked.shape[1:4], stacked.shape[3])
            drop = dropout_mask(weights, dropout) if dropout else None
        out = torch.empty_like(stacked[0])
        # `out[part]` is contiguous, so flatten is a view and the product writes into `out`.
        for part in scores.slices():
            q, k, v, out_part = (tensor[part].flatten(0, 1) for tensor in (*stacked, out))
            w = scores.weights(q, k, part, None if weights is None else weights[part].flatten(0, 1))
            torch.bmm(w if drop is None else w * drop[part].flatten(0, 1), v, out=out_part)
        ctx.save_for_backward(stacked, mask, weights, drop, *(rotary or (None, None)))
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        stacked, mask, weights, drop, cos, sin = ctx.saved_tensors
        _, rows, heads, length, _ = stacked.shape
        grad_out = gradients[0].view(rows, length, heads, -1).transpose(1, 2).contiguous()
        grad_stacked, scores, grad_scores = torch.empty_like(stacked), _Scores(stacked, mask), _Scores(stacked, None)
        for part in scores.slices():
            tensors = (*stacked, grad_out, *grad_stacked)
            q, k, v, grad_o, grad_q, grad_k, grad_v = (tensor[part].flatten(0, 1) for tensor in tensors)
            w = scores.weights(q, k, part) if weights is None else weights[part].flatten(0, 1)
            grad_w = torch.bmm(grad_o, v.mT, out=grad_scores.buffer(q))
            if drop is None:
                torch.bmm(w.mT, grad_o, out=grad_v)
            else:
                drop_part = drop[part].flatten(0, 1)
                torch.bmm((w * drop_part).mT, grad_o, out=grad_v)
                grad_w.mul_(drop_part)
            # In place: once the gradient of the scores is known, that of the weights is not needed any more.
            torch.ops.aten._softmax_backward_data.out(grad_w, w, -1, w.dtype, grad_input=grad_w)
            torch.bmm(grad_w, k, out=grad_q)
            torch.bmm(grad_w.mT, q, out=grad_k)
        grad = stacked.new_empty(rows, length, 3, heads, stacked.shape[4])
        grad_parts = grad_stacked.transpose(2, 3).permute(1, 2, 0, 3, 4)
        rotary = None if cos is None else (cos, sin)
        # The gradient of a rotation is the rotation back.
        _rotate_qkv(grad_parts, grad.permute(2, 0, 1, 3, 4), rotary, ctx.scale, inverse=True)
        return grad.flatten(2), None, None, None, None


class _Scores:
    """Attention scores, computed in one reused buffer for a few rows, or for a few heads of one row, at a time.

    stacked: queries, keys and values, (3, r, h, l, e).
    mask: mask to add to the scores, (r, 1, l, l); None if every token of a row sees every other.
    """

    def __init__(self, stacked: Tensor, mask: Tensor | None) -> None:
        self.mask = mask
        _, self.rows, self.heads, self.length, _ = stacked.shape
        # Whole rows if all heads of a row fit, else some heads of one row, so that a slice is always contiguous.
        num_heads = max(1, MAX_SCORES_AT_ONCE // self.length**2)
        self.slice_rows, self.slice_heads = max(1, num_heads // self.heads), min(self.heads, num_heads)
        size = min(self.slice_rows, self.rows) * self.slice_heads
        self.memory = stacked.new_empty(size, self.length, self.length)

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yield pairs (slice of rows, slice of heads) that together cover all rows and heads."""
        for row in range(0, self.rows, self.slice_rows):
            for head in range(0, self.heads, self.slice_heads):
                yield slice(row, row + self.slice_rows), slice(head, head + self.slice_heads)

    def buffer(self, q: Tensor) -> Tensor:
        """Return uninitialised memory for the scores (m, l, l) of queries q (m, l, e). Every call returns the same memory."""
        return self.memory[: len(q)]

    def weights(self, q: Tensor, k: Tensor, part: tuple[slice, slice], out: Tensor | None = None) -> Tensor:
        """Return the attention weights softmax(q kᵀ + mask), (m, l, l), of the rows and heads in `part`.

        q, k: scaled queries and keys of these rows and heads, (m, l, e). part: slice of rows and slice of heads, from `slices`.
        out: tensor to write the weights to; by default the buffer, which the next call overwrites.
        """
        out = self.buffer(q) if out is None else out
        torch.bmm(q, k.mT, out=out)
        if self.mask is not None:
            # All heads of a row have the same mask.
            mask = self.mask[part[0]]
            out.view(len(mask), -1, *out.shape[1:]).add_(mask)
        return torch.softmax(out, -1, out=out)


def _rotate_qkv(parts: Tensor, out: Tensor, rotary: Rotary | None, scale: float, inverse: bool) -> None:
    """Write rotated and scaled queries, rotated keys, and unchanged values to `out` (3, r, l, h, e).

    parts: queries, keys and values, (r, l, 3, h, e). rotary: cosines and sines; None for no rotation.
    scale: factor for the queries. inverse: whether to rotate by the negative angles.
    """
    if rotary is None:
        torch.mul(parts[:, :, 0], scale, out=out[0])
        out[1:].copy_(parts[:, :, 1:].permute(2, 0, 1, 3, 4))
        return
    cos, sin = rotary
    # Scaling the angles scales the rotated queries, without a pass of its own.
    _rotate(parts[:, :, 0], (cos * scale, sin * scale), inverse, out[0])
    _rotate(parts[:, :, 1], rotary, inverse, out[1])
    out[2].copy_(parts[:, :, 2])


def rotary_angles(
    positions: Tensor,
    head_width: int,
    base: float,
    dtype: torch.dtype,
    scaling: RotaryScaling | None = None,
    rotary_width: int | None = None,
) -> Rotary:
    """Return the cosines and the sines of the rotary angles of tokens (Su et al. 2021), each (r, l, 1, e / 2), in `dtype`.

    positions: position of each token along a axes, (r, l, a), such as row and column; each axis rotates w / 2a channel pairs.
    base: base of the angles' geometric progression, such as 10,000. scaling: change of these angles; None for none.
    rotary_width: number w of channels of a head that are rotated; None for all e. The angles of the others are 0.
    """
    axes = positions.shape[-1]
    rotary_width = head_width if rotary_width is None else rotary_width
    planes = rotary_width // 2 // axes
    # Angles are computed in fp32, because bf16 cannot distinguish all positions above 256.
    rates = base ** (-torch.arange(planes, device=positions.device, dtype=torch.float32) / planes)
    if scaling is not None:
        rates = _scale_rates(rates, scaling)
    angles = (positions[..., None].float() * rates).flatten(-2)[:, :, None]
    if rotary_width < head_width:
        angles = F.pad(angles, (0, head_width // 2 - angles.shape[-1]))
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _scale_rates(rates: Tensor, scaling: RotaryScaling) -> Tensor:
    """Return the rates of rotary angles, in radians per position, (planes,), changed by `scaling`."""
    if scaling.kind == "linear":
        return rates / scaling.factor
    # Turns over all positions that the model was first trained on: few for slow rates, which then cannot tell positions beyond.
    turns = scaling.original_positions * rates / (2 * math.pi)
    fastness = ((turns - scaling.slow_turns) / (scaling.fast_turns - scaling.slow_turns)).clamp(0, 1)
    return rates * (fastness + (1 - fastness) / scaling.factor)


def relative_buckets(distances: Tensor, num_buckets: int, longest: int, causal: bool) -> Tensor:
    """Return the number of the bucket of each distance (Raffel et al. 2020, section 2.1), in a tensor of the same shape.

    Half of the buckets hold one distance each, the others grow logarithmically; from `longest` on all are in the last one.
    distances: position of the key minus that of the query. causal: whether only keys before the query are seen; if not, keys
    behind it have the second half of the buckets.
    """
    buckets = torch.zeros_like(distances)
    if not causal:
        num_buckets //= 2
        buckets = (distances > 0) * num_buckets
    sizes = -distances.clamp(max=0) if causal else distances.abs()
    num_exact = num_buckets // 2
    growth = torch.log(sizes.clamp(min=1).float() / num_exact) / math.log(longest / num_exact)
    logarithmic = (num_exact + (growth * (num_buckets - num_exact)).long()).clamp(max=num_buckets - 1)
    return buckets + torch.where(sizes < num_exact, sizes, logarithmic)


@dataclass(frozen=True)
class GatedBias:
    """A mask for attention with a bias of relative positions that each layer has yet to scale.

    mask: mask to add to the scores, (r, 1, l, s); None if every query sees every key of its row.
    bias: bias of the scores by distance, (1 or r, h, l, s).
    """

    mask: Tensor | None
    bias: Tensor


class BiasGate(nn.Module):
    """The gate by which each query of a layer scales the bias of its distances (WavLM, Chen et al. 2022, section 3.1).

    heads: number of heads h. head_width: width of a head e.
    """

    # Numbers that are computed for each query and head: they are summed to an update and a reset gate.
    NUM_PARTS = 8

    def __init__(self, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear = Linear(head_width, self.NUM_PARTS)
        self.constant = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, bias: GatedBias) -> Tensor:
        """Return the mask to add to the scores, (r, h, l, s). x: the tokens that the layer's attention reads, (r, l, d)."""
        parts = self.linear(x.view(*x.shape[:2], self.heads, -1))
        parts = parts.view(*parts.shape[:3], 2, -1).sum(-1).transpose(1, 2)
        update, reset = torch.sigmoid(parts).chunk(2, dim=-1)
        gated = (update * (reset * self.constant.to(x.dtype) - 1) + 2) * bias.bias
        return gated if bias.mask is None else gated + bias.mask


def sinusoids(count: int, width: int) -> Tensor:
    """Return the sines, then the cosines, of positions at geometrically falling rates (Vaswani et al. 2017), (count, width)."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class Rotate(torch.autograd.Function):
    """Rotary positions applied to x (r, l, h, e): channels i and i + e / 2 are rotated by the i-th angle.

    The gradient is the inverse rotation, written by hand since it takes a third of the passes over memory that autograd
    takes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, (cos, sin), inverse=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradients[0], (cos, sin), inverse=True), None, None


def _rotate(x: Tensor, rotary: Rotary, inverse: bool, out: Tensor | None = None) -> Tensor:
    """Return x (r, l, h, e) rotated by the angles whose cosines and sines are `rotary`; by their negatives if `inverse`.

    out: tensor to write the result to; by default a new one.
    """
    cos, sin = rotary
    sign = -1.0 if inverse else 1.0
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    (x1, x2), (out1, out2) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(x1, cos, out=out1).addcmul_(x2, sin, value=-sign)
    torch.mul(x2, cos, out=out2).addcmul_(x1, sin, value=sign)
    return out
