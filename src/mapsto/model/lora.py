"""LoRA (Hu et al. 2021): trainable low-rank updates of the linear maps in Transformer layers, whose own weights are frozen.

Only the updates and the heads are trained, so gradients and optimizer state shrink to a few per cent. After training the
updates are added to the weights, so that the model is as fast as before. Legend of shapes: o outputs, i inputs, k rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import Linear
from mapsto.model.mapping import Mapping

# LoRA's alpha / rank, the factor of the update. It is the same for all ranks, so that one learning rate suits them all.
ALPHA_PER_RANK = 2


class LowRankLinear(Linear):
    """Linear map with frozen weights and a trainable low-rank update: W x + b + 2 B A x, with B zero at first.

    linear: the map whose weights are used. rank: rows of A and columns of B.
    """

    def __init__(self, linear: Linear, rank: int) -> None:
        nn.Module.__init__(self)  # nn.Linear's would draw weights, but those of `linear` are used
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def project(self, x: Tensor) -> Tensor:
        """Return W x + b + 2 B A x, (…, i) → (…, o)."""
        low_rank = F.linear(x, self.lora_a.to(x.dtype)) * ALPHA_PER_RANK
        return super().project(x) + F.linear(low_rank, self.lora_b.to(x.dtype))

    @torch.no_grad()
    def to_linear(self) -> Linear:
        """Return a plain linear map with the weight W + 2 B A and the same bias."""
        linear = Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.weight.device)
        linear.weight.copy_(self.weight + ALPHA_PER_RANK * self.lora_b @ self.lora_a)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear


@dataclass(frozen=True)
class LowRankUpdate:
    """The matrices a (k, i) and b (o, k), in fp32, of the low-rank update 2 b a that was added to one linear map."""

    a: Tensor
    b: Tensor


def attach(mapping: Mapping, rank: int) -> None:
    """Add a trainable low-rank update to every linear map in the Transformer's layers, in place.

    All weights of the embedders and of the Transformer, those of the linear maps too, are frozen. Updates and heads stay
    trainable. rank: rank of the updates.
    """
    for module in (mapping.embedders, *mapping.stacks):
        module.requires_grad_(False)
    for stack in mapping.stacks:
        for name, linear in list(stack.blocks.named_modules()):
            if isinstance(linear, Linear):
                stack.blocks.set_submodule(name, LowRankLinear(linear, rank))


def merge(mapping: Mapping) -> dict[str, LowRankUpdate]:
    """Replace every linear map that has a low-rank update by a plain one that contains it; return the updates.

    The key of an update is the name of its linear map among the mapping's modules. Afterwards all weights are trainable again,
    except those that are never trained (`mapping.fixed`).
    """
    updates = {}
    for name, module in list(mapping.named_modules()):
        if isinstance(module, LowRankLinear):
            updates[name] = LowRankUpdate(module.lora_a.detach().float(), module.lora_b.detach().float())
            mapping.set_submodule(name, module.to_linear())
    # `attach` froze the weights; those in `fixed` are never trained.
    for name, parameter in mapping.named_parameters():
        parameter.requires_grad_(name not in mapping.fixed)
    return updates
