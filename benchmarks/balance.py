"""Rare classes: `--balance` beside plain fits, on SST-2 with 1,000 positive and 20 negative training rows.

The starting model is MiniLM; the test rows have both classes equally often. Each fit is kept, so that an interrupted run
continues. The same script measures an older source, whose row of the table gets a name of its own:

    git worktree add ../older e722fd4
    PYTHONPATH=../older/src python benchmarks/balance.py --older "--balance of e722fd4"
    python benchmarks/balance.py --older "--balance of e722fd4"

The first run measures the older source alone; the second, with this source, measures the rest and writes RESULTS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, ROOT, Kept, record, spread

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.options import Method

COMMON, RARE = "positive", "negative"
NUM_ROWS = {COMMON: 1000, RARE: 20}
NUM_TEST_ROWS = 500  # of each class
METHODS: tuple[Method, ...] = ("full", "probe", "linear")
PLAIN, BALANCED = "plain", "--balance"


def draw(name: str, num_rows: dict[str, int], seed: int) -> list[dict[str, Any]]:
    """Return random rows of a table of SST-2. num_rows: the number of rows of each class."""
    table = read_table(DATA / "sst2" / f"{name}.csv")
    labels, rng = np.array(table.column("label")), np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in num_rows.items()]
    return [{name: table.column(name)[row] for name in ("text", "label")} for row in np.concatenate(chosen).tolist()]


def measure(method: Method, balance: bool, seed: int) -> dict[str, float]:
    """Return how a fit does on the test rows, in %.

    recall, specificity: share of the test rows of the rare and of the common class that get the right answer.
    """
    test = draw("test", dict.fromkeys(NUM_ROWS, NUM_TEST_ROWS), 0)
    start = None if method == "linear" else minilm()
    model = mapsto.fit(
        "text -> label", draw("train", NUM_ROWS, seed), start=start, method=method, balance=balance, seed=seed
    )
    answers = [answer["label"] for answer in model.predict(test)]
    right = {
        label: 100
        * float(np.mean([answer == label for row, answer in zip(test, answers, strict=True) if row["label"] == label]))
        for label in NUM_ROWS
    }
    return {"recall": right[RARE], "specificity": right[COMMON]}


def precision(fit: dict[str, float]) -> float:
    """Return the precision of the rare class, in %, if the test rows had the classes as often as the training rows.

    It is 0 if the class is never answered.
    """
    hits = fit["recall"] * NUM_ROWS[RARE]
    answered = hits + (100 - fit["specificity"]) * NUM_ROWS[COMMON]
    return 100 * hits / answered if answered else 0.0


def table_row(method: str, name: str, fits: list[dict[str, float]]) -> str:
    """Return a row of the table from the fits of all draws."""
    balanced_accuracy = [(fit["recall"] + fit["specificity"]) / 2 for fit in fits]
    columns = [[fit["recall"] for fit in fits], [precision(fit) for fit in fits], balanced_accuracy]
    return f"| {method} | {name} | {len(fits)} | {' | '.join(spread(column, 1) for column in columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="draws of the training rows")
    parser.add_argument("--methods", default=",".join(METHODS), help="those to measure; full takes minutes a fit")
    parser.add_argument("--older", help="name in the table of the older source's --balance")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    kept = Kept("balance")
    is_older = not Path(mapsto.__file__).is_relative_to(ROOT.parent)
    measured = {given.older: True} if is_older else {PLAIN: False, BALANCED: True}
    for seed in range(given.draws):
        for method in given.methods.split(","):
            for name, balance in measured.items():
                key = f"{method} {name} {seed}"
                print(key, kept.once(key, lambda m=method, b=balance, s=seed: measure(m, b, s)), flush=True)
    if is_older:
        return
    lines = [
        f"SST-2, {NUM_ROWS[COMMON]:,} {COMMON} and {NUM_ROWS[RARE]} {RARE} rows, MiniLM (linear: TF-IDF), drawn anew",
        f"in each draw; median (range) in %. {2 * NUM_TEST_ROWS:,} test rows, half of each class; precision as at 1:50.",
        "",
        f"| method | options | draws | recall of {RARE} | precision of {RARE} at 1:50 | balanced accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        for name in filter(None, (PLAIN, given.older, BALANCED)):
            fits = [kept.found[key] for seed in range(given.draws) if (key := f"{method} {name} {seed}") in kept.found]
            lines += [table_row(method, name, fits)] if fits else []
    record("Rare classes (benchmarks/balance.py)", lines)


if __name__ == "__main__":
    main()
