"""Where the weights of a run live: whole in every process, their gradients summed while the backward pass still runs.

shard.py has the other layout, in which every process keeps a part. Replicas are equal because each begins with the main
process's weights and takes the same step on the same sums.
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


class Replicas:
    """Every process has all weights and works on its part of the batch."""

    takes_muon = True

    def __init__(self, ranks: Ranks, mapping: Mapping) -> None:
        self.ranks = ranks
        self.buckets: list[list[nn.Parameter]] = []
        self.home: dict[nn.Parameter, int] = {}
        self.missing: list[int] = []
        self.sent: list[tuple[Tensor, Callable[[], None]]] = []
        if ranks.size > 1:
            self.prepare(mapping)

    def prepare(self, mapping: Mapping) -> None:
        """Take the main process's weights; put parameters into buckets, those whose gradients come first in the first."""
        for parameter in mapping.parameters():
            self.ranks.copied(parameter)
        filled = BUCKET_BYTES
        for parameter in reversed([p for p in mapping.parameters() if p.requires_grad]):
            if filled >= BUCKET_BYTES:
                self.buckets.append([])
                filled = 0
            self.buckets[-1].append(parameter)
            self.home[parameter] = len(self.buckets) - 1
            filled += parameter.numel() * parameter.element_size()
            parameter.register_post_accumulate_grad_hook(self._ready)  # type: ignore[no-untyped-call]

    def require(self, batch: int, optimizer: str) -> None:
        """Raise UsageError for a run that cannot be laid out so."""
        if batch < self.ranks.size:
            raise UsageError(
                f"{batch} examples in an update cannot be shared by {self.ranks.size} processes; "
                f"give --batch {self.ranks.size} or more, or fewer processes"
            )

    def turns(self, made: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
        """The batches of a step with the weight of their losses; gradients leave during the backward pass of the last."""
        for batch in made:
            if batch is made[-1]:
                self.missing = [len(bucket) for bucket in self.buckets]
            yield batch, 1.0

    def summed(self, loss: Tensor) -> Tensor:
        """The loss of all processes; on return the gradients are theirs too."""
        if self.ranks.size == 1:
            return loss
        while len(self.sent) < len(self.buckets):
            self._send()
        self.missing = []
        loss_summed = self.ranks.added(loss)
        for bucket, (flat, wait) in zip(self.buckets, self.sent, strict=True):
            wait()
            *parts, known = torch.split(flat, [*(p.numel() for p in bucket), len(bucket)])
            for parameter, part, has_gradient in zip(bucket, parts, known.tolist(), strict=True):
                parameter.grad = part.view_as(parameter) if has_gradient else None
        self.sent = []
        loss_summed()
        return loss

    def whole(self, mapping: Mapping) -> Mapping:
        """The mapping with all its weights in this process."""
        return mapping

    def gathered(self, tensor: Tensor) -> Tensor:
        """All of a tensor of which this process holds what is its own."""
        return tensor

    def own(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """What this process holds of `tensor`, which belongs to `parameter`."""
        return tensor

    def _ready(self, parameter: nn.Parameter) -> None:
        """A gradient is complete. Buckets leave in the same order everywhere, whichever is full first."""
        if not self.missing:
            return
        self.missing[self.home[parameter]] -= 1
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            self._send()

    def _send(self) -> None:
        """Begin to sum the next bucket. Behind the gradients it says which there are: a head may have none here."""
        bucket = self.buckets[len(self.sent)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        known = bucket[0].new_tensor([p.grad is not None for p in bucket])
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), known])
        for parameter in bucket:
            parameter.grad = None
        self.sent.append((flat, self.ranks.added(flat)))
