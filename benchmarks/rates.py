"""Compare learning rates and first heads of a fit of a published model at few labels, over draws of the rows.

Each rate is measured by a probe and then all weights (`--method probe+full`), beside the probe alone. "3e-5 best" stands for
a first head with the cross-validated penalty of a probe, and "3e-5" for one with the strong penalty that a fit takes.
`--start NAME=FOLDER` names the models; benchmarks/e5.py writes one of 12 layers. After `--minutes` it stops; the same command
continues.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Kept, record, spread
from defaults import Answers, measure, read_task, rows_of
from few_labels import interval

import mapsto
from mapsto.data import sampling
from mapsto.demo.data import minilm
from mapsto.kinds import label
from mapsto.model.linear_probe import fit_logistic_regression

PROBE, BEST = "probe", "best"


def fit_like_a_probe(
    features: Any, labels: Any, seed: int, selection: Any = None, starts_training: bool = False
) -> Any:
    """Fit the head that training starts from with the penalty of a probe."""
    return fit_logistic_regression(features, labels, seed, selection)


def fitted_at(rate: str) -> Answers:
    """Return a function that fits at a learning rate, or by a probe, and answers; see `defaults.Answers`."""

    def answers(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
        rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        given: dict[str, Any] = {"method": "probe"}
        if rate != PROBE:
            given = {"method": "probe+full", "rate": float(rate.split()[0])}
        label.fit_logistic_regression = fit_like_a_probe if BEST in rate else fit_logistic_regression
        model = mapsto.fit("text -> label", rows, start=start, seed=seed, **given)
        classes = sorted(set(labels))
        told = model.predict(asked)
        return classes, np.array([[answer["scores"][name] for name in classes] for answer in told])

    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", action="append", help="NAME=FOLDER of a starting model; by default MiniLM")
    parser.add_argument("--tasks", default="SST-2")
    parser.add_argument("--labels", default="64")
    parser.add_argument("--rates", default="1e-5,3e-5,1e-4,1e-4 best")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tested", type=int, default=500, help="test rows, drawn once")
    parser.add_argument("--minutes", type=float, default=9.0)
    given = parser.parse_args()
    starts = dict(entry.split("=", 1) for entry in given.start or [f"MiniLM={minilm()}"])
    rates, kept, began = [PROBE, *given.rates.split(",")], Kept("rates"), time.monotonic()
    lines = [
        f"A probe, then all weights; {given.tested:,} test rows. Accuracy and calibration error in %, mean ± 95 % interval.",
        "",
        "| start | task | labels | rate | draws | accuracy | calibration error | log loss | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, folder in starts.items():
        for task in given.tasks.split(","):
            test = read_task(task, "test")
            test = test.select(sampling.permute_rows(0, 0, len(test))[: given.tested])
            for count in given.labels.split(","):
                found: dict[str, list[dict[str, float]]] = {rate: [] for rate in rates}
                for seed in range(given.seeds):
                    for rate in rates:
                        key = f"{name} {task} {count} {seed} {rate}"
                        if key not in kept.found and time.monotonic() - began < 60 * given.minutes:
                            train = rows_of(task, count, seed)
                            kept.put(key, measure(fitted_at(rate), train, test, task, Path(folder), seed))
                            print(key, kept.found[key], flush=True)
                        if key in kept.found:
                            found[rate].append(kept.found[key])
                for rate, measured in found.items():
                    if measured:
                        lines.append(
                            f"| {name} | {task} | {count} | {rate} | {len(measured)} | "
                            f"{interval([one['accuracy'] for one in measured])} | "
                            f"{interval([one['calibration'] for one in measured])} | "
                            f"{spread([one['loss'] for one in measured], 2)} | "
                            f"{spread([one['seconds'] for one in measured])} |"
                        )
    record("Learning rates of published models (benchmarks/rates.py)", lines)


if __name__ == "__main__":
    main()
