"""Data-parallel training: every process has a full copy of the weights and computes gradients on its share of a batch.

The copies stay equal: they begin with the main process's weights, and every process applies the same summed gradients.
Gradients are summed in buckets while the backward pass still runs, as in PyTorch DDP (Li et al. 2020,
https://arxiv.org/abs/2006.15704): a bucket is sent as soon as its last gradient is computed. The alternative that
shards the weights is fsdp.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mapsto.distributed import Ranks
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch

# Large enough to use the network well, small enough that the first sums are sent while later gradients are computed.
BUCKET_BYTES = 25 * 2**20


class ReplicatedWeights:
    """The layout of data parallelism: every process has all weights and works on its share of the batch.

    With a single process nothing is copied or summed. The subclass ShardedWeights (fsdp.py) shards the weights instead.
    """

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
        """Copy the main process's weights, and group the trained parameters in buckets for the gradient sums.

        The last parameters of the model form the first bucket, because the backward pass computes their gradients
        first.
        """
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
        """Raise UsageError if this layout cannot train with the batch size, here if it is less than the number of processes.

        optimizer: "adamw" or "muon"; this layout allows both.
        """
        if batch_size < self.ranks.size:
            raise UsageError(
                f"{batch_size} examples in an update cannot be shared by {self.ranks.size} processes; "
                f"give --batch {self.ranks.size} or more, or fewer processes"
            )

    def iterate_batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
        """Yield (packed batch, weight of its loss) for each batch of this process in a step; here every weight is 1.

        Gradients accumulate over the batches, so the sums over processes start only in the backward pass of the last
        batch.
        """
        for batch in batches:
            if batch is batches[-1]:
                self.num_missing = [len(bucket) for bucket in self.buckets]
            yield batch, 1.0

    def sum_over_processes(self, loss: Tensor) -> Tensor:
        """Sum the loss and every parameter's gradient over the processes, and return the summed loss."""
        if self.ranks.size == 1:
            return loss
        while len(self.pending_sums) < len(self.buckets):
            self._start_bucket_sum()
        self.num_missing = []
        wait_for_loss = self.ranks.start_sum(loss)
        # Every process started the sums in the order of the buckets.
        for bucket, (flat, wait) in zip(self.buckets, self.pending_sums, strict=True):
            wait()
            *gradients, num_having = torch.split(flat, [*(p.numel() for p in bucket), len(bucket)])
            for parameter, gradient, has_gradient in zip(bucket, gradients, num_having.tolist(), strict=True):
                parameter.grad = gradient.view_as(parameter) if has_gradient else None
        self.pending_sums = []
        wait_for_loss()
        return loss

    def gather_mapping(self, mapping: Mapping) -> Mapping:
        """Return the model with all of its weights in this process; here the model itself."""
        return mapping

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the full tensor of which this process may hold only a shard; here the tensor itself."""
        return tensor

    def shard_like(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """Return this process's shard of `tensor`, divided in the same way as `parameter`; here the whole tensor.

        tensor: a full weight, or a value of the optimizer state, loaded from a checkpoint. If its shape is not that of
            `parameter`, as for a step counter, it is returned whole.
        """
        return tensor

    def _on_gradient(self, parameter: nn.Parameter) -> None:
        """Start to sum each bucket that now has all of its gradients; autograd calls this after computing a parameter's.

        Buckets are summed in their fixed order, because collective operations must match in all processes.
        """
        if not self.num_missing:
            return
        self.num_missing[self.bucket_index[parameter]] -= 1
        while len(self.pending_sums) < len(self.buckets) and not self.num_missing[len(self.pending_sums)]:
            self._start_bucket_sum()

    def _start_bucket_sum(self) -> None:
        """Start to sum the next bucket over the processes: its flattened gradients, then one flag per parameter.

        A flag says whether the parameter has a gradient: a head has none when no row of this process has its answer.
        """
        bucket = self.buckets[len(self.pending_sums)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        has_gradient = bucket[0].new_tensor([p.grad is not None for p in bucket])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), has_gradient])
        for parameter in bucket:
            parameter.grad = None
        self.pending_sums.append((flat, self.ranks.start_sum(flat)))
