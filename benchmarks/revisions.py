"""Compare the speed of this checkout with that of another one: start-up, prediction and training.

A refactoring must cost no time. Each measurement runs in a fresh process with PYTHONPATH set to one of the two checkouts. The two
take turns, so a slow minute of the machine hits both. Usage: python benchmarks/revisions.py --other ../old [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from common import ROOT, ratio, record, seconds, spread, take_turns

# Public names only, so that the same code runs with both checkouts. Each prints the seconds of the part that counts.
ROWS = """
import random, time, mapsto
rng = random.Random(0)
words = [f"w{i}" for i in range(3000)]
texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(600)]
rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)]
# AdamW, as the precision of the default, Muon, depends on the version.
shape = dict(layers=4, width=192, vocabulary=3000, device="cpu", precision="fp32", optimizer="adamw")
"""
PREDICTION = """
model = mapsto.fit("text -> label", rows[:64], steps=1, **shape)
model.predict(texts[:64])
began = time.perf_counter()
model.predict(texts)
print(time.perf_counter() - began)
"""
# The time of many steps less that of few: reading, tokenizer and start-up are in both.
TRAINING = """
def taken(steps):
    began = time.perf_counter()
    mapsto.{call}, steps=steps, **shape)
    return time.perf_counter() - began
taken(1)
print(taken(13) - taken(3))
"""
PRETRAINING = TRAINING.format(call='pretrain("text", rows')
FITTING = TRAINING.format(call='fit("text -> label", rows')


def run(code: str, source: Path) -> str:
    """Run Python code in a fresh process that imports mapsto from `source`, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def whole_process(code: str, source: Path) -> float:
    """Return the seconds of a whole process."""
    return seconds(lambda: run(code, source))


def printed(code: str, source: Path) -> float:
    """Return the seconds that the code itself measures."""
    return float(run(ROWS + code, source).split()[-1])


MEASUREMENTS = {
    "`import mapsto`": partial(whole_process, "import mapsto"),
    "`mapsto --help`": partial(
        whole_process, "import sys; sys.argv = ['mapsto', '--help']\nfrom mapsto.cli import main\nmain()"
    ),
    "predicting 600 texts": partial(printed, PREDICTION),
    "10 steps of pretraining": partial(printed, PRETRAINING),
    "10 steps of fitting": partial(printed, FITTING),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", type=Path, required=True, help="the other checkout, usually an older one")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    sources = {"this": ROOT.parent / "src", "other": options.other.resolve() / "src"}
    commit = subprocess.run(
        ["git", "-C", str(options.other), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = [
        f"This checkout beside commit {commit}: seconds, median (range) of {options.rounds} rounds in turns.",
        "",
        "| measurement | this | other | ratio within rounds |",
        "|---|---|---|---|",
    ]
    for name, measure in MEASUREMENTS.items():
        times = take_turns({key: partial(measure, source) for key, source in sources.items()}, options.rounds)
        this, other = times["this"], times["other"]
        lines.append(f"| {name} | {spread(this, 3)} | {spread(other, 3)} | {ratio(this, other)} |")
        print(lines[-1], flush=True)
    record("Speed beside another revision (benchmarks/revisions.py)", lines)


if __name__ == "__main__":
    main()
