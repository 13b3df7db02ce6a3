"""Attention over packed rows: who sees whom, the kernels that compute it, and rotary positions.

Legend of shapes: r rows, l row length, k length of the memory, h heads, e width of a head, d = h × e, a axes of position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.device import has_amx
from mapsto.model.dropout import keeping
from mapsto.sequence.piece import Role

# On a CPU in bf16 the plain products beat the fused kernel, forward and backward, at every length, when as many scores as a
# core's cache holds are made, used and overwritten at a time; but not over a single short row. With AMX that was measured
# for training on short rows alone. In fp32 the fused kernel wins (benchmarks/attention.py measures it).
SCORES_AT_ONCE = 2**20


LONGEST_PLAIN_ROW_WITH_AMX, LONGEST_LONE_FUSED = 256, 64


# Weights of longer rows are made again in the backward pass, which costs less than to keep them.
LONGEST_KEPT_ROW = 256


def visible(segments: Tensor, roles: Tensor, window: int | None = None) -> Tensor:
    """Who sees whom, (r, l, l) of bool with the seeing token first.

    A source token sees the sources of its example, a causal token also the causal tokens up to itself, a parallel token
    also all parallel tokens. Nobody sees another example; padding sees padding, so that no row of weights is empty.
    """
    index = torch.arange(segments.shape[1], device=segments.device)
    distance = index[:, None] - index[None, :]
    seeing, seen = roles[:, :, None], roles[:, None, :]
    before = (seen == Role.CAUSAL) & (seeing == Role.CAUSAL) & (distance >= 0)
    beside = (seen == Role.PARALLEL) & (seeing == Role.PARALLEL)
    allowed = (seen == Role.SOURCE) | before | beside
    allowed &= segments[:, :, None] == segments[:, None, :]
    return allowed if window is None else allowed & (distance.abs() <= window)


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The mask as it is added to the scores, (r, 1, l, l): 0 where allowed, −∞ elsewhere. None where all is allowed, as in rows
    of one picture each."""
    if bool(allowed.all()):
        return None
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)[:, None]


def kernel(rows: int, length: int, dtype: torch.dtype, device: str, training: bool) -> Literal["plain", "fused"]:
    """Which attention kernel serves a call; the one place that decides, from measurement."""
    if device != "cpu" or dtype != torch.bfloat16:
        return "fused"
    if has_amx():
        return "plain" if training and length <= LONGEST_PLAIN_ROW_WITH_AMX else "fused"
    return "fused" if not training and rows == 1 and length <= LONGEST_LONE_FUSED else "plain"


def self_attention(
    qkv: Tensor, mask: Tensor | None, heads: int, rotary: tuple[Tensor, Tensor] | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention of tokens to one another, (r, l, d), out of their fused projection (r, l, 3d); mask (r, 1, l, l)."""
    training = torch.is_grad_enabled() and qkv.requires_grad
    if kernel(len(qkv), qkv.shape[1], qkv.dtype, qkv.device.type, training) == "plain":
        cos, sin = rotary or (None, None)
        found: Tensor = PlainAttention.apply(qkv, mask, heads, cos, sin, dropout)  # type: ignore[no-untyped-call]
        return found
    parts = qkv.view(*qkv.shape[:2], 3 * heads, -1)
    qk, v = parts[:, :, : 2 * heads], parts[:, :, 2 * heads :]
    if rotary is not None:
        qk = Rotate.apply(qk, *rotary)  # type: ignore[no-untyped-call]
    q, k = qk.chunk(2, dim=2)
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class PlainAttention(torch.autograd.Function):
    """Rotary turn, scaled products and softmax over a fused projection (r, l, 3d), written out, slice by slice.

    The turn brings queries and keys to where the products want them and scales them on the way; gradients go straight back
    into one (r, l, 3d). Autograd would copy each of the three apart, transposed, and together again.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, mask: Tensor | None, heads: int, cos: Tensor | None, sin: Tensor | None, dropout: float
    ) -> Tensor:
        parts = qkv.view(*qkv.shape[:2], 3, heads, -1)
        laid = qkv.new_empty(3, len(qkv), heads, qkv.shape[1], parts.shape[-1])
        ctx.scale = parts.shape[-1] ** -0.5
        _each(parts, laid.transpose(2, 3), cos, sin, ctx.scale, 1.0)
        weights, kept, scores = None, None, _Scores(laid, mask)
        if ctx.needs_input_grad[0] and (dropout or laid.shape[3] <= LONGEST_KEPT_ROW):
            weights = laid.new_empty(*laid.shape[1:4], laid.shape[3])
            kept = keeping(weights, dropout) if dropout else None
        mixed = torch.empty_like(laid[0])
        for part in scores.slices():
            q, k, v, out = (tensor[part].flatten(0, 1) for tensor in (*laid, mixed))
            w = scores.weights(q, k, part, None if weights is None else weights[part].flatten(0, 1))
            torch.bmm(w if kept is None else w * kept[part].flatten(0, 1), v, out=out)
        ctx.save_for_backward(laid, mask, weights, cos, sin, kept)
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        laid, mask, weights, cos, sin, kept = ctx.saved_tensors
        of_mixed = gradients[0].view(laid.shape[1], laid.shape[3], laid.shape[2], -1).transpose(1, 2).contiguous()
        of_laid, scores, spare = torch.empty_like(laid), _Scores(laid, mask), _Scores(laid, None)
        for part in scores.slices():
            q, k, v, of_out, of_q, of_k, of_v = (tensor[part].flatten(0, 1) for tensor in (*laid, of_mixed, *of_laid))
            w = scores.weights(q, k, part) if weights is None else weights[part].flatten(0, 1)
            of_w = torch.bmm(of_out, v.mT, out=spare.room(q))
            if kept is None:
                torch.bmm(w.mT, of_out, out=of_v)
            else:
                drop = kept[part].flatten(0, 1)
                torch.bmm((w * drop).mT, of_out, out=of_v)
                of_w.mul_(drop)
            torch.ops.aten._softmax_backward_data.out(of_w, w, -1, w.dtype, grad_input=of_w)
            torch.bmm(of_w, k, out=of_q)
            torch.bmm(of_w.mT, q, out=of_k)
        found = laid.new_empty(laid.shape[1], laid.shape[3], 3, laid.shape[2], laid.shape[4])
        _each(of_laid.transpose(2, 3).permute(1, 2, 0, 3, 4), found.permute(2, 0, 1, 3, 4), cos, sin, ctx.scale, -1.0)
        return found.flatten(2), None, None, None, None, None


