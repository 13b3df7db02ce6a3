"""Measure how weight decay in pretraining affects the starting model, when a small corpus is read many times.

Models of two layers are pretrained on the demo's Chinese reviews, then fitted with few labels.
`python benchmarks/decay.py --help`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import record
from few_labels import interval

import mapsto
from mapsto.comparison.design import stratified_order
from mapsto.data.table import Table, read_table
from mapsto.demo import data
from mapsto.device import keep_memory
from mapsto.training import optimizer

TESTED, BATCH, LAYERS, LENGTH = 1000, 70, 2, 128
LABELS, DRAWS = (256, 1024), 3


def accuracy(start: Path, pool: Table, test: Table, count: int, draw: int, method: str) -> float:
    """Return the accuracy in % on `test` of a fit with `count` labelled rows of `pool`, drawn by the seed `draw`."""
    rows = pool.select(stratified_order(pool.column("label"), draw)[:count])
    model = mapsto.fit("text -> label", rows, start=start, length=LENGTH, seed=draw, method=method)
    said = [answer["label"] for answer in model.predict(test.column("text"))]
    return 100 * float(np.mean(np.array(said) == np.array(test.column("label"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="1104,2334", help="of 70 reviews; 2,334 read all of them about nine times")
    parser.add_argument("--decays", default="0.01,0.1,0.5")
    given = parser.parse_args()
    keep_memory()
    table = read_table(data.reviews())
    order = np.random.default_rng(0).permutation(len(table))
    test, pool = table.select(order[:TESTED]), table.select(order[TESTED:])
    texts = [{"text": text} for text in pool.column("text")]
    lines = [
        f"Accuracy in % on {TESTED:,} rows, mean ± 95 % interval over {DRAWS} draws of labels, one start each; loss in nats.",
        "",
        "| steps | weight decay | held-out loss | " + " | ".join(f"{n:,} labels, full · probe" for n in LABELS) + " |",
        "|---|---|---|" + "---|" * len(LABELS),
    ]
    for steps in map(int, given.steps.split(",")):
        for decay in map(float, given.decays.split(",")):
            optimizer.WEIGHT_DECAY["muon"] = decay
            out = Path(tempfile.mkdtemp()) / "base"
            mapsto.pretrain("text", texts, out, steps=steps, batch=BATCH, layers=LAYERS)
            optimizer.WEIGHT_DECAY["muon"] = 0.1  # fits from it take AdamW anyway
            loss = mapsto.load(out, precision="fp32")
            held = read_table([{"text": text} for text in test.column("text")])
            found = loss.evaluate(held).scores["masked_loss"].value
            cells = [
                " · ".join(
                    interval([accuracy(out, pool, test, count, draw, method) for draw in range(DRAWS)])
                    for method in ("full", "probe")
                )
                for count in LABELS
            ]
            lines.append(f"| {steps:,} | {decay:g} | {found:.3f} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    record("Weight decay in pretraining (benchmarks/decay.py)", lines)


if __name__ == "__main__":
    main()
