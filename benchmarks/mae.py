"""Compare the speed of pretraining a masked autoencoder with a loop over the model of `transformers` (the reference).

Both have the same shapes (12 layers, width 192, 3 heads, 64 × 64 pixels in patches of 8; a decoder of 2 layers, width 96), 75 %
of the patches hidden, and 64 pictures a step. Ours decodes, augments and cuts pictures within the loop; the reference gets
tensors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from common import profiled, ratio, record, spread, take_turns
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mapsto.device import keep_memory
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.task.arrow import parse
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

WIDTH, LAYERS, HEADS, SIDE, PATCH = 192, 12, 3, 64, 8
BATCH, PICTURES = 64, 512
PIXELS = np.random.default_rng(0).integers(0, 256, (PICTURES, SIDE, SIDE, 3)).astype(np.uint8)
Step = Callable[[], None]


def ours(objective: str, optimizer: str) -> Step:
    """Return a function that runs one step of mapsto's training loop."""
    options = Options(objective=objective, layers=LAYERS, width=WIDTH, heads=HEADS, device="cpu", hold_out=0)  # type: ignore[arg-type]
    rows = [{"image": pixels} for pixels in PIXELS]
    work = prepare(FitRequest(parse("~image -> image"), rows, options=options))
    plan = Plan(steps=10_000, batch=BATCH, rate=1e-3, optimizer=optimizer, seed=0, save_every=10**9)  # type: ignore[arg-type]
    training = Training(work.mapping.train(), work.examples, plan, RunContext(work.device, workers=1))
    return lambda: training.step(training.state.step) and None


def reference(bf16: bool) -> Step:
    """Return a function that runs one step of the reference, on tensors prepared beforehand. bf16: whether to autocast."""
    torch.manual_seed(0)
    small = {
        "hidden_size": WIDTH // 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 2 * WIDTH,
    }
    config = ViTMAEConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=4 * WIDTH,
        image_size=SIDE, patch_size=PATCH, **{f"decoder_{name}": size for name, size in small.items()},
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    values = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.29
    at = [0]

    def step() -> None:
        part = values[at[0] : at[0] + BATCH]
        at[0] = (at[0] + BATCH) % PICTURES
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(part).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step: Step, steps: int) -> Callable[[], float]:
    """Return a function that runs `steps` steps after one to warm up, and returns the pictures per second."""

    def run() -> float:
        step()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * BATCH / (time.perf_counter() - began)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    keep_memory()  # as the command line does; the reference gains by it as well
    steps = {
        "ours, --objective mae (Muon, the default)": ours("mae", "muon"),
        "ours, --objective mae, AdamW": ours("mae", "adamw"),
        "ours, --objective masked (the same stack reads every patch)": ours("masked", "muon"),
        "reference, defaults (fp32)": reference(False),
        "reference, bf16": reference(True),
    }
    found = take_turns({name: timed(step, given.steps) for name, step in steps.items()}, given.rounds)
    default = next(iter(found.values()))
    lines = ["| method | pictures a second, median (range) | ours is × faster |", "|---|---|---|"]
    lines += [f"| {name} | {spread(values)} | {ratio(default, values)} |" for name, values in found.items()]
    lines += ["", f"A step of ours. {profiled(steps[next(iter(steps))])}"]
    record("Masked autoencoders (benchmarks/mae.py)", lines)


if __name__ == "__main__":
    main()
