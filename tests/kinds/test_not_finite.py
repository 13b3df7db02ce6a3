"""Numbers that are not finite, too large or far from all others: in cells, in what is learnt, and in the answers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from mapsto.data import checks
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import BadCell, DataError
from mapsto.kinds.match import ScoredMatch
from mapsto.kinds.number import Number
from mapsto.kinds.vector import Vector
from mapsto.metrics.standardisation import lone_rows, mean_and_deviation
from mapsto.task.arrow import parse

NOT_NUMBERS = [
    math.inf,
    -math.inf,
    math.nan,
    "inf",
    "-Infinity",
    "nan",
    "1e400",
    1e308,
    -1e200,
    "1e151",
    10**400,
    np.float64("nan"),
]


@pytest.mark.parametrize("cell", NOT_NUMBERS)
def test_what_cannot_be_learnt_is_a_bad_cell(cell: Any) -> None:
    with pytest.raises(BadCell):
        Number.read(cell)
    for vector in ([1.0, cell], json.dumps([1.0, cell], default=str)):
        with pytest.raises(BadCell):
            Vector.read(vector)


@pytest.mark.parametrize("cell", [math.inf, math.nan, "inf", "1e400", 10**400])
def test_scores_of_pairs_are_finite(cell: Any) -> None:
    with pytest.raises(BadCell):
        ScoredMatch.read(cell)


@pytest.mark.parametrize("kind", [Vector])
def test_a_cell_of_deep_json_is_a_bad_cell(kind: Any) -> None:
    with pytest.raises(BadCell):
        kind.read("[" * 100_000)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e140, 1e150])
def test_whatever_is_learnt_is_finite_and_given_back(scale: float) -> None:
    numbers = [scale * value for value in (1.0, -1.0, 0.5, 0.25)]
    target = Number()
    target.learn([Number.read(number) for number in numbers])
    assert math.isfinite(target.mean) and 0 < target.deviation < math.inf
    encoded = np.array([target.encode(number, ()).values for number in numbers], np.float64)
    assert np.isfinite(encoded).all() and np.allclose(encoded * target.deviation + target.mean, numbers, rtol=1e-5)
    vector = Vector()
    vector.learn([(number, 1.0) for number in numbers])
    assert np.isfinite([*vector.mean, *vector.deviation, *vector.encode((numbers[0], 1.0), ()).values]).all()


def test_mean_and_deviation_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(5, 3, (100, 4))
    mean, deviation = mean_and_deviation(values)
    assert np.allclose(mean, values.mean(0)) and np.allclose(deviation, values.std(0))


@pytest.mark.parametrize(
    ("mean", "deviation"), [(math.nan, 1.0), (0.0, math.inf), (0.0, 0.0), (0.0, -1.0), (math.inf, 1.0)]
)
def test_a_state_that_is_not_finite_is_refused(mean: float, deviation: float) -> None:
    with pytest.raises(DataError):
        Number(mean, deviation)
    with pytest.raises(DataError):
        Vector([mean, 1.0], [deviation, 1.0])


ORDINARY = np.random.default_rng(1).normal(100, 20, 60).tolist()
OUTLIERS: list[tuple[list[float], list[int]]] = [
    ([*ORDINARY, 3.4e38], [60]),
    ([-1e9, *ORDINARY], [0]),
    ([*ORDINARY, 999_999.0, 999_999.0], [60, 61]),
    (ORDINARY, []),
    (np.random.default_rng(2).lognormal(0, 2, 500).tolist(), []),
    (np.random.default_rng(3).standard_cauchy(30).clip(-50, 50).tolist(), []),
    ([float(value) for value in range(100)], []),
    ([0.0, 1.0] * 30, []),
    ([5.0] * 12, []),
    ([1.0, 2.0, 1e9], []),
]


@pytest.mark.parametrize(("numbers", "expected"), OUTLIERS)
def test_a_number_that_alone_makes_the_deviation_is_found(numbers: list[float], expected: list[int]) -> None:
    assert lone_rows(np.array(numbers)) == expected
    assert [index for index, _ in Number.find_outliers([None, *numbers])] == [index + 1 for index in expected]
    vectors = [(1.0, number) for number in numbers]
    assert [index for index, _ in Vector.find_outliers([None, *vectors])] == [index + 1 for index in expected]


def test_the_check_names_the_row() -> None:
    rows = read_table([{"text": f"text number {i}", "number": n} for i, n in enumerate([*ORDINARY, 3.4e38])])
    (finding,) = checks.check_rows(load_rows(parse("text -> number"), rows)).warnings
    assert finding.row == 61 and "alone makes" in finding.reason and finding.column == "number"
