"""Compare fitting pairs (`text <-> text`) with the trainer of sentence-transformers by the same recipe, and time `find`.

Both have the same pairs, epochs, batches, learning rate and warm-up, and take turns. Banking77: two texts of one category are a
pair, and every text of the category is right for a query. CMRC: the question and its passage. Recall is scored by the same code
on all distinct candidates of the test pairs; with several right texts it is the share of queries whose first, or one of the first
ten, is right. `find` is timed exactly among random vectors, and by its graph, beside the exact search, among clustered ones. The
start is all-MiniLM-L6-v2; --start names another, such as multilingual-e5-small for Chinese.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, Kept, ratio, record, seconds, spread
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

import mapsto
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.fitting.plan import MATCH_LEARNING, MATCH_WARM_UP
from mapsto.inference.index.vector_graph import ApproximateIndex, VectorGraph
from mapsto.inference.index.vector_index import VectorIndex, unit
from mapsto.metrics.ranking import Relevance, right_ranks

ARROW = "query:text <-> passage:text"
TOP = 10
Pairs = list[tuple[str, str]]
# From training pairs, texts to embed, epochs and a seed to the vectors of the texts and the seconds of training.
Way = Callable[[Pairs, Sequence[str], argparse.Namespace, int], tuple[Any, float]]


def banking(part: str) -> tuple[Pairs, list[tuple[str, str]]]:
    """Return pairs of texts of one category, each text in one pair, and each text with its category."""
    table = read_table(DATA / "banking77" / f"{part}.csv")
    rows = list(zip(table.column("text"), table.column("category"), strict=True))
    by_category: dict[str, list[str]] = {}
    for text, category in rows:
        by_category.setdefault(category, []).append(text)
    rng, pairs = random.Random(0), []
    for texts in by_category.values():
        rng.shuffle(texts)
        pairs += list(zip(texts[::2], texts[1::2], strict=False))
    rng.shuffle(pairs)
    return pairs, rows


def cmrc(name: str) -> Pairs:
    """Return the questions of a file of CMRC 2018 with their passages."""
    content = json.loads((DATA / "cmrc2018" / f"cmrc2018_{name}.json").read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    return [(question["question"], paragraph["context"]) for paragraph in paragraphs for question in paragraph["qas"]]


def sets(name: str, rows: int | None, tested: int | None) -> tuple[Pairs, list[str], list[str], Relevance]:
    """Return training pairs, test queries, candidates, and which candidate is right for which query.

    rows, tested: the numbers of training pairs and of test pairs; None for all.
    """
    if name == "banking77":
        pairs, _ = banking("train")
        test, labelled = banking("test")
        category = dict(labelled)
        test = test[:tested]
        # Every text of the query's category is right.
        links = [
            (q, p) for q in range(len(test)) for p in range(len(test)) if category[test[q][0]] == category[test[p][1]]
        ]
        relevance = Relevance(*map(np.array, zip(*links, strict=True)))
        return pairs[:rows], [query for query, _ in test], [passage for _, passage in test], relevance
    test = cmrc("dev")[:tested]
    relevance = Relevance.of_pairs(*zip(*test, strict=True))
    queries = [test[row][0] for row in relevance.query_rows.tolist()]
    return cmrc("trial")[:rows], queries, [test[row][1] for row in relevance.candidate_rows.tolist()], relevance


def ours(pairs: Pairs, texts: Sequence[str], options: argparse.Namespace, seed: int) -> tuple[Any, float]:
    """Fit with `mapsto.fit`, from the rows to the fitted model."""
    rows = [{"query": query, "passage": passage} for query, passage in pairs]
    began = time.perf_counter()
    model = mapsto.fit(
        ARROW, rows, start=options.start, epochs=options.epochs, batch=options.batch, rate=MATCH_LEARNING.rate, seed=seed,
        hold_out=0.0, length=options.length, device="cpu", precision=options.precision,
    )  # fmt: skip
    took = time.perf_counter() - began
    return model.embed(texts), took


def reference(pairs: Pairs, texts: Sequence[str], options: argparse.Namespace, seed: int) -> tuple[Any, float]:
    """Fit with the trainer of sentence-transformers and the symmetric in-batch loss, from the rows to the fitted model."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    model = SentenceTransformer(options.start, device="cpu")
    if options.length is not None:
        model.max_seq_length = options.length
    data = Dataset.from_dict({"query": [query for query, _ in pairs], "passage": [passage for _, passage in pairs]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=options.epochs, per_device_train_batch_size=options.batch, seed=seed,
            learning_rate=MATCH_LEARNING.rate, warmup_steps=MATCH_WARM_UP, save_strategy="no", report_to=[], disable_tqdm=True,
            logging_strategy="no", use_cpu=True,
        )  # fmt: skip
        directions = ("query_to_doc", "doc_to_query")
        loss = MultipleNegativesRankingLoss(model, directions=directions, partition_mode="per_direction")
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    took = time.perf_counter() - began
    return model.encode(list(texts), show_progress_bar=False), took


def untrained(pairs: Pairs, texts: Sequence[str], options: argparse.Namespace, seed: int) -> tuple[Any, float]:
    """Return the vectors of the starting model."""
    return mapsto.load(options.start, "cpu").embed(texts), 0.0


WAYS: dict[str, Way] = {"ours": ours, "sentence-transformers, the same recipe": reference, "the start": untrained}


def hits(vectors: Any, num_queries: int, relevance: Relevance) -> tuple[float, float]:
    """Return the share of queries, in %, of which the first text, and one of the first ten, is right."""
    scaled = unit(torch.from_numpy(np.asarray(vectors)))
    ranks = right_ranks((scaled[:num_queries] @ scaled[num_queries:].T).numpy(), relevance.right)
    best = np.array([numbers[0] for numbers in ranks])
    return 100 * float((best == 1).mean()), 100 * float((best <= TOP).mean())


def time_find(count: int, width: int, rounds: int) -> list[str]:
    """Return lines on the time of a query among `count` vectors, beside the product of all numbers in fp32."""
    torch.manual_seed(0)
    vectors = unit(torch.randn(count, width))
    began = time.perf_counter()
    index = VectorIndex(vectors)
    built = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.safetensors"
        index.save(path)
        opened = seconds(lambda: VectorIndex.open(path))
    times: dict[str, list[float]] = {"ours": [], "the product in fp32": []}
    same = []
    for number in range(rounds):
        # A query near some vector, as queries are.
        query = unit(vectors[number : number + 1] + 0.05 * torch.randn(1, width))
        began = time.perf_counter()
        _, (found,) = index.search(query, TOP)
        times["ours"].append(1000 * (time.perf_counter() - began))
        began = time.perf_counter()
        expected = (vectors @ query[0]).topk(TOP).indices
        times["the product in fp32"].append(1000 * (time.perf_counter() - began))
        same.append(set(found.tolist()) == set(expected.tolist()))
    return [
        "",
        f"`find` of the best {TOP} among {count:,} random vectors of {width} numbers, one query at a time; "
        f"rounding them took {built:.1f} s, opening a kept index {1000 * opened:.0f} ms. "
        f"The results are the same for {sum(same)} of {rounds} queries.",
        "",
        "| method | ms a query, median (range) | ours is × faster |",
        "|---|---|---|",
        *(f"| {name} | {spread(values, 1)} | {ratio(values, times['ours'])} |" for name, values in times.items()),
    ]


def clustered(count: int, width: int) -> torch.Tensor:
    """Return random unit vectors (count, width), 1,000 around each centre and farther from it than it is long."""
    centres = unit(torch.randn(-(-count // 1000), width))
    vectors = torch.empty(count, width)
    for rows in torch.split(torch.arange(count), 2**15):  # which bounds memory
        noise = unit(torch.randn(len(rows), width))
        vectors[rows] = unit(centres[torch.randint(len(centres), (len(rows),))] + 1.2 * noise)
    return vectors


def time_graph(count: int, width: int, rounds: int) -> list[str]:
    """Return lines on the cost of a graph of `count` clustered vectors, and its time and recall beside the exact search."""
    torch.manual_seed(0)
    vectors = clustered(count, width)
    index = VectorIndex(vectors)
    began = time.perf_counter()
    approximate = ApproximateIndex.build(index)
    built = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.usearch"
        digest = approximate.graph.save(path)
        size = path.stat().st_size
        opened = seconds(lambda: VectorGraph.open(path, digest, index.rounded))
    queries = unit(vectors[torch.randint(count, (rounds,))] + 0.3 * unit(torch.randn(rounds, width)))
    indices = {"the graph": approximate, "exact": index}
    times: dict[str, list[float]] = {name: [] for name in indices}
    answers: dict[str, list[set[int]]] = {name: [] for name in indices}
    for query in queries:
        for name, searched in indices.items():
            began = time.perf_counter()
            _, (numbers,) = searched.search(query[None], TOP)
            times[name].append(1000 * (time.perf_counter() - began))
            answers[name].append({*numbers.tolist()})
    together = 1000 * seconds(lambda: index.search(queries, TOP)) / rounds
    hits = [len(best & near) for best, near in zip(answers["exact"], answers["the graph"], strict=True)]
    return [
        "",
        f"`find` of the best {TOP} among {count:,} clustered vectors of {width} numbers by the graph that serves more than a "
        f"million texts, one query at a time: recall@{TOP} is {sum(hits) / (TOP * rounds):.3f} of the exact search, over "
        f"{rounds} queries, with {approximate.candidates} candidates for each ({approximate.recall:.3f} on the sample of "
        f"building). Building the graph took {built:.0f} s, opening a kept one {1000 * opened:.0f} ms; it has "
        f"{size / 1e6:.0f} MB. Exact searches of {rounds} queries together take {together:.1f} ms each.",
        "",
        "| method | ms a query, median (range) | the graph is × faster |",
        "|---|---|---|",
        *(f"| {name} | {spread(values, 2)} | {ratio(values, times['the graph'])} |" for name, values in times.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="banking77,cmrc")
    parser.add_argument("--parts", default="find,graph", help="what else is measured: find, graph")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--start", default=str(minilm()))
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=MATCH_LEARNING.batch)
    parser.add_argument("--length", type=int, help="longest text in tokens; by default the start's")
    parser.add_argument("--rows", type=int, help="training pairs; by default all")
    parser.add_argument("--tested", type=int, help="test pairs; by default all")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--vectors", type=int, default=1_000_000, help="vectors that `find` searches, exactly and by a graph"
    )
    parser.add_argument("--rounds", type=int, default=20, help="queries of `find` that are timed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Parts that take long are measured one by one, and kept.
    kept = Kept("matching")
    for name in filter(None, options.sets.split(",")):
        kept.put(f"set {name} {options.precision}", compare_ways(name, options))
    for part, measure in (("find", time_find), ("graph", time_graph)):
        if part in options.parts.split(","):
            kept.put(part, measure(options.vectors, 384, options.rounds * (5 if part == "graph" else 1)))
    lines = [
        f"{options.epochs:g} epochs in batches of {options.batch} at {MATCH_LEARNING.rate:g}; theirs in fp32, its default. "
        "Recall in %, mean (each seed); seconds of training (from the rows to the fitted model), median (range).",
        "",
        "| set | training pairs | test queries · candidates | method | recall@1 | recall@10 | seconds | ours is × faster |",
        "|---|---|---|---|---|---|---|---|",
        *(line for key, rows in kept.found.items() if key.startswith("set ") for line in rows),
        *(line for part in ("find", "graph") for line in kept.found.get(part, [])),
    ]
    record("Texts that belong together (benchmarks/matching.py)", lines)


def compare_ways(name: str, options: argparse.Namespace) -> list[str]:
    """Return the rows of the table for a set: recall and seconds of each way, which take turns."""
    pairs, queries, candidates, relevance = sets(name, options.rows, options.tested)
    scores: dict[str, list[tuple[float, float]]] = {who: [] for who in WAYS}
    took: dict[str, list[float]] = {who: [] for who in WAYS}
    for seed in range(options.seeds):
        for who, way in WAYS.items():
            vectors, duration = way(pairs, [*queries, *candidates], options, seed)
            scores[who].append(hits(vectors, len(queries), relevance))
            took[who].append(duration)
            print(name, seed, who, scores[who][-1], duration, flush=True)
    lines = []
    start = Path(options.start)
    name_of_start = start.parent.name if start.name == "model" else start.name
    facts = f"from {name_of_start}, {options.threads} threads, ours in {options.precision}"
    for who, values in scores.items():
        shown = " | ".join(
            f"{statistics.fmean(column):.1f} ({', '.join(f'{value:.1f}' for value in column)})"
            for column in zip(*values, strict=True)
        )
        cost = f"{spread(took[who])} | {ratio(took[who], took['ours'])}" if way_trains(who) else "– | –"
        lines.append(
            f"| {name}, {facts} | {len(pairs):,} | {len(queries):,} · {len(candidates):,} | {who} | {shown} | {cost} |"
        )
    return lines


def way_trains(name: str) -> bool:
    """Return whether a method trains, so that its seconds count."""
    return WAYS[name] is not untrained


if __name__ == "__main__":
    main()
