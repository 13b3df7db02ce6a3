"""The processes of one run, as torchrun starts them: this process's rank, and what all of them must agree on.

A single process is the value `Ranks()`, which costs nothing: without torchrun neither torch.distributed is imported nor a
connection opened. Facts and texts that all processes need travel over gloo on the CPU, gradients over the backend of their device
(training/data_parallel.py).
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from mapsto.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# The environment variables that torchrun sets in every process.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# A process that dies is noticed at once, by its closed connection; one that hangs only after this long without a message.
TIMEOUT = timedelta(minutes=30)

RESUME_HINT = "the same command goes on from what was saved last"

HEARTBEAT_SECONDS = 5.0

# The share of a processor's time from which the main process counts as working. Threads that only wait take less, and slow
# disks leave a process more.
MIN_WORK_SHARE = 0.01


class OtherProcessError(RunError):
    """An error in another process of the run, which the main process reports."""

    def __init__(self, rank: int, text: str, status: int) -> None:
        self.exit_status = status
        super().__init__(f"process {rank}: {text}")


class SilentProcessError(RunError):
    """A process of the run that no longer answers. reporter: the rank that prints this error."""

    def __init__(self, name: str, reporter: int = 0) -> None:
        self.reporter = reporter
        minutes = TIMEOUT.total_seconds() / 60
        super().__init__(f"nothing was heard of {name} for {minutes:g} minutes, so this run stops; {RESUME_HINT}")


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`, and the collective operations that all of them call at the same time."""

    rank: int = 0
    size: int = 1
    # The number of this process among those of its machine; None without torchrun.
    local_rank: int | None = None
    # How often torchrun has started all processes anew.
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that prints, writes files and scores."""
        return self.rank == 0

    def own_share(self, rows: Sequence[T]) -> Sequence[T]:
        """Return the rows that this process works on: every `size`-th, from its rank on."""
        return rows[self.rank :: self.size]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Sum each number over the processes."""
        return list(numbers) if self.size == 1 else self._reduce(numbers, "SUM")

    def maximum(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        return number if self.size == 1 else int(self._reduce([number], "MAX")[0])

    def run_on_all(self, call: Callable[[], T]) -> T:
        """Run `call` in every process and return its result; an error in one process is raised in all of them.

        The others raise OtherProcessError, so that the main process reports an error once, wherever it happened.
        """
        if self.size == 1:
            return call()
        failure: Exception | None = None
        try:
            value = call()
        except Exception as error:
            failure = error
        first_failed = -self.maximum(-self.rank if failure else -self.size)
        if first_failed == self.size:
            return value
        message = self.broadcast_json([str(failure), getattr(failure, "exit_status", 1)], first_failed)
        raise failure or OtherProcessError(first_failed, *message)

    def run_on_main(self, call: Callable[[], T]) -> T | None:
        """Run `call` in the main process and return its result there; the others wait for it and return None.

        The main process may take longer than TIMEOUT, as long as it uses its processor. Raises SilentProcessError.
        """
        if self.size == 1:
            return call()
        if self.is_main:
            return self.run_on_all(lambda: self._call_with_heartbeat(call))
        try:
            while self._exchange_heartbeat(True):
                pass
        except SilentProcessError as error:
            raise SilentProcessError("process 0", reporter=1) from error
        return self.run_on_all(lambda: None)

    def broadcast_json(self, value: Any, source: int = 0) -> Any:
        """Return the `value` of process `source`, plain JSON, in every process."""
        if self.size == 1:
            return value
        import torch

        content = bytearray(json.dumps(value).encode()) if self.rank == source else bytearray()
        size = self.maximum(len(content))
        buffer = torch.frombuffer(content or bytearray(size), dtype=torch.uint8)
        return json.loads(self.broadcast(buffer, source).numpy().tobytes())

    def broadcast_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the main process, on the CPU, in every process."""
        if self.size == 1:
            return tensors
        import torch

        shapes = self.broadcast_json(
            [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()]
        )
        return {
            name: self.broadcast(tensors[name] if self.is_main else torch.empty(shape, dtype=getattr(torch, dtype)))
            for name, shape, dtype in shapes
        }

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Overwrite `tensor` with its values in process `source`, and return it."""
        if self.size > 1:
            import torch.distributed as dist

            with explaining_lost_processes():
                dist.broadcast(tensor.detach(), source)
        return tensor

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Start to sum `tensor` over the processes, in place; return a function that waits for the result."""
        import torch.distributed as dist

        with explaining_lost_processes():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with explaining_lost_processes():
                work.wait()

        return wait

    def _call_with_heartbeat(self, call: Callable[[], T]) -> T:
        """Run `call` while a thread sends a heartbeat to the other processes, as long as this one uses its processor."""
        finished = threading.Event()

        def send_heartbeats() -> None:
            processor_time = time.process_time()
            with suppress(RunError):
                while not finished.wait(HEARTBEAT_SECONDS):
                    previous_time, processor_time = processor_time, time.process_time()
                    if processor_time - previous_time >= MIN_WORK_SHARE * HEARTBEAT_SECONDS:
                        self._exchange_heartbeat(True)

        thread = threading.Thread(target=send_heartbeats, daemon=True)
        thread.start()
        try:
            return call()
        finally:
            finished.set()
            thread.join()
            # The next collective operation misses a process that has gone; an error of `call` matters more here.
            with suppress(RunError):
                self._exchange_heartbeat(False)

    def _exchange_heartbeat(self, is_working: bool) -> bool:
        """Return whether the main process says that it is still working."""
        import torch

        return bool(self.broadcast(torch.tensor([is_working])))

    def _reduce(self, numbers: Sequence[float], operation: str) -> list[float]:
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(numbers, dtype=torch.float64)
        with explaining_lost_processes():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        reduced: list[float] = tensor.tolist()
        return reduced


SINGLE_PROCESS = Ranks()


@contextmanager
def explaining_lost_processes() -> Iterator[None]:
    """Turn an error of a collective operation into a RunError: another process has gone, or did not answer in time."""
    started = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if time.monotonic() - started >= TIMEOUT.total_seconds():
            raise SilentProcessError("another process") from error
        raise RunError(f"another process of this run has gone, so this one stops too; {RESUME_HINT}") from error


def read_ranks() -> Ranks:
    """Read this process's rank from torchrun's environment variables; a single process without torchrun."""
    values = [os.environ.get(name) for name in TORCHRUN_VARIABLES]
    if None in values or values[1] == "1":
        return Ranks()
    rank, size, local_rank = (int(number or 0) for number in values[:3])
    return Ranks(rank, size, local_rank, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


@cache
def join_process_group() -> Ranks:
    """Connect to the other processes, once in a process's life. Raises RunError when they cannot be reached."""
    ranks = read_ranks()
    if ranks.size > 1:
        import torch
        import torch.distributed as dist

        # Imported before the group exists: functions of this module take the group as a default argument, and would keep it and
        # its threads alive.
        import torch.distributed.nn

        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the other processes of this run cannot be reached: {error}") from error
        atexit.register(leave_process_group)
    return ranks


def leave_process_group() -> None:
    """Disconnect from the other processes, if they were connected, and end the threads that served the group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(status: int) -> None:
    """End this process with `status`, if it is one of several, without shutting the interpreter down.

    Caches of sharded tensors hold the group, so gloo's threads outlive `leave_process_group`. Such a thread aborts a process
    that has done its work while its interpreter shuts down, and torchrun takes that for an error.
    """
    if read_ranks().size > 1:
        if join_process_group.cache_info().currsize:
            leave_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
