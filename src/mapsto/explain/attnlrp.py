"""Layer-wise relevance propagation for Transformers (AttnLRP, Achtibat et al. 2024), as modified gradients.

Input × gradient is the relevance of the input once three kinds of functions use another backward rule: an activation f passes
f(x)/x back, a norm treats its scale as constant, and each factor of a product receives half of the gradient. Linear maps and
softmax keep their own gradient. The price is that of one backward pass.
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

EPSILON = 1e-6  # activations f(x)/x are evaluated at least this far from 0


class AttnLRP(TorchFunctionMode):
    """A context in which the forward pass is unchanged and input × gradient is the AttnLRP relevance.

    Only for fp32: other precisions use attention kernels that the rules do not intercept.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Called for every torch function inside the context; most keep their own gradient.
        rule = RULES.get(func, func)
        return rule(*args, **(kwargs or {}))


def _halve_gradient(x: Tensor) -> Tensor:
    return 0.5 * x + (0.5 * x).detach()


def _as_constant_factor(activation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the activation as x times the constant f(x)/x."""

    def rule(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # f(x)/x has a limit at 0, which is met by a point beside it.
        nonzero = torch.where(x.abs() < EPSILON, torch.full_like(x, EPSILON), x)
        return x * (activation(nonzero, *args, **kwargs) / nonzero).detach()

    return rule


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    # Both products of attention are bilinear: each factor gets half of the relevance.
    scores = _halve_gradient(q) @ _halve_gradient(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores if attn_mask is None else scores + attn_mask, dim=-1)
    return _halve_gradient(weights) @ _halve_gradient(v)


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    out = centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt().detach()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    epsilon = torch.finfo(x.dtype).eps if eps is None else eps
    out = x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt().detach()
    return out if weight is None else out * weight


def _gated(x: Tensor, activation: Activation) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return _halve_gradient(_as_constant_factor(ACTIVATIONS[activation])(value)) * _halve_gradient(gate)


RULES: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    gated_activation: _gated,
    **{activation: _as_constant_factor(activation) for activation in (F.gelu, F.relu, F.silu, torch.tanh)},
}
