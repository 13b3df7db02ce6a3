"""The demo's data, draws and tables; its whole run is `make demo`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("snownlp", reason="the extra [demo] is not here")
pytest.importorskip("matplotlib", reason="the extra [demo] is not here")

import mapsto
from mapsto.demo import data, run
from mapsto.demo.made_sentences import make_pairs
from mapsto.demo.made_sounds import RATE, WORDS, make_recordings, make_voices
from mapsto.progress import Progress


def test_reviews_stand_once_and_under_one_label() -> None:
    rows = data.reviews()
    assert len(rows) == len({row["text"] for row in rows}) > 15_000
    assert set(Counter(row["label"] for row in rows)) == {"positive", "negative"}


def test_news_stand_once() -> None:
    rows = data.news()
    assert len(rows) == len({row["text"] for row in rows}) > 2_000
    assert len({row["label"] for row in rows}) == 5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same demo on less data."""
    reviews, news = data.reviews(), data.news()
    monkeypatch.setattr(data, "reviews", lambda: reviews[-80:] + reviews[:80])
    monkeypatch.setattr(data, "news", lambda: news[::37])
    sizes = {
        "NUM_TEST_REVIEWS": 20,
        "NUM_TEST_NEWS": 10,
        "REVIEW_LABELS": (8, 16),
        "NEWS_LABELS": (10, 20),
        "SEEDS": 2,
        "LAYERS": 1,
    }
    for name, value in sizes.items():
        monkeypatch.setattr(run, name, value)


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_the_demo_is_stopped_continued_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    def run_first_part() -> None:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(run, "_published_start", stop)
            run.run(tmp_path, 0.02, Progress())

    run_first_part()
    manifest = tmp_path / "base" / "mapsto.json"
    made = manifest.stat().st_mtime_ns
    run.run(tmp_path, 0.02, Progress())
    assert manifest.stat().st_mtime_ns == made
    said = capsys.readouterr().out
    assert "base, full" in said and "TF-IDF, linear" in said and f"{run.QUESTION} ↦ " in said
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").strip() in said
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["answer"]["label"] in ("positive", "negative")
    for part in ("reviews", "news"):
        assert (tmp_path / f"{part}-report" / "report.html").stat().st_size > 10_000
        assert mapsto.load(tmp_path / part)("一个字")["label"]
    run_first_part()
    assert manifest.stat().st_mtime_ns != made


@pytest.mark.slow
def test_the_demo_on_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = data.digits()
    assert len(digits) == 1797 and len({row["label"] for row in digits}) == 10
    monkeypatch.setattr(data, "digits", lambda: digits[:90])
    for name, value in {"NUM_TEST_DIGITS": 30, "DIGIT_LABELS": (10,), "SEEDS": 2}.items():
        monkeypatch.setattr(run, name, value)
    run.run_pictures(tmp_path, 0.02, Progress())
    said = capsys.readouterr().out
    assert "base, full" in said and "colours and edges, linear" in said
    assert (tmp_path / "digits-report" / "report.html").stat().st_size > 10_000
    assert mapsto.load(tmp_path / "digits")(digits[0]["image"])["label"] in "0123456789"


def test_the_demo_on_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sentences = data.newspaper()
    assert len(sentences) == len({row["text"] for row in sentences}) > 18_000
    names = Counter(row["text"][tag["start"] : tag["end"]] for row in sentences for tag in row["tags"])
    assert names["中国"] > 1000 and names["江泽民"] > 100
    monkeypatch.setattr(data, "newspaper", lambda: sentences[:120])
    for name, value in {"NUM_TEST_SENTENCES": 40, "SENTENCE_LABELS": (16,), "SEEDS": 2, "LAYERS": 1}.items():
        monkeypatch.setattr(run, name, value)
    run.run_tags(tmp_path, 0.02, Progress())
    said = capsys.readouterr().out
    assert "base, full" in said and "the commonest tag of each word" in said and f"{run.SENTENCE} ↦ " in said
    assert mapsto.load(tmp_path / "tags")(sentences[0]["text"])["tags"] is not None


