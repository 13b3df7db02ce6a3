"""What people ask of answers and scores: columns by name, all scores, mistakes, last month's model, the latest rows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import sentences
from typer.testing import CliRunner, Result

import mapsto
from mapsto.cli.app import app
from mapsto.data.table import read_table, write_rows
from mapsto.errors import DataError, UsageError
from mapsto.task.answer_cells import CellStyle, answer_cells
from mapsto.task.arrow import parse

TINY: dict[str, Any] = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 300, "device": "cpu", "precision": "fp32"}


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"text": text, "Category": "冷" if "winter" in text else "warm", "when": f"2024-{1 + row % 12:02d}-15"}
        for row, text in enumerate(sentences(count, seed))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a good and a poor model, and a table of new rows."""
    path = tmp_path_factory.mktemp("answers")
    rows = make_rows(120)
    mapsto.fit("text -> Category:label", rows, path / "good", method="linear", device="cpu", quiet=True)
    mapsto.fit("text -> Category:label", rows, path / "poor", steps=1, rate=1e-9, quiet=True, **TINY)
    write_rows(path / "new.csv", ["text", "Category", "when"], make_rows(80, 7))
    return path


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_columns_of_answers_are_named_by_the_answer(folder: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "texts.csv", ["text"], [{"text": row["text"]} for row in make_rows(10, 9)])
    assert call("predict", folder / "good", tmp_path / "texts.csv", "--out", tmp_path / "a.csv").exit_code == 0
    answers = read_table(tmp_path / "a.csv")
    assert answers.columns[:3] == ("text", "Category", "Category_probability")
    assert all(len(cell) <= 6 for cell in answers.column("Category_probability")), "four digits"
    assert (
        call("predict", folder / "good", tmp_path / "texts.csv", "--out", tmp_path / "b.csv", "--scores").exit_code == 0
    )
    scores = read_table(tmp_path / "b.csv")
    assert {"Category_probability_冷", "Category_probability_warm"} <= set(scores.columns)


def test_several_answers_have_columns_of_their_own() -> None:
    answer = {
        "topic": {"label": "a", "probability": 0.123456, "scores": {"a": 0.123456}},
        "size": {"number": 2.5},
        "familiar": 0.5,
    }
    arrow = parse("text -> topic:label, size:number")
    cells = answer_cells(answer, arrow, CellStyle())
    assert cells == {"topic": "a", "topic_probability": 0.1235, "size": 2.5, "familiar": 0.5}
    assert answer_cells(answer, arrow, CellStyle(scores=True))["topic_probability_a"] == 0.1235
    assert answer_cells({"error": "blank"}, parse("text -> Category:label"), CellStyle()) == {"error": "blank"}
    vector = {"vector": [1.0, 2.0]}
    assert answer_cells(vector, parse("text -> Category:label"), CellStyle(nested=True)) == vector


