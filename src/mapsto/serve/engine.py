"""The engine: one thread that packs the rows of all waiting requests and computes their answers, step by step.

A step takes the rows of waiting jobs up to a budget of tokens, encodes them and runs the packed forward pass of prediction, so
that answers equal those of `mapsto predict`. While it computes, a second thread encodes the next step. When nothing waits, a
request is encoded and computed by the engine's thread at once. Streams of generated text have threads of their own, and take
turns with the steps token by token.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from mapsto.inference.forward import StreamedExamples
from mapsto.inference.predictor import Prepared
from mapsto.serve.jobs import Job, Slice, Ticket, failure_of, join_slices, take_slices
from mapsto.serve.turns import Turns

Result = TypeVar("Result")

# How many texts are streamed at the same time; further ones wait.
MAX_STREAMS = 8


@dataclass(frozen=True)
class Step:
    """Rows that are computed together. prepared: the encoded rows, or the error of encoding them."""

    slices: list[Slice]
    prepared: Prepared | BaseException


@dataclass(frozen=True)
class StepReport:
    """The work of one step: number of rows, tokens that were computed, their estimated cost, and seconds."""

    num_rows: int
    num_tokens: int
    cost: int
    seconds: float


class Engine:
    """The thread that computes. loop: the event loop that gets the answers. report: is called there after each step."""

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Callable[[StepReport], None]) -> None:
        self._loop, self._report = loop, report
        self._waiting: deque[Job] = deque()
        self._signal = threading.Condition()
        self._is_stopped = False
        self._turns = Turns()
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._streams = ThreadPoolExecutor(MAX_STREAMS, "stream")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether the thread that computes runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn. The engine sets its future on the event loop."""
        with self._signal:
            self._waiting.append(job)
            self._signal.notify()

    def stop(self) -> None:
        """End the threads; jobs that still wait are never answered."""
        with self._signal:
            self._is_stopped = True
            self._signal.notify()
        self._thread.join()
        self._encoder.shutdown(cancel_futures=True)
        self._streams.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[[], Result]) -> Result:
        """Return the result of a function that computes, called when it is its turn."""

        def compute() -> Result:
            with self._turns:
                return function()

        return await self._loop.run_in_executor(self._streams, compute)

    def stream(
        self, begin: Callable[[], Iterator[str]], send: Callable[[str | BaseException | None], None], ticket: Ticket
    ) -> None:
        """Generate a text part by part in turn with the steps of other requests.

        begin: returns the iterator over the parts. send: is called on the event loop with each part, then with None, or with the
        error that ended the text. ticket: that of the request; the text ends when it is dropped.
        """
        self._streams.submit(self._stream, begin, send, ticket)

    def _stream(
        self, begin: Callable[[], Iterator[str]], send: Callable[[str | BaseException | None], None], ticket: Ticket
    ) -> None:
        end: BaseException | None = None
        try:
            parts: Iterator[str] | None = None
            while not ticket.is_dropped and not self._is_stopped:
                with self._turns:
                    parts = begin() if parts is None else parts
                    part = next(parts, None)
                if part is None:
                    break
                self._call(send, part)
        except Exception as error:
            end = failure_of(error)
        self._call(send, end)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the event loop, unless that has ended."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        step: Step | None = None
        while True:
            step = step or self._next_step(wait=True)
            if step is None:
                return
            # A lone request is not worth the way to another thread and back.
            with self._signal:
                is_more = bool(self._waiting)
            following = self._encoder.submit(self._next_step, False) if is_more else None
            self._compute(step)
            step = following.result() if following is not None else None

    def _next_step(self, wait: bool) -> Step | None:
        """Return the next step with its rows encoded; None if no job waits, and with `wait` only when the engine is stopped."""
        while True:
            with self._signal:
                while wait and not self._waiting and not self._is_stopped:
                    self._signal.wait()
                if self._is_stopped:
                    return None
                slices = take_slices(self._waiting)
            if slices:
                return _encode(slices)
            if not wait:
                return None

    def _compute(self, step: Step) -> None:
        """Compute the answers of a step and hand them over. Rows that fail together are computed one request at a time."""
        slices = [part for part in step.slices if not part.job.is_dropped]
        if not slices:
            return
        started = time.perf_counter()
        try:
            if isinstance(step.prepared, BaseException):
                raise step.prepared
            num_tokens = _count_tokens(step)
            with self._turns:
                answers = step.slices[0].job.answerer.answer_prepared(step.prepared)
        except Exception as error:
            if len(step.slices) == 1:
                self._call(step.slices[0].job.ticket.fail, failure_of(error))
            else:
                # The fault of one request must not cost the others.
                for part in slices:
                    self._compute(_encode([part]))
            return
        cost = sum(part.cost for part in step.slices)
        report = StepReport(len(answers), sum(num_tokens), cost, time.perf_counter() - started)
        self._call(self._deliver, step.slices, answers, num_tokens, report)

    def _deliver(
        self, slices: Sequence[Slice], answers: Sequence[dict[str, Any]], num_tokens: Sequence[int], report: StepReport
    ) -> None:
        """Hand the answers of a step to their jobs, on the event loop."""
        first = 0
        for part in slices:
            job, last = part.job, first + len(part)
            job.answers[part.start : part.stop] = answers[first:last]
            job.num_tokens += sum(num_tokens[first:last])
            job.num_answered += len(part)
            first = last
            if job.num_answered == len(job.answers) and not job.ticket.future.done():
                job.ticket.future.set_result(job.answers)
        self._report(report)


def _encode(slices: list[Slice]) -> Step:
    """Return a step with the rows of the slices, read and encoded."""
    job = slices[0].job
    try:
        return Step(slices, job.answerer.prepare(join_slices(slices), job.bound))
    except Exception as error:
        return Step(slices, error)


def _count_tokens(step: Step) -> list[int]:
    """Return the number of tokens of each row of a step; 0 for rows that cannot be read.

    Of long recordings, which are decoded while they are computed, it is the estimate.
    """
    assert isinstance(step.prepared, Prepared)
    if isinstance(step.prepared.examples, StreamedExamples):
        return [cost for part in step.slices for cost in part.job.costs[part.start : part.stop]]
    counts = [0] * sum(map(len, step.slices))
    indices = step.prepared.rows.indices
    for example in step.prepared.examples:
        counts[int(indices[example.row])] += len(example)
    return counts
