"""Lists in cells: what Python, NumPy and pandas print is read back, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto import kinds
from mapsto.errors import BadCell
from mapsto.task.printed_lists import LONGEST_LIST, parse_list

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.booleans(),
    TEXTS,
)


@given(
    st.lists(st.one_of(VALUES, st.lists(VALUES, max_size=3), st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3)))
)
@settings(deadline=None, max_examples=200)
def test_what_python_prints_is_read(values: list[Any]) -> None:
    assert parse_list(repr(values)) == values
    assert parse_list(repr(tuple(values)) if len(values) != 1 else f"({values[0]!r},)") == values


@given(st.lists(st.floats(-1e9, 1e9, width=32, allow_subnormal=False), max_size=30))
@settings(deadline=None)
def test_what_numpy_prints_of_numbers_is_read(values: list[float]) -> None:
    array = np.array(values, np.float64)
    with np.printoptions(precision=17, floatmode="unique"):
        for text in (str(array), repr(array), repr(list(array)), str(array[None])):
            assert np.allclose(np.ravel(parse_list(text)), array, rtol=1e-12)


@given(st.lists(st.text("ab'\"\\ 你é,[]", min_size=1, max_size=6).filter(str.strip), min_size=1, max_size=40))
@settings(deadline=None)
def test_what_numpy_prints_of_texts_is_read(values: list[str]) -> None:
    for array in (np.array(values), np.array(values, object)):
        assert parse_list(str(array)) == values
        assert parse_list(repr(array)) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{'b'}", ["b"]),
        ("set()", []),
        ("frozenset({'x'})", ["x"]),
        ("[np.float64(1.5) np.int64(2)]", [1.5, 2]),
        ("[np.str_('a'), Decimal('2.5')]", ["a", 2.5]),
        ("tensor([1., 2.])", [1, 2]),
        ("array([1.], dtype=float32)", [1]),
        ("[nan, None]", [None, None]),
        ("{'text': array(['x'], dtype=object), 'answer_start': array([515])}", {"text": ["x"], "answer_start": [515]}),
    ],
)
def test_forms_of_one_list(text: str, values: Any) -> None:
    assert parse_list(text) == values


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1. 2. ... 9.]", "shortened"),
        ("[a, b]", "no value in quotes"),
        ("[1 2", "does not end"),
        ("[__import__('os').system('true')]", "no value"),
        ("[1] + [2]", "more behind"),
        ("[1] [2]", "more behind"),
        ("[" * 10_000, "nested"),
        ("[" + "'a' " * (LONGEST_LIST // 4), "longer"),
    ],
)
def test_what_is_no_list_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_list(text)


@pytest.mark.parametrize(
    "cell", ["['a', 'b']", "['a' 'b']", "('a', 'b')", "array(['a', 'b'], dtype='<U1')", '["a", "b"]']
)
def test_label_lists_are_read_in_every_form(cell: str) -> None:
    assert kinds.target("labels").read(cell) == ("a", "b")
    assert kinds.target("labels").fits([cell] * 3) or not cell.startswith("[")


def test_a_label_may_begin_with_a_bracket() -> None:
    assert kinds.target("labels").read("(other)") == ("(other)",)
    assert kinds.target("labels").read("[1. 2.]") == ("1", "2")
    assert kinds.source("text").read("['a', 'b']") == "['a', 'b']"
    with pytest.raises(BadCell, match='write \\["a", "b"\\]'):
        kinds.target("labels").read("[a, b]")


@pytest.mark.parametrize("cell", ["[1. 2.]", "array([1., 2.], dtype=float32)", "(1, 2)", "[np.float64(1.0), 2]"])
def test_vectors_are_read_in_every_form(cell: str) -> None:
    assert kinds.target("vector").read(cell) == (1.0, 2.0)


def test_tags_boxes_and_spans_are_read_as_python_prints_them() -> None:
    tags = [{"start": 0, "end": 3, "label": "PER"}]
    assert kinds.target("tags").read(repr(tags)) == kinds.target("tags").read(tags)
    boxes = [{"label": "cat", "bbox": [1.0, 2.0, 3.0, 4.0]}]
    assert kinds.target("boxes").read(repr(boxes)) == kinds.target("boxes").read(boxes)
    answer = kinds.target("span").read("{'text': array(['x'], dtype=object), 'answer_start': array([5])}")
    assert answer == kinds.target("span").read({"text": ["x"], "answer_start": [5]})
