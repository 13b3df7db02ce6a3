"""The main job on data that packages carry: pretrain, fit with few labels, and see what the start was worth."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mapsto import demo_data, folder
from mapsto.demo_data import INSTALL, Row
from mapsto.errors import UsageError
from mapsto.model import Model, fit, pretrain
from mapsto.progress import Progress, duration
from mapsto.scores import Score, mean_interval

SEEDS = (0, 1, 2)
QUESTION = "今天天气真好！"
LENGTH = 128
LAYERS = 2  # in five minutes a smaller model than the default reads more text and is the better start
TESTED_REVIEWS, TESTED_NEWS = 1000, 400
TFIDF, SCRATCH = "TF-IDF + logistic regression", "mapsto, from scratch"
Answerer = Callable[[list[Row], int], Sequence[str]]


@dataclass(frozen=True)
class Comparison:
    """Accuracy by way and number of labels, each over several draws of the labels."""

    title: str
    labels: tuple[int, ...]
    tested: int
    scores: dict[str, list[Score]]

    def lines(self) -> list[str]:
        """A table for people."""
        width = max(map(len, self.scores)) + 2
        head = "".join(f"{count} labels".rjust(24) for count in self.labels)
        rows = [
            way.ljust(width) + "".join(_percent(score).rjust(24) for score in found)
            for way, found in self.scores.items()
        ]
        seeds = next(iter(self.scores.values()))[0].n
        note = f"accuracy in % on {self.tested:,} texts; mean and 95 % interval over {seeds} draws of labels"
        return [self.title, " " * width + head, *rows, note]


def _percent(score: Score) -> str:
    return f"{100 * score.value:.1f} ({100 * score.low:.1f}–{100 * min(1.0, score.high):.1f})"


def run(out: Path, minutes: float, progress: Progress) -> None:
    """Both parts of the demo: prints two tables and one answer, leaves mappings, a report and a picture in `out`."""
    began = time.monotonic()
    plot = _require_plot()
    out.mkdir(parents=True, exist_ok=True)
    own = _own_pretraining(out, minutes, progress)
    published = _published_start(out, progress)
    answer = Model(folder.load(out / "reviews"))(QUESTION)
    lines = [*own.lines(), "", *published.lines(), "", *_found(own), *_found(published)]
    lines += ["", f"{QUESTION} ↦ {answer['label']}, with probability {answer['probability']:.3f}"]
    plot(out, own, published)
    (out / "report.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    results = {"tables": [asdict(own), asdict(published)], "question": QUESTION, "answer": answer}
    (out / "results.json").write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))
    print(
        f"\n{duration(time.monotonic() - began)}; in {out}: report.txt, results.json, curves.svg, curves.png and the mappings"
    )
    print(f"base, reviews and news. Go on with: mapsto predict {out / 'reviews'} --text '房间很干净，下次还来。'")


def _own_pretraining(out: Path, minutes: float, progress: Progress) -> Comparison:
    """(a) Chinese reviews: pretrain on text without labels, then fit with few."""
    reviews = _shuffled(demo_data.reviews())
    test, pool = reviews[:TESTED_REVIEWS], reviews[TESTED_REVIEWS:]
    texts = [{"text": row["text"]} for row in pool]
    characters = sum(len(row["text"]) for row in texts) / 1e6
    progress.say(f"(a) {len(texts):,} different Chinese reviews without labels: pretraining for {minutes:g} minutes")
    base = out / "base"
    finished = (base / folder.MANIFEST).exists()
    pretrain("text", texts, base, minutes=minutes, layers=LAYERS, progress=progress, overwrite=finished)
    ways = {
        SCRATCH: lambda rows, seed: _answers(fit("text -> label", rows, like=base, length=LENGTH, seed=seed), test),
        "mapsto, pretrained here": lambda rows, seed: _answers(
            _kept(out / "reviews", "text -> label", rows, start=base, length=LENGTH, seed=seed), test
        ),
    }
    title = f"(a) Chinese reviews, pretrained here for {minutes:g} minutes on {characters:.1f} million characters without labels"
    return _compare(title, pool, test, (64, 256, 1024), {TFIDF: _tfidf(test, "char", (1, 3)), **ways}, progress)


def _published_start(out: Path, progress: Progress) -> Comparison:
    """(b) English news topics: a published sentence encoder as the start."""
    news = _shuffled(demo_data.news())
    test, pool = news[:TESTED_NEWS], news[TESTED_NEWS:]
    progress.say(f"(b) {len(news):,} different English news texts, start: all-MiniLM-L6-v2")
    start = demo_data.minilm()
    ways = {
        SCRATCH: lambda rows, seed: _answers(fit("text -> label", rows, layers=LAYERS, length=LENGTH, seed=seed), test),
        # The method that would be chosen, contrast, takes a minute a fit here; a probe takes seconds.
        "mapsto, MiniLM and a probe": lambda rows, seed: _answers(
            _kept(out / "news", "text -> label", rows, start=start, method="probe", length=LENGTH, seed=seed), test
        ),
    }
    title = "(b) English news topics, from a published start"
    return _compare(title, pool, test, (8, 16, 64), {TFIDF: _tfidf(test, "word", (1, 2)), **ways}, progress)


def _compare(
    title: str,
    pool: list[Row],
    test: list[Row],
    labels: tuple[int, ...],
    ways: dict[str, Answerer],
    progress: Progress,
) -> Comparison:
    """Every way on the same labels: for each number and seed one draw, equal parts of each class."""
    truth = np.array([row["label"] for row in test])
    scores: dict[str, list[Score]] = {way: [] for way in ways}
    for count in labels:
        found: dict[str, list[float]] = {way: [] for way in ways}
        for seed in SEEDS:
            rows = _drawn(pool, count, seed)
            for way, answer in ways.items():
                found[way].append(float(np.mean(np.array(answer(rows, seed)) == truth)))
        for way, values in found.items():
            scores[way].append(mean_interval(values))
        progress.say(f"{count} labels: " + "; ".join(f"{way} {_percent(s[-1])}" for way, s in scores.items()))
    return Comparison(title, labels, len(test), scores)


def _kept(folder_: Path, arrow: str, rows: list[Row], **given: Any) -> Model:
    """Fit, and leave the last mapping in a folder."""
    return fit(arrow, rows, folder_, overwrite=True, **given)


def _answers(model: Model, test: list[Row]) -> list[str]:
    return [answer["label"] for answer in model.predict([row["text"] for row in test])]


def _tfidf(test: list[Row], analyzer: str, ngrams: tuple[int, int]) -> Answerer:
    """The baseline of every text task: weighted n-grams and a linear model."""

    def answers(rows: list[Row], seed: int) -> list[str]:
        vectors = TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams, sublinear_tf=True)
        linear = make_pipeline(vectors, LogisticRegression(C=10, max_iter=2000))
        linear.fit([row["text"] for row in rows], [row["label"] for row in rows])
        return list(linear.predict([row["text"] for row in test]))

    return answers


def _shuffled(rows: list[Row]) -> list[Row]:
    return random.Random(0).sample(rows, len(rows))


def _drawn(pool: list[Row], count: int, seed: int) -> list[Row]:
    """`count` rows with classes in turn, so that each has its part."""
    by_class: dict[str, list[Row]] = {}
    for row in random.Random(seed).sample(pool, len(pool)):
        by_class.setdefault(row["label"], []).append(row)
    classes = sorted(by_class)
    return [by_class[classes[i % len(classes)]][i // len(classes)] for i in range(count)]


def _found(comparison: Comparison) -> list[str]:
    """In words: what the start bought, and where the baseline is not beaten."""
    ways = list(comparison.scores)
    lines = []
    for i, count in enumerate(comparison.labels):
        values = {way: 100 * comparison.scores[way][i].value for way in ways}
        best = max(values, key=values.__getitem__)
        gain = values[ways[2]] - values[ways[1]]
        lines.append(
            f"{count} labels: the start is worth {gain:+.1f} points over scratch, "
            f"{values[ways[2]] - values[TFIDF]:+.1f} over TF-IDF; best: {best}"
        )
    return lines


def _require_plot() -> Callable[[Path, Comparison, Comparison], None]:
    """The function that draws, once its library is known to be here."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError(INSTALL) from error
    matplotlib.use("Agg")
    return _plot


