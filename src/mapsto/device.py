"""Device and precision of the computation: the only module that tells one device from another."""

from __future__ import annotations

import ctypes
import random
import sys
from contextlib import suppress
from functools import cache

import numpy as np
import torch

from mapsto.errors import UsageError

# Optimizer moments of rare tokens fade into denormal numbers, which a CPU adds ten times more slowly than others. Set on
# import, since threads inherit the setting when they are started.
torch.set_flush_denormal(True)

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str = "auto", local_rank: int | None = None) -> torch.device:
    """Return the device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU.

    local_rank: the number of this process among those of its machine, where there are several: each takes a GPU of its own.
    Raises UsageError for a device that this machine does not have.
    """
    is_available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in is_available.items() if available)
    if name not in is_available:
        raise UsageError(f"no device {name!r}; there are: auto, {', '.join(is_available)}")
    if not is_available[name]:
        raise UsageError(f"this machine or this build of torch has no {name}; use --device auto or cpu")
    if local_rank is None or name == "cpu":
        return torch.device(name)
    if name == "mps":
        raise UsageError("several processes cannot share mps; use --device cpu, or one process")
    if local_rank >= torch.cuda.device_count():
        raise UsageError(f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the number format called `name`; "auto" takes bf16 where the hardware accelerates it, else fp32.

    Raises UsageError for any other name than "auto", "bf16" and "fp32".
    """
    if name == "auto":
        return torch.bfloat16 if accelerates_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"no precision {name!r}; there are: auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def accelerates_bf16(device: torch.device) -> bool:
    """Return whether the device has units for bf16 products (on a CPU: AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return has_amx() or bool(torch.cpu._is_avx512_bf16_supported())
    return False


@cache
def has_amx() -> bool:
    """Return whether this CPU has Intel AMX, its matrix units."""
    return bool(torch.cpu._is_amx_tile_supported())


def describe(device: torch.device, precision: torch.dtype, num_processes: int = 1) -> str:
    """Describe the hardware for people: "cpu, 2 threads, bf16"."""
    name = next(name for name, dtype in PRECISIONS.items() if dtype == precision)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    processes = f", {num_processes} processes" if num_processes > 1 else ""
    return f"{device.type}{threads}, {name}{processes}"


def seed_all(*key: int) -> None:
    """Seed the generators of torch and Python from `key` alone, whatever was drawn before."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(seed)
    random.seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait for the device's queued work, so that a clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_memory() -> None:
    """Make glibc reuse freed memory in place of returning it to the system.

    For processes of our own, which train or predict and end. They free and allocate the same large blocks in every step, and
    glibc returns those at once: measured, a ninth of a step's time was spent in the kernel, then a hundredth.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library has no mallopt, and may not need it
        library = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
            library.mallopt(parameter, value)
