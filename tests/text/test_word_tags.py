"""Tags of words become the same spans in every scheme; sequences of classes are the likeliest legal ones."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.text.tagging.tag_decoding import TagClasses
from mapsto.text.tagging.word_tags import TagStyle, WordSpan, count_stray

# Which words are in one entity: label and number of words; None for a word outside.
Runs = list[tuple[str | None, int]]


def write(runs: Runs, scheme: str) -> list[str]:
    """Write runs of words as tags in a scheme."""
    tags: list[str] = []
    before: str | None = None
    for label, count in runs:
        if label is None:
            tags += ["O"] * count
        elif scheme == "IOB1":
            tags += [f"{'B' if before == label else 'I'}-{label}", *[f"I-{label}"] * (count - 1)]
        elif scheme == "IOB2":
            tags += [f"B-{label}", *[f"I-{label}"] * (count - 1)]
        else:
            begin, inside, end, single = scheme
            middle = [f"{inside}-{label}"] * (count - 2)
            tags += [f"{single}-{label}"] if count == 1 else [f"{begin}-{label}", *middle, f"{end}-{label}"]
        before = label
    return tags


def spans_of(runs: Runs) -> list[WordSpan]:
    """Return the spans that runs of words stand for."""
    spans, word = [], 0
    for label, count in runs:
        if label is not None:
            spans.append(WordSpan(word, word + count - 1, label))
        word += count
    return spans


RUNS = st.lists(st.tuples(st.sampled_from([None, "PER", "地点", "A-B"]), st.integers(1, 4)), min_size=1, max_size=12)


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIES", "BILU", "BMES"])
@given(runs=RUNS)
@settings(max_examples=60, deadline=None)
def test_every_scheme_is_read_as_the_same_spans(scheme: str, runs: Runs) -> None:
    tags = write(runs, scheme)
    style = TagStyle.measure([(["w"] * len(tags), tags)])
    assert style.spans(tags) == spans_of(runs)
    assert count_stray([tags]) == 0


def test_tags_without_prefixes() -> None:
    speech = TagStyle.measure([(["the", "old", "mill"], ["DET", "ADJ", "ADJ"])])
    assert [span.label for span in speech.spans(["DET", "ADJ", "ADJ"])] == ["DET", "ADJ", "ADJ"], "each word by itself"
    entities = TagStyle.measure([(["New", "York", "is"], ["LOC", "LOC", "O"])])
    assert entities.spans(["LOC", "LOC", "O"]) == [WordSpan(0, 1, "LOC")], "where O is, equal tags go on"


def test_an_entity_that_begins_with_i_is_counted_where_others_begin_with_b() -> None:
    tags = ["I-PER", "O", "B-PER", "I-PER", "O", "B-LOC", "I-PER"]
    assert count_stray([tags]) == 2
    assert TagStyle.measure([(["w"] * 7, tags)]).spans(tags) == [
        (0, 0, "PER"),
        (2, 3, "PER"),
        (5, 5, "LOC"),
        (6, 6, "PER"),
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["New", "York", "!"], "New York !"),
        (list("我爱北京1998年"), "我爱北京1998年"),
        (["我", "爱", "Python", "和", "北京"], "我爱 Python 和北京"),
        (["สวัสดี", "โลก"], "สวัสดีโลก"),
        ([], ""),
    ],
)
def test_words_are_joined_as_their_script_is_written(words: list[str], text: str) -> None:
    style = TagStyle.measure([(words, ["O"] * len(words))])
    joined, starts = style.join(words)
    assert joined == text
    assert [joined[start : start + len(word)] for start, word in zip(starts, words, strict=True)] == words


@pytest.mark.parametrize(
    "names",
    [
        ["O", "B-a", "I-a", "B-b", "I-b"],
        ["O", "I-a", "I-b"],
        ["O", "B-a", "I-a", "E-a", "S-a"],
        ["NOUN", "VERB"],
        ["O", "B-a", "I-a", "L-a", "U-a", "word"],
    ],
)
def test_the_likeliest_legal_sequence_is_found(names: list[str]) -> None:
    """By trying all sequences of four words."""
    rules, rng = TagClasses(tuple(names)), np.random.default_rng(len(names))
    count = len(names)
    for _ in range(20):
        scores = rng.normal(size=(4, count))
        legal = [
            path for path in product(range(count), repeat=4) if rules.allowed[[count, *path], [*path, count + 1]].all()
        ]
        best = max(legal, key=lambda path: scores[range(4), path].sum())
        assert rules.best_path(scores).tolist() == list(best)
        spans = rules.spans(np.array(best))
        assert all(first <= last and 0 <= label < len(rules.labels) for first, last, label in spans)


def test_classes_in_other_forms() -> None:
    assert TagClasses(("O", "b-per", "i-per")).labels == TagClasses(("O", "per-B", "per-I")).labels == ["per"]
    assert TagClasses(("O", "person", "e-mail")).labels == ["e-mail", "person"]


def test_spans_of_classes() -> None:
    rules = TagClasses(("O", "B-a", "I-a", "E-a", "S-a"))
    assert rules.labels == ["a"]
    assert rules.spans(np.array([1, 2, 3, 4, 0, 4])) == [(0, 2, 0), (3, 3, 0), (5, 5, 0)]
    old = TagClasses(("O", "I-a", "I-b"))
    assert old.spans(np.array([1, 1, 2, 0, 1])) == [(0, 1, 0), (2, 2, 1), (4, 4, 0)]
