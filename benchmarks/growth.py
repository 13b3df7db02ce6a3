"""Measure how the speed of fitting depends on the number of classes, and speed and memory of `mapsto predict` on that of rows.

`python benchmarks/growth.py [rows …]`, by default 1,000 100,000 1,000,000. The classes, 10 to 10,000, are numbers assigned to the
questions of Banking77 in turn. The rows are sentences of SST-2, repeated. A model of one layer answers them, so that most of the
time is spent outside the model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import DATA, ratio, record, spread, take_turns

import mapsto
from mapsto.data.table import read_table, write_rows
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.task.arrow import parse
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

CLASSES, ROWS = (10, 100, 1_000, 10_000), (1_000, 100_000, 1_000_000)
STEPS, ROUNDS, BATCH = 6, 3, 32


def fitting(texts: list[str], classes: int) -> Training:
    """Return a fit of MiniLM to `classes` classes, of which no step has run yet."""
    rows = [{"text": text, "label": f"class {at % classes}"} for at, text in enumerate(texts)]
    work = prepare(FitRequest(parse("text -> label"), rows, start=str(minilm())))
    plan = Plan(steps=1000, batch=BATCH, rate=1e-5, optimizer="adamw", seed=0, save_every=10**9)
    training = Training(work.mapping, work.examples, plan, RunContext(torch.device("cpu"), workers=1))
    training.mapping.train()
    return training


def examples_a_second(training: Training) -> float:
    """Return the examples per second of STEPS steps, after one step to warm up."""
    training.step(training.state.step)
    began = time.perf_counter()
    for _ in range(STEPS):
        training.step(training.state.step)
    return STEPS * BATCH / (time.perf_counter() - began)


# Prints the peak memory of the process in kB. getrusage would start from the peak of the parent process.
PREDICT = """
import sys
from mapsto.cli import main
try:
    main()
finally:
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def answered(folder: Path, model: Path, texts: list[str], rows: int) -> tuple[float, float, float]:
    """Run `mapsto predict` on a table of `rows` rows; return (seconds, peak memory in MB, size of the table in MB)."""
    table, out = folder / "rows.csv", folder / "out.csv"
    write_rows(table, ["text"], ({"text": texts[at % len(texts)]} for at in range(rows)))
    size = table.stat().st_size / 1e6
    began = time.perf_counter()
    command = [sys.executable, "-c", PREDICT, "predict", str(model), str(table), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout) / 1024, size


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or list(ROWS)
    keep_memory()
    questions = read_table(DATA / "banking77" / "train.csv").column("text")
    ways = {classes: fitting(questions, classes) for classes in CLASSES}
    found = take_turns({f"{n:,}": lambda t=t: examples_a_second(t) for n, t in ways.items()}, ROUNDS)
    lines = [
        "| classes | examples a second while fitting MiniLM, median (range) | relative to 10 classes |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {spread(speeds)} | {ratio(speeds, found['10'])} |" for name, speeds in found.items()]
    lines += [
        "",
        "| rows | the table, MB | seconds | rows a second since the line above | peak, MB |",
        "|---|---|---|---|---|",
    ]
    texts = read_table(DATA / "sst2" / "train.csv").column("text")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        few = [{"text": text, "label": str(len(text) % 2)} for text in texts[:500]]
        mapsto.fit("text -> label", few, folder / "clf", layers=1, width=64, steps=20, vocabulary=4000)
        before: tuple[int, float] | None = None
        for rows in sizes:
            took, peak, size = answered(folder, folder / "clf", texts, rows)
            rate = "" if before is None else f"{(rows - before[0]) / (took - before[1]):,.0f}"
            lines.append(f"| {rows:,} | {size:,.1f} | {took:.1f} | {rate} | {peak:,.0f} |")
            print(lines[-1], flush=True)
            before = rows, took
    record("Growth (benchmarks/growth.py)", lines)


if __name__ == "__main__":
    main()
