"""Compare our own engine with files of `mapsto export` in ONNX Runtime and OpenVINO: one text of 16 tokens, and many texts.

A classifier on MiniLM answers SST-2, in turns in one run. Two figures each: the call that users make, and the network alone on
inputs that are ready. Seconds of the processor stand beside seconds of the clock, which other work on the machine lengthens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import DATA, ratio, record, spread, take_turns

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.export.parity import make_examples
from mapsto.pretrained.exported.session_mapping import SessionMapping
from mapsto.sequence.packing import collate, make_batches

TOKENS, CALLS = 16, 15


def timed(work: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    """Return the milliseconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(calls):
        began = clock()
        work()
        best = min(best, clock() - began)
    return 1000 * best


def network(model: mapsto.Model, batches: list) -> Callable[[], object]:
    """Return a function that computes the answers' outputs for batches that are ready."""
    mapping = model.predictor.mapping

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                mapping.read(mapping.hidden(batch), batch, 0)

    return run


def table_of(title: str, works: dict[str, Callable[[], object]], calls: int, rounds: int) -> list[str]:
    """Return the lines of a table of milliseconds, by the clock and of the processor, for each way."""
    lines = [f"| {title} | ms, median (range) | ms of the processor | ours in bf16 / this |", "|---|---|---|---|"]
    turns, busy = (
        take_turns({name: lambda work=work: timed(work, calls, clock) for name, work in works.items()}, rounds)
        for clock in (time.perf_counter, time.process_time)
    )
    first = next(iter(works))
    for name in works:
        lines.append(
            f"| {name} | {spread(turns[name], 2)} | {spread(busy[name], 2)} | {ratio(turns[first], turns[name])} |"
        )
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    keep_memory()
    table = read_table(DATA / "sst2" / "train.csv")
    test = read_table(DATA / "sst2" / "test.csv")
    folder = Path(tempfile.mkdtemp())
    model = mapsto.fit(
        "text -> label", table.select(range(600)), folder / "clf", start=minilm(), steps=arguments.steps, hold_out=0.0
    )
    notes: list[str] = []
    models = {f"ours, {precision}": mapsto.load(folder / "clf", "cpu", precision) for precision in ("bf16", "fp32")}
    for to, name in (("onnx", "exported, fp32"), ("int8", "exported, int8")):
        exported = model.export(folder / f"{to}.onnx", to, rows=test, agreement=0.9)
        notes += [f"{name}: {line}" for line in exported.lines()[:1]]
        models[name] = mapsto.load(exported.path)
        assert isinstance(models[name].mapping, SessionMapping)
    # The same file in the other engine.
    models["exported, fp32, OpenVINO"] = mapsto.load(folder / "onnx.onnx", engine="openvino")
    texts = test.column("text")[: arguments.texts]
    examples = make_examples(model.mapping, test.select(range(arguments.texts)))
    number = next(index for index, example in enumerate(examples) if len(example) == TOKENS)
    lone, many = [collate([examples[number]], TOKENS)], make_batches(examples, 4096)
    lines = []
    for title, works, calls in (
        (f"one text of {TOKENS} tokens, the call", {n: lambda m=m: m(texts[number]) for n, m in models.items()}, CALLS),
        (f"one text of {TOKENS} tokens, the network", {n: network(m, lone) for n, m in models.items()}, CALLS),
        (f"{len(texts)} texts, the call", {n: lambda m=m: m.predict(texts) for n, m in models.items()}, 1),
        (f"{len(texts)} texts, the network", {n: network(m, many) for n, m in models.items()}, 1),
    ):
        lines += table_of(title, works, calls, arguments.rounds)
    record("Exported files (benchmarks/exporting.py)", [*lines, *notes])


if __name__ == "__main__":
    main()
