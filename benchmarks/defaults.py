"""Compare `fit` with nothing set to what anyone would try first, on draws of labelled rows.

The others are: logistic regression on the starting model's vectors, TF-IDF + logistic regression, the published algorithm of
SetFit (see few_labels.py) and the Trainer of `transformers` (three epochs at 5e-5 in batches of 8). It runs in parts:
after `--minutes` it stops between two fits, and the same command continues there. RESULTS.md gets a table of what is done.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import few_labels
import fitting
import numpy as np
import torch
from common import DATA, Kept, record, spread
from few_labels import few, interval
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
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
from mapsto.metrics.classification import expected_calibration_error, log_loss

# By task: folder, column of the texts, column of the labels.
TASKS = {**fitting.TASKS, "ChnSentiCorp": ("chnsenticorp", "text", "label"), "tnews": ("tnews", "sentence", "topic")}
# The files of a task's rows, if they are not train.csv and test.csv.
FILES = {"tnews": {"train": "train_few_all.jsonl", "test": "test_public.jsonl"}}
EPOCHS, MAX_LENGTH = 3, 256
OURS = "mapsto"

# From training texts, their labels, test texts, the starting model's folder and a seed to (classes, probabilities (n, c)).
Answers = Callable[[list[str], list[str], list[str], Path, int], tuple[list[str], NDArray[np.float64]]]


def defaults(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
    """Answer with `mapsto.fit` with nothing set but the seed."""
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    model = mapsto.fit("text -> label", rows, start=start, seed=seed)
    classes = sorted(set(labels))
    answers = model.predict(asked)
    return classes, np.array([[answer["scores"][name] for name in classes] for answer in answers])


def vectors(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
    """Answer by logistic regression, as scikit-learn sets it, on the starting model's vectors."""
    model = mapsto.load(start)
    head = LogisticRegression(max_iter=1000).fit(np.array(model.embed(texts)), labels)
    return list(head.classes_), head.predict_proba(np.array(model.embed(asked)))


