"""Differences of two texts: complete, symmetric, and by words or by characters as the script has them."""

from __future__ import annotations

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.text.pairs.differences import find_differences, mark_runs, split_units

TEXTS = st.text(st.sampled_from("ab 1.,-\n猫狗ร<&é"), max_size=30)


@given(TEXTS, TEXTS)
def test_runs_make_up_both_texts_and_what_is_common_is_equal(answer: str, reference: str) -> None:
    assert "".join(unit.text + unit.space for unit in split_units(answer)) == answer
    runs = find_differences(answer, reference)
    assert tuple("".join(run.text for run in side) for side in runs) == (answer, reference)
    common = ["".join("".join(run.text for run in side if run.is_common).split()) for side in runs]
    assert common[0] == common[1]


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text: str) -> None:
    assert all(run.is_common for side in find_differences(text, text) for run in side)


@pytest.mark.parametrize(
    ("answer", "reference", "marked"),
    [
        ("two red dogs", "two old cats", ("two <del>red dogs</del>", "two <ins>old cats</ins>")),
        ("today we don't", "today we do", ("today we <del>don&#x27;t</del>", "today we <ins>do</ins>")),
        (
            "九座漂亮的房子。",
            "九顶漂亮的帽子。",
            ("九<del>座</del>漂亮的<del>房</del>子。", "九<ins>顶</ins>漂亮的<ins>帽</ins>子。"),
        ),
        ("共845元", "共887元", ("共<del>845</del>元", "共<ins>887</ins>元")),
        ("", "a <b>", ("", "<ins>a &lt;b&gt;</ins>")),
    ],
)
def test_words_and_characters_are_marked(answer: str, reference: str, marked: tuple[str, str]) -> None:
    sides = find_differences(answer, reference)
    assert tuple(mark_runs(side, name, 99) for side, name in zip(sides, ("del", "ins"), strict=True)) == marked


@given(TEXTS, TEXTS, st.integers(0, 20))
def test_a_long_text_is_cut(answer: str, reference: str, limit: int) -> None:
    runs, _ = find_differences(answer, reference)
    shown = unescape(re.sub("</?del>", "", mark_runs(runs, "del", limit)))
    assert shown == (answer if len(answer) <= limit else f"{answer[:limit]}…")
