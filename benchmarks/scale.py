"""Estimate the time and memory of pretraining on 100 GB of text with 64 GPUs, and print the tables of docs/scale.md.

Nothing runs on a GPU here.

Each constant says where it is from: measured by us, published (with its source), or assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# The task.
TEXT_BYTES = 100e9
GPUS, GPUS_A_MACHINE = 64, 8
ROW = 512  # assumed: tokens in a packed row
TOKENS_A_STEP = 2**21  # assumed: a global batch, 32,768 tokens a GPU
HIDDEN = 0.30 * 0.6 + 0.225 * 0.4  # our default: 30 % hidden, falling to 15 % over the last 40 %

# Published: NVIDIA, H100 Tensor Core GPU data sheet (SXM): bf16 without sparsity, memory, its bandwidth, NVLink.
PEAK, GPU_MEMORY, GPU_BANDWIDTH = 989e12, 80e9, 3.35e12
# Published: NVIDIA, DGX H100 data sheet: one network card of 400 Gbit/s for each GPU.
NETWORK = 400e9 / 8
# Published: Grattafiori et al. 2024 (The Llama 3 Herd of Models): 419 unexpected stops in 54 days of 16,384 H100; 38–43 %
# of the peak reached, by models of 8 to 400 billion parameters.
STOPS_A_GPU_HOUR = 419 / (54 * 24 * 16_384)
# Assumed: small matrices reach less of the peak than Llama 3; our share on a GPU is not measured.
SHARES_OF_PEAK = (0.20, 0.40)
NETWORK_SHARE = 0.7  # assumed: of the cards' speed in an all-reduce
HOST_SECONDS = 3 * 1e-3  # assumed: three small sums a step over Ethernet, 1 ms each
BYTES_A_TOKEN = 4.2  # assumed: English, vocabulary of 50,000
SAVE_SPEED = 0.5e9  # assumed: bytes a second to copy, hash (SHA-256) and write a checkpoint, one process
RESTART_SECONDS = 600.0  # assumed: torchrun meets again, data and checkpoint are opened
ACTIVATION_BYTES = 34  # Korthikanti et al. 2022: bytes a token, layer and unit of width in bf16, with fused attention
TOKENS_AT_ONCE = 8192  # loop.TOKENS_AT_ONCE

# Measured by us (benchmarks/RESULTS.md, Packing; Chinese titles, the slower corpus): 8,192 tokens hidden, packed, collated.
TOKENS_MADE_A_SECOND = 8192 / 19.4e-3

# Measured by us (benchmarks/RESULTS.md, A corpus of any size): what 1 GB takes on two cores, in seconds for the vocabulary and
# for the shards of tokens, and in bytes on disk.
CORPUS_BYTES, VOCABULARY_SECONDS, SHARD_SECONDS, SHARD_BYTES = 1e9, 23.6, 143.0, 593e6

# Measured by us (benchmarks/RESULTS.md, Pretraining): two CPU cores, this shape, real tokens a second with Muon.
MEASURED_TOKENS, MEASURED_SHAPE, MEASURED_ROW = 5312.0, (6, 384, 1024, 30_522), 128


@dataclass(frozen=True)
class Shape:
    """Shape of a model. hidden: width inside the gated feed-forward part. vocabulary: number of tokens."""

    layers: int
    width: int
    hidden: int
    vocabulary: int

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Shapes (outputs, inputs) of the matrices of one block."""
        w, h = self.width, self.hidden
        return [(3 * w, w), (w, w), (2 * h, w), (w, h)]

    @property
    def block(self) -> int:
        """Number of weights of one block."""
        return sum(a * b for a, b in self.matrices)

    @property
    def parameters(self) -> int:
        """Number of weights of the model. The output layer shares its weights with the embeddings."""
        return self.layers * self.block + self.vocabulary * self.width + self.width**2

    def work(self, row: int) -> float:
        """Return the floating-point operations per token, forward and backward. row: tokens of a row."""
        products = 6 * (self.layers * self.block + HIDDEN * (self.vocabulary * self.width + self.width**2))
        attention = 12 * self.layers * self.width * row
        return products + attention

    @property
    def muon(self) -> float:
        """Floating-point operations of a Muon step: five Newton–Schulz iterations on every matrix."""
        sides = [(min(m), max(m)) for m in self.matrices]
        return 5 * self.layers * sum(4 * a * a * b + 2 * a**3 for a, b in sides)


SHAPES = {"base (22 × 768)": Shape(22, 768, 1152, 50_368), "large (28 × 1024)": Shape(28, 1024, 2624, 50_368)}


