"""Measure how many labels, suggested sixteen at a time, reach the accuracy of 256 random labels (active learning).

The model is a linear probe on frozen vectors (`fit --method probe`): of MiniLM for SST-2 and TREC-6; for TNEWS of a starting
model that is pretrained here for some minutes on unlabelled titles. `python benchmarks/suggesting.py --help`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import DATA, record

import mapsto
from mapsto import kinds
from mapsto.active_learning.suggestions import ENOUGH_LABELS, ENOUGH_PER_CLASS, choose_rows, margin_uncertainty
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory

STEP, REFERENCE, MOST = 16, 256, 384
TASKS = {
    "SST-2": ("sst2/train.csv", "sst2/test.csv", "text", "label"),
    "TREC-6": ("trec6/train.csv", "trec6/test.csv", "question", "kind"),
    "TNEWS": ("tnews/train_few_all.jsonl", "tnews/test_public.jsonl", "sentence", "topic"),
}


class Pool:
    """The rows of a task: vectors `x` and classes `y` to draw labels from, vectors `tested` and classes `truth` to test on.

    minutes: pretraining time of the starting model for TNEWS.
    """

    def __init__(self, name: str, minutes: float) -> None:
        train, test, text, label = TASKS[name]
        if name == "TNEWS":
            start = mapsto.pretrain(
                "text", DATA / "tnews" / "unlabeled.txt", Path(tempfile.mkdtemp()) / "base", minutes=minutes
            )
        else:
            start = mapsto.load(minilm())
        parts = [read_table(DATA / train), read_table(DATA / test)]
        if name == "TNEWS":
            more = read_table(DATA / "tnews" / "dev_few_all.jsonl")
            parts[0] = read_table({c: [*parts[0].column(c), *more.column(c)] for c in (text, label)})
        (self.x, self.tested) = (start.embed(part.column(text)) for part in parts)
        names = sorted(set(map(str, parts[0].column(label))))
        self.classes = names
        (self.y, self.truth) = (np.array([names.index(str(v)) for v in part.column(label)]) for part in parts)

    def head(self, rows: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (c, d) and bias (c,) of a probe on the labelled `rows`. A single class is always the answer."""
        if len(set(self.y[rows].tolist())) < 2:
            return np.zeros((len(self.classes), self.x.shape[1])), np.eye(len(self.classes))[self.y[rows[0]]]
        fitted = kinds.target("label")(self.classes).probe(self.x[rows], self.y[rows], seed)
        assert fitted is not None
        return fitted[0].numpy(), fitted[1].numpy()

    def accuracy(self, weight: np.ndarray, bias: np.ndarray) -> float:
        """Return the accuracy of a probe on the test rows."""
        return float(((self.tested @ weight.T + bias).argmax(1) == self.truth).mean())


def suggested(pool: Pool, seed: int) -> list[float]:
    """Return the accuracies on the test rows after 16, 32, … suggested labels, up to MOST."""
    rng = np.random.default_rng(seed)
    allowed = rng.permutation(len(pool.x))[: max(1000, 3 * len(pool.x) // 4)]
    rows: list[int] = []
    found: list[float] = []
    head = None
    while len(rows) < MOST:
        left = np.setdiff1d(allowed, rows)
        doubts = None
        if head is not None and len(rows) >= max(ENOUGH_LABELS, ENOUGH_PER_CLASS * len(pool.classes)):
            weight, bias = head
            logits = torch.from_numpy(pool.x[left] @ weight.T + bias).double()
            doubts = margin_uncertainty(torch.softmax(logits, dim=-1).numpy())
        chosen = choose_rows(pool.x[left], pool.x[rows], doubts, STEP, seed)
        rows += left[chosen].tolist()
        head = pool.head(rows, seed)
        found.append(pool.accuracy(*head))
    return found


def at_random(pool: Pool, seed: int) -> float:
    """Return the accuracy on the test rows of a probe on 256 random labels."""
    rng = np.random.default_rng(seed)
    return pool.accuracy(*pool.head(rng.permutation(len(pool.x))[:REFERENCE].tolist(), seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=3.0, help="pretraining of the start for TNEWS")
    parser.add_argument("--tasks", default=",".join(TASKS))
    given = parser.parse_args()
    keep_memory()
    lines = [
        f"{given.seeds} seeds; labels are suggested {STEP} at a time, up to {MOST}. Share: number of labels at which a",
        "seed reaches the mean accuracy of 256 random labels, in % of 256; mean (95 % interval by bootstrap over seeds). A seed",
        f"that does not reach it counts as {MOST + STEP}.",
        "",
        "| task | start | 256 random labels, accuracy % | 256 suggested, accuracy % | labels needed, share of 256 in % |",
        "|---|---|---|---|---|",
    ]
    for name in given.tasks.split(","):
        pool = Pool(name, given.minutes)
        wanted = [at_random(pool, seed) for seed in range(given.seeds)]
        curves = np.array([suggested(pool, seed) for seed in range(given.seeds)])
        sizes = STEP * np.arange(1, curves.shape[1] + 1)
        needed = []
        for curve in curves:
            there = curve >= np.mean(wanted)
            needed.append(sizes[there.argmax()] if there.any() else MOST + STEP)
        share = 100 * np.array(needed) / REFERENCE
        rng = np.random.default_rng(0)
        low, high = np.quantile([rng.choice(share, len(share)).mean() for _ in range(2000)], [0.025, 0.975])
        start = "pretrained here" if name == "TNEWS" else "MiniLM"
        lines.append(
            f"| {name} | {start} | {100 * np.mean(wanted):.1f} | {100 * curves[:, REFERENCE // STEP - 1].mean():.1f} "
            f"| {share.mean():.0f} ({low:.0f}–{high:.0f}) |"
        )
        print(lines[-1], flush=True)
    record("Which rows to label (benchmarks/suggesting.py)", lines)


if __name__ == "__main__":
    main()
