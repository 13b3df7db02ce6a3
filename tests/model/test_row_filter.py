"""Filters of rows: nothing is missed, few false alarms, two bytes a row, the same bytes everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.model.row_filter import RowFilter


def keys(count: int, word: str) -> list[str]:
    return [f"{word} {i}" for i in range(count)]


def test_100_000_rows_take_two_bytes_each_and_raise_few_false_alarms() -> None:
    row_filter = RowFilter.from_keys(keys(100_000, "row"), "text -> label", "train.csv")
    assert len(row_filter.hashes) <= 2 * 100_000
    assert row_filter.contains(keys(100_000, "row")).all()
    false_alarms = row_filter.contains(keys(1_000_000, "other")).mean()
    assert 0 < false_alarms <= 0.0001
    # The rate that the filter tells by itself: within four standard deviations of the measured one.
    rate = row_filter.false_alarm_rate
    assert abs(false_alarms - rate) < 4 * (rate / 1_000_000) ** 0.5


@pytest.mark.parametrize("count", [1, 3, 20])
def test_small_filters_know_their_false_alarms_too(count: int) -> None:
    filters = [RowFilter.from_keys(keys(count, f"row {i}"), "text -> label", "train.csv") for i in range(1000)]
    others = keys(1000, "other")
    measured = np.mean([row_filter.contains(others).mean() for row_filter in filters])
    known = np.mean([row_filter.false_alarm_rate for row_filter in filters])
    assert measured <= 0.0001 and measured == pytest.approx(known, rel=0.5)


def test_repeated_rows_cost_nothing_and_change_nothing() -> None:
    once, twice = (RowFilter.from_keys(keys(50, "row") * times, "text -> label", "a.csv") for times in (1, 2))
    assert once.hashes == twice.hashes and (once.num_rows, twice.num_rows) == (50, 100)


def test_hashes_do_not_depend_on_the_order_or_the_process() -> None:
    row_filter = RowFilter.from_keys(["b", "a"], "text -> label", "a.csv")
    assert row_filter == RowFilter.from_keys(["a", "b"], "text -> label", "a.csv")
    # Saved filters must be read by every later version.
    assert row_filter.hashes.hex() == "ca138406"


def test_damaged_texts_have_hashes() -> None:
    assert RowFilter.from_keys(["half \ud83d"], "text -> label", "a.csv").contains(
        ["half \ud83d", "half"]
    ).tolist() == [
        True,
        False,
    ]


def test_no_rows_contain_nothing() -> None:
    row_filter = RowFilter.from_keys([], "text -> label", "a.csv")
    assert row_filter.hashes == b"" and row_filter.false_alarm_rate == 0 and not row_filter.contains(["a"]).any()
