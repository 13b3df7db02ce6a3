"""Labels that look alike are named by `check`, and merged on demand in all tables; 0/1 rows are no names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mapsto
from mapsto import kinds
from mapsto.data.checks import DataReport, check_rows
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.errors import BadCell, DataError
from mapsto.kinds.label import Label
from mapsto.kinds.labels import Labels
from mapsto.task.arrow import parse
from mapsto.task.label_spelling import appearance, distinct_spellings, merged_spellings

ALIKE = [
    ("yes", "Yes"),
    ("yes", "yes "),
    ("very good", "very  good"),
    ("spam", "sp\u200bam"),
    ("spam", "spаm"),  # a Cyrillic а
    ("OK", "ΟΚ"),  # Greek letters
    ("ＡＢ", "ab"),
    ("1", "1.0"),
    ("0.5", "0.50"),
    ("Straße", "STRASSE"),
    ("好", "好\ufeff"),
]
DIFFERENT = [
    ("yes", "no"),
    ("1", "10"),
    ("1", "-1"),
    ("好", "坏"),
    ("café", "cafe"),
    ("a", "b"),
    ("1.2.3", "1.2.30"),
    ("é", "e"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_alike(one: str, other: str) -> None:
    assert appearance(one) == appearance(other)
    assert merged_spellings({one: 5, other: 2}) == {other: one}


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different(one: str, other: str) -> None:
    assert appearance(one) != appearance(other)


def rows_of(arrow: str, pairs: list[tuple[str, str]], repeats: int) -> list[dict[str, Any]]:
    column = arrow.split()[-1]
    return [
        {"text": f"{text} {i}", column: [label] if column == "labels" else label}
        for i in range(repeats)
        for text, label in pairs
    ]


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
@pytest.mark.parametrize(("one", "other"), [pair for pair in ALIKE[:7] if not pair[1].endswith(" ")])
def test_check_names_them_with_what_to_do(arrow: str, one: str, other: str) -> None:
    table = read_table(rows_of(arrow, [("a", one), ("b", "no"), ("c", one)], 5) + rows_of(arrow, [("d", other)], 1))
    report = check_rows(load_rows(bind_to(parse(arrow), table), table))
    (finding,) = [finding for finding in report.warnings if "look alike" in finding.reason]
    assert repr(one) in finding.reason and repr(other) in finding.reason and "--fold-labels" in finding.reason


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
def test_fold_labels(arrow: str, tmp_path: Path) -> None:
    train = rows_of(arrow, [("good", "yes"), ("fine", "yes"), ("bad", "no")], 6)
    train += [{**row, "text": f"{row['text']} again"} for row in rows_of(arrow, [("good", "Yes"), ("bad", "NO ")], 1)]
    test = rows_of(arrow, [("nice good", "YES"), ("so bad", "nо")], 2)  # a Cyrillic о
    options: dict[str, Any] = {"method": "full", "steps": 1, "layers": 1, "width": 32, "heads": 2}
    model = mapsto.fit(arrow, train, tmp_path / "m", test=test, fold_labels=True, **options)
    assert sorted(model.mapping.targets[0].classes) == ["no", "yes"]
    folded = mapsto.load(tmp_path / "m").evaluate(test)
    unfolded = mapsto.load(tmp_path / "m").evaluate(rows_of(arrow, [("nice good", "yes"), ("so bad", "no")], 2))
    assert {name: score.value for name, score in folded.scores.items()} == {
        name: score.value for name, score in unfolded.scores.items()
    }
    plain = mapsto.fit(arrow, train, **options)
    assert len(plain.mapping.targets[0].classes) > 2, "nothing is merged unasked"


def tables(arrow: str, train: list[str], test: list[str]) -> DataReport:
    column = arrow.split()[-1]
    parts = []
    for name, labels in (("train", train), ("test", test)):
        rows = [
            {"text": f"{name} {i}", column: [label] if column == "labels" else label}
            for i, label in enumerate(labels * 3)
        ]
        table = read_table(rows)
        parts.append(load_rows(bind_to(parse(arrow), table), table))
    return check_rows(*parts)


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
def test_a_label_of_the_test_that_looks_like_one_of_the_training(arrow: str) -> None:
    report = tables(arrow, ["POS", "neg"], ["pos", "neg", "strange"])
    reasons = {finding.value: finding.reason for finding in report.warnings if "training" in finding.reason}
    assert set(reasons) == {"pos", "strange"}
    assert "looks like 'POS' of the training rows: --fold-labels" in reasons["pos"]
    assert "looks like" not in reasons["strange"]


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
@pytest.mark.parametrize(
    ("train", "test"),
    [(["0.0", "1.0"], ["0", "1"]), (["True", "False"], [True, False]), ([1, 2], ["1.00", "2"])],
    ids=str,
)
def test_the_same_number_or_boolean_is_no_unseen_label(arrow: str, train: list[Any], test: list[Any]) -> None:
    assert not [finding for finding in tables(arrow, train, test).warnings if "training" in finding.reason]
    target = kinds.target(arrow.split()[-1])()
    target.classes = [str(label) for label in train]
    answers = [target.read([label] if target.kind == "labels" else label) for label in test]
    assert [name for answer in answers for name in target.class_names(target.recognise(answer))] == target.classes
    assert (
        Label.read(True) == "true"
        and Label.read(np.bool_(False)) == "false"
        and Labels.read([True, "b"]) == ("true", "b")
    )


def test_names_that_look_alike_are_shown_in_quotes() -> None:
    assert distinct_spellings(["pos", " pos", "neg"]) == {"pos": "'pos'", " pos": "' pos'", "neg": "neg"}
    note = Label(["a", " pos"]).notes(["pos"])[0]
    assert "looks like ' pos' of the training rows" in note


def test_compare_folds_labels() -> None:
    train = rows_of("text -> label", [("good", "yes"), ("bad", "no"), ("fine", "Yes"), ("poor", "no")], 8)
    comparison = mapsto.compare(
        "text -> label", train, starts=["scratch"], labels=[8], seeds=1, fold_labels=True, epochs=1, layers=1, width=32, heads=2
    )  # fmt: skip
    assert "'Yes'" not in str(comparison.record())


@pytest.mark.parametrize(
    "cell", [[0, 1, 0], [1, 1], [0.0, 1.0, 1.0], [True, False, True], "[0, 0, 1]", "0|1|0", "0,0,0,1"], ids=str
)
def test_a_row_of_zeros_and_ones_is_no_list_of_names(cell: Any) -> None:
    with pytest.raises(BadCell, match="0/1 matrix"):
        Labels.read(cell)
    rows = [{"text": f"text {i}", "labels": cell} for i in range(4)]
    with pytest.raises(DataError, match="write the names"):
        mapsto.fit("text -> labels", rows, steps=1)


@pytest.mark.parametrize("cell", [[0, 1], [1], ["a", "a"], [3, 3], []], ids=str)
def test_lists_of_numbers_are_names(cell: Any) -> None:
    assert Labels.read(cell) == tuple(dict.fromkeys(map(str, cell)))
