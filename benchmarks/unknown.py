"""Tell values unlike the training rows from others: the score `familiar` beside the probability of the answer.

Models are fitted to a few rows of some classes, and answer test rows of these classes, rows of the classes left out (near) and
texts of other data sets (far). AUROC is the chance that a known row has a higher score than an unknown one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import Kept, record
from defaults import TASKS, read_task
from few_labels import few
from sklearn.metrics import roc_auc_score

import mapsto
from mapsto.data import sampling
from mapsto.demo.data import minilm
from mapsto.metrics.intervals import with_interval

# By task: how many of its classes are known, and rows per class to fit to.
KNOWN = {"Banking77": (50, 10), "TREC-6": (6, 50)}
FAR = {"Banking77": ("TREC-6", "SST-2"), "TREC-6": ("Banking77", "SST-2")}
TESTED, REJECT = 400, 0.05


def texts(task: str, classes: Sequence[str] | None = None) -> list[str]:
    """Return at most TESTED test texts of a task, drawn at random. classes: only of these; None for all."""
    _, text, label = TASKS[task]
    table = read_task(task, "test")
    rows = [row for row, name in enumerate(table.column(label)) if classes is None or str(name) in classes]
    drawn = sampling.permute_rows(0, 0, len(rows))[:TESTED]
    return [table.column(text)[rows[index]] for index in drawn]


def auroc(known: Any, unknown: Any) -> str:
    """Return the AUROC of two lists of scores with its 95 % bootstrap interval, in %, as text."""
    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    score = with_interval(roc_auc_score, is_known, np.concatenate([known, unknown]))
    return f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})"


def measure(task: str, method: str, seed: int) -> dict[str, dict[str, list[float]]]:
    """Fit a model to rows of the known classes, and return by group of test texts its scores of both kinds."""
    _, text, label = TASKS[task]
    num_known, per_class = KNOWN[task]
    table = read_task(task, "train")
    names = sorted(set(map(str, table.column(label))))
    order = sampling.permute_rows(seed, 0, len(names))
    known, left_out = ([names[index] for index in part] for part in (order[:num_known], order[num_known:]))
    few_rows = few(table, label, per_class, seed)
    rows = [
        {"text": value, "label": str(name)}
        for value, name in zip(few_rows.column(text), few_rows.column(label), strict=True)
        if str(name) in known
    ]
    model = mapsto.fit("text -> label", rows, start=None if method == "linear" else minilm(), method=method, seed=seed)
    groups = {"known": texts(task, known), **{f"far: {other}": texts(other) for other in FAR[task]}}
    if left_out:
        groups["near: classes left out"] = texts(task, left_out)
    found = {}
    for group, asked in groups.items():
        answers = model.predict(asked)
        found[group] = {key: [answer[key] for answer in answers] for key in ("familiar", "probability")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="auto,probe,linear")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    kept = Kept("unknown")
    lines = [
        f"AUROC in % with its 95 % interval over {TESTED} texts a group, and the share of texts that `--reject {REJECT}` rejects "
        "(from MiniLM; Banking77: 50 of 77 classes with 10 rows each; TREC-6 with 50 rows a class).",
        "",
        "| fitted to | method | draw | unknown texts | familiar | probability | rejected of them | of known ones |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed in range(given.seeds):
        for task in KNOWN:
            for method in given.methods.split(","):
                found = kept.once(f"{task} {method} {seed}", lambda: measure(task, method, seed))
                known = found["known"]
                rejected = {group: np.mean(np.array(scores["familiar"]) < REJECT) for group, scores in found.items()}
                for group, scores in found.items():
                    if group != "known":
                        both = " | ".join(auroc(known[key], scores[key]) for key in ("familiar", "probability"))
                        print(task, method, group, both, flush=True)
                        lines.append(
                            f"| {task} | {method} | {seed} | {group} | {both} | {rejected[group]:.0%} | {rejected['known']:.1%} |"
                        )
    record("Telling unknown texts apart (benchmarks/unknown.py)", lines)


if __name__ == "__main__":
    main()
