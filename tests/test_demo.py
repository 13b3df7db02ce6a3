"""The demo's data, draws and tables; its whole run is `make demo`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("snownlp", reason="the extra [demo] is not here")
pytest.importorskip("matplotlib", reason="the extra [demo] is not here")

from mapsto import demo, demo_data
from mapsto.progress import Progress


def test_reviews_stand_once_and_under_one_label() -> None:
    rows = demo_data.reviews()
    assert len(rows) == len({row["text"] for row in rows}) > 15_000
    assert set(Counter(row["label"] for row in rows)) == {"positive", "negative"}


def test_news_stand_once() -> None:
    rows = demo_data.news()
    assert len(rows) == len({row["text"] for row in rows}) > 2_000
    assert len({row["label"] for row in rows}) == 5


def test_draws_are_even_and_a_function_of_their_seed() -> None:
    pool = demo_data.news()
    rows = demo._drawn(pool, 16, 1)
    assert rows == demo._drawn(pool, 16, 1) != demo._drawn(pool, 16, 2)
    assert sorted(Counter(row["label"] for row in rows).values()) == [3, 3, 3, 3, 4]


def test_the_table_the_words_and_the_picture(tmp_path: Path) -> None:
    news = demo._shuffled(demo_data.news())
    pool, test = news[:400], news[400:430]
    truth = [row["label"] for row in test]
    ways = {
        demo.TFIDF: demo._tfidf(test, "word", (1, 2)),
        demo.SCRATCH: lambda rows, seed: [truth[0]] * len(test),
        "a start": lambda rows, seed: truth,
    }
    found = demo._compare("(a) a title", pool, test, (8, 16), ways, Progress())
    assert [score.value for score in found.scores["a start"]] == [1.0, 1.0]
    assert all(score.n == len(demo.SEEDS) for scores in found.scores.values() for score in scores)
    table = "\n".join(found.lines())
    assert "8 labels" in table and "100.0 (100.0–100.0)" in table and demo.TFIDF in table
    assert "best: a start" in demo._found(found)[0]
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "metrics.jsonl").write_text(json.dumps({"tokens": 10, "loss": 5.0}) + "\n")
    demo._require_plot()(tmp_path, found, found)
    assert (tmp_path / "curves.svg").stat().st_size > 1000 and (tmp_path / "curves.png").read_bytes()[1:4] == b"PNG"
