"""Objectives: what a training step minimises. Each is one file here, and is handed to the loop as a value."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mapsto.data.examples import Examples
from mapsto.data.sampling import rows_of_step
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import Reconstruction


class Objective:
    """The plain objective: rows in random order, and the loss of every target port, in which every answer weighs the same.

    Everything that a subclass returns is a function of its arguments and of the step begun last, so that a run goes on exactly.
    """

    # Whether the heads are trained too, so that the held-out rows can be scored while the run goes on.
    trains_heads: bool = True
    # How often a step reads each of its rows, augmented anew.
    num_views: int = 1
    # The option that chose this objective, where it compares rows with each other and so needs them in one process; else "".
    single_process_option: str = ""

    def num_terms(self, mapping: Mapping) -> int:
        """Return how many losses a step adds up, each divided by its own count: here one for each target port."""
        return len(mapping.targets)

    def finish(self, mapping: Mapping) -> None:
        """Remove from the mapping what only its training needed."""

    def adapt(self, examples: Examples) -> Examples:
        """Return the examples in the form in which the steps read them."""
        return examples

    def rows(self, seed: int, step: int, batch_size: int, num_examples: int) -> Ints:
        """Return the indices of the examples that step `step` reads."""
        return rows_of_step(seed, step, batch_size, num_examples)

    def begin_step(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Get ready for a step, given all of its batches in this process."""

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return (term, sum of its losses) for every term that occurs in a packed batch."""
        return mapping.losses(batch)

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return, by term, how many losses that sum has; a step divides by the counts of all its batches."""
        return {port: len(readout.values) for port, readout in enumerate(batch.answers) if readout is not None}


def require_one_source(mapping: Mapping, objective: str) -> str:
    """Return the kind of the one source, which the mapping reconstructs. Raises UsageError for any other arrow."""
    if len(mapping.targets) != 1 or not isinstance(mapping.targets[0], Reconstruction):
        raise UsageError(f"--objective {objective} takes one source and reconstructs that alone, not {mapping.arrow}")
    (kind,) = mapping.sources
    return kind


def remove_targets(mapping: Mapping) -> None:
    """Keep the encoder, and remove its targets and heads."""
    mapping.targets, mapping.heads, mapping.arrow = [], nn.ModuleList(), mapping.arrow.body