@dataclass(frozen=True)
class Step:
    """Seconds of the parts of one training step.

    network: summing gradients, of which `exposed` is not hidden behind computation. host: small sums over Ethernet.
    """

    compute: float
    network: float
    exposed: float
    optimizer: float
    host: float = HOST_SECONDS

    @property
    def whole(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.exposed + self.optimizer + self.host


def step(shape: Shape, share: float) -> Step:
    """Return the estimated times of a step. share: share of the GPUs' peak that is reached.

    Gradients are summed during the last backward pass of the step, which is two thirds of a forward and backward pass.
    """
    here = TOKENS_A_STEP / GPUS
    compute = here * shape.work(ROW) / (PEAK * share)
    network = 2 * (GPUS - 1) / GPUS * 4 * shape.parameters / (NETWORK * NETWORK_SHARE)
    hidden_behind = compute * min(1.0, TOKENS_AT_ONCE / here) * 2 / 3
    moved = 7 * 4 * shape.parameters / GPU_BANDWIDTH
    return Step(compute, network, max(0.0, network - hidden_behind), moved + shape.muon / (PEAK * share))


def rows(shape: Shape) -> list[tuple[str, Callable[[float], str]]]:
    """Return the lines of the table: pairs (title, function from the share of the peak to the text of the cell)."""
    tokens = TEXT_BYTES / BYTES_A_TOKEN
    n = shape.parameters
    saved = 4 * n * 4
    stops_an_hour = STOPS_A_GPU_HOUR * GPUS
    save = saved / SAVE_SPEED
    between = math.sqrt(2 * save * 3600 / stops_an_hour)  # Young 1974

    def hours(share: float) -> float:
        return tokens / TOKENS_A_STEP * step(shape, share).whole / 3600

    def lost(share: float) -> float:
        stops = hours(share) * stops_an_hour
        return hours(share) * save / between + stops * (between / 2 + RESTART_SECONDS) / 3600

    replicas = 20 * n + ACTIVATION_BYTES * TOKENS_AT_ONCE * shape.width * shape.layers
    replicas += 6 * TOKENS_AT_ONCE * 0.3 * shape.vocabulary
    return [
        ("parameters, million", lambda _: f"{n / 1e6:,.0f}"),
        ("operations a token, million", lambda _: f"{shape.work(ROW) / 1e6:,.0f}"),
        ("tokens, billion", lambda _: f"{tokens / 1e9:,.1f}"),
        ("steps", lambda _: f"{tokens / TOKENS_A_STEP:,.0f}"),
        ("a step, ms", lambda s: f"{1e3 * step(shape, s).whole:,.0f}"),
        ("… computing", lambda s: f"{1e3 * step(shape, s).compute:,.0f}"),
        ("… summing gradients; of which not hidden", lambda s: _pair(step(shape, s))),
        ("… Muon and AdamW", lambda s: f"{1e3 * step(shape, s).optimizer:,.1f}"),
        (
            "making its batches, one thread (beside it)",
            lambda _: f"{1e3 * TOKENS_A_STEP / GPUS / TOKENS_MADE_A_SECOND:,.0f}",
        ),
        ("tokens a second", lambda s: f"{TOKENS_A_STEP / step(shape, s).whole:,.0f}"),
        ("hours for one pass", lambda s: f"{hours(s):,.2f}"),
        ("GPU hours", lambda s: f"{GPUS * hours(s):,.0f}"),
        ("network, GB a step and GPU", lambda _: f"{2 * (GPUS - 1) / GPUS * 4 * n / 1e9:,.2f}"),
        ("memory a GPU, GB of 80", lambda _: f"{replicas / 1e9:,.1f}"),
        ("a checkpoint, GB; seconds to save", lambda _: f"{saved / 1e9:,.1f}; {save:,.0f}"),
        ("best time between saves, minutes", lambda _: f"{between / 60:,.0f}"),
        ("stops expected in one pass", lambda s: f"{hours(s) * stops_an_hour:,.4f}"),
        ("hours expected for saves and stops", lambda s: f"{lost(s):,.3f}"),
    ]


def _pair(found: Step) -> str:
    """Return the milliseconds of summing gradients, and of the part that is not hidden, as text."""
    return f"{1e3 * found.network:,.0f}; {1e3 * found.exposed:,.0f}"


def main() -> None:
    """Print the tables."""
    low, high = SHARES_OF_PEAK
    for name, shape in SHAPES.items():
        print(f"| {name} | {100 * low:.0f} % of the peak | {100 * high:.0f} % of the peak |\n|---|---|---|")
        for title, value in rows(shape):
            print(f"| {title} | {value(low)} | {value(high)} |")
        print()
    layers, width, hidden, vocabulary = MEASURED_SHAPE
    ours = Shape(layers, width, hidden, vocabulary)
    base = SHAPES["base (22 × 768)"]
    reached = MEASURED_TOKENS * ours.work(MEASURED_ROW)
    years = TEXT_BYTES / BYTES_A_TOKEN * base.work(ROW) / reached / 3600 / 24 / 365
    print(
        f"measured: {MEASURED_TOKENS:,.0f} tokens a second on two cores, {reached / 1e12:.2f} TFLOP/s by the same count"
    )
    times = TEXT_BYTES / CORPUS_BYTES
    print(
        f"tokens, once, by two cores: {times * SHARD_SECONDS / 3600:,.1f} hours, {times * SHARD_BYTES / 1e9:,.0f} GB on disk; "
        f"a vocabulary before it at most {times * VOCABULARY_SECONDS / 3600:,.1f} hours"
    )
    print(f"base on those two cores alone: {years:.1f} years")


if __name__ == "__main__":
    main()
