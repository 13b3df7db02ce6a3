"""Low-rank updates of the blocks' linear maps (LoRA, Hu et al. 2021), learnt beside frozen weights and merged at the end.

Legend of shapes: o outputs, i inputs, k rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.layers import Linear
from mapsto.model.mapping import Mapping

ALPHA_A_RANK = 2  # the update counts this much, at any rank


class LowRank(Linear):
    """A linear map whose weights stay, plus the product of two thin ones: W x + 2 B A x, B zero at first."""

    def __init__(self, linear: Linear, rank: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def product(self, x: Tensor) -> Tensor:
        thin = F.linear(x, self.lora_a.to(x.dtype)) * ALPHA_A_RANK
        return super().product(x) + F.linear(thin, self.lora_b.to(x.dtype))

    @torch.no_grad()
    def merged(self) -> Linear:
        """One linear map that gives the same."""
        linear = Linear(self.in_features, self.out_features, bias=self.bias is not None, device=self.weight.device)
        linear.weight.copy_(self.weight + ALPHA_A_RANK * self.lora_b @ self.lora_a)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear


@dataclass(frozen=True)
class Update:
    """The update of one linear map: a (k, i) and b (o, k), in fp32."""

    a: Tensor
    b: Tensor


def attach(mapping: Mapping, rank: int) -> None:
    """Put a low-rank update beside every linear map of the blocks; nothing else of embeddings and stack learns."""
    for module in (mapping.embedders, mapping.transformer):
        module.requires_grad_(False)
    for name, linear in list(mapping.transformer.blocks.named_modules()):
        if isinstance(linear, Linear):
            mapping.transformer.blocks.set_submodule(name, LowRank(linear, rank))


def merge(mapping: Mapping) -> dict[str, Update]:
    """Add every update to its weights, and give them back by the name of their linear map."""
    updates = {}
    for name, module in list(mapping.named_modules()):
        if isinstance(module, LowRank):
            updates[name] = Update(module.lora_a.detach().float(), module.lora_b.detach().float())
            mapping.set_submodule(name, module.merged())
    for name, parameter in mapping.named_parameters():
        parameter.requires_grad_(name not in mapping.fixed)
    return updates
