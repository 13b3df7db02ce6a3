"""Texts a second of prediction: MiniLM with a classifier on real sentences, ours against the `transformers` pipeline.

The reference is given its defaults, then its best hand-tuned settings: bf16 weights, texts sorted by length.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import DATA, ratio, record, seconds, spread, take_turns
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import mapsto
from mapsto import data
from mapsto.demo_data import minilm
from mapsto.device import keep_memory

TEXTS, ROUNDS = 1500, 5


def main() -> None:
    keep_memory()  # as the command line does; the reference gains by it as well
    table = data.read(DATA / "sst2" / "train.csv")
    texts = table.column("text")[:TEXTS]
    folder = Path(tempfile.mkdtemp()) / "clf"
    rows = table.select(range(200))
    mapsto.fit("text -> label", rows, folder, start=minilm(), method="probe")
    model = mapsto.load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rough = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    pipe = pipeline("text-classification", model=plain, tokenizer=tokenizer)
    pipe_bf16 = pipeline("text-classification", model=rough, tokenizer=tokenizer)
    by_length = sorted(texts, key=len)
    ways = {
        "ours": lambda: TEXTS / seconds(lambda: model.predict(texts)),
        "pipeline, its defaults": lambda: TEXTS / seconds(lambda: pipe(texts)),
        "pipeline, batches of 32": lambda: TEXTS / seconds(lambda: pipe(texts, batch_size=32)),
        "pipeline, bf16, batches of 32, sorted by length": lambda: (
            TEXTS / seconds(lambda: pipe_bf16(by_length, batch_size=32))
        ),
    }
    found = take_turns(ways, ROUNDS)
    lines = ["| way | texts a second, median (range) | ours is × faster |", "|---|---|---|"]
    lines += [f"| {name} | {spread(values)} | {ratio(found['ours'], values)} |" for name, values in found.items()]
    record("Prediction (benchmarks/prediction.py)", lines)


if __name__ == "__main__":
    main()
