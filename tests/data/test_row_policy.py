"""Rows that are left out: unlabelled ones are counted, the limit can be set, and every advice of a message helps."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.data.rows import load_rows, require_readable, set_aside_unlabelled
from mapsto.data.table import Table, read_table
from mapsto.errors import DataError, Finding, UsageError
from mapsto.options import Options, RowPolicy
from mapsto.task.arrow import parse

ARROW = parse("text -> label")
CELLS = st.sampled_from(["a", "a", "a", None, " "])


def apply(table: Table, policy: RowPolicy) -> int:
    """Return the number of rows that are left, as a fit does it."""
    labelled, _ = set_aside_unlabelled(ARROW, table, policy.unlabelled)
    rows = load_rows(parse("text:text -> label:label"), labelled)
    require_readable(rows, policy)
    return len(rows)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=30), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_advice_leads_to_something_that_works(rows: list[tuple[str | None, str | None]], num_ragged: int) -> None:
    table = read_table([{"text": text, "label": label} for text, label in rows])
    table = replace(table, rejected=[Finding("data", 100 + row, None, None, "ragged") for row in range(num_ragged)])
    for first in ({}, {"bad_rows": "skip"}, {"unlabelled": "drop"}):
        policy = RowPolicy(**first)
        try:
            apply(table, policy)
            continue
        except DataError as error:
            message = str(error).splitlines()[0]
        words = shlex.split(re.sub(r"[^-\w. ]", " ", message))
        options = {}
        for index, word in enumerate(words):
            if word.startswith("--"):
                options[word[2:].replace("-", "_")] = words[index + 1]
        if not options:
            continue  # nothing but fixing the rows helps
        if "most_skipped" in options:
            options["most_skipped"] = float(options["most_skipped"])
        assert apply(table, RowPolicy(**{**first, **options})) > 0, message


def test_a_blank_label_is_no_bad_row_where_the_user_says_so() -> None:
    table = read_table({"text": ["a", "b", "c"], "label": ["x", None, "  "]})
    labelled, rest = set_aside_unlabelled(ARROW, table, "drop")
    assert labelled.data == {"text": ["a"], "label": ["x"]} and rest is not None and rest.data["text"] == ["b", "c"]
    assert set_aside_unlabelled(ARROW, table, "stop") == (table, None)
    # That none of several labels applies is said by an empty list.
    lists = read_table({"text": ["a", "b", "c"], "label": [["x"], None, []]})
    labelled, rest = set_aside_unlabelled(parse("text -> label:labels"), lists, "drop")
    assert labelled.data["text"] == ["a", "c"] and rest is not None and rest.data["text"] == ["b"]
    with pytest.raises(DataError, match="no row has a label"):
        set_aside_unlabelled(ARROW, read_table({"text": ["a"], "label": [None]}), "drop")
    with pytest.raises(DataError, match='unlabelled="drop" leaves out the 2 rows without a label'):
        apply(table, RowPolicy())


def test_the_limit_of_skipped_rows_can_be_set() -> None:
    table = read_table({"text": ["a", "b", None, "d"], "label": ["x", "y", "x", "y"]})
    for share in (0.01, 0.2):
        with pytest.raises(DataError, match=f"more than the {100 * share:g} % .* most_skipped=0.25"):
            apply(table, RowPolicy("skip", share))
    assert apply(table, RowPolicy("skip", 0.25)) == 3
    for share in (0, 1.5, -1):
        with pytest.raises(UsageError, match="most_skipped= is a share"):
            Options(most_skipped=share)
    with pytest.raises(DataError, match="1 bad cells or rows; fix them:"):
        require_readable(load_rows(ARROW, table))  # a command without these options names none
