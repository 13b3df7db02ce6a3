"""Fully sharded training (FSDP): weights, gradients and optimizer state are divided among the processes.

FSDP2 (torch.distributed.fsdp.fully_shard; Zhao et al. 2023, https://arxiv.org/abs/2304.11277) gathers the weights of a
block just before the block is computed and drops them afterwards. Memory falls with the number of processes, at the
price of more communication.
"""

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
from mapsto.training.data_parallel import ReplicatedWeights


class ShardedWeights(ReplicatedWeights):
    """The layout of FSDP: every process holds a shard of each weight and works on its share of the batch."""

    supports_muon = False

    def prepare(self, mapping: Mapping) -> None:
        """Copy the main process's weights, then shard each Transformer block and the rest of the model."""
        for parameter in mapping.parameters():
            self.ranks.broadcast(parameter)
        mesh = init_device_mesh(next(mapping.parameters()).device.type, (self.ranks.size,))
        for module in (*(block for stack in mapping.stacks for block in stack.blocks), mapping):
            sharded: Any = fully_shard(module, mesh=mesh)
            assert isinstance(sharded, FSDPModule)
            # Losses are divided by the number of answers of all processes, so gradients are added, not averaged.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        # FSDP gathers weights around `forward` only; training calls `losses` instead.
        register_fsdp_forward_method(mapping, "losses")

    def check(self, batch_size: int, optimizer: str) -> None:
        super().check(batch_size, optimizer)
        if self.ranks.size == 1:
            raise UsageError("--shard divides a model among processes, and this is one; start it with torchrun")
        if optimizer == "muon":
            raise UsageError(
                "Muon needs whole matrices and --shard divides them; give --optimizer adamw, or no --shard"
            )

    def iterate_batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
        """Yield (packed batch, weight of its loss), equally often in every process, as all must help to gather each block.

        A process with fewer batches than others repeats its first batch with weight 0.
        """
        num_repeats = self.ranks.maximum(len(batches)) - len(batches)
        yield from ((batch, 1.0) for batch in batches)
        yield from ((batches[0], 0.0) for _ in range(num_repeats))

    def gather_mapping(self, mapping: Mapping) -> Mapping:
        copy = Mapping(mapping.arrow, mapping.config, mapping.sources, mapping.targets).compute_in(mapping.precision)
        device = next(mapping.parameters()).device
        with torch.no_grad():
            for weight, shard in zip(copy.to(device).parameters(), mapping.parameters(), strict=True):
                weight.copy_(self.gather(shard))
        return copy.eval()

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def shard_like(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
            return tensor
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