def _plot(out: Path, own: Comparison, published: Comparison) -> None:
    """Accuracy against labels for both parts, and the loss of the pretraining."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    colours = {0: "#888888", 1: "#d1782f", 2: "#2f6fd1"}
    for axis, comparison in zip(axes, (own, published), strict=False):
        for i, (way, found) in enumerate(comparison.scores.items()):
            middle = np.array([100 * score.value for score in found])
            low = middle - [100 * score.low for score in found]
            high = np.array([100 * min(1.0, score.high) for score in found]) - middle
            style = {"marker": "o", "capsize": 3, "color": colours[i], "label": way}
            axis.errorbar(comparison.labels, middle, yerr=[np.maximum(low, 0), np.maximum(high, 0)], **style)
        axis.set(xscale="log", xlabel="labels", ylabel="accuracy, %")
        axis.set_xticks(comparison.labels, [str(count) for count in comparison.labels])
        axis.minorticks_off()
        axis.set_title(comparison.title.split(",")[0], fontsize=10)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    lines = (out / "base" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    axes[2].plot([r["tokens"] / 1e6 for r in records], [r["loss"] for r in records], color=colours[2], linewidth=1)
    axes[2].set(xlabel="million tokens read", ylabel="loss on hidden tokens, nats")
    axes[2].set_title("(a) pretraining", fontsize=10)
    axes[2].grid(alpha=0.3)
    for name in ("curves.svg", "curves.png"):
        figure.savefig(out / name, dpi=150)
    pyplot.close(figure)
