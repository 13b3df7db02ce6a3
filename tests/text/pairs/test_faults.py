"""Wrong pairs are found where some are put in, and real data give no alarms."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mapsto.data.checks import check_rows
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.task.arrow import parse
from mapsto.text.pairs.faults import find_faults
from mapsto.text.pairs.language_profile import compare_columns

NUM_ROWS = 1000


def captions(shared_data: Path) -> tuple[list[str], list[str]]:
    """Return the first English captions of Multi30k and their German translations."""
    with (shared_data / "text/multi30k/test.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(NUM_ROWS), strict=False)]
    return [row["en"] for row in rows], [row["de"] for row in rows]


def faults(sources: list[str | None], answers: list[str | None]) -> dict[int, str]:
    rows = find_faults([None if source is None else [source] for source in sources], answers)
    assert [fault.row for fault in rows] == sorted({fault.row for fault in rows})
    return {fault.row: fault.reason for fault in rows}


def test_real_translations_give_no_alarm(shared_data: Path) -> None:
    assert faults(*captions(shared_data)) == {}


@pytest.mark.parametrize(("share", "recall"), [(0.02, 1.0), (0.2, 0.9)])
def test_swapped_rows_are_found_and_no_others(share: float, recall: float, shared_data: Path) -> None:
    english, german = captions(shared_data)
    swapped = np.random.default_rng(0).choice(NUM_ROWS, int(share * NUM_ROWS), replace=False).tolist()
    for row in swapped:
        english[row], german[row] = german[row], english[row]
    found = faults(english, german)
    assert set(found) <= set(swapped)
    assert len(found) >= recall * len(swapped)
    assert np.mean([reason.endswith("swapped?") for reason in found.values()]) > 0.9


def test_texts_of_the_other_language_or_of_a_third_one(shared_data: Path) -> None:
    english, german = captions(shared_data)
    for row in range(10):
        german[row] = english[row + 100]
        english[row + 10] = german[row + 100]
        german[row + 20] = "Группа мужчин грузит хлопок в грузовик"
        german[row + 30] = english[row + 30] + " "
    found = faults(english, german)
    assert set(found) == set(range(40))
    for start, reason in (
        (0, "the answer is written like the sources: not translated?"),
        (10, "the source is written like the answers: wrong language?"),
        (20, "the answer is in Cyrillic letters, nearly all others in Latin ones"),
        (30, "the answer is the same as its source, as in 10 of 1,000 rows (1.0 %)"),
    ):
        assert {found[row] for row in range(start, start + 10)} == {reason}


def test_cut_and_joined_answers(shared_data: Path) -> None:
    english, german = captions(shared_data)
    german[3], german[5] = german[3][:4], " ".join(german[5:12])
    found = faults(english, german)
    assert set(found) == {3, 5}
    assert found[3].startswith(f"4 characters answer {len(english[3])}, ")
    assert "times less than usual" in found[3]
    assert "times more than usual" in found[5]


def test_questions_and_answers_of_one_language_give_no_alarm(shared_data: Path) -> None:
    """The columns differ in style, and rows that are unlike their column are no faults."""
    articles = json.loads((shared_data / "text/cmrc2018/cmrc2018_dev.json").read_text("utf-8"))["data"]
    questions = [
        (question["question"], question["answers"][0]["text"])
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ][:1500]
    found = faults(*map(list, zip(*questions, strict=True)))
    assert len(found) <= 2, found


def test_chinese_and_english_and_short_texts() -> None:
    rng = np.random.default_rng(0)
    words = [("cat", "猫"), ("dog", "狗"), ("red", "红色"), ("the house", "房子"), ("to eat", "吃饭"), ("big", "大")]
    drawn = [rng.permutation(len(words))[:4] for _ in range(60)]
    sources = [" ".join(words[index][0] for index in row) for row in drawn]
    answers = ["".join(words[index][1] for index in row) for row in drawn]
    sources[7], answers[7] = answers[7], sources[7]
    sources[8] = answers[8] = "OK"
    found = faults(sources, answers)
    assert found.keys() == {7, 8}
    assert found[7].endswith("swapped?")


def test_one_source_with_several_answers_is_counted_and_unreadable_rows_are_skipped() -> None:
    sources = ["a b", None, "a  b", "c", "a b", "d"]
    (fault,) = find_faults([source and [source] for source in sources], ["x", "y", "z", "u", "x", None])
    assert (fault.row, fault.earlier_row) == (2, 0)
    assert fault.reason.startswith("1 of 4 rows have the source of an earlier row and another answer")
    assert find_faults([], []) == []


def test_a_text_does_not_support_itself() -> None:
    """Without its own n-grams, a text that shares nothing with its column is as far from both."""
    first, second = ["abc abd"] * 9 + ["xyz"], ["efg efh"] * 10
    scores, others = compare_columns(first, second)
    assert (scores[:9] > 1).all()
    assert (others < -1).all()
    assert abs(scores[9]) < 0.5
    assert compare_columns([""], ["a"])[0].tolist() == [0.0]


def test_check_names_the_rows_by_file_and_column(tmp_path: Path, shared_data: Path) -> None:
    english, german = captions(shared_data)
    english[3], german[3] = german[3], english[3]
    english[4] = english[0]
    for name, texts in (("en", english), ("de", german)):
        (tmp_path / f"a.{name}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    rows = load_rows(parse("en:text -> de:text"), read_table(f"{tmp_path}/a.en,a.de"))
    warnings = check_rows(rows).warnings
    assert [(finding.row, finding.column, finding.value) for finding in warnings] == [
        (4, "de", german[3]),
        (5, "de", german[4]),
    ]
    assert warnings[1].reason.endswith(f"This one has the source of {tmp_path}/a.en,a.de, row 1")
