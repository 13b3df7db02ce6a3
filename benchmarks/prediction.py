"""Compare the speed of prediction with the pipeline of `transformers` and with two inference engines.

A classifier on MiniLM answers real sentences: many texts, one short text, and ten texts from the shell. The pipeline runs at
its defaults, and tuned (bf16 weights, batches sorted by length).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from common import DATA, profiled, ratio, record, seconds, spread, take_turns
from engines import Way, best_size, by_length, onnxruntime_int8, opened, openvino_bf16, reader
from transformers import AutoTokenizer, pipeline

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory

TEXTS, ROUNDS, SHORT, SAMPLE, PROFILED = 400, 3, 60, 128, 50
PAUSE = 0.3  # seconds
DEFAULTS, REFERENCE = "pipeline, defaults", "pipeline, batches of 32"
ENGINES = INT8, BF16 = "ONNX Runtime, int8, sorted by length", "OpenVINO, bf16, sorted by length"
BETTER = "the better engine of each round"


def shell(way: str, folder: Path) -> None:
    """Answer ten texts of a file in a process of its own. way: "pipeline", or else mapsto's command line."""
    ten = folder.parent / "ten.txt"
    command = [sys.executable, "-m", "mapsto", "predict", str(folder), str(ten)]
    if way == "pipeline":
        code = (
            "from transformers import pipeline; "
            f"print(pipeline('text-classification', {str(folder)!r})(open({str(ten)!r}).read().split(chr(10))[:10]))"
        )
        command = [sys.executable, "-c", code]
    subprocess.run(command, capture_output=True, check=True)


def milliseconds(way: Way, text: str) -> float:
    """Return the median time of several calls with one text.

    It pauses first, until the threads of the method that ran before no longer spin.
    """
    time.sleep(PAUSE)
    return 1000 * statistics.median(seconds(lambda: way([text])) for _ in range(15))


def every_way(folder: Path, sample: Sequence[str]) -> dict[str, Way]:
    """Return the methods by name: functions from texts to class numbers, all with the classifier in `folder`.

    The batch size of an engine is the one that is fastest for it on the sample.
    """
    model, tokenizer = mapsto.load(folder), AutoTokenizer.from_pretrained(folder)
    plain, rough = opened(folder), opened(folder, torch.bfloat16)
    pipe = pipeline("text-classification", model=plain, tokenizer=tokenizer)
    pipe_bf16 = pipeline("text-classification", model=rough, tokenizer=tokenizer)
    read = reader(folder)
    int8, bf16 = onnxruntime_int8(plain, read), openvino_bf16(plain, read)

    def classes(answers: Sequence[Mapping[str, str]]) -> list[int]:
        return [plain.config.label2id[answer["label"]] for answer in answers]

    return {
        "ours": lambda texts: classes(model.predict(texts)),
        DEFAULTS: lambda texts: classes(pipe(texts)),
        REFERENCE: lambda texts: classes(pipe(texts, batch_size=32)),
        "pipeline, bf16, batches of 32, sorted by length": by_length(
            lambda texts, size: classes(pipe_bf16(texts, batch_size=size)), 32
        ),
        INT8: by_length(int8, best_size(int8, sample)),
        BF16: by_length(bf16, best_size(bf16, sample)),
    }


def with_better(found: Mapping[str, list[float]], better: Callable[[list[float]], float]) -> dict[str, list[float]]:
    """Return the results of each method, with one more entry: the better of the two engines in each round.

    better: `max` or `min`.
    """
    return {**found, BETTER: [better(list(both)) for both in zip(*(found[name] for name in ENGINES), strict=True)]}


def many(ways: Mapping[str, Way], texts: Sequence[str]) -> list[str]:
    """Return the lines of the table of texts per second, and of the share of answers equal to the fp32 reference's."""
    answers = {name: np.array(way(texts)) for name, way in ways.items()}
    same = {name: f"{100 * np.mean(given == answers[REFERENCE]):.1f}" for name, given in answers.items()}
    turns = {name: lambda way=way: len(texts) / seconds(lambda: way(texts)) for name, way in ways.items()}
    found = with_better(take_turns(turns, ROUNDS), max)
    return [
        "| method | texts a second, median (range) | ours is × faster | same answer as in fp32, % |",
        "|---|---|---|---|",
        *(
            f"| {name} | {spread(values)} | {ratio(found['ours'], values)} | {same.get(name, '')} |"
            for name, values in found.items()
        ),
    ]


def one(ways: Mapping[str, Way], text: str) -> list[str]:
    """Return the lines of the table of milliseconds for one text."""
    turns = {name: lambda way=way: milliseconds(way, text) for name, way in ways.items()}
    found = with_better(take_turns(turns, 15), min)
    return [
        f"| one text of {len(text)} characters, warm | ms, median (range) | ours / this |",
        "|---|---|---|",
        *(f"| {name} | {spread(values, 1)} | {ratio(found['ours'], values)} |" for name, values in found.items()),
    ]


def main() -> None:
    keep_memory()  # as the command line does; the reference gains by it as well
    table = read_table(DATA / "sst2" / "train.csv")
    texts = table.column("text")[:TEXTS]
    folder = Path(tempfile.mkdtemp()) / "clf"
    mapsto.fit("text -> label", table.select(range(200)), folder, start=minilm(), method="probe")
    ways = every_way(folder, texts[:SAMPLE])
    lines = many(ways, texts)
    short = min(texts, key=lambda text: abs(len(text) - SHORT))
    lines += ["", *one({name: ways[name] for name in ("ours", DEFAULTS, *ENGINES)}, short)]
    lines += ["", f"One text, ours. {profiled(lambda: [ways['ours']([short]) for _ in range(PROFILED)])}"]
    (folder.parent / "ten.txt").write_text("\n".join(texts[:10]) + "\n", encoding="utf-8")
    cold = take_turns({way: lambda way=way: seconds(lambda: shell(way, folder)) for way in ("ours", "pipeline")}, 3)
    lines += ["", "| | ours | pipeline | ours / pipeline |", "|---|---|---|---|"]
    shown = " | ".join(spread(values, 1) for values in cold.values())
    lines.append(f"| ten texts from the shell, cold, s | {shown} | {ratio(cold['ours'], cold['pipeline'])} |")
    record("Prediction (benchmarks/prediction.py)", lines)


if __name__ == "__main__":
    main()
