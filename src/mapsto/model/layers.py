"""Layers with fp32 weights that compute in the precision of their input, so that a bf16 step needs no autocast.

Legend of shapes: m vectors, d width, f width inside a feed-forward part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from mapsto.model import matmul

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh", "identity"]

# Slope of the sigmoid in CLIP's approximation of GELU.
QUICK_GELU_SLOPE = 1.702

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: F.silu(QUICK_GELU_SLOPE * x) / QUICK_GELU_SLOPE,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}


class Linear(nn.Linear):
    """Linear map that computes in the precision of its input, whatever the precision of its weights.

    With fp32 weights a bf16 step thus needs no second copy of the weights and no autocast.
    """

    # The weight in a layout for prediction, once `pack` was called.
    packed: matmul.PackedWeight | None = None

    def forward(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """Return activation(x Wᵀ + b), (…, in) → (…, out); x Wᵀ + b if `activation` is None."""
        if self.packed is not None and activation in self.packed.activations:
            return self.packed.linear(x, self.bias, activation)
        x = self.project(x)
        return x if activation is None else ACTIVATIONS[activation](x)

    def project(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b, (…, in) → (…, out)."""
        if self.packed is not None:
            return self.packed.linear(x, self.bias)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return matmul.linear(x, self.weight.to(x.dtype), bias)

    def pack(self, quantize: bool = False) -> None:
        """Convert the weight to a layout for prediction (see `matmul.pack_weight`), after which it cannot be trained any more.

        Do nothing if the weight is not bf16, or not on a CPU that has such products.
        """
        self.packed = matmul.pack_weight(self.weight, quantize)
        # The packed copy replaces the weight, so that prediction does not need memory for both.
        if self.packed is not None:
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


def new_head(width: int, out: int) -> Linear:
    """Build a linear head (m, width) → (m, out) with small random weights and zero biases."""
    head = Linear(width, out)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


class LayerNorm(nn.LayerNorm):
    """Layer normalisation that computes in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation that computes in the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            # torch's RMS norm takes several passes over memory here. Its layer norm is a single kernel, and the same for [x, −x],
            # whose mean is 0 and whose variance is the mean square of x.
            assert self.eps is not None
            both = torch.cat((x, -x), dim=-1)
            return F.layer_norm(both, both.shape[-1:], eps=self.eps)[..., : x.shape[-1]] * weight
        return F.rms_norm(x, list(self.normalized_shape), weight, self.eps)


def dropout_mask(like: Tensor, rate: float) -> Tensor:
    """Draw a dropout mask of the shape and dtype of `like`: 0 with probability `rate`, else 1 / (1 − rate).

    The mask depends only on the state of torch's random generator. On a CPU this generator is slow, so only a key is drawn
    from it. A fast generator seeded with the key then draws one byte for each element, which rounds the rate to a multiple
    of 1/256.
    """
    # On other devices torch's own dropout is fast.
    if like.device.type != "cpu":
        return F.dropout(torch.ones_like(like), rate)
    threshold = round(256 * rate)
    key = int(torch.randint(2**62, ()))
    random_bytes = np.frombuffer(np.random.Generator(np.random.SFC64(key)).bytes(like.numel()), np.uint8)
    mask = torch.from_numpy(random_bytes >= threshold).view(like.shape)
    return mask.to(like.dtype).mul_(256 / (256 - threshold))


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) that draws its masks by `dropout_mask`, whose random numbers are cheap on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return x * dropout_mask(x, self.rate) if self.training and self.rate else x


@dataclass(frozen=True)
class TransformConfig:
    """Shape of the dense layer between a hidden state or pooled vector and a head, as in BERT.

    The field names are keys in saved targets, so renaming one would make saved models unreadable.
    """

    activation: Activation = "gelu"
    # Whether the linear map has a bias.
    bias: bool = False
    # Whether a norm follows the activation, and whether that norm has a bias.
    norm: bool = True
    norm_bias: bool = False
    norm_epsilon: float = 1e-5
    # Whether there is a linear map with an activation; if not, there is only the norm.
    dense: bool = True
    # Whether the head behind the layer has a bias.
    head_bias: bool = True
    # Whether a head over a vocabulary has output weights of its own, not those of the token embeddings.
    head_weight: bool = False
    # Whether vectors are divided by the root of their width before the output weights of a vocabulary (T5).
    head_scaled: bool = False

    @property
    def is_empty(self) -> bool:
        """Return whether neither the layer nor a head over a vocabulary behind it has weights of its own."""
        return not (self.dense or self.norm or self.head_bias or self.head_weight)


class Transform(nn.Module):
    """Linear layer, activation and layer norm, (m, width) → (m, out), some of which `config` may leave out.

    out: width of the output; by default `width`.
    """

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
    def init_identity(self) -> None:
        """Set the weight of the linear layer to 0.1 × the identity; do nothing if there is no linear layer.

        It serves a new pooler on a starting model. GELU and tanh are close to linear for small inputs, so that new heads read
        the starting model's vectors almost unchanged but for their scale.
        """
        if self.dense is not None:
            self.dense.weight.copy_(0.1 * torch.eye(len(self.dense.weight)))


class GatedGelu(torch.autograd.Function):
    """Gated GELU, (…, 2f) → (…, f): GELU of the first half of the channels, times the second half.

    Only the input is saved for the backward pass, and the gradient is written straight into its two halves. Autograd would
    also save the activation, and copy the halves to join them.
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
        grad = torch.empty_like(x)
        grad_value, grad_gate = grad.chunk(2, dim=-1)
        # One buffer serves both halves: first for gelu(value), then for the gradient that reaches gelu.
        buffer = F.gelu(value)
        torch.mul(buffer, gradients[0], out=grad_gate)
        torch.mul(gate, gradients[0], out=buffer)
        torch.ops.aten.gelu_backward.grad_input(buffer, value, grad_input=grad_value)
        return grad


def gated_activation(x: Tensor, activation: Activation) -> Tensor:
    """Return activation(first half of the channels of x) × second half, (…, 2f) → (…, f).

    A TorchFunctionMode may replace this function; the explanation method AttnLRP does so (explain/attnlrp.py).
    """
    # Custom autograd functions are invisible to a TorchFunctionMode, so it is asked before.
    if has_torch_function_unary(x):
        replaced: Tensor = handle_torch_function(gated_activation, (x,), x, activation)
        return replaced
    if activation == "gelu":
        product: Tensor = GatedGelu.apply(x)  # type: ignore[no-untyped-call]
        return product
    value, gate = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](value) * gate
