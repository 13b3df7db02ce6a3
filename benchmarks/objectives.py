"""Compare pretraining objectives with the same corpus, model shape and minutes, by the accuracy of fits with 256 labels.

The corpus is the demo's Chinese reviews. Also measured: masked loss and next-token loss on held-out reviews, in nats per token,
if the objective trains the model for them.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
import torch
from common import record

import mapsto
from mapsto.data.table import read_table
from mapsto.demo import data
from mapsto.evaluation.evaluate import evaluate
from mapsto.metrics.intervals import mean_interval
from mapsto.sequence.corruption import Corruption

OBJECTIVES = ("masked", "causal", "hybrid", "replaced")
LABELS, TESTED, SEEDS = 256, 1000, range(3)


def token_loss(model: mapsto.Model, texts: list[str], causal: bool) -> float:
    """Return the mean loss of tokens of held-out texts, in nats.

    causal: whether each token is predicted from the tokens before it; else 15 % of the tokens are masked.
    """
    (target,) = model.mapping.targets
    target.restore(Corruption(0.15, 0.15, causal=float(causal), ahead=target.corruption.ahead))
    rows = read_table([{"text": text} for text in texts])
    return evaluate(model.mapping, rows, torch.device("cpu")).scores["masked_loss"].value


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=4.0)
    minutes = parser.parse_args().minutes
    reviews = random.Random(0).sample(data.reviews(), len(data.reviews()))
    test, pool = reviews[:TESTED], reviews[TESTED:]
    lines = [
        f"{minutes:g} minutes of pretraining each on {len(pool):,} Chinese reviews; accuracy in %, mean (95 % interval) over",
        f"{len(SEEDS)} draws of labels.",
        "",
        f"| objective | accuracy at {LABELS} labels | masked loss | next-token loss |",
        "|---|---|---|---|",
    ]
    for objective in OBJECTIVES:
        base = mapsto.pretrain("text", [{"text": row["text"]} for row in pool], minutes=minutes, objective=objective)
        found = []
        for seed in SEEDS:
            rows = random.Random(seed).sample(pool, LABELS)
            clf = mapsto.fit("text -> label", rows, start=base, length=128, seed=seed)
            answers = [answer["label"] for answer in clf.predict([row["text"] for row in test])]
            found.append(100 * float(np.mean([a == row["label"] for a, row in zip(answers, test, strict=True)])))
        score = mean_interval(found)
        texts = [row["text"] for row in test[:300]]
        masked = "—" if objective in ("causal", "replaced") else f"{token_loss(base, texts, False):.2f}"
        following = "—" if objective in ("masked", "replaced") else f"{token_loss(base, texts, True):.2f}"
        lines.append(f"| {objective} | {score.value:.1f} ({score.low:.1f}–{score.high:.1f}) | {masked} | {following} |")
        print(lines[-1], flush=True)
    record("Objectives (benchmarks/objectives.py)", lines)


if __name__ == "__main__":
    main()
