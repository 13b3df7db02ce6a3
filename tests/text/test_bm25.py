"""BM25 has the weights of its formula, and reads Chinese."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mapsto.text.bm25 import BM25, K1, B, terms

PASSAGES = ["The cat sat on the mat.", "A dog and a cat; a cat!", "It rained all day long in old Paris, of course."]


def test_terms_are_words_and_in_chinese_characters_and_pairs() -> None:
    assert terms("The cat's 2 mats, THE") == ["the", "cat", "s", "2", "mats", "the"]
    assert terms("今天很好。ok") == ["今", "天", "很", "好", "ok", "今天", "天很", "很好"]
    assert terms(" … ") == []


def test_scores_are_those_of_the_formula() -> None:
    scores = BM25(PASSAGES).scores(["cat cat dog unknown", "Paris", "…"])
    lengths = [len(terms(passage)) for passage in PASSAGES]
    mean = sum(lengths) / 3
    for query, words in enumerate((["cat", "cat", "dog"], ["paris"], [])):
        for i, passage in enumerate(PASSAGES):
            expected = 0.0
            for word in words:
                with_word = sum(word in terms(other) for other in PASSAGES)
                rarity = math.log(1 + (3 - with_word + 0.5) / (with_word + 0.5))
                count = terms(passage).count(word)
                expected += rarity * count * (K1 + 1) / (count + K1 * (1 - B + B * lengths[i] / mean))
            assert scores[query, i] == pytest.approx(expected)


def test_the_passage_with_the_words_comes_first() -> None:
    passages = ["房间很干净，服务也好。", "今天的天气真好！", "老房子在河边。", ""]
    scores = BM25(passages).scores(["天气怎么样", "河边有什么", "？"])
    assert np.argmax(scores[:2], axis=1).tolist() == [1, 2] and not scores[2].any() and not scores[:, 3].any()
    assert BM25([" ", "。"]).scores(["x"]).tolist() == [[0.0, 0.0]], "passages without a word"
