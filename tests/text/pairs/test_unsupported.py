"""What an answer holds and its source does not: numbers by value, names, and word n-grams."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapsto.text.pairs.unsupported import (
    find_names,
    find_numbers,
    find_unsupported,
    readings,
    share,
    unsupported_counts,
)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *[
            ("1,000", "1000"),
            ("1.000", "1000"),
            ("1'000", "1.000"),
            ("1\u00a0000", "1,000"),
            ("1,234,567", "1.234.567"),
        ],
        *[
            ("3,5", "3.5"),
            ("1.234,56", "1,234.56"),
            ("1 234".replace(" ", "\u202f"), "1234"),
            ("007", "7"),
            ("2.50", "2,5"),
        ],
        *[("１２", "12"), ("3.5万", "35000"), ("３．１４", "3.14"), ("24.12.2025", "24.12.2025"), ("0,125", "0.125")],
    ],
)
def test_numbers_are_equal_by_value(first: str, second: str) -> None:
    for source, answer in ((first, second), (second, first)):
        assert find_unsupported(f"It has {source} parts.", f"Es sind {answer}.").numbers == ()


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("1000", "100"),
        ("1,000", "1"),
        ("3.5", "35"),
        ("0.125", "125"),
        ("1234.567", "1234567"),
        ("1.2.3", "1.2.4"),
        ("", "7"),
    ],
)
def test_other_numbers_are_not(source: str, answer: str) -> None:
    assert find_unsupported(source, answer).numbers == (answer,)


@given(st.integers(0, 10**12), st.integers(0, 99))
@settings(deadline=None)
def test_every_way_to_write_a_number_has_its_value(whole: int, cents: int) -> None:
    value = Decimal(f"{whole}.{cents:02d}")
    english = f"{whole:,}.{cents:02d}"
    for text in (
        english,
        english.translate({ord(","): ".", ord("."): ","}),
        english.replace(",", "’"),
        f"{whole}.{cents:02d}",
    ):
        assert find_numbers(f"about {text}.") == [text]
        assert value in readings(text)


def test_long_digits_and_lists_are_read() -> None:
    assert find_unsupported("", "9" * 6000).numbers == ("9" * 6000,)
    assert find_numbers("1:30, 2024-05-01; 1,2") == ["1", "30", "2024", "05", "01", "1,2"]


def test_names_are_capitals_inside_of_a_sentence() -> None:
    assert find_names('Yesterday Anna’s dog met "Dr. Smith" in New York. He said: "Hello." And I agree! Then') == [
        *("Anna’s", "Dr", "Smith", "New", "York")
    ]
    assert find_names("- Paris\n- London") == []
    assert find_names("他在北京。") == []
    row = find_unsupported("Anna lives in berlin, near J. Doe.", "There Anna's friend Berta saw Berlin with J. Doe.")
    assert row.names == ("Berta",)
    assert row.num_names == 4


def test_ngrams_of_words_and_of_chinese_characters() -> None:
    row = find_unsupported("The cat sat on the mat.", "the cat sat on a mat")
    assert row.ngrams == ("on a", "a mat")
    assert row.num_ngrams == 5
    assert find_unsupported("今天天气很好", "今天很好").ngrams == ("天 很",)
    assert find_unsupported("a b", "a b c", order=1).ngrams == ("c",)


@given(st.text("aB1.,' 今\n"), st.text("aB1.,' 今\n"))
@example("1B1", "")
@settings(deadline=None)
def test_a_copy_is_supported(text: str, other: str) -> None:
    row = find_unsupported(text, text)
    assert row[:3] == ((), (), ())
    assert all(
        len(kind) <= count
        for kind, count in zip(*[find_unsupported(text, other)[i : i + 3] for i in (0, 3)], strict=True)
    )


def test_shares_are_of_all_rows_together() -> None:
    pairs = [("in 1 and 2", "3 and 4 and 1"), ("no", "no"), ("5", "5")]
    counts = unsupported_counts([find_unsupported(*pair) for pair in pairs])
    assert counts["numbers"][0].tolist() == [2, 0, 0]
    assert counts["numbers"][1].tolist() == [3, 0, 1]
    assert share(*counts["numbers"]) == 0.5
    assert share(*counts["names"]) == 0
    assert share(*(np.zeros(0) for _ in range(2))) == 0
