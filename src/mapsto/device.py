"""Where and how precisely to compute: the only place that knows one device from another."""

from __future__ import annotations

import ctypes
import random
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

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


# Products in bf16 over more tokens are made over a multiple of so many, and then over the rest.
EVEN = 2048

# How oneDNN names what a product may do with its result before it is written.
POST_OPS = {
    None: ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
}


def pack(weight: Tensor) -> Tensor | None:
    """A weight (out, in) laid out as the products of this device want it, for `packed_linear`; None where none is faster.

    A CPU with bf16 units lays weights out anew in every product otherwise. How much packing
    saves, benchmarks/products.py measures.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not packs():
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def packs() -> bool:
    """Whether this CPU and this build of torch have products over packed bf16 weights."""
    built = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """`activation` of the linear map of x, (…, in) → (…, out), with a weight from `pack`."""
    name, algorithm = POST_OPS[activation]
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
    return out


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map of x, (…, in) → (…, out), with a weight (out, in), for learning too."""
    tokens = x.shape[:-1].numel()
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and tokens > EVEN and tokens % EVEN:
        found: Tensor = CutProduct.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
        return found.view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


class CutProduct(torch.autograd.Function):
    """The linear map of x, (m, in) → (m, out), over most of the tokens and then over the rest.

    oneDNN makes products in blocks of a size that divides theirs. Over 32 × 257 tokens, as vision Transformers have them, a
    block is good for nothing, and the product takes up to twice as long (benchmarks/products.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        out = x.new_empty(len(x), len(weight))
        for part in _cut(len(x)):
            if bias is None:
                torch.mm(x[part], weight.t(), out=out[part])
            else:
                torch.addmm(bias, x[part], weight.t(), out=out[part])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), of_out, of_x = ctx.saved_tensors, gradients[0], None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            for part in _cut(len(x)):
                torch.mm(of_out[part], weight, out=of_x[part])
        of_weight = of_out.t() @ x if ctx.needs_input_grad[1] else None
        return of_x, of_weight, of_out.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None


def _cut(tokens: int) -> tuple[slice, slice]:
    even = tokens // EVEN * EVEN
    return slice(even), slice(even, tokens)


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
