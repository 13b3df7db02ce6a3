"""Compare fitting tags (entities) from MiniLM with the Trainer of `transformers` by the same recipe, on CrossNER.

Both have the same rows, epochs, batches and learning rates, ten times as high for the new head, and take turns. Tags are read at
the first token of each word. F1 is strict: start, end and label of an entity must be right; both are scored by the same code.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import DATA, Kept, ratio, record, spread
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

import mapsto
from mapsto.data.table import Table, read_table
from mapsto.demo.data import minilm
from mapsto.kinds.tags import LEARNING, Tags
from mapsto.metrics import span_scores
from mapsto.text.tagging.word_tags import TagStyle, written_words

EPOCHS, BATCH = LEARNING.max_epochs, 32
Spans = list[set[tuple[int, int, str]]]
# From training and test rows and a seed to the spans of each test row, and the seconds of training.
Way = Callable[[Table, Table, int], tuple[Spans, float]]


def true_spans(table: Table) -> Spans:
    """Return the true spans of each row."""
    return [{(span.start, span.end, span.label) for span in Tags.read(cell)} for cell in table.column("tags")]


def ours(train: Table, test: Table, seed: int) -> tuple[Spans, float]:
    """Fit with `mapsto.fit` with nothing set but the seed."""
    began = time.perf_counter()
    model = mapsto.fit("text -> tags", train, start=minilm(), seed=seed)
    took = time.perf_counter() - began
    answers = model.predict([{"text": text} for text in test.column("text")])
    return [{(tag["start"], tag["end"], tag["label"]) for tag in answer["tags"]} for answer in answers], took


def reference(train: Table, test: Table, seed: int) -> tuple[Spans, float]:
    """Fit with the Trainer. Its words are those of `written_words`, which divide CrossNER's texts as BERT's tokenizer does."""
    labels = sorted({label for row in true_spans(train) for _, _, label in row})
    names = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
    tokenizer = AutoTokenizer.from_pretrained(minilm())

    def encode(text: str, spans: set[tuple[int, int, str]]) -> dict[str, Any]:
        regions = written_words(text)
        tags = ["O"] * len(regions)
        for start, end, label in spans:
            inside = [i for i, (first, last) in enumerate(regions) if first < end and last > start]
            for order, i in enumerate(inside):
                tags[i] = f"{'I' if order else 'B'}-{label}"
        encoded = tokenizer([text[a:b] for a, b in regions], is_split_into_words=True, truncation=True, max_length=512)
        words = encoded.word_ids()
        first_tokens = [
            word is not None and word != before for before, word in zip([None, *words], words, strict=False)
        ]
        ids = [names.index(tags[w]) if first else -100 for w, first in zip(words, first_tokens, strict=True)]
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": ids}

    torch.manual_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(minilm(), num_labels=len(names))
    body = [p for name, p in model.named_parameters() if not name.startswith("classifier")]
    groups = [
        {"params": body, "lr": LEARNING.rate},
        {"params": model.classifier.parameters(), "lr": LEARNING.rate * LEARNING.head_factor},
    ]
    rows = [encode(text, spans) for text, spans in zip(train.column("text"), true_spans(train), strict=True)]
    arguments = TrainingArguments(
        tempfile.mkdtemp(), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, seed=seed, warmup_steps=0.06,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no", use_cpu=True,
    )  # fmt: skip
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = Trainer(
        model, arguments, train_dataset=rows, data_collator=collator, optimizers=(torch.optim.AdamW(groups), None)
    )
    began = time.perf_counter()
    trainer.train()
    took = time.perf_counter() - began
    model.eval()
    style, found = TagStyle(True, True, False), []
    with torch.inference_mode():
        for text in test.column("text"):
            row, regions = encode(text, set()), written_words(text)
            inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
            best = model(**inputs).logits[0].argmax(-1).numpy()
            tags = [names[i] for i in best[np.array(row["labels"]) >= 0]]
            found.append({(regions[a][0], regions[b][1], label) for a, b, label in style.spans(tags)})
    return found, took


def measure(way: Way, train: Table, test: Table, true: Spans, seed: int) -> tuple[float, float]:
    """Return (F1 in %, seconds of training) of one way and seed."""
    spans, duration = way(train, test, seed)
    return 100 * span_scores.f1(*span_scores.count(spans, true)), duration


WAYS: dict[str, Way] = {"ours": ours, "Trainer, the same recipe": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="politics,science")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trainer-seeds", type=int, help="so many of the seeds for the Trainer; by default all")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    num_seeds = {"ours": given.seeds}
    kept = Kept("tagging")
    recipe = f"{EPOCHS:g} epochs in batches of {BATCH} at {LEARNING.rate:g} (head × {LEARNING.head_factor:g})"
    lines = [
        f"{recipe}, {given.threads} threads; ours in the precision that it chooses for the machine, the Trainer in fp32, its",
        "default. F1 in %, mean (each seed);",
        "seconds of training (ours: from the rows to the fitted model), median (range).",
        "",
        "| set | training rows | method | F1 | seconds | ours is × faster |",
        "|---|---|---|---|---|---|",
    ]
    torch.set_num_threads(given.threads)
    for name in given.sets.split(","):
        train, test = (read_table(DATA / "crossner" / name / f"{part}.txt") for part in ("train", "test"))
        true = true_spans(test)
        scores: dict[str, list[float]] = {who: [] for who in WAYS}
        took: dict[str, list[float]] = {who: [] for who in WAYS}
        for seed in range(given.seeds):
            for who, way in WAYS.items():
                if seed < num_seeds.get(who, given.trainer_seeds or given.seeds):
                    score, duration = kept.once(f"{name} {seed} {who}", partial(measure, way, train, test, true, seed))
                    scores[who].append(score)
                    took[who].append(duration)
                    print(name, seed, who, score, duration, flush=True)
        for who, values in scores.items():
            shown = f"{statistics.fmean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"
            faster = ratio(took[who], took["ours"][: len(values)])
            lines.append(f"| {name} | {len(train)} | {who} | {shown} | {spread(took[who])} | {faster} |")
    record("Tags from few sentences (benchmarks/tagging.py)", lines)


if __name__ == "__main__":
    main()