def test_made_sentences_are_pairs_and_the_same_each_time() -> None:
    rows = make_pairs(400, 3)
    assert rows == make_pairs(400, 3) and rows != make_pairs(400, 4)
    assert len({row["en"] for row in rows}) == 400
    assert all(row["en"].endswith(".") and row["zh"].endswith("。") for row in rows)
    hats = [row["zh"] for row in make_pairs(5000, 0) if "two red hats" in row["en"].lower()]
    assert hats and all("两顶红色的帽子" in chinese for chinese in hats)


def test_the_demo_of_translation_prints_scores_and_translations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"NUM_PAIRS": 200, "NUM_TEST_PAIRS": 12, "PAIR_LABELS": (20, 40), "SEEDS": 1, "TRANSLATION_EPOCHS": 1.0}
    for name, value in sizes.items():
        monkeypatch.setattr(run, name, value)
    run.run_translation(tmp_path, 0.02, Progress())
    printed = capsys.readouterr().out
    assert "BLEU" in printed and "nearest training row" in printed and printed.count("↦") == 3
    assert (tmp_path / "translator" / "report.html").exists()


def test_made_words_differ_in_their_resonances_and_are_the_same_each_time() -> None:
    voices = make_voices(4, 0)
    rows = make_recordings(voices, 2, 0)
    again, others = make_recordings(voices, 2, 0), make_recordings(voices, 2, 1)
    assert len(rows) == 4 * len(WORDS) * 2 and {row["label"] for row in rows} == set(WORDS)
    sounds = [row["sound"]["array"].tobytes() for row in rows]
    assert sounds == [row["sound"]["array"].tobytes() for row in again]
    assert not set(sounds) & {row["sound"]["array"].tobytes() for row in others} and len(set(sounds)) == len(sounds)
    assert all(np.isfinite(row["sound"]["array"]).all() and np.abs(row["sound"]["array"]).max() < 1 for row in rows)
    # The second resonance of "i" lies far above that of "u", so "mi" has more energy from 1,800 to 3,200 Hz than "su".
    assert _band_share(rows, "su-mi", late=True) > 2 * _band_share(rows, "mi-su", late=True) > 0


def _band_share(rows: list[dict[str, Any]], word: str, late: bool) -> float:
    """Return the mean share of a word's energy below 4 kHz that lies in 1,800–3,200 Hz, in the half of its loud part."""
    shares = []
    for row in rows:
        if row["label"] == word:
            samples = row["sound"]["array"]
            loud = np.flatnonzero(np.abs(samples) > 0.3 * np.abs(samples).max())
            half = np.array_split(samples[loud[0] : loud[-1]], 2)[int(late)]
            energy = np.abs(np.fft.rfft(half)) ** 2
            frequencies = np.fft.rfftfreq(len(half), 1 / RATE)
            inside = (frequencies > 1800) & (frequencies < 3200)
            shares.append(energy[inside].sum() / energy[frequencies < 4000].sum())
    return float(np.mean(shares))


@pytest.mark.slow
def test_the_demo_on_sounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("soundfile", reason="the extra [sound] is not here")
    sizes = {
        "NUM_VOICES": 4,
        "NUM_TEST_VOICES": 2,
        "NUM_RECORDINGS": 1,
        "NUM_EXPLAINED": 2,
        "WORD_LABELS": (16,),
        "SEEDS": 2,
    }
    for name, value in sizes.items():
        monkeypatch.setattr(run, name, value)
    run.run_sounds(tmp_path, 0.02, Progress())
    said = capsys.readouterr().out
    assert "base, full" in said and "bands of frequency, linear" in said and said.count("↦") == 3
    assert (tmp_path / "words-report" / "report.html").stat().st_size > 10_000
    assert "<audio" in (tmp_path / "words" / "explanations.html").read_text(encoding="utf-8")
    (row,) = make_recordings(make_voices(1, 5), 1, 5)[:1]
    assert mapsto.load(tmp_path / "words")((row["sound"]["array"], RATE))["label"] in WORDS
