"""Layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from mapsto.model import matmul

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh"]


STEEPNESS = 1.702  # of the quick gelu


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
        if self.packed is not None and activation in matmul.POST_OPS:
            return matmul.packed_linear(x, self.packed, self.bias, activation)
        x = self.product(x)
        return x if activation is None else ACTIVATIONS[activation](x)

    def product(self, x: Tensor) -> Tensor:
        """The linear map alone."""
        if self.packed is not None:
            return matmul.packed_linear(x, self.packed, self.bias, None)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return matmul.product(x, self.weight.to(x.dtype), bias)

    def pack(self) -> None:
        """Give up learning: only answer from now on, with the weights laid out as the products want them."""
        self.packed = matmul.pack(self.weight)
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
