"""Where and how precisely to compute: the only place that knows one device from another."""

from __future__ import annotations

import ctypes
import random
import sys
from contextlib import suppress
from functools import cache

import numpy as np
import torch

from mapsto.errors import UsageError

# Moments of rarely seen tokens fade into denormal numbers, which a CPU adds ten times more slowly than others. Set on
# import, since threads take it over when they are started.
torch.set_flush_denormal(True)


# Knobs of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def choose_device(name: str = "auto", local: int | None = None) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then Apple's MPS, then the CPU. Raises UsageError if it is not here.

    `local` is the number of this process among those on this machine, where there are several: each takes a GPU of its own.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, available in here.items() if available)
    if name not in here:
        raise UsageError(f"no device {name!r}; there are: auto, {', '.join(here)}")
    if not here[name]:
        raise UsageError(f"this machine or this build of torch has no {name}; use --device auto or cpu")
    if local is None or name == "cpu":
        return torch.device(name)
    if name == "mps":
        raise UsageError("several processes share no mps; use --device cpu, or one process")
    if local >= torch.cuda.device_count():
        raise UsageError(f"process {local} of this machine has no GPU: there are {torch.cuda.device_count()}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """bf16 where the hardware accelerates it, else fp32; `name` overrides. Raises UsageError for another name."""
    if name == "auto":
        return torch.bfloat16 if accelerates_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise UsageError(f"no precision {name!r}; there are: auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def accelerates_bf16(device: torch.device) -> bool:
    """Whether bf16 products run on units of their own there (AMX or AVX-512 BF16 on a CPU)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return has_amx() or bool(torch.cpu._is_avx512_bf16_supported())
    return False


@cache
def has_amx() -> bool:
    """Whether this CPU has matrix units of its own (Intel AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def describe(device: torch.device, precision: torch.dtype, processes: int = 1) -> str:
    """For people: "cpu, 2 threads, bf16"."""
    name = next(name for name, dtype in PRECISIONS.items() if dtype == precision)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return f"{device.type}{threads}, {name}" + (f", {processes} processes" if processes > 1 else "")


def seed_all(*key: int) -> None:
    """Set every generator from `key`, so that what is drawn next is a function of it and of nothing else."""
    mixed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(mixed)
    random.seed(mixed)


def synchronize(device: torch.device) -> None:
    """Wait for queued work, so that a clock measures it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def keep_memory() -> None:
    """Let this process use freed memory again instead of handing it back and fetching it anew, page by page.

    For processes of our own, which train or predict and end: they fetch and free the same large blocks in every step, and
    glibc gives those back at once (measured: a ninth of the time of a step was spent in the kernel, then a hundredth).
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library has no such knob, and may have no such need
        library = ctypes.CDLL(None)
        for knob, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20)):
            library.mallopt(knob, value)
