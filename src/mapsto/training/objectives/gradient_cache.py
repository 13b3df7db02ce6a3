"""Losses over all rows of a step, in however many packed batches, with the exact gradient in the memory of one batch.

A step whose activations take at most HELD_BYTES keeps those of all of its batches, and the first batch gives the whole gradient.
For a larger step an extra forward pass first computes all vectors without gradients. Each batch is then computed again with
gradients, and the loss of the whole step is taken with the stored vectors of the other batches. The sum of these gradients is
that of the whole step (GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983). It costs a second forward pass.
Legend of shapes: n examples of a step, d width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch
from mapsto.sequence.piece import Ints
from mapsto.training.objectives import Objective

# The most memory for kept activations, and how many numbers of a layer's activations there are for each number of a hidden state
# (34 bytes in 16 bits, Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198).
HELD_BYTES, NUMBERS_PER_STATE = 4 * 2**30, 17


@dataclass(frozen=True)
class StepExamples:
    """The examples of a step in all of its batches.

    rows: (n,), the row number of each example; all different.
    vectors: (n, d), with gradients if the activations of all batches are kept; None if one batch has all examples.
    """

    rows: Ints
    vectors: Tensor | None

    def slots(self, batch: Batch) -> Ints:
        """Return the places in `rows` of the examples of a batch, in the order of the batch."""
        order = np.argsort(self.rows)
        slots: Ints = order[np.searchsorted(self.rows[order], batch.rows)]
        return slots


class GradientCache(Objective):
    """An objective that compares the vectors of all examples of a step."""

    step: StepExamples

    @abstractmethod
    def vectors(self, mapping: Mapping, batch: Batch) -> Tensor:
        """Return the vector of each example of a packed batch, (m, d), that is compared."""

    def begin_step(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Remember the rows of a step, and the vectors of its examples when they fill several batches."""
        device = next(mapping.parameters()).device
        shape, num_places = mapping.config.transformer, sum(batch.segments.numel() for batch in batches)
        num_numbers = num_places * shape.width * shape.layers * NUMBERS_PER_STATE
        is_held = num_numbers * mapping.precision.itemsize <= HELD_BYTES
        vectors = None
        if len(batches) > 1:
            with torch.set_grad_enabled(is_held):
                vectors = torch.cat([self.vectors(mapping, batch.to(device)) for batch in batches])
        # Whether kept activations have given their gradient.
        self.is_used = False
        self.step = StepExamples(np.concatenate([batch.rows for batch in batches]), vectors)

    def step_vectors(self, mapping: Mapping, batch: Batch) -> Tensor:
        """Return the vectors of all examples of the step, (n, d), with gradients for those of `batch` alone.

        If the activations of all batches are kept, the first call returns all vectors with gradients, and later calls none.
        """
        if self.step.vectors is not None and (self.step.vectors.requires_grad or self.is_used):
            held, self.is_used = self.step.vectors, True
            self.step = replace(self.step, vectors=held.detach())
            return held
        vectors = self.vectors(mapping, batch)
        slots = torch.from_numpy(self.step.slots(batch)).to(vectors.device)
        base = torch.zeros_like(vectors) if self.step.vectors is None else self.step.vectors
        return base.index_copy(0, slots, vectors)
