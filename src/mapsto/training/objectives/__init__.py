"""What a step makes small. An objective is one file here; it is handed to the loop as a value."""

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
    """The plain one: rows in turn, and the loss of every target port, in which every answer weighs the same.

    All that it says is a function of its arguments and of the step it met, so that a run goes on exactly. watches: whether the
    heads learn along, so that held-out rows can be looked at while it runs. views: how often a step sees each of its rows,
    augmented anew. compares: the option that asked for it, where rows are compared with each other and so must be in one process.
    """

    watches: bool = True
    views: int = 1
    compares: str = ""

    def terms(self, mapping: Mapping) -> int:
        """How many sums `losses` and `counts` speak of: one for each target port."""
        return len(mapping.targets)

    def finish(self, mapping: Mapping) -> None:
        """Take out of the mapping what only its training needed."""

    def asked(self, examples: Examples) -> Examples:
        """The examples as its steps read them."""
        return examples

    def rows(self, seed: int, step: int, batch: int, n: int) -> Ints:
        """The examples, out of `n`, that step `step` reads."""
        return rows_of_step(seed, step, batch, n)

    def meet(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Know all batches of a step before it is asked about each."""

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """For every term concerned, the sum of its losses over a packed batch."""
        return mapping.losses(batch)

    def counts(self, batch: Batch) -> dict[int, int]:
        """For every term concerned, how many losses are in that sum; a step divides by those of all its batches."""
        return {port: len(readout.values) for port, readout in enumerate(batch.answers) if readout is not None}


def only_source(mapping: Mapping, objective: str) -> str:
    """The kind of the one source that the mapping puts back. Raises UsageError where there is more to it."""
    if len(mapping.targets) != 1 or not isinstance(mapping.targets[0], Reconstruction):
        raise UsageError(f"--objective {objective} takes one source and puts back that alone, not {mapping.arrow}")
    (kind,) = mapping.sources
    return kind


def bare(mapping: Mapping) -> None:
    """Leave what reads, and take away what answers."""
    mapping.targets, mapping.heads, mapping.arrow = [], nn.ModuleList(), mapping.arrow.body
