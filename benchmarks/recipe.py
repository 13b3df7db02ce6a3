"""Compare mapsto's pretraining with BERT's recipe: same corpus, tokenizer and minutes, about as many parameters, several seeds.

Both write a folder of `transformers`. It is scored on the same hidden tokens of held-out texts, and fitted by the same `fit`
with 256 labels, so only pretraining differs. BERT's recipe (Devlin et al. 2019): learnt positions, post-norm, GELU, dropout
0.1, 15 % hidden (80/10/10), AdamW, linear warm-up over 10 % and linear decay. It runs as fast as possible here (bf16 autocast,
the text cut into full rows of 128 tokens), and its rate is tuned on the first seed.

Each run has one core and one thread, so runs go side by side. Minutes are processor time, so other programs do not matter.
The time of mapsto includes training its tokenizer. Results are kept in runs/benchmarks, so an interrupted run, or one with more
seeds, continues.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from common import DATA, Kept, record, spread
from few_labels import interval
from transformers import BertConfig, BertForMaskedLM

import mapsto
from mapsto.data.table import read_table
from mapsto.device import keep_memory
from mapsto.evaluation.evaluate import evaluate
from mapsto.fitting import fit, plan
from mapsto.sequence.corruption import Corruption
from mapsto.text.tokenizer import Tokenizer

ROW, BATCH, HIDE, RATES = 128, 32, 0.15, (3e-4, 1e-3, 2e-3)
SIZE = {"layers": 4, "width": 256, "heads": 4}
LABELS, DRAWS, TESTED, HELD = 256, 3, 1000, 500
OURS, BERTS = "ours", "BERT's, rate tuned"
Rows = list[dict[str, str]]


def corpora() -> dict[str, tuple[list[str], Rows, Rows]]:
    """Return (texts without labels, labelled rows to draw from, test rows) of each corpus, by its name."""

    def rows(name: str) -> Rows:
        table = read_table(DATA / name)
        return [
            {"text": text, "label": str(label)}
            for text, label in zip(table.column("text"), table.column("label"), strict=True)
        ]

    captions = read_table(DATA / "multi30k" / "train.csv").column("en")
    reviews = (DATA / "reviews_zh" / "unlabeled.txt").read_text(encoding="utf-8").splitlines()
    sst2, chinese = rows("sst2/train.csv"), rows("chnsenticorp/train.csv")
    # As users would: the texts to be labelled are part of what is read without labels.
    return {
        "English": ([*captions, *(row["text"] for row in sst2)], sst2, rows("sst2/test.csv")),
        "Chinese": ([*reviews, *(row["text"] for row in chinese)], chinese, rows("chnsenticorp/test.csv")),
    }


def bert(texts: Sequence[str], base: Path, out: Path, minutes: float, rate: float, seed: int) -> None:
    """Pretrain a BERT for `minutes` with the tokenizer in `base`, and save it in the folder `out`. rate: peak rate."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer.open(base)
    ids = torch.from_numpy(np.concatenate([np.asarray(row) for row in tokenizer.encode_ids(list(texts))])).long()
    special = [tokenizer.opening, tokenizer.closing]
    framed = ids[: len(ids) // (ROW - 2) * (ROW - 2)].view(-1, ROW - 2)
    opening, closing = (torch.from_numpy(np.asarray(part)).long().expand(len(framed), -1) for part in special)
    rows = torch.cat([opening, framed, closing], 1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=SIZE["width"], num_hidden_layers=SIZE["layers"],
        num_attention_heads=SIZE["heads"], intermediate_size=4 * SIZE["width"], max_position_embeddings=512,
        pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    began, order, step = time.process_time(), torch.randperm(len(rows)), 0
    while (done := (time.process_time() - began) / (60 * minutes)) < 1:
        at = step * BATCH % (len(rows) - BATCH)
        part = rows[order[at : at + BATCH]]
        hidden = (torch.rand(part.shape) < HIDE) & (torch.arange(part.shape[1]) % (part.shape[1] - 1) > 0)
        luck, labels = torch.rand(part.shape), part.masked_fill(~hidden, -100)
        shown = part.masked_fill(hidden & (luck < 0.8), tokenizer.mask_id)
        other = hidden & (luck >= 0.9)
        shown[other] = torch.randint(len(tokenizer), (int(other.sum()),))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * done + 1e-3, (1 - done) / 0.9)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=shown, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
    model.eval().save_pretrained(out)
    for file in base.glob("*token*.json"):
        (out / file.name).write_bytes(file.read_bytes())


def hidden_loss(folder: Path, texts: list[str]) -> float:
    """Return the mean loss in nats of a model on 15 % of the tokens of held-out texts, all replaced by [MASK]."""
    mapping = mapsto.load(folder, precision="fp32").mapping
    mapping.targets[0].restore(Corruption(HIDE, HIDE))
    return evaluate(mapping, read_table(as_rows(texts)), torch.device("cpu")).scores["masked_loss"].value


def fitted(folder: Path, pool: Rows, test: Rows, seed: int) -> float:
    """Return the mean accuracy in % of fits with LABELS labels, over DRAWS draws of them."""
    found = []
    for draw in range(DRAWS * seed, DRAWS * (seed + 1)):
        rows = random.Random(draw).sample(pool, LABELS)
        model = mapsto.fit("text -> label", rows, start=folder, length=ROW, seed=draw)
        answers = model.predict([row["text"] for row in test])
        found.append(np.mean([a["label"] == row["label"] for a, row in zip(answers, test, strict=True)]))
    return 100 * float(np.mean(found))


def parts(corpus: str) -> tuple[list[str], list[str], Rows, Rows]:
    """Return (held-out texts, texts to pretrain on, labelled rows to draw from, test rows) of a corpus."""
    texts, pool, test = corpora()[corpus]
    texts = random.Random(0).sample(texts, len(texts))
    return texts[:HELD], texts[HELD:], pool, test[:TESTED]


def as_rows(texts: Sequence[str]) -> Rows:
    return [{"text": text} for text in texts]


def words(corpus: str, folder: Path) -> None:
    """Write the tokenizer for a corpus to a folder, unless it is there. BERT's recipe reads the texts with it."""
    if not (folder / "words" / "mapsto.json").exists():
        out = folder / "words"
        mapsto.pretrain("text", as_rows(parts(corpus)[1]), out, steps=1, hold_out=0, overwrite=True, **SIZE)


def measured(corpus: str, way: str, rate: float, seed: int, minutes: float, folder: Path) -> dict[str, float]:
    """Pretrain on one core; return held-out loss, accuracy of fits in %, minutes, and parameters in millions ("size")."""
    held, learnt, pool, test = parts(corpus)
    out = folder / f"{way}-{rate:g}-{seed}"
    began = time.process_time()
    if way == OURS:
        mapsto.pretrain("text", as_rows(learnt), out, minutes=minutes, seed=seed, hold_out=0, overwrite=True, **SIZE)
    else:
        bert(learnt, folder / "words", out, minutes, rate, seed)
    took = time.process_time() - began
    size = sum(p.numel() for p in mapsto.load(out).mapping.parameters()) / 1e6
    return {
        "loss": hidden_loss(out, held), "accuracy": fitted(out, pool, test, seed), "minutes": took / 60, "size": size,
    }  # fmt: skip


def alone() -> None:
    """Set up a worker process: one thread, and a clock of processor time for mapsto's own minutes."""
    torch.set_num_threads(1)
    keep_memory()
    for module in (plan, fit):
        module.time = SimpleNamespace(monotonic=time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--corpora", default="English,Chinese")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="BERT's, tried on the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    given = parser.parse_args()
    kept = Kept("recipe")
    rates, names = list(map(float, given.rates.split(","))), given.corpora.split(",")

    def run(asked: list[tuple[str, str, float, int]]) -> None:
        """Run the given runs (corpus, recipe, rate, seed), `--jobs` at a time, without those whose results are kept."""
        with ProcessPoolExecutor(given.jobs, get_context("spawn"), alone) as workers:
            folders = {name: kept.path.parent / "recipe" / name for name in names}
            for done in [workers.submit(words, name, folder) for name, folder in folders.items()]:
                done.result()
            futures = {
                workers.submit(measured, *one, given.minutes, folders[one[0]]): one
                for one in asked
                if key(one, given.minutes) not in kept.found
            }
            for done in as_completed(futures):
                kept.put(key(futures[done], given.minutes), done.result())
                print(futures[done], done.result(), flush=True)

    run([(name, way, rate, 0) for name in names for way, rate in [(OURS, 0.0), *((BERTS, rate) for rate in rates)]])
    ways = {
        name: [
            (OURS, 0.0),
            (BERTS, min(rates, key=lambda rate: kept.found[key((name, BERTS, rate, 0), given.minutes)]["loss"])),
        ]
        for name in names
    }
    run([(name, *way, seed) for seed in range(1, given.seeds) for name in names for way in ways[name]])
    lines = [
        f"{given.minutes:g} minutes of one core for each pretraining, 4 layers × 256; {given.seeds} seeds, mean ± 95 % interval.",
        f"Loss: nats a hidden token on {HELD} held-out texts. Accuracy: % after `fit` with {LABELS} labels, {DRAWS} draws.",
        "",
        "| corpus | recipe | parameters, million | minutes of the core | held-out loss | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        for way, rate in ways[name]:
            found = [kept.found[key((name, way, rate, seed), given.minutes)] for seed in range(given.seeds)]
            cells = [f"{found[0]['size']:.1f}", spread([one["minutes"] for one in found], 1)]
            cells += [interval([one[what] for one in found]) for what in ("loss", "accuracy")]
            lines.append(f"| {name} | {way if way == OURS else f'{way} ({rate:g})'} | {' | '.join(cells)} |")
    record("Recipe (benchmarks/recipe.py)", lines)


def key(run: tuple[str, str, float, int], minutes: float) -> str:
    """Return the key under which the result of a run is kept."""
    return " ".join(map(str, (*run, minutes)))


if __name__ == "__main__":
    main()
