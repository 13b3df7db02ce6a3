"""Measure tags (entities) and answers in Chinese: MSRA from own pretraining, and CMRC 2018 from multilingual E5.

Entities: a model is pretrained on the training sentences without their tags, then fitted to them, each for fixed minutes; all
test sentences are scored. Answers: the model is fitted to the trial part of CMRC 2018 and scored on its dev part.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import DATA, Kept, record

import mapsto
from mapsto.data.table import read_table
from mapsto.evaluation.evaluate import Evaluation

RUNS = Path(__file__).resolve().parent.parent / "runs" / "benchmarks" / "chinese"


def shown(evaluation: Evaluation, name: str) -> str:
    """Return a metric in percent with its 95 % interval."""
    score = evaluation.scores[name]
    return f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * score.high:.1f})"


def entities(minutes: tuple[float, float]) -> list[str]:
    """Return table rows for MSRA. minutes: of pretraining and of fitting."""
    train, test = (read_table(DATA / "msra_ner" / f"{part}.txt") for part in ("train", "dev"))
    texts = [{"text": text} for text in train.column("text")]
    base = mapsto.pretrain("text", texts, RUNS / "msra-base", minutes=minutes[0])
    del base
    model = mapsto.fit(
        "text -> tags", train, RUNS / "msra", start=RUNS / "msra-base", minutes=minutes[1], bad_rows="skip"
    )
    began = time.perf_counter()
    evaluation = model.evaluate(test)
    took = time.perf_counter() - began
    return [
        f"| MSRA, own pretraining {minutes[0]:g} minutes, fit {minutes[1]:g} | {len(train):,} | {len(test):,} "
        f"| strict F1 {shown(evaluation, 'f1')} (≥ 85 wanted) | {took:.0f} s to score |"
    ]


def answers(start: Path, minutes: float | None) -> list[str]:
    """Return table rows for CMRC 2018. start: the folder that `e5.py` writes. minutes: of fitting; None for the default."""
    train, test = (read_table(DATA / "cmrc2018" / f"cmrc2018_{part}.json") for part in ("trial", "dev"))
    began = time.perf_counter()
    model = mapsto.fit(
        "question:text, passage:text -> answer:span", train, RUNS / "cmrc", start=start, minutes=minutes, bad_rows="skip"
    )  # fmt: skip
    took = time.perf_counter() - began
    evaluation = model.evaluate(test, bad_rows="skip")
    return [
        f"| CMRC 2018 from E5-small | {len(train):,} | {len(test):,} "
        f"| F1 {shown(evaluation, 'f1')} (≥ 45 wanted), exact {shown(evaluation, 'exact')} | {took / 60:.0f} min of fitting |"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="entities,answers")
    parser.add_argument("--pretrain-minutes", type=float, default=10)
    parser.add_argument("--fit-minutes", type=float, default=20)
    parser.add_argument("--answer-minutes", type=float, help="minutes of fitting answers; by default fit's own length")
    parser.add_argument("--start", type=Path, default=Path("runs/e5"), help="folder of E5, as e5.py writes it")
    options = parser.parse_args()
    kept, rows = Kept("chinese"), list[str]()
    for part in options.parts.split(","):
        minutes = (options.pretrain_minutes, options.fit_minutes)
        work = (
            (lambda: entities(minutes))
            if part == "entities"
            else (lambda: answers(options.start, options.answer_minutes))
        )
        rows += kept.once(f"{part} {minutes}", work)
        print(rows[-1], flush=True)
    record(
        "Chinese entities and answers (benchmarks/chinese.py)",
        [
            f"{torch.get_num_threads()} threads, one run each; 95 % intervals resample sentences or passages.",
            "",
            "| task | training rows | test rows | score in % | time |",
            "|---|---|---|---|---|",
            *rows,
        ],
    )


if __name__ == "__main__":
    main()
