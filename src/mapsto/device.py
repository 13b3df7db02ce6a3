"""The device, the precision and the random seeds of a computation; only this module has code for one type of device."""

from __future__ import annotations

import ctypes
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import numpy as np
import torch

from mapsto.errors import UsageError

# Optimizer moments of rare tokens decay to denormal numbers, which a CPU adds ten times more slowly than others. The
# flag is set on import, because threads inherit it when they are started.
torch.set_flush_denormal(True)

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Precisions for prediction alone: 4 bits for each weight of the layers, while activations are in bf16.
INT4 = "int4"

# Held by the thread that trains: torch's random generator is one for the whole process.
TRAINING_TURN = threading.RLock()


def _prepare_forked_child() -> None:
    """Let a forked child compute with one thread, and take no notice of a training in another thread of its parent.

    OpenMP's threads do not exist in the child, and torch would wait for them for ever.
    """
    global TRAINING_TURN
    TRAINING_TURN = threading.RLock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_prepare_forked_child)


def choose_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """Return the device called `name`: "cuda", "mps", "cpu", or for "auto" the first of them that this machine has.

    local_rank: number of this process on its machine under torchrun, whose GPU has the same number; else None.
    Raises UsageError for a device that this machine does not have.
    """
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in is_available.items() if available)
    if name not in is_available:
        raise UsageError(f"no device {name!r}; there are: auto, {', '.join(is_available)}")
    if name == "cuda" and torch.cuda._is_in_bad_fork():
        raise UsageError(
            "a forked process cannot use the GPU that its parent has used; start processes by spawn: "
            "multiprocessing.set_start_method('spawn')"
        )
    if not is_available[name]:
        raise UsageError(f"this machine or this build of torch has no {name}; use --device auto or cpu")
    if local_rank is None or name == "cpu":
        return torch.device(name)
    if name == "mps":
        raise UsageError("several processes cannot share mps; use --device cpu, or one process")
    # Each process under torchrun has a GPU of its own.
    if local_rank >= torch.cuda.device_count():
        raise UsageError(f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the number format called `name`; "auto" takes bf16 where the hardware accelerates it, else fp32.

    Raises UsageError for any other name than "auto", "bf16" and "fp32"; "int4" is for prediction alone.
    """
    if name == "auto":
        return torch.bfloat16 if accelerates_bf16(device) else torch.float32
    if name == INT4:
        raise UsageError("--precision int4 is for generating answers with a trained model; use auto, bf16 or fp32 here")
    if name not in PRECISIONS:
        raise UsageError(
            f"no precision {name!r}; there are: auto, {', '.join(PRECISIONS)}, and {INT4} for generated answers"
        )
    return PRECISIONS[name]


def choose_prediction_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the number format of activations in prediction: as `choose_precision` does, and bf16 for the precision INT4.

    Raises UsageError for any other name, and for INT4 where torch has no fast products with such weights.
    """
    if name != INT4:
        return choose_precision(name, device)
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        raise UsageError("--precision int4 is for CPUs with AVX2 or AVX-512; use bf16 here")
    return torch.bfloat16


def cache_precision(precision: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the number format of kept keys and values, given that of the computation: on a CPU always fp32.

    There the attention of single tokens takes several times as long in bf16 without AMX (benchmarks/attention.py).
    """
    return torch.float32 if device.type == "cpu" else precision


def accelerates_bf16(device: torch.device) -> bool:
    """Return whether the hardware of the device accelerates bf16 matrix products (on a CPU: AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return has_amx() or bool(torch.cpu._is_avx512_bf16_supported())
    return False


@cache
def has_amx() -> bool:
    """Return whether this CPU has AMX, Intel's matrix multiplication units."""
    return bool(torch.cpu._is_amx_tile_supported())


def describe(device: torch.device, precision: torch.dtype, num_processes: int = 1) -> str:
    """Return device, threads, number format and number of processes in words, such as "cpu, 2 threads, bf16"."""
    name = next(name for name, dtype in PRECISIONS.items() if dtype == precision)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    processes = f", {num_processes} processes" if num_processes > 1 else ""
    return f"{device.type}{threads}, {name}{processes}"


def seed_all(*key: int) -> None:
    """Seed the random number generators of torch and Python with a hash of the integers `key`, such as (seed, step)."""
    # SeedSequence hashes the key, so that neighbouring keys give unrelated seeds; torch takes 63 bits.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(seed)
    random.seed(seed)


@contextmanager
def training_turn(say: Callable[[str], None]) -> Iterator[None]:
    """Let one thread of this process train at a time during the `with` block, since all share torch's random generator.

    Other threads wait, and so get the weights of a training alone. A training within a training is of the same turn.
    say: prints a note before waiting.
    """
    turn = TRAINING_TURN
    if not turn.acquire(blocking=False):
        say("note: another thread of this process trains; this fit begins when that one has ended")
        turn.acquire()
    try:
        yield
    finally:
        turn.release()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work, so that a time measurement includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_memory() -> None:
    """Make glibc keep freed memory for reuse instead of returning it to the operating system.

    A training step frees and allocates the same large blocks as the step before. Without this setting the operating
    system took a ninth of a step's time to map the blocks again; with it a hundredth. The setting is for the whole
    process, so a program that imports mapsto must call this function itself.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library has no mallopt, and may not need it
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
            library.mallopt(parameter, value)
