"""Optimizers and the learning-rate schedule: AdamW alone, or Muon for the blocks' matrices and AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of a matrix, scaled as
in Liu et al. 2025 (https://arxiv.org/abs/2502.16982). AdamW: Loshchilov & Hutter 2019
(https://arxiv.org/abs/1711.05101). The learning rate warms up linearly, stays constant and decays linearly (Hu et al.
2024, https://arxiv.org/abs/2404.06395).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mapsto.training.muon import Muon

# Share of the steps over which the learning rate falls linearly.
DECAY = 0.40

# With 0.01 Muon's matrices grow for as long as they learn: a starting model trained for nine epochs was worse than one
# trained for four, although it predicted masked tokens better; with 0.1, as in Liu et al. 2025, it is better in both
# (benchmarks/decay.py).
WEIGHT_DECAY = {"adamw": 0.01, "muon": 0.1}

# With Muon, embeddings, biases and heads are trained by AdamW at a fifth of Muon's learning rate: 1e-3 beside 5e-3.
ADAMW_RATE_DIVISOR = 5

BLOCK_NAME = re.compile(r"^transformer\.blocks\.(\d+)\.")
HEAD_PREFIX = "heads."
# The vectors of capitals, which are new in a fit as heads are.
CAPITALS_SUFFIX = ".capitals"
EMBEDDING_PREFIXES = (
    "embedders.",
    "transformer.position_table.",
    "transformer.position_convolution.",
    "transformer.type_table.",
    "transformer.embedding_norm.",
)


def rate_factor(step: int, num_steps: int, warm_up: float) -> float:
    """Return the learning rate at `step` (from 0) as a share of its peak: linear warm-up, constant, linear decay.

    warm_up: share of the steps over which it rises.
    """
    num_warm_up, num_decay = max(1, round(warm_up * num_steps)), max(1, round(DECAY * num_steps))
    return min(1.0, (step + 1) / num_warm_up, (num_steps - step) / num_decay)


def decay_end(step: int) -> int:
    """Return the number of steps of the schedule whose decay begins at `step`.

    A run whose learning rate starts to decay early takes this number as its new last step.
    """
    return round(step / (1 - DECAY))


def layer_rate_factors(names: Iterable[str], decay: float, head: float = 1.0) -> dict[str, float]:
    """Return a factor of the learning rate for each weight, by name: layer-wise decay (Howard & Ruder 2018).

    names: the names of the weights.
    decay: each block has `decay` times the factor of the next higher one; embeddings have the smallest factor, weights
        above the last block have 1.
    head: the factor of all heads, and of the vectors of capitals.
    """
    names = list(names)
    block_of = {name: int(match[1]) for name in names if (match := BLOCK_NAME.search(name))}
    top = max(block_of.values(), default=-1) + 2

    def depth(name: str) -> int:
        if name in block_of:
            return block_of[name] + 1
        return 0 if name.startswith(EMBEDDING_PREFIXES) else top

    def is_new(name: str) -> bool:
        return name.startswith(HEAD_PREFIX) or name.endswith(CAPITALS_SUFFIX)

    return {name: head if is_new(name) else decay ** (top - depth(name)) for name in names}


class Optimizers:
    """AdamW alone, or Muon for the blocks' matrices and AdamW for the other weights, behind one learning rate.

    kind: "adamw" or "muon". rate: the peak learning rate.
    layer_decay: factor of a block's learning rate relative to the next higher block's. head: factor of the heads' rate.
    """

    def __init__(
        self,
        module: nn.Module,
        kind: Literal["adamw", "muon"],
        rate: float,
        layer_decay: float = 1.0,
        head: float = 1.0,
        muon_precision: Literal["bf16", "fp32"] = "bf16",
    ) -> None:
        self.names = {id(parameter): name for name, parameter in module.named_parameters()}
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        factors = layer_rate_factors(trained, layer_decay, head)
        adamw_rate = rate / ADAMW_RATE_DIVISOR if kind == "muon" else rate
        adamw_groups: list[dict[str, Any]] = []
        muon_groups: list[dict[str, Any]] = []
        for factor in sorted(set(factors.values())):
            members = [(name, parameter) for name, parameter in trained.items() if factors[name] == factor]
            matrices = [p for name, p in members if kind == "muon" and p.ndim == 2 and ".blocks." in name]
            matrix_ids = {id(p) for p in matrices}
            adamw_weights = [p for _, p in members if id(p) not in matrix_ids]
            peak = adamw_rate * factor
            adamw_groups += [
                {"params": [p for p in adamw_weights if p.ndim >= 2], "weight_decay": WEIGHT_DECAY[kind], "peak": peak},
                # Norms and biases do not decay.
                {"params": [p for p in adamw_weights if p.ndim < 2], "weight_decay": 0.0, "peak": peak},
            ]
            muon_groups += [{"params": matrices, "peak": rate * factor}]
        self.optimizers: list[torch.optim.Optimizer] = []
        if adamw_groups := [group for group in adamw_groups if group["params"]]:
            self.optimizers.append(
                torch.optim.AdamW(adamw_groups, lr=adamw_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
            )
        if muon_groups := [group for group in muon_groups if group["params"]]:
            self.optimizers.append(Muon(muon_groups, rate, WEIGHT_DECAY[kind], muon_precision))

    def step(self, factor: float) -> None:
        """Update the weights once at `factor` times the peak learning rate, then set the gradients to None."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def drop_gradients(self) -> None:
        """Set the gradients to None without an update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Return the whole optimizer state, such as moments and step counters, by the key "<parameter name>/<field>"."""
        return {
            f"{self.names[id(parameter)]}/{field}": torch.as_tensor(value)
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for field, value in state.items()
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the optimizer state from tensors that the method `tensors` returned."""
        state_of: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            state_of.setdefault(name, {})[field] = value.clone()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if (state := state_of.get(self.names[id(parameter)])) is not None:
                        optimizer.state[parameter] = state
