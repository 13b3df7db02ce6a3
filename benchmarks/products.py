"""What packed weights save: a linear map of MiniLM's shapes in bf16, with a GELU behind it and without, by the number of tokens.

Plain is what training does; packed is what `Linear.pack` makes of it for answering.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from common import ratio, record, spread, take_turns

from mapsto.device import packs
from mapsto.transformer import Activation, Linear

SHAPES, TOKENS, ROUNDS = ((384, 1152), (384, 384), (384, 1536), (1536, 384)), (16, 64, 1024, 8192), 7


def microseconds(linears: list[Linear], inputs: list[torch.Tensor], activation: Activation | None) -> float:
    """Of one pass through all the shapes."""
    times = max(1, 4096 // len(inputs[0]))
    began = time.perf_counter()
    for _ in range(times):
        for linear, x in zip(linears, inputs, strict=True):
            linear(x, activation)
    return 1e6 * (time.perf_counter() - began) / times


def main() -> None:
    if not packs():
        raise SystemExit("this CPU has no bf16 products to pack weights for")
    lines = ["| tokens | behind it | plain, µs | packed, µs | packed / plain |", "|---|---|---|---|---|"]
    plain = [Linear(*shape).to(torch.bfloat16) for shape in SHAPES]
    packed = copy.deepcopy(plain)
    for linear in packed:
        linear.pack()
    activations: tuple[Activation | None, ...] = (None, "gelu")
    with torch.inference_mode():
        for tokens in TOKENS:
            inputs = [torch.randn(tokens, taken, dtype=torch.bfloat16) for taken, _ in SHAPES]
            for activation in activations:
                ways: dict[str, Callable[[], float]] = {
                    "plain": lambda: microseconds(plain, inputs, activation),
                    "packed": lambda: microseconds(packed, inputs, activation),
                }
                take_turns(ways, 1)
                found = take_turns(ways, ROUNDS)
                shown = (
                    f"{spread(found['plain'])} | {spread(found['packed'])} | {ratio(found['packed'], found['plain'])}"
                )
                lines.append(f"| {tokens:,} | {activation or 'nothing'} | {shown} |")
    record("Packed products (benchmarks/products.py)", lines)


if __name__ == "__main__":
    main()
