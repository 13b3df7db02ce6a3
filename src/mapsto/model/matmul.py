"""Matrix products that are fast on a CPU in bf16: packed weights for prediction, split products for training.

Packing converts a weight once to the memory layout of oneDNN's bf16 kernels, instead of in every product; or to 4 bits, of which
a product with few tokens reads a quarter of the bytes. Splitting computes a product in two parts, so that the first and larger
part has a number of tokens that suits oneDNN's blocks. `benchmarks/products.py` measures packed and split products in bf16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# In training, bf16 products over more tokens than this are split. The first part is the largest multiple of it.
SPLIT_TOKENS = 2048

# Weights of 4 bits: how many numbers of a row share a scale and an offset, and of how many rows the kernel needs a multiple.
INT4_GROUP, INT4_ROWS = 32, 16

# oneDNN's name and algorithm of the activations that a product can apply.
POST_OPS = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}


class PackedWeight(ABC):
    """The weight (out, in) of a linear map in a layout for prediction."""

    # The activations that the product itself applies, before it writes its result: one pass over memory fewer.
    activations: Collection[str | None] = (None,)

    @abstractmethod
    def linear(self, x: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
        """Return activation(x Wᵀ + b), (…, in) → (…, out). activation: one of `activations`; None for none."""


class Bf16Weight(PackedWeight):
    """A weight in bf16, in the layout of oneDNN's kernels.

    weight: (out, in), in bf16, on a CPU with such kernels (`can_pack`).
    """

    activations = POST_OPS.keys()

    def __init__(self, weight: Tensor) -> None:
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)

    def linear(self, x: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
        name, algorithm = POST_OPS[activation]
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, name, [], algorithm)
        return out


class Int4Weight(PackedWeight):
    """A weight of 4 bits for each number, with a scale and an offset for each INT4_GROUP numbers of a row.

    Each number is rounded to the nearest of 16 levels between the smallest and the largest of its group.
    weight: (out, in), with dimensions that `can_quantize` accepts.
    """

    def __init__(self, weight: Tensor) -> None:
        groups = weight.float().view(len(weight), -1, INT4_GROUP)
        low, high = groups.aminmax(dim=-1, keepdim=True)
        # The kernel computes (level − 8) × scale + offset, with both in bf16. Level 7.5 is the middle of a group, so that the
        # rounding of the scale does the same harm at both ends.
        scales = ((high - low) / 15).clamp(min=1e-8).bfloat16()
        offsets = ((low + high + scales) / 2).bfloat16()
        levels = ((groups - offsets) / scales + 8).round_().clamp_(0, 15)
        self.packed = torch._convert_weight_to_int4pack_for_cpu(levels.flatten(1).int(), 1)
        self.scales_and_offsets = torch.cat([scales, offsets], -1).transpose(0, 1).contiguous()

    def linear(self, x: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
        out = torch._weight_int4pack_mm_for_cpu(x.flatten(0, -2), self.packed, INT4_GROUP, self.scales_and_offsets)
        return (out if bias is None else out.add_(bias)).view(*x.shape[:-1], -1)


def pack_weight(weight: Tensor, quantize: bool = False) -> PackedWeight | None:
    """Return a weight (out, in) in a layout for prediction; None if it is not bf16, or not on a CPU that has such products.

    quantize: whether to store 4 bits for each number, where the dimensions allow it.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return None
    if quantize and can_quantize(weight):
        return Int4Weight(weight)
    return Bf16Weight(weight) if can_pack() else None


def can_quantize(weight: Tensor) -> bool:
    """Return whether torch's products with weights of 4 bits take the dimensions of a weight (out, in)."""
    out, width = weight.shape
    return out % INT4_ROWS == 0 and width % INT4_GROUP == 0


def can_pack() -> bool:
    """Return whether this CPU and this build of torch have products over packed bf16 weights."""
    is_available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return is_available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