def tfidf(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
    """Answer by logistic regression on TF-IDF, both as scikit-learn sets them; Chinese is split into characters."""
    is_spaced = np.mean([" " in text.strip() for text in texts]) > 0.5
    features = TfidfVectorizer(analyzer="word" if is_spaced else "char")
    head = LogisticRegression(max_iter=1000).fit(features.fit_transform(texts), labels)
    return list(head.classes_), head.predict_proba(features.transform(asked))


def setfit(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
    """Answer by SetFit's published algorithm; its answers have no probabilities here."""
    few_labels.minilm = lambda: start
    answers, _ = few_labels.written_out(texts, labels, asked, seed)
    classes = sorted(set(labels))
    return classes, np.array([[float(answer == name) for name in classes] for answer in answers])


def trainer(texts: list[str], labels: list[str], asked: list[str], start: Path, seed: int) -> Any:
    """Answer by the Trainer's fine-tuning of all weights for three epochs at its default rate of 5e-5."""
    classes = sorted(set(labels))
    tokenizer = AutoTokenizer.from_pretrained(start)
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    rows = [{"input_ids": ids, "labels": classes.index(label)} for ids, label in zip(encoded, labels, strict=True)]
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=len(classes))
    arguments = TrainingArguments(
        tempfile.mkdtemp(), num_train_epochs=EPOCHS, per_device_train_batch_size=8, seed=seed, save_strategy="no",
        report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer)).train()
    model.eval()
    order = np.argsort([len(text) for text in asked])
    probabilities = np.zeros((len(asked), len(classes)))
    with torch.inference_mode():
        for chosen in np.array_split(order, -(-len(asked) // 64)):
            part = [asked[row] for row in chosen]
            batch = tokenizer(part, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
            probabilities[chosen] = model(**batch).logits.softmax(-1).numpy()
    return classes, probabilities


METHODS: dict[str, Answers] = {
    OURS: defaults,
    "vectors + LR": vectors,
    "TF-IDF + LR": tfidf,
    "SetFit": setfit,
    "Trainer": trainer,
}


def measure(answers: Answers, train: Table, test: Table, task: str, start: Path, seed: int) -> dict[str, float]:
    """Return accuracy, calibration error (both in %), log loss and seconds of a method."""
    _, text, label = TASKS[task]
    began = time.perf_counter()
    classes, probabilities = answers(
        train.column(text), list(map(str, train.column(label))), test.column(text), start, seed
    )
    took = time.perf_counter() - began
    index = {name: number for number, name in enumerate(classes)}
    truth = np.array([index.get(str(value), -1) for value in test.column(label)])
    is_known = truth >= 0
    return {
        "accuracy": 100 * float(np.mean(probabilities.argmax(1) == truth)),
        "calibration": 100 * expected_calibration_error(truth, probabilities),
        "loss": log_loss(truth[is_known], probabilities[is_known]),
        "seconds": took,
    }


def read_task(task: str, part: str) -> Table:
    """Return the rows of a task. part: "train" or "test"."""
    return read_table(DATA / TASKS[task][0] / FILES.get(task, {}).get(part, f"{part}.csv"))


def rows_of(task: str, labels: str, seed: int) -> Table:
    """Return a draw of training rows. labels: their number in all, spread evenly over the classes, or "all"."""
    label, table = TASKS[task][2], read_task(task, "train")
    if labels == "all":
        return table
    classes = len(set(map(str, table.column(label))))
    return few(table, label, max(1, round(int(labels) / classes)), seed)


def table_lines(
    kept: Kept, starts: Sequence[str], tasks: Sequence[str], labels: Sequence[str], seeds: int
) -> list[str]:
    """Return the table of all fits that are done."""
    lines = []
    for start in starts:
        for task in tasks:
            for count in labels:
                done: dict[str, dict[int, dict[str, float]]] = {}
                for method in METHODS:
                    keys = {seed: f"{start} {task} {count} {seed} {method}" for seed in range(seeds)}
                    done[method] = {seed: kept.found[key] for seed, key in keys.items() if key in kept.found}
                for method, draws in done.items():
                    ours, found = done[OURS], list(draws.values())
                    gains = [ours[seed]["accuracy"] - draws[seed]["accuracy"] for seed in draws if seed in ours]
                    if not found:
                        continue
                    has_probabilities = method != "SetFit"
                    lines.append(
                        f"| {start} | {task} | {count} | {method} | {interval([one['accuracy'] for one in found])} | "
                        f"{interval(gains) if gains and method != OURS else ''} | "
                        f"{interval([one['calibration'] for one in found]) if has_probabilities else ''} | "
                        f"{spread([one['loss'] for one in found], 2) if has_probabilities else ''} | "
                        f"{spread([one['seconds'] for one in found], 1)} |"
                    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", action="append", help="NAME=FOLDER of a starting model; by default MiniLM")
    parser.add_argument("--tasks", default="SST-2,TREC-6,Banking77")
    parser.add_argument("--labels", default="8,64,512")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tested", type=int, default=1000, help="test rows, drawn once")
    parser.add_argument("--minutes", type=float, default=9.0)
    given = parser.parse_args()
    starts = dict(entry.split("=", 1) for entry in given.start or [f"MiniLM={minilm()}"])
    tasks, labels = given.tasks.split(","), given.labels.split(",")
    kept, began = Kept("defaults"), time.monotonic()
    is_done = True
    for seed in range(given.seeds):
        for task in tasks:
            test = read_task(task, "test")
            test = test.select(sampling.permute_rows(0, 0, len(test))[: given.tested])
            for count in labels:
                for name, folder in starts.items():
                    for method in given.methods.split(","):
                        key = f"{name} {task} {count} {seed} {method}"
                        if key in kept.found:
                            continue
                        if time.monotonic() - began > 60 * given.minutes:
                            is_done = False
                            continue
                        train = rows_of(task, count, seed)
                        kept.put(key, measure(METHODS[method], train, test, task, Path(folder), seed))
                        print(key, kept.found[key], flush=True)
    lines = [
        f"Accuracy and calibration error in % on {given.tested:,} test rows, mean ± 95 % interval over the draws that are done; "
        "log loss and seconds (fit and answers, beside other work on the machine), median (range). Gain: the defaults minus "
        "the method, in points, draw by draw.",
        "",
        "| start | task | labels | method | accuracy | gain | calibration error | log loss | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
        *table_lines(kept, list(starts), tasks, labels, given.seeds),
    ]
    record("Defaults against what anyone would try first (benchmarks/defaults.py)", lines)
    if not is_done:
        print("not all is done: the same command continues")


if __name__ == "__main__":
    main()
