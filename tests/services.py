"""Start a real service in this process, on a free port of loopback, for the tests of serving."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from mappings import small_mapping

from mapsto.pretrained import model_folder
from mapsto.serve.server import ServeProcess
from mapsto.serve.settings import ServeSettings


class Running:
    """A service that runs in a thread of its own. client: sends requests to it."""

    def __init__(self, process: ServeProcess, loop: asyncio.AbstractEventLoop) -> None:
        self.process, self.service, self.loop = process, process.service, loop
        self.client = httpx.Client(base_url=process.address, timeout=30)

    @property
    def port(self) -> int:
        return int(self.process.address.rpartition(":")[2])

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a counter, 0 if nothing was counted."""
        return self.service.metrics.registry.get_sample_value(f"mapsto_{name}", labels) or 0.0

    def wait_until(self, name: str, value: float, **labels: str) -> None:
        wait_for(lambda: self.count(name, **labels) >= value)


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Wait until a condition holds; fail if it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition does not come true"
        time.sleep(0.01)


@contextmanager
def serving(places: Sequence[Path | str], **settings: Any) -> Iterator[Running]:
    """Serve models from a thread until the end of the `with` block."""
    options = ServeSettings(port=0, log="none", device="cpu", precision="fp32", **settings)
    lines: list[str] = []
    listener: socket.socket = options.bind()
    process = ServeProcess([str(place) for place in places], options, listener, lines.append)
    loop = process.server.config.get_loop_factory()()  # type: ignore[misc]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            loop.run_until_complete(process.serve(signals=()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(lambda: any("ready" in line for line in lines) or errors)
        if errors:
            raise errors[0]
        running = Running(process, loop)
        yield running
        running.client.close()
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(process.stop, 0.0)
        thread.join(30)
        loop.close()
        listener.close()
        assert not thread.is_alive()


def save_small(arrow: str, folder: Path, seed: int = 0) -> Path:
    """Save a small model with random weights for an arrow over the table of `mappings.make_table`."""
    mapping, _ = small_mapping(arrow, seed=seed)
    model_folder.save_mapping(mapping, folder, {})
    return folder