def test_another_file_is_not_overwritten_without_a_word(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.csv"
    out.write_text("notes\nkeep me\n", encoding="utf-8")
    refused = call("predict", folder / "good", folder / "new.csv", "--out", out)
    assert isinstance(refused.exception, UsageError) and "overwrite" in str(refused.exception)
    assert "keep me" in out.read_text(encoding="utf-8")
    assert call("predict", folder / "good", folder / "new.csv", "--out", out, "--overwrite").exit_code == 0
    again = call("predict", folder / "good", folder / "new.csv", "--out", out)
    assert again.exit_code == 0 and "in place of those of before" in again.stderr
    # The table with the labels has all columns of one without, and is no output either.
    pool = tmp_path / "pool.csv"
    pool.write_text("text\nthe winter is cold\n", encoding="utf-8")
    labelled = "text,Category,id\nthe winter is cold,a,7\n"
    out.write_text(labelled, encoding="utf-8")
    assert isinstance(call("predict", folder / "good", pool, "--out", out).exception, UsageError)
    assert out.read_text(encoding="utf-8") == labelled


def test_mistakes_replace_those_of_before_and_no_other_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "wrong.csv"
    for _ in range(2):
        assert call("evaluate", folder / "poor", folder / "new.csv", "--mistakes", out).exit_code == 0
    labelled = "text,Category\nthe winter is cold,a\n"
    out.write_text(labelled, encoding="utf-8")
    for option in ("--mistakes", "--suspects"):
        refused = call("evaluate", folder / "poor", folder / "new.csv", option, out)
        assert isinstance(refused.exception, UsageError) and "was written by no model" in str(refused.exception)
    assert out.read_text(encoding="utf-8") == labelled


def test_mistakes_are_written_the_most_confident_first(folder: Path, tmp_path: Path) -> None:
    done = call("evaluate", folder / "poor", folder / "new.csv", "--mistakes", tmp_path / "wrong.csv")
    assert done.exit_code == 0, done.output
    with (tmp_path / "wrong.csv").open(encoding="utf-8", newline="") as stream:
        wrong = list(csv.DictReader(stream))
    labels = {row["text"]: row["Category"] for row in make_rows(80, 7)}
    model = mapsto.load(folder / "poor", device="cpu")
    expected = {
        text
        for text, answer in zip(labels, model.predict(list(labels)), strict=True)
        if answer["label"] != labels[text]
    }
    assert {row["text"] for row in wrong} == expected and len(wrong) == len(expected) > 5
    confidence = [float(row["Category_probability"]) for row in wrong]
    assert confidence == sorted(confidence, reverse=True)
    assert all(row["predicted_Category"] != row["Category"] and int(row["row"]) > 1 for row in wrong)


def test_a_model_is_compared_with_another_on_the_same_rows(folder: Path) -> None:
    good = mapsto.load(folder / "good", device="cpu")
    evaluation = good.evaluate(folder / "new.csv", against=folder / "poor", quiet=True)
    (difference,) = evaluation.differences
    other = mapsto.load(folder / "poor", device="cpu").evaluate(folder / "new.csv", quiet=True)
    expected = evaluation.scores["accuracy"].value - other.scores["accuracy"].value
    assert difference.difference == pytest.approx(expected) and difference.is_significant
    assert (difference.num_gained - difference.num_lost) / 80 == pytest.approx(expected)
    assert "better" in str(difference) and str(difference) in str(evaluation)
    (same,) = good.evaluate(folder / "new.csv", against=good, quiet=True).differences
    assert not same.is_significant and same.half_width > 0 and "no significant difference" in str(same)
    done = call("evaluate", folder / "good", folder / "new.csv", "--against", folder / "poor", "--json")
    assert done.exit_code == 0 and done.stdout.count("\n") == 1 and '"differences": [{' in done.stdout
    base = mapsto.pretrain("text", sentences(20), steps=1, quiet=True, **TINY)
    mapsto.fit(
        "text -> other:label",
        [{"text": text, "other": text[:1]} for text in sentences(20)],
        folder / "other",
        steps=1,
        quiet=True,
        **TINY,
    )
    refused = call("evaluate", folder / "good", folder / "new.csv", "--against", folder / "other")
    assert isinstance(refused.exception, UsageError) and "other: no column 'other'" in str(refused.exception)
    with pytest.raises(UsageError, match="no answer in common"):
        good.evaluate(folder / "new.csv", against=base, quiet=True)


def test_the_latest_rows_are_held_out() -> None:
    rows = make_rows(120)
    with pytest.warns(mapsto.MapstoWarning, match="30 of 120 rows are held out, those from when 2024-10-15 on"):
        model = mapsto.fit("text -> Category:label", rows, time="when", steps=1, **TINY)
    assert model.report.scores["held-out accuracy"].n == 30
    for options, says in (
        ({"time": "whn"}, "no column 'whn' .did you mean 'when'"),
        ({"time": "text"}, "is no number and no date"),
        ({"time": "when", "group": "Category"}, "one of them"),
        ({"time": "when", "hold_out": 0.0}, "holds out none"),
    ):
        with pytest.raises(UsageError, match=says):
            mapsto.fit("text -> Category:label", rows, steps=1, quiet=True, **options, **TINY)
    for cell, fault in (
        ("", "the time is missing"),
        ("soon", "no number and no date"),
        (7, "where most rows have dates"),
    ):
        wrong = [*rows[:-1], {**rows[-1], "when": cell}]
        with pytest.raises(DataError, match=f"1 cell without a time:\n  data, row 120, column 'when'.*{fault}"):
            mapsto.fit("text -> Category:label", wrong, steps=1, quiet=True, time="when", **TINY)
    numbers = [{**row, "when": 5 if number < 100 else 6} for number, row in enumerate(rows)]
    by_number = mapsto.fit("text -> Category:label", numbers, time="when", steps=1, quiet=True, **TINY)
    assert by_number.report.scores["held-out accuracy"].n == 20


def test_pairs_are_given_as_pairs_and_one_bad_query_costs_itself(tmp_path: Path) -> None:
    pairs = [{"question": text, "passage": f"{text} 今天"} for text in sentences(20)]
    model = mapsto.fit("question:text <-> passage:text", pairs, tmp_path / "m", steps=1, quiet=True, **TINY)
    first = (pairs[0]["question"], pairs[0]["passage"])
    assert model(first) == model(*first) == model.predict([first])[0]
    write_rows(tmp_path / "p.csv", ["passage"], [{"passage": pair["passage"]} for pair in pairs])
    done = call("find", tmp_path / "m", "river", " ", "--among", tmp_path / "p.csv", "--top", "1", "--json")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1 and "left out: the query ' '" in done.stderr
    assert np.isfinite(model.find("river", [pair["passage"] for pair in pairs], top=1)[0]["score"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "good", "new.csv", "--mistakes", "new.csv"),
        ("evaluate", "good", "new.csv", "--suspects", "new.csv"),
        ("find", "good", "a query", "--among", "new.csv", "--out", "new.csv"),
        ("predict", "good", "new.csv", "--out", "new.csv", "--overwrite"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-2]}",
)
def test_no_command_replaces_its_input(arguments: tuple[str, ...], folder: Path) -> None:
    before = (folder / "new.csv").read_bytes()
    paths = [str(folder / word) if word in ("good", "new.csv") else word for word in arguments]
    refused = call(*paths)
    assert isinstance(refused.exception, UsageError) and "is the input itself" in str(refused.exception), refused.output
    assert (folder / "new.csv").read_bytes() == before
