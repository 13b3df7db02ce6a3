"""Small tables of pairs, and a small model that matches them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs import WORDS, sentences
from trainings import TINY_OPTIONS

import mapsto

OPTIONS: dict[str, Any] = {**TINY_OPTIONS, "steps": 3, "batch": 8, "hold_out": 0.0}


def make_pairs(count: int = 40, negatives: int = 0, scored: bool = False) -> list[dict[str, Any]]:
    """Return pairs of a sentence and its words in reverse, in English and Chinese, with hard negatives or a score."""
    texts = sentences(count)
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        row: dict[str, Any] = {"query": text, "passage": " ".join(reversed(text.split()))}
        for negative in range(negatives):
            row[f"wrong{negative}"] = f"{WORDS[(number + negative) % len(WORDS)]} {number} {negative}"
        if scored:
            row["passage"], row["score"] = (row["passage"], 1.0) if number % 2 else (texts[number - 3], 0.25)
        rows.append(row)
    return rows


def write_pairs(path: Path, count: int = 40) -> Path:
    """Write the pairs of `make_pairs` to a csv; return its path."""
    lines = [f"{row['query']},{row['passage']}" for row in make_pairs(count)]
    path.write_text("\n".join(["query,passage", *lines]) + "\n", encoding="utf-8")
    return path


def fit_pairs(arrow: str = "query:text <-> passage:text", rows: Any = None, **options: Any) -> mapsto.Model:
    """Return a small model with new weights that is fitted to pairs for a few steps."""
    settings = {**OPTIONS, **options}
    if "start" in options:  # which has its own shape
        settings = {
            name: value for name, value in settings.items() if name not in ("layers", "width", "heads", "vocabulary")
        }
    return mapsto.fit(arrow, make_pairs() if rows is None else rows, **settings)
