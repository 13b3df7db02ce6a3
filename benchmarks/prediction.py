"""Prediction with MiniLM and a classifier on real sentences, ours against the `transformers` pipeline: texts a second (the
reference at its defaults, then at its best: bf16 weights, sorted by length), one short text, and ten from the shell.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import DATA, ratio, record, seconds, spread, take_turns
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import mapsto
from mapsto import data
from mapsto.demo_data import minilm
from mapsto.device import keep_memory

TEXTS, ROUNDS, SHORT = 1500, 5, 60


def shell(way: str, folder: Path) -> None:
    """Ten texts of a file answered by a process of its own."""
    ten = folder.parent / "ten.txt"
    command = [sys.executable, "-m", "mapsto", "predict", str(folder), str(ten)]
    if way == "pipeline":
        code = (
            "from transformers import pipeline; "
            f"print(pipeline('text-classification', {str(folder)!r})(open({str(ten)!r}).read().split(chr(10))[:10]))"
        )
        command = [sys.executable, "-c", code]
    subprocess.run(command, capture_output=True, check=True)


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
    short = min(texts, key=lambda text: abs(len(text) - SHORT))
    model(short), pipe(short)
    one = take_turns(
        {"ours": lambda: 1000 * seconds(lambda: model(short)), "pipeline": lambda: 1000 * seconds(lambda: pipe(short))},
        30,
    )
    (folder.parent / "ten.txt").write_text("\n".join(texts[:10]) + "\n", encoding="utf-8")
    cold = take_turns({way: lambda way=way: seconds(lambda: shell(way, folder)) for way in ("ours", "pipeline")}, 3)
    lines += ["", "| | ours | pipeline | ours / pipeline |", "|---|---|---|---|"]
    for what, both in (
        (f"one text of {len(short)} characters, warm, ms", one),
        ("ten texts from the shell, cold, s", cold),
    ):
        shown = " | ".join(spread(values, 1) for values in both.values())
        lines.append(f"| {what} | {shown} | {ratio(both['ours'], both['pipeline'])} |")
    record("Prediction (benchmarks/prediction.py)", lines)


if __name__ == "__main__":
    main()
