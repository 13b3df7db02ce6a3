"""The service behind the routes: admission, deadlines, closed connections, and the way of rows to the engine and back.

All of it runs on the event loop, so that counting what waits needs no lock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from mapsto.errors import UsageError
from mapsto.serve.engine import Engine, StepReport
from mapsto.serve.examples import ExampleShelf
from mapsto.serve.inputs import CellReader, InputRows, require_rows
from mapsto.serve.jobs import Job, Ticket
from mapsto.serve.metrics import ServeMetrics
from mapsto.serve.models import Models
from mapsto.serve.refusals import ClientGone, Full, Late, Refusal
from mapsto.serve.served_model import ServedModel, Settings
from mapsto.serve.settings import ServeSettings

Result = TypeVar("Result")

# The estimated tokens per second before any step was measured, and the weight of a new measurement.
FIRST_RATE, NEW_WEIGHT = 5_000.0, 0.1
MAX_RETRY_SECONDS = 60
# A request is refused if it would wait for more than this share of its time: one that waits for almost all of it is computed for
# nobody when the estimate is a little short.
WAIT_SHARE = 0.5
TIMEOUT_HEADER = "x-timeout"


@dataclass
class RowAnswers:
    """The answers to a request's rows, the model that gave them, and the number of tokens that it read."""

    model: ServedModel
    answers: list[dict[str, Any]]
    num_tokens: int = 0


