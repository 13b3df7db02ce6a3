"""Matrix products that are fast on a CPU in bf16: packed weights for prediction, split products for training.

Packing converts a weight once to the memory layout of oneDNN's bf16 kernels, instead of in every product. Splitting computes
a product in two parts, so that the first and larger part has a number of tokens that suits oneDNN's blocks.
`benchmarks/products.py` measures both.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# In training, bf16 products over more tokens than this are split. The first part is the largest multiple of it.
SPLIT_TOKENS = 2048

# oneDNN's name and algorithm of the activations that a product can apply before it writes its result.
POST_OPS = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}


def pack_weight(weight: Tensor) -> Tensor | None:
    """Return a weight (out, in) in the layout for `packed_linear`; None if it is not bf16 on a CPU that has such products."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not can_pack():
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def can_pack() -> bool:
    """Return whether this CPU and this build of torch have products over packed bf16 weights."""
    is_available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return is_available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """Return activation(x Wᵀ + b), (…, in) → (…, out), with a weight from `pack_weight`.

    activation: a key of POST_OPS; None for no activation.
    """
    name, algorithm = POST_OPS[activation]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b, (…, in) → (…, out).

    On a CPU in bf16, a product over more than SPLIT_TOKENS tokens that are no multiple of it is split in two (see SplitLinear).
    """
    # The number of tokens is looked at last: in an exported graph, which computes in fp32, it is not known.
    is_bf16 = x.device.type == "cpu" and x.dtype == torch.bfloat16
    if is_bf16 and (num_tokens := x.shape[:-1].numel()) > SPLIT_TOKENS and num_tokens % SPLIT_TOKENS:
        out: Tensor = SplitLinear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


class SplitLinear(torch.autograd.Function):
    """Linear map x Wᵀ + b, (m, in) → (m, out), as two products: for a multiple of SPLIT_TOKENS tokens, and for the rest.

    oneDNN multiplies in blocks whose size divides the number of tokens. For 32 × 257 tokens, a batch of a vision Transformer,
    only small blocks fit, and a single product would take up to twice as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        out = x.new_empty(len(x), len(weight))
        for part in _split(len(x)):
            if bias is None:
                torch.mm(x[part], weight.t(), out=out[part])
            else:
                torch.addmm(bias, x[part], weight.t(), out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), grad_out, grad_x = ctx.saved_tensors, gradients[0], None
        if ctx.needs_input_grad[0]:
            grad_x = torch.empty_like(x)
            for part in _split(len(x)):
                torch.mm(grad_out[part], weight, out=grad_x[part])
        grad_weight = grad_out.t() @ x if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, grad_out.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None


def _split(num_tokens: int) -> tuple[slice, slice]:
    """Return two slices: of the first tokens, the largest multiple of SPLIT_TOKENS in `num_tokens`, and of the rest."""
    boundary = num_tokens // SPLIT_TOKENS * SPLIT_TOKENS
    return slice(boundary), slice(boundary, num_tokens)