class _Scores:
    """Room for the scores of as many rows, or heads of one row, as are made at once."""

    def __init__(self, laid: Tensor, mask: Tensor | None) -> None:
        """laid: (3, r, h, l, e); mask (r, 1, l, l)."""
        self.mask = mask
        _, self.rows, heads, self.length, _ = laid.shape
        at_once = max(1, SCORES_AT_ONCE // self.length**2)
        self.heads, self.some_rows, self.some_heads = heads, max(1, at_once // heads), min(heads, at_once)
        self.memory = laid.new_empty(min(self.some_rows, self.rows) * self.some_heads, self.length, self.length)

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Which rows, and which heads of them, one after the other."""
        for row in range(0, self.rows, self.some_rows):
            for head in range(0, self.heads, self.some_heads):
                yield slice(row, row + self.some_rows), slice(head, head + self.some_heads)

    def room(self, q: Tensor) -> Tensor:
        """Where the scores of a slice of queries (m, l, e) go, (m, l, l)."""
        return self.memory[: len(q)]

    def weights(self, q: Tensor, k: Tensor, part: tuple[slice, slice], out: Tensor | None = None) -> Tensor:
        """softmax(q kᵀ + mask), (m, l, l), of a slice, in `out` or here."""
        out = self.room(q) if out is None else out
        torch.bmm(q, k.mT, out=out)
        if self.mask is not None:
            mask = self.mask[part[0]]
            out.view(len(mask), -1, *out.shape[1:]).add_(mask)
        return torch.softmax(out, -1, out=out)


def _each(parts: Tensor, out: Tensor, cos: Tensor | None, sin: Tensor | None, scale: float, way: float) -> None:
    """Queries turned and scaled, keys turned, values as they are: (r, l, 3, h, e) → `out` (3, r, l, h, e)."""
    if cos is None or sin is None:
        torch.mul(parts[:, :, 0], scale, out=out[0])
        out[1:].copy_(parts[:, :, 1:].permute(2, 0, 1, 3, 4))
        return
    _turn(parts[:, :, 0], cos * scale, sin * scale, way, out[0])
    _turn(parts[:, :, 1], cos, sin, way, out[1])
    out[2].copy_(parts[:, :, 2])


def rotary_angles(positions: Tensor, head_width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (r, l, 1, e / 2), of rotary positions (Su et al. 2021).

    With several axes each axis turns an equal share of the planes.
    """
    axes = positions.shape[-1]
    planes = head_width // 2 // axes
    rates = base ** (-torch.arange(planes, device=positions.device, dtype=torch.float32) / planes)
    angles = (positions[..., None].float() * rates).flatten(-2)[:, :, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Rotate(torch.autograd.Function):
    """Turn the planes (i, i + e / 2) of (r, l, h, e) by their angles.

    The gradient is the turn back. Written out, this takes a third of the passes over memory that autograd would take.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, way: float, out: Tensor | None = None) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    (first, second), (one, other) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(first, cos, out=one).addcmul_(second, sin, value=-way)
    torch.mul(second, cos, out=other).addcmul_(first, sin, value=way)
    return out
