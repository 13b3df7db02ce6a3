"""Measure a training step with Muon's products in fp32 and in bf16, in turns: what hardware without bf16 units gains."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from common import DATA, record, seconds, spread

from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.task.arrow import parse
from mapsto.training import muon
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

ROUNDS, STEPS = 5, 3
ROWS = 4000


def main() -> None:
    with TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        lines = (DATA / "reviews_zh/unlabeled.txt").read_text(encoding="utf-8").splitlines()[:ROWS]
        corpus.write_text("\n".join(lines), encoding="utf-8")
        run = prepare(FitRequest(parse("~text -> text"), corpus))
    plan = Plan(steps=10_000, batch=64, rate=5e-3, optimizer="muon", seed=0, save_every=10**9)
    training = Training(run.mapping, run.examples, plan, RunContext(torch.device("cpu"), workers=0))
    training.mapping.train()
    training.step(0)
    durations: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(ROUNDS):
        for in_bf16 in (False, True):
            muon.accelerates_bf16 = lambda device, in_bf16=in_bf16: in_bf16
            durations[in_bf16].append(
                seconds(lambda turn=turn: [training.step(1 + turn * STEPS + step) for step in range(STEPS)]) / STEPS
            )
    ratios = [slow / fast for fast, slow in zip(durations[False], durations[True], strict=True)]
    record(
        "Muon without bf16 units (benchmarks/muon.py)",
        [
            "| model of 6 layers, width 256 | ms a step |",
            "|---|---|",
            f"| orthogonalised in fp32 | {spread([1000 * value for value in durations[False]])} |",
            f"| orthogonalised in bf16, as torch does | {spread([1000 * value for value in durations[True]])} |",
            f"| bf16 / fp32 | {spread(ratios, 1)} |",
        ],
    )


if __name__ == "__main__":
    main()
