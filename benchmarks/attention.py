"""Which attention kernel is faster, by row length, precision and direction: what transformer.kernel decides from."""

from __future__ import annotations

import torch
from common import ratio, record, seconds, spread, take_turns
from torch import Tensor
from torch.nn import functional as F

TOKENS, HEADS, WIDTH, ROUNDS = 8192, 6, 64, 5


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax((q * WIDTH**-0.5) @ k.transpose(-1, -2) + mask, dim=-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def timed(kernel: object, rows: int, length: int, dtype: torch.dtype, training: bool) -> object:
    assert callable(kernel)
    q, k, v = (torch.randn(rows, HEADS, length, WIDTH, dtype=dtype, requires_grad=training) for _ in range(3))
    mask = torch.zeros(rows, 1, length, length, dtype=dtype)

    def run() -> None:
        out = kernel(q, k, v, mask)
        if training:
            out.sum().backward()

    return lambda: 1000 * min(seconds(run) for _ in range(3))


def main() -> None:
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
                found = take_turns({name: timed(way, rows, length, dtype, training) for name, way in kernels}, ROUNDS)  # type: ignore[arg-type]
                direction = "forward and backward" if training else "forward"
                shown = f"{spread(found['plain'], 2)} | {spread(found['fused'], 2)} | {ratio(found['fused'], found['plain'])}"
                lines.append(f"| {rows} | {length} | {str(dtype).removeprefix('torch.')} | {direction} | {shown} |")
    record("Attention kernels (benchmarks/attention.py)", lines)


if __name__ == "__main__":
    main()
