"""Words that a text shares with a query are found in any script, and rare ones count more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.text.pairs.common_words import Rarity, find_common_words

TEXTS = ["the old mill", "the river", "the mill by the river", "今天天气真好", "明天天气不好"]


@pytest.mark.parametrize(
    ("query", "text", "parts"),
    [
        ("Where is the Mill?", "The old mill.", ["The", "mill"]),
        ("今天的天气怎么样", "明天天气不好，今天真好", ["天气", "今天"]),
        ("天气", "天气天气", ["天气", "天气"]),
        ("3.14 是多少", "π = 3.14", ["3", "14"]),
        ("好", "好 人", []),
        ("a b", "c d", []),
    ],
)
def test_common_words_are_marked(query: str, text: str, parts: list[str]) -> None:
    words = find_common_words(query, text, Rarity(TEXTS))
    assert [text[word.start : word.end] for word in words] == parts


def test_rare_words_count_more() -> None:
    rarity = Rarity(TEXTS)
    assert 1 == rarity.of("nowhere") == rarity.of("old") > rarity.of("mill") > rarity.of("the") > 0
    assert Rarity([]).of("a") == 1 and 0 < Rarity(["a", "a"]).of("a") < 1


@given(st.text(), st.text())
def test_parts_are_in_order_and_do_not_overlap(query: str, text: str) -> None:
    words = find_common_words(query, text, Rarity([query, text]))
    edges = [edge for word in words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and all(0 <= word.rarity <= 1 and word.start < word.end for word in words)
    assert not words or words[-1].end <= len(text)
