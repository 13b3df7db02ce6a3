"""Suggest rows to label next: rows of every group, no row with a label; and read the labels back from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run, sentences

import mapsto
from mapsto.active_learning.suggestions import choose_rows, margin_uncertainty
from mapsto.data.table import read_table, write_rows
from mapsto.options import LARGEST_SEED

TOPICS = ("river mill old", "hope winter spring", "今天 天气 真好", "服务 房间 干净")


def topics(count: int, seed: int = 0) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    return [{"text": f"{TOPICS[i % 4]} {rng.integers(1000)}", "label": f"topic {i % 4}"} for i in range(count)]


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suggesting") / "clf"
    mapsto.fit("text -> label", topics(80), folder, layers=1, width=64, vocabulary=300, epochs=5)
    return folder


def test_typical_rows_are_of_every_group_that_has_no_label() -> None:
    rng = np.random.default_rng(0)
    middles = np.eye(6, 16)
    of = np.repeat(np.arange(6), 50)
    vectors = (middles[of] + 0.05 * rng.normal(size=(300, 16))).astype(np.float32)
    assert sorted(of[choose_rows(vectors, vectors[:0], None, 6, 0)]) == [0, 1, 2, 3, 4, 5]
    known = (middles[:2] + 0.01).astype(np.float32)
    assert set(of[choose_rows(vectors, known, None, 4, 0)]) == {2, 3, 4, 5}
    everything = choose_rows(vectors, vectors[:0], None, 300, 0)
    assert sorted(everything.tolist()) == list(range(300))
    assert len(choose_rows(vectors, vectors[:0], None, 6, LARGEST_SEED)) == 6


def test_doubted_rows_are_doubted_and_different() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 8)).astype(np.float32)
    probabilities = rng.dirichlet([0.3, 0.3, 0.3], 500)
    doubts = margin_uncertainty(probabilities)
    chosen = choose_rows(vectors, vectors[:0], doubts, 12, 0)
    assert len(set(chosen.tolist())) == 12
    assert set(chosen.tolist()) <= set(np.argsort(-doubts, kind="stable")[:120].tolist())
    assert np.array_equal(chosen, choose_rows(vectors, vectors[:0], doubts, 12, 0))
    best = np.sort(probabilities, axis=1)
    assert doubts == pytest.approx(1 - best[:, 2] + best[:, 1])


def test_a_start_without_answers_suggests_typical_rows(tmp_path: Path) -> None:
    rows = [{"text": row["text"]} for row in topics(60)]
    start = mapsto.pretrain("text", rows, tmp_path / "base", layers=1, width=64, vocabulary=300, steps=5)
    found = start.suggest(rows, 8)
    assert len({suggestion.row for suggestion in found.suggestions}) == 8
    assert all(suggestion.reason == "typical" and suggestion.answer is None for suggestion in found.suggestions)
    assert found.column == "label"


def test_labels_come_back(clf: Path, tmp_path: Path) -> None:
    """Suggested rows are written to a table, labelled there, and fitted together with the rows labelled before."""
    write_rows(tmp_path / "train.csv", ["text", "label"], topics(80))
    pool = [{"text": row["text"], "note": f"n{i}"} for i, row in enumerate([*topics(40, 7), *topics(8)])]
    write_rows(tmp_path / "pool.csv", ["text", "note"], pool)
    asked = ["suggest", str(clf), str(tmp_path / "pool.csv"), "--labelled", str(tmp_path / "train.csv"), "--n", "10"]
    done = run(*asked, "--out", str(tmp_path / "todo.csv"))
    assert done.returncode == 0 and "wrote 10 uncertain rows" in done.stderr
    table = read_table(tmp_path / "todo.csv")
    assert table.columns == ("text", "note", "label") and table.column("label") == [None] * 10
    assert not set(table.column("text")) & {row["text"] for row in topics(80)}
    filled = [{"text": text, "label": "topic 1"} for text in table.column("text")]
    write_rows(tmp_path / "filled.csv", ["text", "label"], filled)
    again = run("suggest", str(clf), str(tmp_path / "pool.csv"), "--labelled", str(tmp_path / "filled.csv"), "--n", "5")
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 5


def test_label_studio_and_back(clf: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "pool.csv", ["text"], topics(30, 7))
    done = run("suggest", str(clf), str(tmp_path / "pool.csv"), "--n", "6", "--out", str(tmp_path / "tasks.json"))
    assert done.returncode == 0, done.stderr
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 6 and tasks[0]["predictions"][0]["result"][0]["value"]["choices"][0].startswith("topic")
    for i, task in enumerate(tasks):
        result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [f"topic {i % 2}"]}}
        task["annotations"] = [{"was_cancelled": True, "result": []}, {"result": [result]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    table = read_table(tmp_path / "export.json")
    assert table.column("label") == [f"topic {i % 2}" for i in range(6)]
    assert table.column("text") == [task["data"]["text"] for task in tasks]


def test_texts_to_correct_come_with_the_drafts_of_the_model(tmp_path: Path) -> None:
    """The model knows its five nouns; of other ones it is unsure, so rows with them are suggested."""
    nouns = {"dog": "狗", "cat": "猫", "bird": "鸟", "house": "房子", "car": "车"}
    counts = {"two": "两", "three": "三", "four": "四"}
    rows = [{"en": f"{a} {b}", "zh": f"{counts[a]}{nouns[b]}"} for a in counts for b in nouns] * 10
    model = mapsto.fit(
        "en:text -> zh:text", rows, tmp_path / "model", architecture="encoder-decoder", layers=2, width=64, heads=2,
        vocabulary=300, steps=120, batch=32,
    )  # fmt: skip
    known = [f"{a} {b}" for a in counts for b in nouns]
    unknown = ["seven rivers", "winter times", "an old mill", "past hope", "light age"]
    write_rows(tmp_path / "pool.csv", ["en"], [{"en": text} for text in [*known, *unknown]])
    suggestions = model.suggest(tmp_path / "pool.csv", 5, known=150)
    assert all(suggestion.reason == "uncertain" for suggestion in suggestions.suggestions)
    # Five of the 20 rows at random would be 1.25 unknown ones on average.
    assert sum(
        suggestion.row >= len(known) for suggestion in model.suggest(tmp_path / "pool.csv", 2, known=150).suggestions
    )
    assert suggestions.write(tmp_path / "todo.csv") == 5
    table = read_table(tmp_path / "todo.csv")
    assert table.columns == ("en", "zh", "zh_draft") and table.column("zh") == [None] * 5
    assert table.column("zh_draft") == [model(text)["text"] for text in table.column("en")]
    (task, *_) = suggestions.tasks()
    (result,) = task["predictions"][0]["result"]
    assert result["type"] == "textarea" and result["value"] == {"text": [table.column("zh_draft")[0]]}
    assert set(task["data"]) == {"en"} and 0 < task["predictions"][0]["score"] < 1


def test_answers_in_passages_come_as_drafts_the_least_probable_first(tmp_path: Path) -> None:
    rows = [
        {"question": f"who was in {place}?", "passage": f"In {place} lived {name}.", "answer": name}
        for place in ("Bern", "Prag", "Wien", "北京")
        for name in (f"Ada{number}" for number in range(60))
    ]
    arrow = "question:text, passage:text -> answer:span"
    model = mapsto.fit(arrow, rows[:210], tmp_path / "run", steps=4, layers=1, width=64, vocabulary=300, hold_out=0.0)
    pool = [{name: row[name] for name in ("question", "passage")} for row in rows[210:]]
    suggested = model.suggest(pool, 5, known=210)
    assert {suggestion.reason for suggestion in suggested.suggestions} == {"uncertain"}
    answers = model.predict(pool)
    for suggestion in suggested.suggestions:
        answer = answers[suggestion.row]
        assert suggestion.answer == answer["span"] and suggestion.answer in pool[suggestion.row]["passage"]
        assert suggestion.confidence == pytest.approx(answer["probability"], abs=1e-4)
    suggested.write(tmp_path / "to_label.csv")
    table = read_table(tmp_path / "to_label.csv")
    assert table.columns == ("question", "passage", "answer", "answer_draft")
    assert table.column("answer_draft") == [suggestion.answer or None for suggestion in suggested.suggestions]


def test_rows_with_labels_are_not_asked_for(clf: Path) -> None:
    rows = [{**row, "label": row["label"] if i % 2 else None} for i, row in enumerate(topics(30, 7))]
    found = mapsto.load(clf).suggest(rows, 100)
    assert {suggestion.row for suggestion in found.suggestions} == set(range(0, 30, 2))
    assert (found.num_candidates, found.num_unreadable) == (15, 0)
    faulty = mapsto.load(clf).suggest(
        [*topics(10, 7), {"text": " ", "label": None}, {"text": "river", "label": None}], 3
    )
    assert (faulty.num_candidates, faulty.num_unreadable) == (1, 1)
    with pytest.raises(mapsto.MapstoError, match="has a label already"):
        mapsto.load(clf).suggest(topics(20, 7))
    with pytest.raises(mapsto.MapstoError, match="above 0"):
        mapsto.load(clf).suggest([{"text": text} for text in sentences(5)], 0)


@pytest.mark.parametrize(
    ("kind", "cell", "result"),
    [
        ("labels", ["river", "winter"], {"type": "choices", "value": {"choices": ["river", "winter"]}}),
        ("number", 0, {"type": "number", "value": {"number": 0}}),
        ("number", 4, {"type": "rating", "value": {"rating": 4}}),
        (
            "tags",
            [{"start": 0, "end": 1, "labels": ["digit"]}],
            {"type": "labels", "value": {"start": 0, "end": 1, "labels": ["digit"]}},
        ),
    ],
)
def test_other_answers_come_back_too(kind: str, cell: Any, result: dict[str, Any], tmp_path: Path) -> None:
    """The column to fill in is that of the arrow's target, of any kind, and in whichever column the text is."""
    answers: list[Any] = {
        "labels": [["river"], ["winter"], []],
        "number": [1.5, 2.5, 3.5],
        "tags": [[[0, 1, "digit"]], [], [[0, 1, "digit"]]],
    }[kind]
    rows = [{"text": text, kind: answers[i % 3]} for i, text in enumerate(sentences(90))]
    model = mapsto.fit(f"text -> {kind}", rows, tmp_path / "model", layers=1, width=64, vocabulary=300, steps=3)
    pool = [{"id": i, "text": text, kind: None if i % 2 else cell} for i, text in enumerate(sentences(40, 5))]
    found = model.suggest(pool, 5, known=90)
    assert found.column == kind and found.num_candidates == 20 and all(s.row % 2 for s in found.suggestions)
    assert found.suggestions[0].reason == ("typical" if kind == "number" else "uncertain")
    tasks = found.tasks()
    assert all(kind not in task["data"] for task in tasks)
    for task in tasks:
        for prediction in task.get("predictions", []):
            assert all(result["to_name"] == "text" for result in prediction["result"]) and kind != "number"
        task["annotations"] = [{"result": [{"from_name": kind, "to_name": "text", **result}]}]
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert read_table(tmp_path / "export.json").column(kind) == [cell] * 5


