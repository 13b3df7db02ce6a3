"""Jobs: the rows of one request, which the engine answers in slices, together with those of other requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from mapsto.data.table import Table
from mapsto.serve.refusals import Refusal
from mapsto.serve.served_model import Answerer
from mapsto.task.arrow import Arrow

# The most estimated tokens that are encoded and computed together.
STEP_TOKENS = 8192


@dataclass(eq=False)
class Ticket:
    """The place of a request in the queue.

    cost: its estimated tokens. future: gets the result, or the error by which the request is given up; the event loop alone
    touches it. is_dropped: set when nobody waits for the result any more; whoever computes leaves it then.
    """

    future: asyncio.Future[Any]
    cost: int
    is_dropped: bool = False

    def fail(self, error: BaseException) -> None:
        """Give up the request: whoever waits for it gets the error."""
        self.is_dropped = True
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(eq=False)
class Job:
    """The rows of one request that wait for their answers.

    answerer: computes the answers. bound: its arrow, bound to the columns. columns: the cells by column.
    costs: the estimated tokens of each row. ticket: its future gets the answers, one for each row.
    """

    answerer: Answerer
    bound: Arrow
    columns: dict[str, list[Any]]
    costs: list[int]
    ticket: Ticket
    answers: list[dict[str, Any]] = field(default_factory=list)
    num_tokens: int = 0
    # The first row that no step has taken yet, and the number of rows that are answered.
    next_row: int = 0
    num_answered: int = 0

    def __post_init__(self) -> None:
        self.answers = [{}] * len(self.costs)

    @property
    def is_dropped(self) -> bool:
        """Return whether nobody waits for the answers any more."""
        return self.ticket.is_dropped


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of a job, from `start` to before `stop`."""

    job: Job
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def cost(self) -> int:
        """The estimated tokens of the rows."""
        return sum(self.job.costs[self.start : self.stop])


def join_slices(slices: Sequence[Slice]) -> Table:
    """Return the rows of slices with equal columns as one table."""
    data = {
        column: list(chain(*(part.job.columns[column][part.start : part.stop] for part in slices)))
        for column in slices[0].job.columns
    }
    return Table(data, [("the request", row + 1) for row in range(sum(map(len, slices)))], [])


def take_slices(waiting: deque[Job], budget: int = STEP_TOKENS) -> list[Slice]:
    """Take the rows of the next step from the jobs that wait: all for one answerer, of about `budget` tokens.

    The job that waits longest decides the answerer. A job with many rows gets half of a step while others wait, and then goes to
    the end of the queue, so that a large request does not hold up small ones. Dropped jobs leave the queue.
    """
    while waiting and waiting[0].is_dropped:
        waiting.popleft()
    if not waiting:
        return []
    first = waiting[0]
    peers = [
        job for job in waiting if not job.is_dropped and job.answerer is first.answerer and job.bound == first.bound
    ]
    starts = {job: job.next_row for job in peers}
    room = budget
    for share in (budget // 2, budget) if len(peers) > 1 else (budget,):
        for job in peers:
            room -= _advance(job, min(share, room))
            if room <= 0:
                break
    slices = [Slice(job, start, job.next_row) for job, start in starts.items() if job.next_row > start]
    unfinished = [part.job for part in slices if part.job.next_row < len(part.job.costs)]
    advanced = {part.job for part in slices}
    remainder = [job for job in waiting if job not in advanced and not job.is_dropped]
    waiting.clear()
    waiting.extend([*remainder, *unfinished])
    return slices


def _advance(job: Job, budget: int) -> int:
    """Move `job.next_row` over rows of up to `budget` tokens, and at least over one if any is left; return their cost."""
    cost = 0
    while job.next_row < len(job.costs) and budget > 0:
        following = job.costs[job.next_row]
        if cost and cost + following > budget:
            break
        cost += following
        job.next_row += 1
    return cost


def failure_of(error: BaseException) -> BaseException:
    """Return the error that a request gets for an error of the engine: a sentence for the user's fault, else itself."""
    return Refusal(422, str(error)) if isinstance(error, ValueError) else error
