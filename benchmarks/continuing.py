"""Measure what continued pretraining of MiniLM on a task's own texts, without their labels, is worth at few labels.

The task is Banking77: 77 intents of short English questions.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import DATA, record
from few_labels import few, interval

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm

TEXT, LABEL = "text", "category"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--labels", default="1,4,16", help="labels a class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", default="auto", help="peak rates to go on with, besides not going on at all")
    parser.add_argument("--objectives", default="masked")
    parser.add_argument("--methods", default="probe,auto")
    given = parser.parse_args()
    train, test = (read_table(DATA / "banking77" / f"{part}.csv") for part in ("train", "test"))
    texts = [{"text": text} for text in train.column(TEXT)]
    truth = list(map(str, test.column(LABEL)))
    starts: dict[str, Any] = {"MiniLM": minilm()}
    for objective in given.objectives.split(","):
        for rate in given.rates.split(","):
            chosen = {} if rate == "auto" else {"rate": float(rate)}
            name = f"continued, {objective}" + ("" if rate == "auto" else f", rate {rate}")
            starts[name] = mapsto.pretrain(
                "text", texts, start=minilm(), epochs=given.epochs, objective=objective, **chosen
            )
    lines = [
        f"{given.epochs:g} more passes over the {len(texts):,} training texts; accuracy in % on the {len(truth):,} test rows,",
        f"mean ± 95 % interval over {given.seeds} draws of the labelled rows.",
        "",
        "| labels a class | method | start | accuracy | minus MiniLM, points |",
        "|---|---|---|---|---|",
    ]
    for count in map(int, given.labels.split(",")):
        for method in given.methods.split(","):
            right: dict[str, list[float]] = {}
            for name, start in starts.items():
                for seed in range(given.seeds):
                    rows = few(train, LABEL, count, seed)
                    model = mapsto.fit(f"{TEXT}:text -> {LABEL}:label", rows, start=start, method=method, seed=seed)
                    answers = model.predict([{TEXT: text} for text in test.column(TEXT)])
                    found = np.array([answer["label"] for answer in answers])
                    right.setdefault(name, []).append(100 * float(np.mean(found == np.array(truth))))
                gain = [one - other for one, other in zip(right[name], right["MiniLM"], strict=True)]
                shown = "" if name == "MiniLM" else interval(gain)
                lines.append(f"| {count} | {method} | {name} | {interval(right[name])} | {shown} |")
                print(lines[-1], flush=True)
    record("Continued pretraining (benchmarks/continuing.py)", lines)


if __name__ == "__main__":
    main()