def test_nothing_is_written_over(clf: Path, tmp_path: Path) -> None:
    """An existing file may be the table of unlabelled rows, or hold hours of labelling work."""
    write_rows(tmp_path / "pool.csv", ["text"], topics(30, 7))
    before = (tmp_path / "pool.csv").read_bytes()
    done = run("suggest", str(clf), str(tmp_path / "pool.csv"), "--n", "3", "--out", str(tmp_path / "pool.csv"))
    assert done.returncode == 2 and "exists already" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "pool.csv").read_bytes() == before
    with pytest.raises(mapsto.MapstoError, match="exists already"):
        mapsto.load(clf).suggest(tmp_path / "pool.csv", 3).write(tmp_path / "pool.csv")
    with pytest.raises(mapsto.MapstoError, match=r"no row can be read(?s:.*)blank"):
        mapsto.load(clf).suggest([{"text": " "}, {"text": None}], 3)


def test_the_page_says_why_these_rows(tmp_path: Path) -> None:
    from mapsto.active_learning.report import suggestion_page

    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(80)]
    clf = mapsto.fit("text -> label", rows, layers=1, width=64, vocabulary=300, steps=3)
    pool = [{"text": f"{text} <b>好</b>"} for text in sentences(40, 9)]
    for known, words in ((10, "the most typical of different kinds of rows"), (80, "is least sure about them")):
        result = clf.suggest(pool, 5, known=known)
        page = suggestion_page(result, "runs/clf")
        assert words in page.verdicts[0] and page.figures[0].value == f"5 of {result.num_candidates}"
        assert result.map is not None and result.map.selected.shape == (5, 2)
        assert len(result.map.background) == result.num_candidates - 5
        source = page.html()
        assert "&lt;b&gt;好" in source and "<b>" not in source and source.count("<tr>") == 6
