"""Compare the methods of `fit` with SetFit at few labels per class, from the same starting model (MiniLM) and rows.

If `--setfit` names a Python that has the package setfit, that package is run (see setfit_peer.py). Otherwise the published
algorithm is run as written out below with transformers: for each row 20 pairs of equal and 20 of different label, cosine
similarity fitted to 1 or 0, one pass in batches of 16 at 2e-5 in fp32, then scikit-learn's logistic regression. All random
draws follow from the seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import DATA, Kept, ratio, record, seconds, spread
from fitting import TASKS
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

import mapsto
from mapsto.data import sampling
from mapsto.data.table import Table, read_table
from mapsto.demo.data import minilm

PAIRS, BATCH, RATE, WARM_UP = 20, 16, 2e-5, 0.1
# From texts, their labels, test texts and a seed to the answers, and the seconds if the method measures them itself.
Answers = Callable[[list[str], list[str], list[str], int], tuple[list[str], float | None]]


def few(table: Table, label: str, count: int, seed: int) -> Table:
    """Return `count` rows of each class, drawn by the seed. label: name of the column of labels."""
    left: dict[str, int] = {}
    rows = []
    for row in sampling.permute_rows(seed, 0, len(table)).tolist():
        name = str(table.column(label)[row])
        left[name] = left.get(name, count) - 1
        if left[name] >= 0:
            rows.append(row)
    return table.select(rows)


def ours(method: str) -> Answers:
    """Return a function that fits MiniLM by a method of `fit` and answers the test texts; see Answers."""

    def answers(texts: list[str], labels: list[str], asked: list[str], seed: int) -> tuple[list[str], None]:
        rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        model = mapsto.fit("text -> label", rows, start=minilm(), method=method, seed=seed)
        return [answer["label"] for answer in model.predict(asked)], None

    return answers


def package(python: str) -> Answers:
    """Return a function that fits MiniLM with the package setfit of another Python, and answers the test texts."""

    def answers(texts: list[str], labels: list[str], asked: list[str], seed: int) -> tuple[list[str], float]:
        given = {"start": str(minilm()), "texts": texts, "labels": labels, "asked": asked, "seed": seed}
        script = str(Path(__file__).with_name("setfit_peer.py"))
        done = subprocess.run([python, script], input=json.dumps(given), capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        return found["answers"], found["seconds"]  # without the time its imports take

    return answers


def pairs(labels: Sequence[str], rng: np.random.Generator) -> list[tuple[int, int, float]]:
    """Return pairs (row, other row, whether they have the same label as 1 or 0) in random order.

    Each row gets PAIRS pairs of either sort.
    """
    of = np.array(labels)
    found = []
    for _ in range(PAIRS):
        for row, label in enumerate(labels):
            found.append((row, int(rng.choice(np.flatnonzero(of == label))), 1.0))
            found.append((row, int(rng.choice(np.flatnonzero(of != label))), 0.0))
    return [found[i] for i in rng.permutation(len(found))]


def written_out(texts: list[str], labels: list[str], asked: list[str], seed: int) -> tuple[list[str], None]:
    """Fit MiniLM by the published algorithm of SetFit; return the answers to `asked`, and no time of its own."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    model = AutoModel.from_pretrained(minilm())

    def embed(part: Sequence[str]) -> torch.Tensor:
        inputs = tokenizer(list(part), padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        return F.normalize((model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)

    drawn = pairs(labels, np.random.default_rng(seed))
    starts = range(0, len(drawn), BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARM_UP * len(starts)), len(starts))
    model.train()
    for at in starts:
        part = drawn[at : at + BATCH]
        likeness = (embed([texts[i] for i, _, _ in part]) * embed([texts[j] for _, j, _ in part])).sum(-1)
        F.mse_loss(likeness, torch.tensor([same for _, _, same in part])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    with torch.inference_mode():
        head = LogisticRegression(max_iter=1000).fit(embed(texts).numpy(), labels)
        by_length = sorted(range(len(asked)), key=lambda i: len(asked[i]))
        answers = [""] * len(asked)
        for at in range(0, len(asked), 64):
            chosen = by_length[at : at + 64]
            for i, answer in zip(chosen, head.predict(embed([asked[i] for i in chosen]).numpy()), strict=True):
                answers[i] = str(answer)
    return answers, None


def interval(values: Sequence[float]) -> str:
    """Return "mean ± half of the 95 % interval of the mean" (Student's t) as text for a table."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.1f} ± {half:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--labels", default="4,8,16", help="labels a class")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default="auto,probe,contrast,probe+full,full")
    parser.add_argument("--setfit", default=None, help="a Python that has the package setfit")
    given = parser.parse_args()
    peer = "SetFit" if given.setfit else "SetFit, written out"
    ways: dict[str, Answers] = {peer: package(given.setfit) if given.setfit else written_out}
    ways |= {method: ours(method) for method in given.methods.split(",")}
    lines = [
        f"MiniLM, {given.seeds} draws of the rows; accuracy in % on the whole test split, mean ± 95 % interval over the draws;",
        f"seconds of fitting and prediction, median (range). The methods take turns. `{peer}` is the reference.",
        "",
        "| task | labels a class | method | accuracy | against SetFit, points | seconds | × faster |",
        "|---|---|---|---|---|---|---|",
    ]
    kept = Kept("few_labels")
    for name in given.tasks.split(","):
        folder, text, label = TASKS[name]
        train, test = (read_table(DATA / folder / f"{part}.csv") for part in ("train", "test"))
        truth = np.array(list(map(str, test.column(label))))

        def turn(count: int, seed: int) -> dict[str, tuple[float, float]]:
            """Return (seconds, accuracy in %) of each method on one draw of rows."""
            rows = few(train, label, count, seed)
            labels = list(map(str, rows.column(label)))
            told = {}
            for way, answers in ways.items():
                found: list[Any] = []
                took = seconds(lambda: found.append(answers(rows.column(text), labels, test.column(text), seed)))
                said, own = found[0]
                told[way] = (took if own is None else own, 100 * float(np.mean(np.array(said) == truth)))
            return told

        for count in map(int, given.labels.split(",")):
            keys = {seed: f"{name} {count} {seed} {','.join(ways)}" for seed in range(given.seeds)}
            turns = [kept.once(key, lambda: turn(count, seed)) for seed, key in keys.items()]
            times = {way: [told[way][0] for told in turns] for way in ways}
            right = {way: [told[way][1] for told in turns] for way in ways}
            for way in ways:
                gain = [mine - theirs for mine, theirs in zip(right[way], right[peer], strict=True)]
                faster = (
                    ""
                    if way == peer
                    else f"{interval(gain)} | {spread(times[way], 1)} | {ratio(times[peer], times[way])}"
                )
                shown = faster or f"| {spread(times[way], 1)} |"
                lines.append(f"| {name} | {count} | {way} | {interval(right[way])} | {shown} |")
                print(lines[-1], flush=True)
    record(f"Few labels: {given.tasks} (benchmarks/few_labels.py)", lines)


if __name__ == "__main__":
    main()
