"""The main job on data that packages carry: pretrain, and see what the start is worth with few labels; the same in English from
a published start. Two reports, two mappings to go on with. And the main job on pictures."""

from __future__ import annotations

import importlib.util
import json
import random
import time
from pathlib import Path
from typing import Any

from mapsto.api import Model, compare, fit, pretrain
from mapsto.comparison.analysis import Comparison
from mapsto.demo import data
from mapsto.demo.data import INSTALL
from mapsto.errors import UsageError
from mapsto.pretrained import model_folder
from mapsto.progress import Progress, duration

SEEDS = 3


QUESTION = "房间很干净，服务也好，下次还来。"


LENGTH = 128


LAYERS = 2  # in five minutes a smaller model than the default reads more text and is the better start


TESTED_REVIEWS, TESTED_NEWS = 1000, 400


REVIEW_LABELS, NEWS_LABELS = (64, 256, 1024), (8, 16, 64)


TESTED_DIGITS, DIGIT_LABELS = 600, (20, 50, 200)


ARROW = "text -> label"


FINISHED = "report.txt"


def run(out: Path, minutes: float, progress: Progress) -> None:
    """Both parts: prints two tables and one answer, leaves mappings and reports in `out`. A demo that was stopped goes on."""
    began = time.monotonic()
    again = _entered(out)
    own = _own_pretraining(out, minutes, progress, again)
    published = _published_start(out, progress, again)
    answer = Model(model_folder.load_mapping(out / "reviews"))(QUESTION)
    lines = []
    for title, found in own, published:
        lines += [title, *found.lines(), ""]
    lines += [f"{QUESTION} ↦ {answer['label']}, with probability {answer['probability']:.3f}"]
    tables = {title: found.record() for title, found in (own, published)}
    results = {"comparisons": tables, "question": QUESTION, "answer": answer}
    (out / "results.json").write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (out / FINISHED).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))
    print(
        f"\n{duration(time.monotonic() - began)}; look at {out}/reviews-report/report.html and {out}/news-report/report.html."
    )
    print(
        f"The mappings are {out}/base, reviews and news. Go on with: mapsto explain {out / 'reviews'} '房间太小，又脏又吵！'"
    )


def run_pictures(out: Path, minutes: float, progress: Progress) -> None:
    """Handwritten digits: pretrain without labels, and see what that is worth with few. A demo that was stopped goes on."""
    began = time.monotonic()
    again = _entered(out)
    digits = _shuffled(data.digits())
    test, pool = digits[:TESTED_DIGITS], digits[TESTED_DIGITS:]
    progress.say(f"{len(pool):,} handwritten digits without labels: pretraining for {minutes:g} minutes")
    base = out / "base"
    shape: dict[str, Any] = {"layers": 4, "width": 128}
    if again or not (base / model_folder.MANIFEST_FILE).exists():
        pictures = [{"image": row["image"]} for row in pool]
        pretrain("image", pictures, base, minutes=minutes, progress=progress, overwrite=again, **shape)
    found = compare(
        "image -> label", pool, out / "digits-report", test=test, starts=["scratch", str(base)], labels=DIGIT_LABELS,
        seeds=SEEDS, methods=["full"], progress=progress, overwrite=again,
    )  # fmt: skip
    fit("image -> label", pool[: DIGIT_LABELS[-1]], out / "digits", start=base, overwrite=True)
    lines = [f"Handwritten digits: {minutes:g} minutes of pretraining on {len(pool):,} pictures", *found.lines()]
    (out / FINISHED).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))
    print(
        f"\n{duration(time.monotonic() - began)}; look at {out}/digits-report/report.html. The mappings are there too."
    )


def _entered(out: Path) -> bool:
    """Make the folder of a demo; whether one was finished there, so that this one begins anew. Raises UsageError."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(INSTALL)
    out.mkdir(parents=True, exist_ok=True)
    again = (out / FINISHED).exists()
    (out / FINISHED).unlink(missing_ok=True)
    return again


def _own_pretraining(out: Path, minutes: float, progress: Progress, again: bool) -> tuple[str, Comparison]:
    """(a) Chinese reviews: pretrain on text without labels, then fit with few."""
    reviews = _shuffled(data.reviews())
    test, pool = reviews[:TESTED_REVIEWS], reviews[TESTED_REVIEWS:]
    texts = [{"text": row["text"]} for row in pool]
    characters = sum(len(row["text"]) for row in texts) / 1e6
    progress.say(f"(a) {len(texts):,} different Chinese reviews without labels: pretraining for {minutes:g} minutes")
    base = out / "base"
    if again or not (base / model_folder.MANIFEST_FILE).exists():
        pretrain("text", texts, base, minutes=minutes, layers=LAYERS, progress=progress, overwrite=again)
    found = compare(
        ARROW, pool, out / "reviews-report", test=test, starts=["scratch", str(base)], labels=REVIEW_LABELS, seeds=SEEDS,
        methods=["full"], length=LENGTH, progress=progress, overwrite=again,
    )  # fmt: skip
    fit(ARROW, pool[: REVIEW_LABELS[-1]], out / "reviews", start=base, length=LENGTH, overwrite=True)
    return f"(a) Chinese reviews: {minutes:g} minutes of pretraining on {characters:.1f} million characters", found


def _published_start(out: Path, progress: Progress, again: bool) -> tuple[str, Comparison]:
    """(b) English news topics: a published sentence encoder as the start."""
    news = _shuffled(data.news())
    test, pool = news[:TESTED_NEWS], news[TESTED_NEWS:]
    progress.say(f"(b) {len(news):,} different English news texts, start: all-MiniLM-L6-v2")
    start = str(data.minilm())
    # What would be chosen, contrast, takes a minute a fit here, and all weights from scratch longer; a probe takes seconds.
    found = compare(
        ARROW, pool, out / "news-report", test=test, starts=[start], labels=NEWS_LABELS, seeds=SEEDS,
        methods=["probe"], length=LENGTH, progress=progress, overwrite=again,
    )  # fmt: skip
    fit(ARROW, pool[: NEWS_LABELS[-1]], out / "news", start=start, method="probe", length=LENGTH, overwrite=True)
    return "(b) English news topics, from a published start", found


def _shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return random.Random(0).sample(rows, len(rows))