@dataclass
class Service:
    """The models, the engine and the counters of a running service."""

    settings: ServeSettings
    models: Models
    metrics: ServeMetrics = field(default_factory=ServeMetrics)
    # The estimated tokens of all admitted rows that are not answered yet, and how many are computed in a second.
    waiting_tokens: int = 0
    rate: float = FIRST_RATE
    # The number of requests that have no response yet, without those about health.
    num_in_flight: int = 0
    is_ready: bool = False
    is_draining: bool = False

    def __post_init__(self) -> None:
        self.examples = ExampleShelf(self.settings.num_examples)
        self.reader = CellReader(self.settings.files, self.settings.max_body)

    async def start(self) -> None:
        """Start the engine and open the models; the service is ready afterwards."""
        self.engine = Engine(asyncio.get_running_loop(), self._report)
        await self.models.open_all()
        self._watcher = asyncio.create_task(self.models.watch())
        self.is_ready = True

    async def stop(self) -> None:
        """End the threads of the service."""
        self.is_ready = False
        if hasattr(self, "_watcher"):
            self._watcher.cancel()
        if hasattr(self, "engine"):
            await asyncio.to_thread(self.engine.stop)
        self.models.close()

    @property
    def is_alive(self) -> bool:
        """Return whether the service can answer, now or once it is ready: not if the thread that computes has ended."""
        return not hasattr(self, "engine") or self.engine.is_alive

    def _report(self, report: StepReport) -> None:
        """Count the work of a step of the engine."""
        self.metrics.step_rows.observe(report.num_rows)
        self.metrics.step_seconds.observe(report.seconds)
        self.metrics.tokens.inc(report.num_tokens)
        if report.seconds > 0:
            self.rate += NEW_WEIGHT * (report.cost / report.seconds - self.rate)

    def require_room(self, seconds: float | None = None) -> None:
        """Raise Refusal if the service takes no requests now, or if so much waits that this one would come too late.

        seconds: the time of the request; None for the longest that a request may have.
        """
        if self.is_draining:
            raise Refusal(503, "the service is stopping", {"Retry-After": "1", "Connection": "close"})
        if not self.is_ready:
            raise Refusal(503, "the models are being opened", {"Retry-After": "1"})
        seconds_to_wait = self.waiting_tokens / max(self.rate, 1.0)
        longest = WAIT_SHARE * (seconds or self.settings.timeout)
        if self.waiting_tokens >= self.settings.queue_tokens or seconds_to_wait > longest:
            raise Full(min(max(1, math.ceil(seconds_to_wait)), MAX_RETRY_SECONDS))

    def seconds_of(self, request: Request) -> float:
        """Return how many seconds a request may take. Raises Refusal for a header X-Timeout that is no number above 0."""
        text = request.headers.get(TIMEOUT_HEADER)
        if text is None:
            return self.settings.timeout
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < math.inf:
            raise Refusal(400, f"X-Timeout is a number of seconds above 0, not {text[:40]!r}")
        return min(seconds, self.settings.timeout)

    async def answer(
        self, request: Request, operation: str, name: str | None, rows: Any, settings: Settings | None = None
    ) -> RowAnswers:
        """Return the answers to the rows of a request, {"error": reason} in place of those that cannot be answered.

        operation: "predict", "embed" or "explain". name: that of the model; None for the first one.
        Raises Refusal if the request cannot be answered at all.
        """
        self.require_room()
        rows = require_rows(rows, self.settings.max_rows)
        model = await self.models.get(name)
        try:
            answerer = model.answerer(operation, settings or Settings())
        except UsageError as error:
            raise Refusal(422, str(error)) from error
        inputs = await self._read(rows, model, operation)
        result = RowAnswers(model, [{"error": error} for error in inputs.errors])
        if inputs.costs:
            bound = model.bind(answerer, operation, inputs.columns)
            columns = {port.column: inputs.columns[port.column] for port in bound.sources if port.column}
            costs = [cost * model.passes(operation) for cost in inputs.costs]
            ticket = Ticket(asyncio.get_running_loop().create_future(), sum(costs))
            job = Job(answerer, bound, columns, costs, ticket)
            async with self.waiting(request, ticket):
                self.engine.submit(job)
                answers = iter(await ticket.future)
            result.answers = [{"error": e} if e is not None else next(answers) for e in inputs.errors]
            result.num_tokens = job.num_tokens
        num_failed = sum("error" in answer for answer in result.answers)
        self.metrics.rows.labels(model.name, "failed").inc(num_failed)
        self.metrics.rows.labels(model.name, "answered").inc(len(rows) - num_failed)
        if num_failed == len(rows):
            first = result.answers[0]["error"]
            message = first if len(rows) == 1 else f"no row could be answered; the first: {first}"
            raise Refusal(422, message, content={"answers": result.answers})
        return result

    async def _read(self, rows: Sequence[Any], model: ServedModel, operation: str) -> InputRows:
        """Return the cells of rows; files are decoded by a thread, so that other requests go on."""
        ports, is_prompted = model.ports_of(operation, rows[0]), model.arrow.is_prompted
        if is_large(rows[0]):
            return await asyncio.to_thread(self.reader.read, rows, ports, is_prompted)
        return self.reader.read(rows, ports, is_prompted)

    @asynccontextmanager
    async def waiting(self, request: Request, ticket: Ticket) -> AsyncIterator[None]:
        """Count a request as waiting, and give it up when its time is over or its client has gone.

        Raises Refusal if there is no room. The future of the ticket then raises Late or ClientGone.
        """
        seconds = self.seconds_of(request)
        self.require_room(seconds)
        self._count_waiting(ticket.cost)
        timer = asyncio.get_running_loop().call_at(
            request.state.started + seconds, self._give_up, ticket, Late(seconds), "late"
        )
        watcher = asyncio.create_task(_closed(request))

        def leave(task: asyncio.Task[None]) -> None:
            """Give up a request whose client has gone."""
            if not task.cancelled():
                self._give_up(ticket, ClientGone(), "closed")

        watcher.add_done_callback(leave)
        try:
            yield
        finally:
            timer.cancel()
            watcher.cancel()
            ticket.is_dropped = True
            self._count_waiting(-ticket.cost)

    def _count_waiting(self, cost: int) -> None:
        """Add a cost to that of the requests that wait."""
        self.waiting_tokens += cost
        self.metrics.queue.set(self.waiting_tokens)

    def _give_up(self, ticket: Ticket, error: Refusal, reason: str) -> None:
        """Give up a request that has no result yet."""
        if not ticket.future.done():
            self.metrics.dropped.labels(reason).inc()
            ticket.fail(error)

    async def compute(self, request: Request, function: Callable[[], Result], cost: int) -> Result:
        """Return the result of a function that computes with a model, called when it is its turn. cost: its estimated tokens.

        Raises Refusal as `waiting`.
        """
        ticket = Ticket(asyncio.get_running_loop().create_future(), cost)
        async with self.waiting(request, ticket):
            work = asyncio.ensure_future(self.engine.run(function))
            await asyncio.wait([work, ticket.future], return_when=asyncio.FIRST_COMPLETED)
            if ticket.future.done():
                ticket.future.result()
            ticket.future.cancel()
            return await work

    async def stream(self, request: Request, begin: Callable[[], Iterator[str]], cost: int) -> AsyncIterator[str]:
        """Yield the parts of a generated text as they are written. begin: returns the iterator over them, for the engine.

        cost: the estimated tokens. Raises Refusal as `waiting`, and for a text that cannot be generated.
        """
        parts: asyncio.Queue[str | BaseException | None] = asyncio.Queue()
        ticket = Ticket(asyncio.get_running_loop().create_future(), cost)

        def end(future: asyncio.Future[Any]) -> None:
            """End the text with the error by which its request was given up."""
            if not future.cancelled():
                parts.put_nowait(future.exception())

        ticket.future.add_done_callback(end)
        async with self.waiting(request, ticket):
            self.engine.stream(begin, parts.put_nowait, ticket)
            while (part := await parts.get()) is not None:
                if isinstance(part, BaseException):
                    raise part
                yield part
        ticket.future.cancel()


def is_large(row: Any) -> bool:
    """Return whether a row holds a file, so that reading it takes longer than handing it to a thread."""
    cells = row.values() if isinstance(row, dict) else [row]
    return any(isinstance(cell, bytes | dict) or (isinstance(cell, str) and len(cell) > 2**16) for cell in cells)


async def _closed(request: Request) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
