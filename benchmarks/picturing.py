"""Compare objectives of pretraining on pictures by how well frozen features classify, after the same minutes of one core.

CIFAR-10 at 32 × 32 pixels, a model of 4 layers and width 192. The features are classified by their ten nearest neighbours, and by
linear probes with few labels (`fit --method probe`). Each run has one core and one thread; minutes are processor time. Results
are kept in runs/benchmarks, so an interrupted run, or one with more seeds, continues.
`python benchmarks/picturing.py --help`.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np
from common import DATA, Kept, record
from few_labels import interval
from recipe import alone
from sklearn.neighbors import KNeighborsClassifier

import mapsto
from mapsto.comparison.design import stratified_order
from mapsto.data.table import read_table

CIFAR = DATA.parent / "image" / "cifar10"
SIZE: dict[str, Any] = {"layers": 4, "width": 192, "device": "cpu"}
NEAREST, LABELS, DRAWS = 10, (50, 200, 1000), 5
WAYS = ("random weights", "masked", "mae", "simclr")


def measured(way: str, seed: int, minutes: float, rows: int, tested: int) -> dict[str, float]:
    """Pretrain by one objective; return minutes, and accuracies in % by "nearest" and by number of labels of the probe."""
    train, test = (read_table(CIFAR / f"{part}.parquet") for part in ("train", "test"))
    train, test = train.select(range(min(rows, len(train)))), test.select(range(min(tested, len(test))))
    seen = [{"image": cell} for cell in train.column("image")]
    began = time.process_time()
    length = {"steps": 1, "rate": 1e-12} if way == WAYS[0] else {"minutes": minutes, "objective": way}
    model = mapsto.pretrain("image", seen, seed=seed, hold_out=0, **SIZE, **length)
    found = {"minutes": (time.process_time() - began) / 60}
    of = {name: model.embed(table.column("image")) for name, table in (("train", train), ("test", test))}
    known, truth = (np.array(table.column("label")) for table in (train, test))
    scale = of["train"].std(0) + 1e-6
    near = KNeighborsClassifier(NEAREST, metric="cosine").fit(of["train"] / scale, known)
    found["nearest"] = 100 * float(near.score(of["test"] / scale, truth))
    for count in LABELS:
        right = []
        for draw in range(DRAWS):
            few = train.select(stratified_order(train.column("label"), draw)[:count])
            probed = mapsto.fit("image -> label", few, start=model.mapping, method="probe", hold_out=0, device="cpu")
            said = [answer["label"] for answer in probed.predict([{"image": cell} for cell in test.column("image")])]
            right.append(np.mean(np.array(said) == truth.astype(str)))
        found[str(count)] = 100 * float(np.mean(right))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    given = parser.parse_args()
    kept, ways = Kept("picturing"), given.ways.split(",")
    sizes = given.minutes, given.rows, given.tested
    wanted = {f"{way} {seed} {sizes}": (way, seed) for seed in range(given.seeds) for way in ways}
    with ProcessPoolExecutor(given.jobs, get_context("spawn"), alone) as workers:
        futures = {workers.submit(measured, *run, *sizes): key for key, run in wanted.items() if key not in kept.found}
        for done in as_completed(futures):
            kept.put(futures[done], done.result())
            print(futures[done], done.result(), flush=True)
    lines = [
        f"{given.minutes:g} minutes of one core on {given.rows:,} pictures, {SIZE['layers']} layers × {SIZE['width']}; "
        f"accuracy in % on {given.tested:,}; {given.seeds} seeds, mean ± 95 % interval.",
        "",
        f"| pretraining | minutes of the core | {NEAREST} nearest | "
        + " | ".join(f"linear, {n:,} labels" for n in LABELS)
        + " |",
        "|---|---|---|" + "---|" * len(LABELS),
    ]
    for way in ways:
        found = [kept.found[f"{way} {seed} {sizes}"] for seed in range(given.seeds)]
        cells = [f"{np.mean([one['minutes'] for one in found]):.1f}"]
        cells += [interval([one[what] for one in found]) for what in ("nearest", *map(str, LABELS))]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    record("Pretraining on pictures (benchmarks/picturing.py)", lines)


if __name__ == "__main__":
    main()
