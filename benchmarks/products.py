"""Measure the time that packed weights and split products save (model/matmul.py), by the number of tokens.

The linear maps have the shapes of MiniLM and DINOv2-small, in bf16. Packed weights are measured forward, with a GELU after the
product and without. Split products are measured forward and backward.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import ratio, record, seconds, spread, take_turns

from mapsto.device import keep_memory
from mapsto.model.layers import Activation, Linear
from mapsto.model.matmul import can_pack, linear

SHAPES, TOKENS, ROUNDS = ((384, 1152), (384, 384), (384, 1536), (1536, 384)), (16, 64, 1024, 8192), 7
UNEVEN = (4 * 257, 10 * 257, 32 * 257, 64 * 257, 33 * 250, 32 * 256)  # tokens; of a ViT, of others, and even
Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def microseconds(linears: list[Linear], inputs: list[torch.Tensor], activation: Activation | None) -> float:
    """Return the microseconds of one forward pass through all linear maps."""
    times = max(1, 4096 // len(inputs[0]))
    began = time.perf_counter()
    for _ in range(times):
        for layer, x in zip(linears, inputs, strict=True):
            layer(x, activation)
    return 1e6 * (time.perf_counter() - began) / times


def learning(product: Product, tokens: int) -> float:
    """Return the microseconds of products of all SHAPES, forward and backward."""
    took = 0.0
    for taken, given in SHAPES:
        x, weight, bias = (
            torch.randn(*shape, dtype=torch.bfloat16, requires_grad=True)
            for shape in ((tokens, taken), (given, taken), (given,))
        )
        of_out = torch.randn(tokens, given, dtype=torch.bfloat16)
        took += seconds(lambda x=x, w=weight, b=bias, g=of_out: product(x, w, b).backward(g))
    return 1e6 * took


def uneven() -> list[str]:
    """Return the lines of the table of whole and split products. Most numbers of tokens are no multiple of 2,048."""
    lines = ["| tokens, forward and backward | whole, µs | split, µs | split / whole |", "|---|---|---|---|"]
    for tokens in UNEVEN:
        ways = {"whole": lambda: learning(F.linear, tokens), "cut": lambda: learning(linear, tokens)}
        take_turns(ways, 1)
        found = take_turns(ways, ROUNDS)
        shown = f"{spread(found['whole'])} | {spread(found['cut'])} | {ratio(found['cut'], found['whole'])}"
        lines.append(f"| {tokens:,} | {shown} |")
    return lines


def main() -> None:
    keep_memory()  # as the command line does
    if not can_pack():
        raise SystemExit("this CPU has no bf16 products to pack weights for")
    lines = ["| tokens | activation | plain, µs | packed, µs | packed / plain |", "|---|---|---|---|---|"]
    plain = [Linear(*shape).to(torch.bfloat16) for shape in SHAPES]
    packed = copy.deepcopy(plain)
    for layer in packed:
        layer.pack()
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
                lines.append(f"| {tokens:,} | {activation or 'none'} | {shown} |")
    lines += ["", *uneven()]
    record("Packed products (benchmarks/products.py)", lines)


if __name__ == "__main__":
    main()
