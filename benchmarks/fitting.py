"""Compare fine-tuning of MiniLM on real tasks with the Trainer of `transformers`, at its defaults and tuned.

All have the same starting model, rows, epochs and batch size, with several seeds, and take turns. The tuned Trainer has bf16
autocast, rows grouped by length and fused AdamW (its default). `--rows` draws some of the rows at random, for a shorter run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import DATA, profiled, ratio, record, spread
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import mapsto
from mapsto.data import sampling
from mapsto.data.table import Table, read_table
from mapsto.demo.data import minilm

TASKS = {
    "SST-2": ("sst2", "text", "label"),
    "TREC-6": ("trec6", "question", "kind"),
    "Banking77": ("banking77", "text", "category"),
}
EPOCHS, PROFILED = 3, 160
BEST = {"bf16": True, "train_sampling_strategy": "group_by_length"}
Way = Callable[[Table, Table, str, str, int], tuple[float, float]]


def reference(more: dict[str, Any], train: Table, test: Table, text: str, label: str, seed: int) -> tuple[float, float]:
    """Fit with the Trainer; return the accuracy on the test rows and the seconds of training.

    Its rate is 5e-5 and its batches have 32 rows, as ours. The weights are those after the last epoch.
    more: further TrainingArguments. text, label: names of the columns.
    """
    classes = sorted(set(map(str, train.column(label))))
    tokenizer = AutoTokenizer.from_pretrained(minilm())

    def rows(table: Table) -> list[dict[str, Any]]:
        ids = tokenizer(table.column(text), truncation=True, max_length=512)
        truth = [classes.index(str(value)) for value in table.column(label)]
        return [
            {"input_ids": i, "attention_mask": m, "labels": t}
            for i, m, t in zip(ids["input_ids"], ids["attention_mask"], truth, strict=True)
        ]

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=len(classes))
    arguments = TrainingArguments(
        tempfile.mkdtemp(), num_train_epochs=EPOCHS, per_device_train_batch_size=32, seed=seed,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True, **more,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows(train), data_collator=DataCollatorWithPadding(tokenizer))
    began = time.perf_counter()
    trainer.train()
    took = time.perf_counter() - began
    model.eval()
    held = rows(test)
    right = 0
    with torch.inference_mode():
        for at in range(0, len(held), 64):
            part = held[at : at + 64]
            batch = tokenizer.pad(
                {k: [r[k] for r in part] for k in ("input_ids", "attention_mask")}, return_tensors="pt"
            )
            right += int((model(**batch).logits.argmax(-1).numpy() == [r["labels"] for r in part]).sum())
    return right / len(held), took


def ours(train: Table, test: Table, text: str, label: str, seed: int) -> tuple[float, float]:
    """Fit with `mapsto.fit` at its defaults; return the accuracy on the test rows and the seconds of the whole fit."""
    began = time.perf_counter()
    model = mapsto.fit(f"{text}:text -> {label}:label", train, start=minilm(), epochs=EPOCHS, seed=seed)
    took = time.perf_counter() - began
    answers = [answer["label"] for answer in model.predict([{text: value} for value in test.column(text)])]
    return float(np.mean(np.array(answers) == np.array(list(map(str, test.column(label)))))), took


WAYS: dict[str, Way] = {
    "ours": ours,
    "Trainer, defaults": partial(reference, {}),
    "Trainer, tuned": partial(reference, BEST),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    names = given.tasks.split(",")
    which = "all rows" if given.rows is None else f"the first {given.rows:,} rows of a shuffle (seed 0)"
    lines = [
        f"Trained on {which}, {EPOCHS} epochs, tested on the whole test split. Accuracy in %, mean (each seed); examples a",
        "second while training (ours: from the rows to the fitted model), median (range).",
        "",
        "| task | method | accuracy | ours is better by, points | examples a second | ours is × faster |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        folder, text, label = TASKS[name]
        train, test = (read_table(DATA / folder / f"{part}.csv") for part in ("train", "test"))
        if given.rows is not None:
            train = train.select(sampling.permute_rows(0, 0, len(train))[: given.rows])
        right: dict[str, list[float]] = {who: [] for who in WAYS}
        speeds: dict[str, list[float]] = {who: [] for who in WAYS}
        for seed in range(given.seeds):
            for who, way in WAYS.items():
                accuracy, took = way(train, test, text, label, seed)
                right[who].append(100 * accuracy)
                speeds[who].append(EPOCHS * len(train) / took)
        for who, values in right.items():
            shown = f"{statistics.fmean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"
            gain = statistics.fmean(right["ours"]) - statistics.fmean(values)
            lines.append(
                f"| {name} | {who} | {shown} | {gain:+.1f} | {spread(speeds[who])} | {ratio(speeds['ours'], speeds[who])} |"
            )
            print(lines[-1], flush=True)
        some = train.select(range(PROFILED))
        lines += [
            "",
            f"{name}, {PROFILED} rows fitted and answered, ours. {profiled(lambda: ours(some, some, text, label, 0))}",
        ]
    record("Fitting (benchmarks/fitting.py)", lines)


if __name__ == "__main__":
    main()
