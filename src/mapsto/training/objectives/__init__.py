"""Training objectives: which rows a step reads and which losses it minimises.

Each objective is a subclass of `Objective` in a file of its own here; the training loop takes one as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mapsto.data.examples import Examples
from mapsto.data.sampling import rows_of_step
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch
from mapsto.sequence.piece import Ints
from mapsto.task.target_capabilities import Reconstruction


class Objective:
    """The default objective: rows in random order, and the sum over targets of the mean loss of their answers.

    A subclass may remember values from `begin_step` to the end of the step, but no longer, so that a run that was
    killed resumes exactly.
    """

    # Whether the heads are trained too, so that held-out rows can be scored during training.
    trains_heads: bool = True
    # How many differently augmented views of each of its rows a step reads.
    num_views: int = 1
    # Whether a packed batch holds all views of its rows.
    packs_views_together: bool = True
    # The command-line option to name in an error when several processes train. It is set when the objective compares
    # rows with each other and so needs them in one process, else "".
    single_process_option: str = ""

    def num_terms(self, mapping: Mapping) -> int:
        """Return the number of loss terms, here one for each target; a step minimises the sum of their means."""
        return len(mapping.targets)

    def finish(self, mapping: Mapping) -> None:
        """Remove modules that only training needed, such as a projection head, from the mapping."""

    def adapt(self, examples: Examples) -> Examples:
        """Return the examples as this objective reads them: here unchanged; a subclass may change the augmentation."""
        return examples

    def rows(self, seed: int, step: int, batch_size: int, num_examples: int) -> Ints:
        """Return the indices (batch_size,) of the examples that step `step` reads, out of `num_examples`."""
        return rows_of_step(seed, step, batch_size, num_examples)

    def begin_step(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Prepare for the calls of `losses` and `counts` in a step, for example by computing the vectors of all rows.

        batches: all packed batches of the step in this process.
        """

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return (index of the term, sum of its losses over the batch) for each loss term that occurs in a packed batch."""
        return mapping.losses(batch)

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return by index of the loss term how many losses `losses` sums in a packed batch.

        A step divides each term's sum by its total count over all batches and processes.
        """
        return {port: len(readout.values) for port, readout in enumerate(batch.answers) if readout is not None}


def require_one_source(mapping: Mapping, objective: str) -> str:
    """Return the kind, such as "text", of the source of a mapping that has one source and reconstructs it alone.

    objective: name of the objective, for the message. Raises UsageError for a mapping that is not of the form "~text ->
        text".
    """
    if len(mapping.targets) != 1 or not isinstance(mapping.targets[0], Reconstruction):
        raise UsageError(f"--objective {objective} takes one source and reconstructs that alone, not {mapping.arrow}")
    (kind,) = mapping.sources
    return kind


def remove_targets(mapping: Mapping) -> None:
    """Remove the targets and heads from the mapping, which leaves the encoder."""
    mapping.targets, mapping.heads, mapping.arrow = [], nn.ModuleList(), mapping.arrow.body
