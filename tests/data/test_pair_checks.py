"""What `check` says of pairs."""

from __future__ import annotations

import pytest
from matching import make_pairs

from mapsto.data.checks import check_rows
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.task.arrow import parse

ROWS = [
    {"query": "where is it", "passage": "here", "wrong": "there"},
    {"query": "Where  is it", "passage": "over there", "wrong": "far"},
    {"query": "今天", "passage": "今天", "wrong": "明天"},
    {"query": "a b", "passage": "c d", "wrong": "C D"},
    {"query": "x", "passage": None, "wrong": "y"},
]


def test_each_problem_is_named_with_its_place() -> None:
    arrow = parse("query:text <-> passage:text, wrong:text")
    rows = load_rows(arrow, read_table(ROWS), keep_unreadable=True)
    findings = [str(finding) for finding in check_rows(rows).warnings]
    assert findings == [
        "data, row 3, column 'passage': '今天': the same text as in column 'query': nothing can be learnt from this pair",
        "data, row 4, column 'wrong': 'C D': a hard negative that is right for its query in some row; it is left out",
        "data, column 'query': 1 queries have several right texts; all count, and they stay on one side of a split",
    ]
    assert [str(fault) for fault in rows.faults] == ["data, row 5, column 'passage': the text is blank"]


def test_clean_pairs_have_no_finding_and_pairs_of_the_test_are_leaks() -> None:
    arrow = parse("query:text <-> passage:text, wrong0:text")
    rows = load_rows(arrow, read_table(make_pairs(6, negatives=1)))
    assert not check_rows(rows).warnings
    changed = [{**row, "wrong0": "another"} for row in make_pairs(6, negatives=1)[:2]]
    leaks = check_rows(rows, load_rows(arrow, read_table(changed))).leaks
    assert len(leaks) == 2, "the hard negatives do not make another pair of it"


@pytest.mark.parametrize(
    ("scores", "row"),
    [
        ([0.1, 0.5, 0.75, 80, 35.5, 90, 12], 1),
        ([0.1, 0.5, 0.75, 0.2, 87, 0, 1], 5),
        ([0.2, 0.4, 0.9, 1, 0], None),
        ([0.2, 0.4, 0.9, 4.5, 3, 2], None),
        ([0.5, 0.2, 0.3, 2.5, 60, 90, 100], None),
        ([10, 20, 90, 0, 1], None),
    ],
)
def test_scores_in_two_scales_are_named(scores: list[float], row: int | None) -> None:
    rows = [{"a": f"a {n}", "b": f"b {n}", "score": score} for n, score in enumerate(scores)]
    loaded = load_rows(parse("a:text <-> b:text, score:number"), read_table(rows))
    findings = [finding for finding in check_rows(loaded).warnings if "two scales" in finding.reason]
    assert [(finding.row, finding.column) for finding in findings] == ([] if row is None else [(row, "score")])
