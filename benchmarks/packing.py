"""Measure how full packed rows of real sentences are, and what share of a training step packing takes."""

from __future__ import annotations

import torch
from common import DATA, record, seconds, spread

from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.task.arrow import parse
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

STEPS = 12
CORPORA = {"Chinese reviews": "reviews_zh/unlabeled.txt", "Chinese news titles": "tnews/unlabeled.txt"}


def main() -> None:
    lines = ["| corpus | rows filled, % | packing and collating, ms a step | share of a step, % |", "|---|---|---|---|"]
    for name, file in CORPORA.items():
        work = prepare(FitRequest(parse("~text -> text"), DATA / file))
        mean = sum(len(p) for row in range(2000) for p in work.examples.pieces[row]) / 2000
        plan = Plan(steps=1000, batch=round(8192 / mean), rate=1e-3, optimizer="muon", seed=0, save_every=10**9)
        training = Training(work.mapping, work.examples, plan, RunContext(torch.device("cpu"), workers=0))
        training.mapping.train()
        training.step(0)
        fill, making, steps = [], [], []
        for step in range(1, STEPS):
            made = training.loader.pack_batches(step)
            fill.append(100 * sum(b.real_tokens for b in made) / sum(b.segments.numel() for b in made))
            making.append(1000 * seconds(lambda step=step: training.loader.pack_batches(step)))
            steps.append(1000 * seconds(lambda step=step: training.step(step)))
        share = [100 * one / other for one, other in zip(making, steps, strict=True)]
        lines.append(f"| {name} | {spread(fill, 1)} | {spread(making, 1)} | {spread(share, 2)} |")
    record("Packing (benchmarks/packing.py)", lines)


if __name__ == "__main__":
    main()
