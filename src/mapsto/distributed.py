"""The processes of a run under torchrun: this process's rank, and the collective operations between processes.

Without torchrun there is one process, `Ranks()`; then torch.distributed is not imported and no connection is opened.
Numbers and JSON are exchanged with the backend gloo on the CPU, gradients with the backend of the device
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

# A dead process is noticed at once, because its connection closes. One that hangs is noticed after this time.
TIMEOUT = timedelta(minutes=30)

RESUME_HINT = "the same command goes on from what was saved last"

HEARTBEAT_SECONDS = 5.0

# The main process counts as working, not hanging, if it uses at least this share of a processor's time. Threads that
# only wait use less, and a process that reads from a slow disk uses more.
MIN_WORK_SHARE = 0.01


class OtherProcessError(RunError):
    """An error of another process of the run, raised in this process so that all processes stop.

    rank: the rank of the process that failed. text: its error message. status: the exit status for this error.
    """

    def __init__(self, rank: int, text: str, status: int) -> None:
        self.exit_status = status
        super().__init__(f"process {rank}: {text}")


class SilentProcessError(RunError):
    """The error that another process of the run has not answered for TIMEOUT.

    name: that process in words. reporter: the rank of the process that prints this error.
    """

    def __init__(self, name: str, reporter: int = 0) -> None:
        self.reporter = reporter
        minutes = TIMEOUT.total_seconds() / 60
        super().__init__(f"nothing was heard of {name} for {minutes:g} minutes, so this run stops; {RESUME_HINT}")


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of processes (`size`), and collective operations.

    All processes must call a collective operation together. In a run of one process, no process group is needed.
    """

    rank: int = 0
    size: int = 1
    # The number of this process on its machine, from 0; None without torchrun.
    local_rank: int | None = None
    # How often torchrun has restarted all processes, after one of them died.
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Return whether this is the main process, rank 0, which prints, writes files and scores."""
        return self.rank == 0

    def own_share(self, rows: Sequence[T]) -> Sequence[T]:
        """Return this process's share of the rows: every `size`-th row, beginning with row number `rank`."""
        return rows[self.rank :: self.size]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Return each of the numbers summed over the processes."""
        return list(numbers) if self.size == 1 else self._reduce(numbers, "SUM")

    def maximum(self, number: int) -> int:
        """Return the largest `number` of all processes."""
        return number if self.size == 1 else int(self._reduce([number], "MAX")[0])

    def run_on_all(self, call: Callable[[], T]) -> T:
        """Run `call` in every process and return this process's result; if it fails in one process, raise in all.

        A process with an error of its own raises that error, the others raise OtherProcessError with its message.
        """
        if self.size == 1:
            return call()
        failure: Exception | None = None
        try:
            value = call()
        except Exception as error:
            failure = error
        # The lowest rank that failed, as the negative of a maximum; `size` when none failed.
        first_failed = -self.maximum(-self.rank if failure else -self.size)
        if first_failed == self.size:
            return value
        message = self.broadcast_json([str(failure), getattr(failure, "exit_status", 1)], first_failed)
        raise failure or OtherProcessError(first_failed, *message)

    def run_on_main(self, call: Callable[[], T]) -> T | None:
        """Run `call` in the main process and return its result there; the other processes wait and return None.

        An error of `call` is raised in all processes. `call` may take longer than TIMEOUT as long as the main process uses
        its processor; otherwise the others raise SilentProcessError.
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
        """Return in every process the `value` of the process with rank `source`, which must be plain JSON."""
        if self.size == 1:
            return value
        import torch

        # The others learn the length first, since a broadcast needs buffers of equal size.
        content = bytearray(json.dumps(value).encode()) if self.rank == source else bytearray()
        size = self.maximum(len(content))
        buffer = torch.frombuffer(content or bytearray(size), dtype=torch.uint8)
        return json.loads(self.broadcast(buffer, source).numpy().tobytes())

    def broadcast_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return in every process the main process's `tensors`, by name and on the CPU."""
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
        """Overwrite `tensor` in every process with its values in the process of rank `source`, and return it."""
        if self.size > 1:
            import torch.distributed as dist

            with explaining_lost_processes():
                dist.broadcast(tensor.detach(), source)
        return tensor

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Start to sum `tensor` over the processes in place; return a function that waits until the sum is complete."""
        import torch.distributed as dist

        with explaining_lost_processes():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with explaining_lost_processes():
                work.wait()

        return wait

    def _call_with_heartbeat(self, call: Callable[[], T]) -> T:
        """Run `call` and return its result, while a thread sends heartbeats to the other processes.

        A heartbeat is sent only if this process has used its processor since the last one.
        """
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
            # Ignored: the next collective operation notices a dead process anyway, and an error of `call` matters more.
            with suppress(RunError):
                self._exchange_heartbeat(False)

    def _exchange_heartbeat(self, is_working: bool) -> bool:
        """Return in every process the main process's `is_working`: whether its `call` still runs. A collective operation."""
        import torch

        return bool(self.broadcast(torch.tensor([is_working])))

    def _reduce(self, numbers: Sequence[float], operation: str) -> list[float]:
        """Return each number reduced over the processes: their "SUM" or "MAX", as `operation` says."""
        import torch
        import torch.distributed as dist

        # fp64 holds integers exactly up to 2^53.
        tensor = torch.tensor(numbers, dtype=torch.float64)
        with explaining_lost_processes():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
        reduced: list[float] = tensor.tolist()
        return reduced


SINGLE_PROCESS = Ranks()


@contextmanager
def explaining_lost_processes() -> Iterator[None]:
    """Turn the error of a collective operation in the `with` block into a RunError that says what happened.

    Either another process has died, or one has not answered for TIMEOUT.
    """
    started = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if time.monotonic() - started >= TIMEOUT.total_seconds():
            raise SilentProcessError("another process") from error
        raise RunError(f"another process of this run has gone, so this one stops too; {RESUME_HINT}") from error


def read_ranks() -> Ranks:
    """Return this process's Ranks from torchrun's environment variables; a single process without torchrun."""
    values = [os.environ.get(name) for name in TORCHRUN_VARIABLES]
    # A world of one process needs no communication, so it counts as no torchrun.
    if None in values or values[1] == "1":
        return Ranks()
    rank, size, local_rank = (int(number or 0) for number in values[:3])
    return Ranks(rank, size, local_rank, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


@cache
def join_process_group() -> Ranks:
    """Connect to the other processes at the first call, and return this process's Ranks.

    Raises RunError when the other processes cannot be reached.
    """
    ranks = read_ranks()
    if ranks.size > 1:
        import torch
        import torch.distributed as dist

        # Imported before the group exists: this module's functions have the group as a default argument. Imported
        # later, they would keep the group and its threads alive.
        import torch.distributed.nn

        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the other processes of this run cannot be reached: {error}") from error
        atexit.register(leave_process_group)
    return ranks


def leave_process_group() -> None:
    """Disconnect from the other processes, if connected, and end the threads of the process group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(status: int) -> None:
    """End this process at once with exit status `status` if it is one of several; else return without effect.

    Caches of sharded tensors keep the process group alive, so gloo's threads outlive `leave_process_group`. When the
    Python interpreter shuts down, such a thread may abort the process, which torchrun reports as an error. So the
    shutdown is skipped.
    """
    if read_ranks().size > 1:
        if join_process_group.cache_info().currsize:
            leave_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
