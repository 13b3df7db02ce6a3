"""The processes of one run, as torchrun starts them: which one is this, and what all of them must agree on.

A single process is the value `Ranks()`, which costs nothing; without torchrun neither torch nor a connection is opened
here. What all must know goes through gloo on the CPU, gradients through the backend of their device (layout.py).
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


STARTED_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


# A process that dies is noticed at once, by its connection; one that hangs when nothing was heard of it for this long.
LONGEST_SILENCE = timedelta(minutes=30)


GOES_ON = "the same command goes on from what was saved last"


BEAT_SECONDS = 5.0


# Of a processor's time; threads that only wait for others take less, and slow disks leave a process more.
LEAST_WORK = 0.01


class ElsewhereError(RunError):
    """Another process of the run met a fault; the main one says which."""

    def __init__(self, rank: int, text: str, status: int) -> None:
        self.exit_status = status
        super().__init__(f"process {rank}: {text}")


class SilentError(RunError):
    """A process of the run does nothing any more; `speaker` is one that can still say so."""

    def __init__(self, who: str, speaker: int = 0) -> None:
        self.speaker = speaker
        minutes = LONGEST_SILENCE.total_seconds() / 60
        super().__init__(f"nothing was heard of {who} for {minutes:g} minutes, so this run stops; {GOES_ON}")


@dataclass(frozen=True)
class Ranks:
    """Process `rank` of `size`. local: its number on this machine. restarts: how often torchrun began anew."""

    rank: int = 0
    size: int = 1
    local: int | None = None
    restarts: int = 0

    @property
    def main(self) -> bool:
        """Whether this process is the one that shows, writes and scores."""
        return self.rank == 0

    def part(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's share of what all have."""
        return rows[self.rank :: self.size]

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each of the numbers, summed over the processes."""
        return list(numbers) if self.size == 1 else self._reduced(numbers, "SUM")

    def most(self, number: int) -> int:
        """The largest number that a process has."""
        return number if self.size == 1 else int(self._reduced([number], "MAX")[0])

    def each(self, call: Callable[[], T]) -> T:
        """What `call` gives here. A fault in one process is raised in all of them, and so said once, by the main one."""
        if self.size == 1:
            return call()
        fault: Exception | None = None
        try:
            value = call()
        except Exception as error:
            fault = error
        first = -self.most(-self.rank if fault else -self.size)
        if first == self.size:
            return value
        told = self.tell([str(fault), getattr(fault, "exit_status", 1)], first)
        raise fault or ElsewhereError(first, *told)

    def on_main(self, call: Callable[[], T]) -> T | None:
        """What `call` gives in the main process; None in the others, which wait for as long as that one is at work."""
        if self.size == 1:
            return call()
        if self.main:
            return self.each(lambda: self._heard(call))
        try:
            while self._beat(True):
                pass
        except SilentError as error:
            raise SilentError("process 0", speaker=1) from error
        return self.each(lambda: None)

    def tell(self, value: Any, source: int = 0) -> Any:
        """What process `source` has as `value`, which is plain JSON, in every process."""
        if self.size == 1:
            return value
        import torch

        content = bytearray(json.dumps(value).encode()) if self.rank == source else bytearray()
        size = self.most(len(content))
        return json.loads(
            self.copied(torch.frombuffer(content or bytearray(size), dtype=torch.uint8), source).numpy().tobytes()
        )

    def share(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the main process, on the CPU, in every process."""
        if self.size == 1:
            return tensors
        import torch

        listed = self.tell([[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()])
        return {
            name: self.copied(tensors[name] if self.main else torch.empty(shape, dtype=getattr(torch, dtype)))
            for name, shape, dtype in listed
        }

    def copied(self, tensor: Tensor, source: int = 0) -> Tensor:
        """`tensor`, with what it holds in process `source` written into it."""
        if self.size > 1:
            import torch.distributed as dist

            with together():
                dist.broadcast(tensor.detach(), source)
        return tensor

    def added(self, tensor: Tensor) -> Callable[[], None]:
        """Begin to sum `tensor` over the processes, in place; call what this gives to wait for the end."""
        import torch.distributed as dist

        with together():
            work = dist.all_reduce(tensor, async_op=True)

        def wait() -> None:
            with together():
                work.wait()

        return wait

    def _heard(self, call: Callable[[], T]) -> T:
        """What `call` gives, while a thread tells the others that this process is at work: that it uses its processor."""
        ended = threading.Event()

        def tell() -> None:
            used = time.process_time()
            with suppress(RunError):
                while not ended.wait(BEAT_SECONDS):
                    before, used = used, time.process_time()
                    if used - before >= LEAST_WORK * BEAT_SECONDS:
                        self._beat(True)

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            return call()
        finally:
            ended.set()
            teller.join()
            with suppress(RunError):  # whoever has gone is missed by what all do next; a fault here is more news
                self._beat(False)

    def _beat(self, working: bool) -> bool:
        """Whether the main process says that it goes on working."""
        import torch

        return bool(self.copied(torch.tensor([working])))

    def _reduced(self, numbers: Sequence[float], how: str) -> list[float]:
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(numbers, dtype=torch.float64)
        with together():
            dist.all_reduce(tensor, getattr(dist.ReduceOp, how))
        found: list[float] = tensor.tolist()
        return found


ALONE = Ranks()


@contextmanager
def together() -> Iterator[None]:
    """Something that all processes do at the same time. Raises RunError when one of them is gone, or silent for too long."""
    began = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if time.monotonic() - began >= LONGEST_SILENCE.total_seconds():
            raise SilentError("another process") from error
        raise RunError(f"another process of this run has gone, so this one stops too; {GOES_ON}") from error


def place() -> Ranks:
    """This process among those that torchrun started; a single one without torchrun."""
    found = [os.environ.get(name) for name in STARTED_BY_TORCHRUN]
    if None in found or found[1] == "1":
        return Ranks()
    rank, size, local = (int(number or 0) for number in found[:3])
    return Ranks(rank, size, local, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


@cache
def join() -> Ranks:
    """Meet the other processes, once in a process's life. Raises RunError when they cannot be reached."""
    ranks = place()
    if ranks.size > 1:
        import torch
        import torch.distributed as dist

        # Before the group is there: functions of this module take it for a default, and would keep it and its threads.
        import torch.distributed.nn

        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_SILENCE
            )
        except (RuntimeError, ValueError) as error:
            raise RunError(f"the other processes of this run cannot be reached: {error}") from error
        atexit.register(part)
    return ranks


def part() -> None:
    """Leave the other processes, if they were met, and end the threads that served the group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def leave(status: int) -> None:
    """End this process, if it is one of several, without taking the interpreter apart.

    Caches of sharded tensors hold the group, so gloo's threads outlive `part`; one of them that meets an interpreter
    on its way out aborts a process which has done its work, and torchrun takes that for a fault.
    """
    if place().size > 1:
        if join.cache_info().currsize:
            part()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
