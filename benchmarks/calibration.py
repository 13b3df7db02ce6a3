"""Measure how well a fit with nothing set knows its own confidence, over draws of labelled rows.

The temperature comes from models of half of the rows, and is adapted to the scale of the final model's logits. The calibration
error on test rows is shown with the temperature as it was found, as it is adapted, and with the best one for the test rows,
which nobody knows before. After `--minutes` it stops between two fits; the same command continues.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Kept, record
from defaults import TASKS, read_task, rows_of
from few_labels import interval
from numpy.typing import NDArray

import mapsto
from mapsto.data import sampling
from mapsto.demo.data import minilm
from mapsto.metrics.calibration import LOG_TEMPERATURE_BOUNDS
from mapsto.metrics.classification import expected_calibration_error, log_loss

# Temperatures among which the best one is looked for.
GRID = np.exp(np.linspace(*LOG_TEMPERATURE_BOUNDS, 121))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities (n, c) of logits (n, c)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def measure(task: str, labels: str, seed: int, tested: int) -> dict[str, Any]:
    """Fit one draw of rows; return the method, the accuracy, and calibration error (in %) and log loss by temperature."""
    _, text, label = TASKS[task]
    train, test = rows_of(task, labels, seed), read_task(task, "test")
    test = test.select(sampling.permute_rows(0, 0, len(test))[:tested])
    rows = [{"text": a, "label": str(b)} for a, b in zip(train.column(text), train.column(label), strict=True)]
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        model = mapsto.fit("text -> label", rows, folder, start=minilm(), seed=seed)
        provenance = json.loads((folder / "mapsto.json").read_text(encoding="utf-8"))["provenance"]
    classes = sorted({row["label"] for row in rows})
    told = np.array([[answer["scores"][name] for name in classes] for answer in model.predict(test.column(text))])
    truth = np.array([classes.index(str(value)) for value in test.column(label)])
    adapted, found = provenance["temperatures"][0], provenance["choice"]["temperatures"]["0"]
    logits = adapted * np.log(np.maximum(told, 1e-12))
    best = min(GRID, key=lambda temperature: log_loss(truth, softmax(logits / temperature)))
    result = {"method": provenance["method"], "accuracy": 100 * float((told.argmax(1) == truth).mean())}
    for name, temperature in {"found": found, "adapted": adapted, "best": best}.items():
        probabilities = softmax(logits / temperature)
        result |= {
            f"{name} temperature": float(temperature),
            f"{name} error": 100 * expected_calibration_error(truth, probabilities),
            f"{name} loss": log_loss(truth, probabilities),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="SST-2,TREC-6")
    parser.add_argument("--labels", default="64")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tested", type=int, default=400, help="test rows, drawn once")
    parser.add_argument("--minutes", type=float, default=9.0)
    given = parser.parse_args()
    kept, began = Kept("calibration"), time.monotonic()
    lines = [
        f"From MiniLM, nothing set; {given.tested:,} test rows. "
        "Calibration error in %, mean ± 95 % interval over draws; mean log loss.",
        "",
        "| task | labels | draws | methods | accuracy | error: as found | error: adapted | error: best for the test rows | "
        "loss: as found | loss: adapted | loss: best |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in given.tasks.split(","):
        for count in given.labels.split(","):
            measured = []
            for seed in range(given.seeds):
                key = f"{task} {count} {seed}"
                if key not in kept.found and time.monotonic() - began < 60 * given.minutes:
                    kept.put(key, measure(task, count, seed, given.tested))
                    print(key, kept.found[key], flush=True)
                if key in kept.found:
                    measured.append(kept.found[key])
            if measured:
                methods = ", ".join(sorted({one["method"] for one in measured}))
                errors = [interval([one[f"{name} error"] for one in measured]) for name in ("found", "adapted", "best")]
                losses = [
                    f"{np.mean([one[f'{name} loss'] for one in measured]):.3f}" for name in ("found", "adapted", "best")
                ]
                cells = [task, count, str(len(measured)), methods, interval([one["accuracy"] for one in measured])]
                lines.append(f"| {' | '.join([*cells, *errors, *losses])} |")
    record("Confidence of fits with few labels (benchmarks/calibration.py)", lines)


if __name__ == "__main__":
    main()
