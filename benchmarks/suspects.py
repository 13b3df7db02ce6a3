"""Wrong labels: the estimated precision of the list of suspects beside its true precision, with flipped labels.

A probe on MiniLM's vectors is fitted to the training rows. Labels of the test rows are flipped to a random other class.
`python benchmarks/suspects.py --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from cleanlab.count import compute_confident_joint, estimate_latent
from common import DATA, record, spread

import mapsto
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.evaluation.evaluate import Predictions
from mapsto.evaluation.suspects import Suspects, find_suspects
from mapsto.metrics.label_noise import LabelNoise, wrong_label_probabilities

LENGTHS = (10, 20, 50, 100, 200)
# The arrow, the training rows, and the tables whose labels are flipped.
TASKS = {
    "SST-2": ("text -> label", "sst2/train.csv", ("sst2/test.csv", "sst2/dev.csv")),
    "TREC-6": ("question:text -> kind:label", "trec6/train.csv", ("trec6/test.csv",)),
}


def flip_labels(predictions: Predictions, share: float, seed: int) -> tuple[Predictions, set[int]]:
    """Return the predictions with a share of wrong labels, and the indices of these rows."""
    rng = np.random.default_rng(seed)
    labels, classes = list(predictions.labels), predictions.target.classes
    flipped = rng.permutation(len(labels))[: round(share * len(labels))].tolist()
    for row in flipped:
        labels[row] = classes[(classes.index(labels[row]) + rng.integers(1, len(classes))) % len(classes)]
    return replace(predictions, labels=labels), set(flipped)


def confident_joint_precision(predictions: Predictions, length: int) -> float:
    """Return the precision of the first rows as estimated from confident learning's joint (cleanlab)."""
    logits = predictions.outputs.double()
    labels = np.array([predictions.target.classes.index(label) for label in predictions.labels])
    joint = compute_confident_joint(labels, logits.softmax(-1).numpy())
    _, noise_matrix, _ = estimate_latent(joint, labels)  # p(given = row | true = column)
    noise = LabelNoise(1.0, np.asarray(noise_matrix).T)
    wrong = wrong_label_probabilities(logits.numpy(), labels, noise)[logits.argmax(-1).numpy() != labels]
    return 100 * float(np.sort(wrong)[::-1][:length].mean())


def true_precision(suspects: Suspects, flipped: set[int], length: int) -> float:
    return 100 * float(np.mean([suspect.index in flipped for suspect in suspects.rows[:length]]))


def table_rows(name: str, predictions: Predictions, share: float, seeds: Sequence[int]) -> list[str]:
    """Return the rows of the table for one task and one share of flipped labels."""
    draws = [flip_labels(predictions, share, seed) for seed in seeds]
    lists = [find_suspects([noisy]) for noisy, _ in draws]
    rows = []
    recommended = [suspects.num_recommended for suspects in lists]
    for length in (*LENGTHS, None):
        lengths = recommended if length is None else [length] * len(lists)
        if any(not 0 < wanted <= len(suspects.rows) for wanted, suspects in zip(lengths, lists, strict=True)):
            continue
        estimated = [100 * suspects.rows[wanted - 1].precision for wanted, suspects in zip(lengths, lists, strict=True)]
        true = [
            true_precision(suspects, flipped, wanted)
            for (_, flipped), suspects, wanted in zip(draws, lists, lengths, strict=True)
        ]
        joint = [confident_joint_precision(noisy, wanted) for (noisy, _), wanted in zip(draws, lengths, strict=True)]
        shown = f"recommended: {spread(recommended)}" if length is None else f"{length}"
        rows.append(
            f"| {name} | {100 * share:.0f} % | {shown} | {spread(estimated)} | {spread(true)} | {spread(joint)} |"
        )
    return rows


def summary(name: str, predictions: Predictions, share: float, seeds: Sequence[int]) -> str:
    """Return a line on the number of suspects, the expected number of wrong labels, and the flipped ones among them."""
    draws = [flip_labels(predictions, share, seed) for seed in seeds]
    lists = [find_suspects([noisy]) for noisy, _ in draws]
    listed = [
        sum(suspect.index in flipped for suspect in suspects.rows)
        for (_, flipped), suspects in zip(draws, lists, strict=True)
    ]
    counts, expected = [len(suspects.rows) for suspects in lists], [suspects.num_wrong for suspects in lists]
    return f"| {name} | {100 * share:.0f} % | {spread(counts)} | {spread(expected)} | {spread(listed)} | {len(draws[0][1]):,} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5, help="draws of the flipped labels")
    parser.add_argument("--shares", default="0,0.05,0.1", help="shares of flipped labels")
    given = parser.parse_args()
    keep_memory()
    shares, seeds = [float(share) for share in given.shares.split(",")], range(given.draws)
    precisions, summaries, accuracies = [], [], []
    for task, (arrow, train, tables) in TASKS.items():
        model = mapsto.fit(arrow, DATA / train, start=minilm(), method="probe")
        for table in tables:
            evaluation, name = model.evaluate(DATA / table), f"{task}, {Path(table).stem}"
            accuracies.append(f"{name} {evaluation.scores['accuracy'].percent}")
            for share in shares:
                precisions += table_rows(name, evaluation.predictions[0], share, seeds)
                summaries.append(summary(name, evaluation.predictions[0], share, seeds))
    lines = [
        f"A probe on MiniLM's vectors; accuracy with the labels as published: {'; '.join(accuracies)}.",
        f"{given.draws} draws of the flips; median (range). Precision: share of flipped labels among the first rows of the",
        "list, in %. Labels that are wrong as published count as right here, so the true precision is a little higher.",
        "",
        "| task | flipped | first rows | estimated | true | estimated from confident learning's joint (cleanlab) |",
        "|---|---|---|---|---|---|",
        *precisions,
        "",
        "| task | flipped | suspects | of these wrong, estimated | of these flipped | flipped in all |",
        "|---|---|---|---|---|---|",
        *summaries,
    ]
    record("Labels that may be wrong (benchmarks/suspects.py)", lines)


if __name__ == "__main__":
    main()
