"""Measure a training step with Muon's products in fp32 and in bf16, in turns: what hardware without bf16 units gains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import DATA, record, seconds, spread

from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.task.arrow import parse
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

ROUNDS, STEPS = 3, 1
ROWS = 4000


def main() -> None:
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        lines = (DATA / "reviews_zh/unlabeled.txt").read_text(encoding="utf-8").splitlines()[:ROWS]
        corpus.write_text("\n".join(lines), encoding="utf-8")
        run = prepare(FitRequest(parse("~text -> text"), corpus))
    plan = Plan(steps=10_000, batch=64, rate=5e-3, optimizer="muon", seed=0, save_every=10**9)
    trainings = {
        precision: Training(
            run.mapping,
            run.examples,
            replace(plan, muon_precision=precision),
            RunContext(torch.device("cpu"), workers=0),
        )
        for precision in ("fp32", "bf16")
    }
    run.mapping.train()
    for training in trainings.values():
        training.step(0)
    durations: dict[str, list[float]] = {precision: [] for precision in trainings}
    for turn in range(ROUNDS):
        for precision, training in trainings.items():
            steps = range(1 + turn * STEPS, 1 + (turn + 1) * STEPS)
            taken = seconds(lambda training=training, steps=steps: [training.step(step) for step in steps])
            durations[precision].append(taken / STEPS)
    ratios = [slow / fast for fast, slow in zip(durations["fp32"], durations["bf16"], strict=True)]
    record(
        "Muon without bf16 units (benchmarks/muon.py)",
        [
            "| model of 6 layers, width 256 | ms a step |",
            "|---|---|",
            f"| orthogonalised in fp32 | {spread([1000 * value for value in durations['fp32']])} |",
            f"| orthogonalised in bf16, as torch does | {spread([1000 * value for value in durations['bf16']])} |",
            f"| bf16 / fp32 | {spread(ratios, 1)} |",
        ],
    )


if __name__ == "__main__":
    main()
