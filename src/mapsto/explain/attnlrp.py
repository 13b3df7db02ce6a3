"""Layer-wise relevance for Transformers (AttnLRP, Achtibat et al. 2024), as a way to differentiate.

Input × gradient gives the relevance of the input when a few functions hand it back by other rules than the chain rule:
an activation f by f(x)/x, a norm with its scale held, and a product of two factors to each of them by half. Linear maps
and softmax keep their own gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mapsto.model.layers import ACTIVATIONS, Activation, gated_activation

SMALL = 1e-6


class Relevance(TorchFunctionMode):
    """What is computed inside is the same; gradients through it are relevances. For fp32: other precisions have kernels of
    their own for attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func, func)
        return rule(*args, **(kwargs or {}))


def _half(x: Tensor) -> Tensor:
    """x, of whose gradient half goes back."""
    return 0.5 * x + (0.5 * x).detach()


def _held(of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An activation as a factor f(x)/x that is held."""

    def rule(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        away_from_0 = torch.where(x.abs() < SMALL, torch.full_like(x, SMALL), x)
        return x * (of(away_from_0, *args, **kwargs) / away_from_0).detach()

    return rule


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    scores = _half(q) @ _half(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores if attn_mask is None else scores + attn_mask, dim=-1)
    return _half(weights) @ _half(v)


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    out = centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt().detach()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    small = torch.finfo(x.dtype).eps if eps is None else eps
    out = x * (x.square().mean(dim=-1, keepdim=True) + small).rsqrt().detach()
    return out if weight is None else out * weight


def _gated(x: Tensor, activation: Activation) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return _half(_held(ACTIVATIONS[activation])(value)) * _half(gate)


RULES: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    gated_activation: _gated,
    **{activation: _held(activation) for activation in (F.gelu, F.relu, F.silu, torch.tanh)},
}
