"""Layer-wise relevance propagation for Transformers (AttnLRP, Achtibat et al. 2024), computed as a modified gradient.

With three backward rules changed, input × gradient is the relevance of the input. The gradient of an activation f is f(x)/x
in place of its derivative. That of a normalisation treats the scale as constant. Each factor of a product gets half of its
gradient. The gates of a bias of attention count as constant. Linear maps and softmax keep their gradient. Relevance costs one
backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mapsto.model.layers import ACTIVATIONS, Activation, gated_activation

EPSILON = 1e-6  # activations f(x)/x are evaluated at least this far from 0


class AttnLRP(TorchFunctionMode):
    """A context manager inside which gradients follow the AttnLRP rules, so that input × gradient is the relevance.

    The values of the forward pass stay the same. Only for fp32, as other precisions use attention kernels without these rules.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Called for every torch function inside the context; most keep their own gradient.
        rule = RULES.get(func, func)
        return rule(*args, **(kwargs or {}))


def _halve_gradient(x: Tensor) -> Tensor:
    """Return the value of `x` with a backward pass that halves the gradient."""
    # Only the first half has a gradient.
    return 0.5 * x + (0.5 * x).detach()


def _as_constant_factor(activation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function equal to an activation f, but with f(x)/x in place of the derivative in the backward pass."""

    def rule(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # At 0 the quotient f(x)/x is undefined but has a limit; a point close to 0 gives nearly this limit.
        nonzero = torch.where(x.abs() < EPSILON, torch.full_like(x, EPSILON), x)
        return x * (activation(nonzero, *args, **kwargs) / nonzero).detach()

    return rule


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    enable_gqa: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Compute scaled dot-product attention with a backward pass that halves the gradients of q, k, v and the attention weights.

    q, k, v: (…, h, l, d). attn_mask: added to the scores (…, l, l).
    enable_gqa: whether k and v have fewer heads than q, each of them shared by a group of heads. scale: factor of the scores;
    None for d^-½.
    """
    if enable_gqa:
        k, v = (part.repeat_interleave(q.shape[-3] // part.shape[-3], dim=-3) for part in (k, v))
    # Both products of attention are bilinear: each factor gets half of the relevance.
    scores = (
        _halve_gradient(q) @ _halve_gradient(k).transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    )
    weights = torch.softmax(scores if attn_mask is None else scores + attn_mask, dim=-1)
    return _halve_gradient(weights) @ _halve_gradient(v)


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Compute layer normalisation over the last axis of `x`; its backward pass treats the standard deviation as constant."""
    centred = x - x.mean(dim=-1, keepdim=True)
    out = centred * (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt().detach()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Compute RMS normalisation over the last axis of `x`; its backward pass treats the root mean square as constant."""
    epsilon = torch.finfo(x.dtype).eps if eps is None else eps
    out = x * (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt().detach()
    return out if weight is None else out * weight


def _gated(x: Tensor, activation: Activation) -> Tensor:
    """Compute the gated activation f(value) · gate with the AttnLRP backward rules of activations and of products.

    x: value and gate, concatenated along the last axis. activation: name of f.
    """
    value, gate = x.chunk(2, dim=-1)
    return _halve_gradient(_as_constant_factor(ACTIVATIONS[activation])(value)) * _halve_gradient(gate)


def _constant_gate(x: Tensor) -> Tensor:
    """Return the sigmoid of `x` without a gradient: it scales a bias that holds nothing of the input."""
    return x.sigmoid().detach()


# Torch function → the function that replaces it inside the context.
RULES: dict[Any, Callable[..., Tensor]] = {
    F.scaled_dot_product_attention: _attention,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    gated_activation: _gated,
    torch.sigmoid: _constant_gate,
    **{activation: _as_constant_factor(activation) for activation in (F.gelu, F.relu, F.silu, torch.tanh)},
}
