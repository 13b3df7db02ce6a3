"""Measure how speed and memory depend on the size of a corpus, in making shards of tokens and in pretraining.

The peer for making shards is the bare tokenizers library. `python benchmarks/corpus.py [megabytes …]`, by default 1 10 100.
A corpus is made of sentences of ../shared/data in random order, one to four a line. Each measurement runs in a process of its
own, so that peaks of memory do not mix. Then steps of pretraining on all corpora are timed in turns.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from common import DATA, ratio, record, spread, take_turns

from mapsto.device import keep_memory
from mapsto.fitting.prepare import prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.task.arrow import parse
from mapsto.training.loop import Training
from mapsto.training.plan import Plan, RunContext

SEEDS = ("multi30k/train.csv", "sst2/train.csv", "reviews_zh/unlabeled.txt", "tnews/unlabeled.txt")
ROUNDS, TURNS, STEPS, BATCH = 3, 7, 8, 128
OPTIONS = {"layers": 4, "width": 128, "heads": 2, "vocabulary": 16384}

# Both read the file line by line, so that what is compared is the work with tokens, not reading.
BARE = """
import resource, sys, time
from itertools import islice
from mapsto.text.tokenizer import Tokenizer
backend = Tokenizer.open(sys.argv[2])._backend
began, count = time.perf_counter(), 0
with open(sys.argv[1], encoding="utf-8") as lines:
    while chunk := list(islice(lines, 4096)):
        count += sum(map(len, backend.encode_batch([line.rstrip("\\n") for line in chunk], add_special_tokens=False)))
print(time.perf_counter() - began, count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
OURS = """
import resource, sys, time
from pathlib import Path
from mapsto.data import corpus
from mapsto.data.rows import bind_to
from mapsto.data.shards import CorpusShards
from mapsto.data.table import fingerprint_source, stream_tables
from mapsto.kinds import source
from mapsto.task.arrow import parse
text = source("text").open(Path(sys.argv[2]), {})
began = time.perf_counter()
arrow = bind_to(parse("~text -> text"), next(stream_tables(sys.argv[1])))
shards = CorpusShards(Path(sys.argv[3]), {"data": fingerprint_source(sys.argv[1])}, print)
corpus.write_shards(shards, stream_tables(sys.argv[1]), arrow, text, corpus.ExampleLimits(128, "window", False))
took = time.perf_counter() - began
print(took, shards.total("tokens"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
WHOLE = """
import json, resource, sys, time
import mapsto
from mapsto.progress import Progress
said = []
class Heard(Progress):
    def say(self, text):
        said.append((time.perf_counter(), text))
began = time.perf_counter()
options = json.loads(sys.argv[3])
mapsto.pretrain("text", sys.argv[1], sys.argv[2], progress=Heard(), **options)
vocabulary = next(at for at, text in said if text.startswith("made")) - began
ready = next(at for at, text in said if "parameters" in text) - began
print(vocabulary, ready, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def sentences() -> list[str]:
    """Return all sentences of the data sets in SEEDS."""
    found = [line for name in SEEDS for line in (DATA / name).read_text(encoding="utf-8").splitlines()[1:]]
    return [line.strip() for line in found if line.strip()]


def texts(size: int) -> Iterator[str]:
    """Yield lines of one to four random sentences, about `size` bytes in all."""
    rng, seeds = random.Random(0), sentences()
    while size > 0:
        line = " ".join(rng.choices(seeds, k=rng.randint(1, 4)))
        size -= len(line.encode()) + 1
        yield line


def child(code: str, *arguments: str) -> list[float]:
    """Run Python code in a process of its own, and return the numbers that it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(word) for word in done.stdout.split()]


def training(corpus: Path, run: Path) -> Training:
    """Return a pretraining on the shards in the folder `run`, of which no step has run yet."""
    options = Options(**OPTIONS, device="cpu")  # type: ignore[arg-type]
    work = prepare(FitRequest(parse("~text -> text"), corpus, run, options=options))
    plan = Plan(steps=10_000, batch=BATCH, rate=1e-3, optimizer="muon", seed=0, save_every=10**9)
    return Training(work.mapping.train(), work.examples, plan, RunContext(torch.device("cpu"), workers=1))


def tokens_a_second(training: Training) -> float:
    """Return the tokens per second of STEPS steps, after one step to warm up."""
    training.step(training.state.step)
    began, before = time.perf_counter(), training.state.tokens
    for _ in range(STEPS):
        training.step(training.state.step)
    return (training.state.tokens - before) / (time.perf_counter() - began)


def measure(corpus: Path, run: Path, megabytes: int) -> str:
    """Write a corpus and make shards of it; return a row of the table with seconds, speeds and memory.

    corpus: the file to write. run: the folder of a short pretraining on it. Both are used again later.
    """
    with corpus.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in texts(megabytes * 10**6))
    vocabulary, ready, peak = child(WHOLE, str(corpus), str(run), json.dumps({"steps": 10, "batch": BATCH, **OPTIONS}))
    ratios, ours = [], (0.0, 0.0, 0.0)
    for number in range(ROUNDS if megabytes <= 100 else 1):
        bare = child(BARE, str(corpus), str(run))
        taken = child(OURS, str(corpus), str(run), str(run.with_name(f"shards{megabytes}-{number}")))
        assert bare[1] == taken[1], "both must make the same tokens"
        ratios.append(bare[0] / taken[0])
        ours = (taken[0], taken[1], taken[2])
    shards = sum(path.stat().st_size for path in (run / "corpus").glob("shard-*")) / 1e6
    ratios.sort()
    middle = ratios[len(ratios) // 2]
    return (
        f"| {megabytes:,} MB | {vocabulary:.1f} | {ready - vocabulary:.1f} | {ours[1] / ours[0] / 1e6:.2f} "
        f"| {100 * middle:.0f} ({100 * ratios[0]:.0f}–{100 * ratios[-1]:.0f}) | {ours[2]:,.0f} | {peak:,.0f} "
        f"| {shards:,.0f} |"
    )


def main() -> None:
    sizes = [int(word) for word in sys.argv[1:]] or [1, 10, 100]
    keep_memory()
    lines = [
        "| text | vocabulary, s | shards and model, s | shards, million tokens/s | of the bare library's speed, % "
        "| peak of sharding, MB | peak of the whole run, MB | shards on disk, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as made:
        places = {size: (Path(made) / f"{size}.txt", Path(made) / f"run{size}") for size in sizes}
        for size, place in places.items():
            began = time.perf_counter()
            lines.append(measure(*place, size))
            print(f"{lines[-1]}   ({time.perf_counter() - began:.0f} s)", flush=True)
        runs = {size: training(*place) for size, place in places.items()}
        found = take_turns({f"{n:,} MB": lambda run=run: tokens_a_second(run) for n, run in runs.items()}, TURNS)
    first = next(iter(found.values()))
    lines += ["", "| text | tokens a second while pretraining, median (range) | relative to 1 MB |", "|---|---|---|"]
    lines += [f"| {name} | {spread(speeds)} | {ratio(speeds, first)} |" for name, speeds in found.items()]
    record("A corpus of any size (benchmarks/corpus.py)", lines)


if __name__ == "__main__":
    main()
