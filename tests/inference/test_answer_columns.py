"""Columns of answers: no column of the input is changed, whatever its name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mapsto.errors import free_name
from mapsto.inference.table_engine import name_answers

NAMES = st.sampled_from(
    ["text", "label", "probability", "error", "vector", *(f"{head}{name}{tail}" for head in ("", "predicted_")
     for name in ("label", "probability", "error") for tail in ("", "_2", "_3"))]
)  # fmt: skip


@given(
    st.lists(NAMES, unique=True), st.lists(st.sampled_from(["label", "probability", "error", "vector"]), unique=True)
)
def test_answers_have_names_of_their_own(rows: list[str], answers: list[str]) -> None:
    names = name_answers(rows, answers)
    assert list(names) == answers and len(set(names.values())) == len(answers)
    assert not set(names.values()) & set(rows)


def test_an_output_that_is_answered_again_keeps_the_columns_of_both_runs_apart() -> None:
    columns = ["text", "label"]
    for suffix in ("", "_2", "_3"):
        names = list(name_answers(columns, ["label", "probability", "familiar"]).values())
        assert names == [f"predicted_label{suffix}", f"probability{suffix}", f"familiar{suffix}"]
        columns += names


def test_a_free_name_is_the_name_or_has_a_number() -> None:
    assert free_name("row", ["text"]) == "row" and free_name("row", ["row", "row_2"]) == "row_3"
