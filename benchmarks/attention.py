"""Compare the speed of attention kernels by row length and precision: of packed rows, and of single queries in decoding.

`choose_kernel` and `attend` (model/attention.py) and `cache_precision` (device.py) decide by these results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from common import ratio, record, seconds, spread, take_turns
from torch import Tensor
from torch.nn import functional as F

from mapsto.device import keep_memory
from mapsto.model.attention import PlainAttention, _attend_once

Kernel = Callable[[Tensor, Tensor], Tensor]
TOKENS, HEADS, WIDTH, ROUNDS = 8192, 6, 64, 5


def plain(qkv: Tensor, mask: Tensor) -> Tensor:
    """Return self-attention (r, l, d) of a fused projection (r, l, 3d), computed with plain matrix products."""
    return PlainAttention.apply(qkv, mask, HEADS, None, 0.0)


def fused(qkv: Tensor, mask: Tensor) -> Tensor:
    """Return self-attention (r, l, d) of a fused projection (r, l, 3d), computed by torch's fused kernel."""
    q, k, v = (part.transpose(1, 2) for part in qkv.view(*qkv.shape[:2], 3, HEADS, WIDTH).unbind(2))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def timed(kernel: Kernel, rows: int, length: int, dtype: torch.dtype, training: bool) -> Callable[[], float]:
    """Return a function that runs a kernel on random rows and returns the milliseconds of the fastest of three runs."""
    qkv = torch.randn(rows, length, 3 * HEADS * WIDTH, dtype=dtype, requires_grad=training)
    mask = torch.zeros(rows, 1, length, length, dtype=dtype)
    upstream = torch.randn(rows, length, HEADS * WIDTH, dtype=dtype)

    def run() -> None:
        with torch.set_grad_enabled(training):
            out = kernel(qkv, mask)
        if training:
            out.backward(upstream)

    return lambda: 1000 * min(seconds(run) for _ in range(3))


def single_queries() -> list[str]:
    """Return a table of the time of one query in each row, as in a step of decoding, in microseconds."""
    lines = [
        "| answers | heads of queries, of keys | keys | fused, bf16 | fused, fp32 | products, fp32 |",
        "|---|---|---|---|---|---|",
    ]
    for rows, heads, groups, keys in ((1, 9, 3, 40), (1, 9, 3, 300), (4, 9, 3, 100), (32, 9, 3, 100), (64, 6, 6, 200)):
        shapes = ((heads, 1), (groups, keys), (groups, keys))
        q, k, v = (torch.randn(rows, *shape, WIDTH) for shape in shapes)
        mask = torch.zeros(rows, 1, 1, keys)

        def kernel(dtype: torch.dtype, plain: bool, parts: tuple[Tensor, ...] = (q, k, v, mask)) -> Callable[[], float]:
            a, b, c, m = (part.to(dtype) for part in parts)

            def run() -> None:
                with torch.inference_mode():
                    for _ in range(20):
                        if plain:
                            _attend_once(a, b, c, m, WIDTH**-0.5)
                        else:
                            F.scaled_dot_product_attention(a, b, c, attn_mask=m, enable_gqa=True)

            return lambda: 1e6 * seconds(run) / 20

        ways = {
            "bf16": kernel(torch.bfloat16, False),
            "fp32": kernel(torch.float32, False),
            "products": kernel(torch.float32, True),
        }
        found = take_turns(ways, ROUNDS)
        lines.append(
            f"| {rows} | {heads}, {groups} | {keys} | {' | '.join(spread(values) for values in found.values())} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="rows,queries")
    parts = parser.parse_args().parts.split(",")
    keep_memory()  # as the command line does
    if "queries" in parts:
        record("Attention of single queries, in microseconds (benchmarks/attention.py)", single_queries())
    if "rows" in parts:
        measure_rows()


def measure_rows() -> None:
    """Measure both kernels on packed rows, and record the table."""
    lines = [
        "| rows | of | precision | direction | plain, ms | fused, ms | fused / plain |",
        "|---|---|---|---|---|---|---|",
    ]
    full = [(TOKENS // length, length) for length in (64, 128, 256, 512, 1024)]
    alone = [(1, length) for length in (16, 32, 64, 128)]
    for dtype in (torch.bfloat16, torch.float32):
        for training in (True, False):
            for rows, length in full if training else [*full, *alone]:
                kernels = (("plain", plain), ("fused", fused))
                found = take_turns({name: timed(way, rows, length, dtype, training) for name, way in kernels}, ROUNDS)
                direction = "forward and backward" if training else "forward"
                shown = f"{spread(found['plain'], 2)} | {spread(found['fused'], 2)} | {ratio(found['fused'], found['plain'])}"
                lines.append(f"| {rows} | {length} | {str(dtype).removeprefix('torch.')} | {direction} | {shown} |")
    record("Attention kernels (benchmarks/attention.py)", lines)


if __name__ == "__main__":
    main()
