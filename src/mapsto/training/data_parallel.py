"""Data-parallel training: whole weights in every process, gradients summed while the backward pass still runs.

The replicas stay equal because each begins with the main process's weights and takes the same step on the same sums.
Gradients are summed in buckets, as in PyTorch DDP (Li et al. 2020, https://arxiv.org/abs/2006.15704): a bucket leaves as soon
as its last gradient is there. fsdp.py shards the weights instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mapsto.distributed import Ranks
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch

# Large enough to use the network well, small enough that the first sums travel while later gradients are computed.
BUCKET_BYTES = 25 * 2**20


class ReplicatedWeights:
    """A layout in which every process has all weights and works on its share of the batch."""

    supports_muon = True

    def __init__(self, ranks: Ranks, mapping: Mapping) -> None:
        self.ranks = ranks
        self.buckets: list[list[nn.Parameter]] = []
        self.bucket_index: dict[nn.Parameter, int] = {}
        # How many gradients each bucket still waits for; empty outside the last backward pass of a step.
        self.num_missing: list[int] = []
        # The buckets whose sum has started: their flat gradients, and a function that waits for the sum.
        self.pending_sums: list[tuple[Tensor, Callable[[], None]]] = []
        if ranks.size > 1:
            self.prepare(mapping)

    def prepare(self, mapping: Mapping) -> None:
        """Copy the main process's weights, and fill buckets with the parameters in the order in which gradients come."""
        for parameter in mapping.parameters():
            self.ranks.broadcast(parameter)
        bucket_bytes = BUCKET_BYTES
        for parameter in reversed([p for p in mapping.parameters() if p.requires_grad]):
            if bucket_bytes >= BUCKET_BYTES:
                self.buckets.append([])
                bucket_bytes = 0
            self.buckets[-1].append(parameter)
            self.bucket_index[parameter] = len(self.buckets) - 1
            bucket_bytes += parameter.numel() * parameter.element_size()
            parameter.register_post_accumulate_grad_hook(self._on_gradient)  # type: ignore[no-untyped-call]

    def check(self, batch_size: int, optimizer: str) -> None:
        """Raise UsageError for a batch size or an optimizer that this layout cannot train with."""
        if batch_size < self.ranks.size:
            raise UsageError(
                f"{batch_size} examples in an update cannot be shared by {self.ranks.size} processes; "
                f"give --batch {self.ranks.size} or more, or fewer processes"
            )

    def iterate_batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
        """Yield the batches of a step with the weight of their losses; gradients are sent in the last one's backward pass."""
        for batch in batches:
            if batch is batches[-1]:
                self.num_missing = [len(bucket) for bucket in self.buckets]
            yield batch, 1.0

    def sum_over_processes(self, loss: Tensor) -> Tensor:
        """Sum the loss over the processes, and wait until every gradient is summed too."""
        if self.ranks.size == 1:
            return loss
        while len(self.pending_sums) < len(self.buckets):
            self._start_bucket_sum()
        self.num_missing = []
        wait_for_loss = self.ranks.start_sum(loss)
        # In the order of the buckets, in which every process started them.
        for bucket, (flat, wait) in zip(self.buckets, self.pending_sums, strict=True):
            wait()
            *gradients, num_having = torch.split(flat, [*(p.numel() for p in bucket), len(bucket)])
            for parameter, gradient, has_gradient in zip(bucket, gradients, num_having.tolist(), strict=True):
                parameter.grad = gradient.view_as(parameter) if has_gradient else None
        self.pending_sums = []
        wait_for_loss()
        return loss

    def gather_mapping(self, mapping: Mapping) -> Mapping:
        """Return the mapping with all its weights in this process."""
        return mapping

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the whole of a tensor of which this process may hold a shard."""
        return tensor

    def shard_like(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """Return the shard of `tensor` that belongs beside this process's shard of `parameter`."""
        return tensor

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        """Count a finished gradient, and start the sums of full buckets in the same order in every process."""
        if not self.num_missing:
            return
        self.num_missing[self.bucket_index[parameter]] -= 1
        while len(self.pending_sums) < len(self.buckets) and not self.num_missing[len(self.pending_sums)]:
            self._start_bucket_sum()

    def _start_bucket_sum(self) -> None:
        """Start to sum the next bucket: its gradients, then a flag for each parameter that has one (a head may have none)."""
        bucket = self.buckets[len(self.pending_sums)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        has_gradient = bucket[0].new_tensor([p.grad is not None for p in bucket])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), has_gradient])
        for parameter in bucket:
            parameter.grad = None
        self.pending_sums.append((flat, self.ranks.start_sum(flat)))
