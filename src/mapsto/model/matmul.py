"""Matmul."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Products in bf16 over more tokens are made over a multiple of so many, and then over the rest.
EVEN = 2048


# How oneDNN names what a product may do with its result before it is written.
POST_OPS = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}


def pack(weight: Tensor) -> Tensor | None:
    """A weight (out, in) laid out as the products of this device want it, for `packed_linear`; None where none is faster.

    A CPU with bf16 units lays weights out anew in every product otherwise. How much packing
    saves, benchmarks/products.py measures.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not packs():
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def packs() -> bool:
    """Whether this CPU and this build of torch have products over packed bf16 weights."""
    built = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """`activation` of the linear map of x, (…, in) → (…, out), with a weight from `pack`."""
    name, algorithm = POST_OPS[activation]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
    return out


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map of x, (…, in) → (…, out), with a weight (out, in), for learning too."""
    tokens = x.shape[:-1].numel()
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and tokens > EVEN and tokens % EVEN:
        found: Tensor = CutProduct.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


class CutProduct(torch.autograd.Function):
    """The linear map of x, (m, in) → (m, out), over most of the tokens and then over the rest.

    oneDNN makes products in blocks of a size that divides theirs. Over 32 × 257 tokens, as vision Transformers have them, a
    block is good for nothing, and the product takes up to twice as long (benchmarks/products.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        out = x.new_empty(len(x), len(weight))
        for part in _cut(len(x)):
            if bias is None:
                torch.mm(x[part], weight.t(), out=out[part])
            else:
                torch.addmm(bias, x[part], weight.t(), out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), of_out, of_x = ctx.saved_tensors, gradients[0], None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            for part in _cut(len(x)):
                torch.mm(of_out[part], weight, out=of_x[part])
        of_weight = of_out.t() @ x if ctx.needs_input_grad[1] else None
        return of_x, of_weight, of_out.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None


def _cut(tokens: int) -> tuple[slice, slice]:
    even = tokens // EVEN * EVEN
    return slice(even), slice(even, tokens)
