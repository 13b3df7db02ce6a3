"""Fine-tuning MiniLM: accuracy on real tasks against the `transformers` Trainer, same start, rows and epochs, three seeds;
and the seconds both take, in turns. `--rows` takes the first rows of a shuffle, for a shorter run."""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
from common import DATA, ratio, record, seconds, spread
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import mapsto
from mapsto import data
from mapsto.data import Table
from mapsto.demo_data import minilm

TASKS = {
    "SST-2": ("sst2", "text", "label"),
    "TREC-6": ("trec6", "question", "kind"),
    "Banking77": ("banking77", "text", "category"),
}
SEEDS, EPOCHS = (0, 1, 2), 3


def reference(train: Table, test: Table, text: str, label: str, seed: int) -> float:
    """Accuracy of the Trainer at its defaults (fp32, 5e-5) but for batches of 32 as ours; the last epoch's weights."""
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
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows(train), data_collator=DataCollatorWithPadding(tokenizer))
    trainer.train()
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
    return right / len(held)


def ours(train: Table, test: Table, text: str, label: str, seed: int) -> float:
    """Accuracy of `fit` at its defaults with as many epochs."""
    model = mapsto.fit(f"{text}:text -> {label}:label", train, start=minilm(), epochs=EPOCHS, seed=seed)
    answers = [answer["label"] for answer in model.predict([{text: value} for value in test.column(text)])]
    return float(np.mean(np.array(answers) == np.array(list(map(str, test.column(label))))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rows", type=int, default=None)
    given = parser.parse_args()
    names = given.tasks.split(",")
    which = "all rows" if given.rows is None else f"the first {given.rows:,} rows of a shuffle (seed 0)"
    lines = [
        f"Trained on {which}, {EPOCHS} epochs, tested on the whole test split. Accuracy in %, mean (each seed); seconds of",
        "training and prediction, median (range). The Trainer runs at its defaults in fp32 with batches of 32.",
        "",
        "| task | Trainer | ours | difference, points | Trainer, s | ours, s | ours is × faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        folder, text, label = TASKS[name]
        train, test = (data.read(DATA / folder / f"{part}.csv") for part in ("train", "test"))
        if given.rows is not None:
            train = train.select(data.permutation(0, 0, len(train))[: given.rows])
        found: dict[str, list[float]] = {"theirs": [], "ours": []}
        times: dict[str, list[float]] = {"theirs": [], "ours": []}
        for seed in SEEDS:
            for who, way in (("theirs", reference), ("ours", ours)):
                times[who].append(seconds(lambda: found[who].append(100 * way(train, test, text, label, seed))))
        shown = {who: f"{np.mean(v):.1f} ({', '.join(f'{x:.1f}' for x in v)})" for who, v in found.items()}
        gain = np.mean(found["ours"]) - np.mean(found["theirs"])
        lines.append(
            f"| {name} | {shown['theirs']} | {shown['ours']} | {gain:+.1f} | {spread(times['theirs'])} | {spread(times['ours'])} "
            f"| {ratio(times['theirs'], times['ours'])} |"
        )
        print(lines[-1], flush=True)
    record("Fitting (benchmarks/fitting.py)", lines)


if __name__ == "__main__":
    main()
