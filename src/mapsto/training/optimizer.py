"""Optimizers and their schedule: Muon on the matrices of the blocks, AdamW on the rest; state as plain tensors.

Muon: Jordan et al. 2024, scaled as in Liu et al. 2025 so that one learning rate serves both. AdamW: Loshchilov & Hutter 2019.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

WARM_UP, DECAY = 0.06, 0.40


# With 0.01 Muon's matrices grow for as long as they learn: a start that had read its texts nine times was worse than one that
# had read them four times, although it told hidden tokens better; with 0.1, as in Liu et al. 2025, it is better in both
# (benchmarks/decay.py).
WEIGHT_DECAY = {"adamw": 0.01, "muon": 0.1}


BLOCK = re.compile(r"^transformer\.blocks\.(\d+)\.")


HEADS = "heads."


LOWEST = ("embedders.", "transformer.position_table.", "transformer.type_table.", "transformer.embedding_norm.")


def schedule(step: int, steps: int) -> float:
    """Warm-up, stable, decay: the share of the peak rate at `step` (from 0) of `steps`; linear at both ends."""
    warm_up, decay = max(1, round(WARM_UP * steps)), max(1, round(DECAY * steps))
    return min(1.0, (step + 1) / warm_up, (steps - step) / decay)


def end_of_fall(step: int) -> int:
    """The steps of a schedule whose rate begins to fall at `step`."""
    return round(step / (1 - DECAY))


def layer_shares(names: Iterable[str], decay: float, head: float = 1.0) -> dict[str, float]:
    """The share of the rate at which each weight learns: 1 for what stands on the layers, `head` for heads, `decay` times less
    for each layer below, least for the embeddings (Howard & Ruder 2018, Clark et al. 2020)."""
    blocks = {name: int(found[1]) for name in names if (found := BLOCK.search(name))}
    top = max(blocks.values(), default=-1) + 2
    depths = {name: blocks[name] + 1 if name in blocks else 0 if name.startswith(LOWEST) else top for name in names}
    return {name: head if name.startswith(HEADS) else decay ** (top - depth) for name, depth in depths.items()}


class Optimizers:
    """One or two torch optimizers behind one rate."""

    def __init__(
        self,
        module: nn.Module,
        kind: Literal["adamw", "muon"],
        rate: float,
        layer_decay: float = 1.0,
        head: float = 1.0,
    ) -> None:
        decay = WEIGHT_DECAY[kind]
        self.names = {id(parameter): name for name, parameter in module.named_parameters()}
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        shares = layer_shares([name for name, _ in named], layer_decay, head)
        # The embeddings and heads of a Muon run learn at a fifth of its rate: 1e-3 beside 5e-3.
        small = rate / 5 if kind == "muon" else rate
        groups: list[dict[str, Any]] = []
        muon: list[dict[str, Any]] = []
        for share in sorted(set(shares.values())):
            at = [(name, p) for name, p in named if shares[name] == share]
            matrices = [p for name, p in at if kind == "muon" and p.ndim == 2 and ".blocks." in name]
            chosen = {id(p) for p in matrices}
            rest = [p for _, p in at if id(p) not in chosen]
            groups += [
                {"params": [p for p in rest if p.ndim >= 2], "weight_decay": decay, "peak": small * share},
                {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "peak": small * share},
            ]
            muon += [{"params": matrices, "peak": rate * share}]
        groups, muon = ([group for group in found if group["params"]] for found in (groups, muon))
        self.parts: list[torch.optim.Optimizer] = []
        if groups:
            self.parts.append(torch.optim.AdamW(groups, lr=small, betas=(0.9, 0.98), eps=1e-6, fused=True))
        if muon:
            self.parts.append(torch.optim.Muon(muon, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))

    @property
    def groups(self) -> Iterable[dict[str, object]]:
        """All parameter groups."""
        return (group for part in self.parts for group in part.param_groups)

    def step(self, share: float) -> None:
        """One update at `share` of each group's peak rate; gradients are dropped afterwards."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * share
            part.step()
            part.zero_grad(set_to_none=True)

    def drop_gradients(self) -> None:
        """Forget the gradients without an update."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, by parameter name."""
        found = {}
        for part in self.parts:
            for parameter, state in part.state.items():
                for key, value in state.items():
                    found[f"{self.names[id(parameter)]}/{key}"] = torch.as_tensor(value)
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, field = key.rpartition("/")
            by_name.setdefault(name, {})[field] = value.clone()
        for part in self.parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    if (state := by_name.get(self.names[id(parameter)])) is not None:
                        part.state[parameter] = state
