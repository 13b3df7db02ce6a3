"""The recipe against BERT's: the same corpus, tokenizer, parameters and minutes on the same machine, several seeds.

Both are the same product at the end: a folder of `transformers`, scored here on the same hidden tokens of held-out texts
and fitted by the same `fit` with 256 labels, so that only pretraining differs. BERT's recipe (Devlin et al. 2019): learned
positions, post-norm, GELU, dropout 0.1, 15 % hidden as 80/10/10, AdamW with a linear rise over 10 % and fall; run as fast
as it can be here (bf16 autocast, the text cut into full rows of 128), with its rate tuned on the first seed.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import DATA, record
from few_labels import interval
from transformers import BertConfig, BertForMaskedLM

import mapsto
from mapsto import data
from mapsto.corrupt import Corruption
from mapsto.device import keep_memory
from mapsto.evaluate import evaluate
from mapsto.tokenizer import Tokenizer

ROW, BATCH, HIDE, RATES = 128, 32, 0.15, (3e-4, 1e-3, 2e-3)
SIZE = {"layers": 4, "width": 256, "heads": 4}
LABELS, DRAWS, TESTED, HELD = 256, 5, 1000, 500
Rows = list[dict[str, str]]


def corpora() -> dict[str, tuple[list[str], Rows, Rows]]:
    """Texts without labels, labelled rows to draw from, and rows to test on; English and Chinese."""

    def rows(name: str) -> Rows:
        table = data.read(DATA / name)
        return [
            {"text": text, "label": str(label)}
            for text, label in zip(table.column("text"), table.column("label"), strict=True)
        ]

    captions = data.read(DATA / "multi30k" / "train.csv").column("en")
    reviews = (DATA / "reviews_zh" / "unlabeled.txt").read_text(encoding="utf-8").splitlines()
    sst2, chinese = rows("sst2/train.csv"), rows("chnsenticorp/train.csv")
    # As users would: the texts to be labelled are part of what is read without labels.
    return {
        "English": ([*captions, *(row["text"] for row in sst2)], sst2, rows("sst2/test.csv")),
        "Chinese": ([*reviews, *(row["text"] for row in chinese)], chinese, rows("chnsenticorp/test.csv")),
    }


def bert(texts: Sequence[str], base: Path, out: Path, minutes: float, rate: float, seed: int) -> None:
    """Pretrain a BERT with the tokenizer in `base` for so many minutes, and write the folder `out`."""
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
    began, order, step = time.monotonic(), torch.randperm(len(rows)), 0
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
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
    """Mean loss in nats of the same 15 % of the tokens of held-out texts, each shown as [MASK]."""
    mapping = mapsto.load(folder, precision="fp32").mapping
    mapping.targets[0].restore(Corruption(HIDE, HIDE))
    rows = data.read([{"text": text} for text in texts])
    return evaluate(mapping, rows, torch.device("cpu")).scores["masked_loss"].value


def fitted(folder: Path, pool: Rows, test: Rows, seed: int) -> float:
    """Accuracy in % after a fit with few labels, the mean over some draws of them."""
    found = []
    for draw in range(DRAWS * seed, DRAWS * (seed + 1)):
        rows = random.Random(draw).sample(pool, LABELS)
        model = mapsto.fit("text -> label", rows, start=folder, length=ROW, seed=draw)
        answers = model.predict([row["text"] for row in test])
        found.append(np.mean([a["label"] == row["label"] for a, row in zip(answers, test, strict=True)]))
    return 100 * float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--corpora", default="English,Chinese")
    parser.add_argument("--rates", default=",".join(map(str, RATES)), help="BERT's, tried on the first seed")
    given = parser.parse_args()
    keep_memory()
    lines = [
        f"{given.minutes:g} minutes of pretraining each, 4 layers × 256; {given.seeds} seeds, mean ± 95 % interval.",
        f"Loss: nats a hidden token on {HELD} held-out texts. Accuracy: % after `fit` with {LABELS} labels, {DRAWS} draws.",
        "",
        "| corpus | recipe | parameters, million | held-out loss | accuracy |",
        "|---|---|---|---|---|",
    ]
    for name in given.corpora.split(","):
        texts, pool, test = corpora()[name]
        texts = random.Random(0).sample(texts, len(texts))
        held, learnt, test = texts[:HELD], texts[HELD:], test[:TESTED]
        out = Path(tempfile.mkdtemp())
        losses: dict[str, list[float]] = {"ours": [], "BERT's, rate tuned": []}
        right: dict[str, list[float]] = {"ours": [], "BERT's, rate tuned": []}
        rows = [{"text": text} for text in learnt]
        rate = None
        for seed in range(given.seeds):
            ours, theirs = out / f"ours-{seed}", out / f"bert-{seed}"
            mapsto.pretrain("text", rows, ours, minutes=given.minutes, seed=seed, hold_out=0, **SIZE)
            if rate is None:
                tried = {}
                for one in map(float, given.rates.split(",")):
                    bert(learnt, ours, out / f"bert-{one}", given.minutes, one, seed)
                    tried[hidden_loss(out / f"bert-{one}", held)] = one
                rate = tried[min(tried)]
                theirs = out / f"bert-{rate}"
            else:
                bert(learnt, ours, theirs, given.minutes, rate, seed)
            for way, folder in (("ours", ours), ("BERT's, rate tuned", theirs)):
                losses[way].append(hidden_loss(folder, held))
                right[way].append(fitted(folder, pool, test, seed))
                print(name, way, losses[way][-1], right[way][-1], flush=True)
        for way, folder in (("ours", ours), ("BERT's, rate tuned", theirs)):
            size = sum(p.numel() for p in mapsto.load(folder).mapping.parameters()) / 1e6
            shown = f"{way} ({rate:g})" if way != "ours" else way
            lines.append(f"| {name} | {shown} | {size:.1f} | {interval(losses[way])} | {interval(right[way])} |")
    record("Recipe (benchmarks/recipe.py)", lines)


if __name__ == "__main__":
    main()
