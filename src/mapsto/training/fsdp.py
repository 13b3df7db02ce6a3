"""Weights, gradients and optimizer state in parts, one in each process (FSDP2: torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch
from mapsto.training.data_parallel import Replicas


class Shards(Replicas):
    """Every process keeps a part of each weight; a block is put together where it is used."""

    takes_muon = False

    def prepare(self, mapping: Mapping) -> None:
        for parameter in mapping.parameters():
            self.ranks.copied(parameter)
        mesh = init_device_mesh(next(mapping.parameters()).device.type, (self.ranks.size,))
        for module in (*mapping.transformer.blocks, mapping):
            sharded: Any = fully_shard(module, mesh=mesh)
            assert isinstance(sharded, FSDPModule)
            # Losses are divided by the answers of all processes, so gradients are added, not averaged.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        register_fsdp_forward_method(mapping, "losses")

    def require(self, batch: int, optimizer: str) -> None:
        super().require(batch, optimizer)
        if self.ranks.size == 1:
            raise UsageError("--shard divides a model among processes, and this is one; start it with torchrun")
        if optimizer == "muon":
            raise UsageError(
                "Muon needs whole matrices and --shard divides them; give --optimizer adamw, or no --shard"
            )

    def turns(self, made: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
        """As many turns in every process, since each takes part in putting the blocks together; the last may count nothing."""
        idle = self.ranks.most(len(made)) - len(made)
        yield from ((batch, 1.0) for batch in made)
        yield from ((made[0], 0.0) for _ in range(idle))

    def whole(self, mapping: Mapping) -> Mapping:
        made = Mapping(mapping.arrow, mapping.config, mapping.sources, mapping.targets).computing_in(mapping.precision)
        device = next(mapping.parameters()).device
        with torch.no_grad():
            for own, part in zip(made.to(device).parameters(), mapping.parameters(), strict=True):
                own.copy_(self.gathered(part))
        return made.eval()

    def gathered(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def own(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
            return tensor
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
