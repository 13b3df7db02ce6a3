"""The process of `mapsto serve`: the socket, the signals, and the end of the service in order.

On SIGTERM the service says at once that it is not ready, and goes on listening while load balancers notice. Requests that were
admitted are answered; then the socket is closed and the process ends with the status 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mapsto.serve.app import create_app, mount, routes_of
from mapsto.serve.logs import configure_logs
from mapsto.serve.models import Models, name_models
from mapsto.serve.service import Service
from mapsto.serve.settings import ServeSettings

# After SIGTERM new requests are refused for so many seconds before the socket is closed, and admitted ones have at most these.
GRACE_SECONDS, DRAIN_SECONDS = 1.0, 25.0
# A client has so many seconds for the head of a request, and a connection without requests is closed after so many.
HEAD_SECONDS, IDLE_SECONDS = 10.0, 30
CLOSE_SECONDS = 2

Say = Callable[[str], None]


class PatientProtocol(HttpToolsProtocol):
    """A connection that is closed when the head of a request takes too long, such as a byte a second."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time of the first head."""
        super().connection_made(transport)
        self._start_head()

    def on_message_begin(self) -> None:
        """Start the time of a further head."""
        super().on_message_begin()
        self._start_head()

    def on_headers_complete(self) -> None:
        """End the time of the head, which is complete."""
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time of the head with the connection."""
        self._end_head()
        super().connection_lost(exc)

    def _start_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class QuietServer(uvicorn.Server):
    """A server that leaves signals to the service, which ends in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handler."""
        yield


class ServeProcess:
    """A service with its server. listener: the socket, bound already. say: prints a line for the user."""

    def __init__(self, places: Sequence[str], settings: ServeSettings, listener: socket.socket, say: Say) -> None:
        self.service = Service(settings, Models(name_models(places), settings))
        self.app, edge = create_app(self.service)
        self.listen(edge, listener, say)

    def listen(self, edge: ASGIApp, listener: socket.socket, say: Say) -> None:
        """Set the server up that runs the application within its edge. listener, say: as of the process."""
        self._listener, self._say = listener, say
        config = uvicorn.Config(
            edge,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self.server = QuietServer(config)
        self._end: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The address of the service, such as http://127.0.0.1:8000."""
        host, port = self._listener.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run(self) -> None:
        """Serve until a signal ends the process. Raises MapstoError if a model cannot be opened."""
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(self.serve())

    async def serve(self, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Serve until `stop` is called or one of the signals comes."""
        loop = asyncio.get_running_loop()
        for number in signals:
            with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
                loop.add_signal_handler(number, self.stop, 0.0 if number == signal.SIGINT else GRACE_SECONDS)
        start = asyncio.create_task(self._start())
        start.add_done_callback(self._started)
        try:
            await self.server.serve(sockets=[self._listener])
        finally:
            start.cancel()
            await self.service.stop()
        if start.done() and not start.cancelled():
            start.result()

    async def _start(self) -> None:
        await self.service.start()
        mount(self.app, routes_of(self.service))
        for entry in self.service.models.entries.values():
            facts = entry.facts or {}
            self._say(f"{entry.name}: {facts.get('arrow')} ({', '.join(facts.get('operations', ()))})")
        self._say(f"ready on {self.address}")

    def _started(self, task: asyncio.Task[None]) -> None:
        """End the server if the models could not be opened."""
        if not task.cancelled() and task.exception() is not None:
            self.server.should_exit = True

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Refuse new requests, answer the admitted ones and end the server; a second call ends it at once.

        grace: seconds in which new requests are refused before the socket is closed.
        """
        if self._end is not None:
            self.server.force_exit = self.server.should_exit = True
            return
        self.service.is_draining = True
        self._end = asyncio.get_running_loop().create_task(self._drain(grace))

    async def _drain(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() < start + DRAIN_SECONDS:
            await asyncio.sleep(0.02)
            if not self.service.num_in_flight and loop.time() >= start + grace:
                break
        self.server.should_exit = True


def run_server(places: Sequence[str], settings: ServeSettings, say: Say) -> None:
    """Serve models until a signal ends the process.

    places: folders or hub names, also as NAME=FOLDER. say: prints a line for the user.
    Raises UsageError for a port that is taken, CheckpointError for a model that cannot be opened.
    """
    configure_logs(settings.log)
    name_models(places)
    listener = settings.bind()
    try:
        ServeProcess(places, settings, listener, say).run()
    finally:
        listener.close()
