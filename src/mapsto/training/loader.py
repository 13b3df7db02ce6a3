"""The data loader of training: threads pack the batches of the next steps while the current step computes.

The rows of a step and all random numbers are functions of (seed, step, row), so the number of threads changes no
result.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from mapsto.data.examples import Examples
from mapsto.distributed import SINGLE_PROCESS, Ranks
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import make_batches
from mapsto.training.objectives import Objective
from mapsto.training.plan import Plan

# The most tokens of a packed batch; a step with more tokens has several batches.
BATCH_TOKENS = 8192

# The shortest packed row, in tokens. A row of 128 holds five titles of 25 tokens, a row of 64 only two: rows are 97 %
# full instead of 94 %, and training reads 8 % more real tokens a second. Prediction uses shorter rows
# (sequence.packing.SHORTEST_ROW): without a backward pass the attention over longer rows costs more than this saves.
SHORTEST_TRAINING_ROW = 128


class Loader:
    """The packed batches of each training step; they depend only on the seed, the step and the rank of the process.

    workers: the number of threads, and of steps that are packed ahead; 0 packs in the calling thread.
    """

    def __init__(
        self, examples: Examples, plan: Plan, workers: int, objective: Objective, ranks: Ranks = SINGLE_PROCESS
    ) -> None:
        self.examples, self.plan, self.workers, self.ranks = objective.adapt(examples), plan, workers, ranks
        self.objective = objective
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.num_steps = plan.steps
        # The batches of steps ahead, by step.
        self.pending: dict[int, Future[list[Batch]]] = {}

    def rows_of_step(self, step: int) -> list[int]:
        """Return the indices of the examples that all processes together read in a step; steps count from 0."""
        rows: list[int] = self.objective.rows(self.plan.seed, step, self.plan.batch, len(self.examples)).tolist()
        return rows

    def pack_batches(self, step: int) -> list[Batch]:
        """Return this process's share of the examples of step `step`, packed into batches of at most BATCH_TOKENS tokens."""
        progress = step / self.num_steps  # some corruptions hide less towards the end of a run
        rows, num_views = self.ranks.own_share(self.rows_of_step(step)), self.objective.num_views
        examples = [self.examples.example(row, step, progress, view) for view in range(num_views) for row in rows]
        packed_together = num_views if self.objective.packs_views_together else 1
        return make_batches(examples, BATCH_TOKENS, SHORTEST_TRAINING_ROW, packed_together)

    def get_batches(self, step: int) -> list[Batch]:
        """Return this process's packed batches of step `step`, and let threads pack those of the next `workers` steps."""
        if self.pool is None:
            return self.pack_batches(step)
        for number in range(step, min(step + self.workers + 1, self.num_steps)):
            if number not in self.pending:
                self.pending[number] = self.pool.submit(self.pack_batches, number)
        return self.pending.pop(step).result()

    def set_num_steps(self, num_steps: int) -> None:
        """Set the number of steps of the run, from which the progress of each step follows, and drop all batches packed ahead."""
        self.num_steps = num_steps
        for batches in self.pending.values():
            batches.cancel()
        self.pending.clear()

    def close(self) -> None:
        """Stop the threads that pack batches."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
