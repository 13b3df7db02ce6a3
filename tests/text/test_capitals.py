"""Capitals of words beside tokens that fold case: what they are, that small letters change nothing, and that names need them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mapsto
from mapsto.kinds.text import TextSource
from mapsto.text.capitals import ALL, FIRST, MIXED, NONE, CapitalsEmbedding, pattern_of
from mapsto.text.tokenizer import Tokenizer

TEXTS = ["We saw a rose and McCain at NATO.", "今天 we met ßenta in Köln, Ǆungla", "éva RODE a 2nd time"]


@pytest.mark.parametrize(
    ("word", "pattern"),
    [
        *[("rose", NONE), ("Rose", FIRST), ("NATO", ALL), ("McCain", MIXED), ("iPhone", MIXED), ("A", FIRST)],
        *[("2nd", NONE), ("U2", FIRST), ("G7-NATO", ALL), ("", NONE), ("今天", NONE), ("Éva", FIRST), ("ß", NONE)],
    ],
)
def test_patterns_of_words(word: str, pattern: int) -> None:
    assert pattern_of(word) == pattern


def test_tokens_carry_the_pattern_of_their_word_and_stay_the_same_tokens() -> None:
    plain = TextSource(Tokenizer.train([text.lower() for text in TEXTS] * 3))
    cased = plain.with_capitals(True)
    assert cased.reads_capitals and cased.fingerprint != plain.fingerprint
    assert not cased.with_capitals(False).reads_capitals
    for aligned in (False, True):
        for own, other, text in zip(cased.encode(TEXTS, 0, aligned), plain.encode(TEXTS, 0, True), TEXTS, strict=True):
            assert (own.tokens % plain.vocabulary == other.tokens).all()
            assert cased.token_names(own) == plain.token_names(other)
            assert (cased.is_unknown(own.tokens) == plain.is_unknown(other.tokens)).all()
            assert other.units is not None and other.alignment is not None
            for token, unit in enumerate(other.units):
                regions = other.alignment.regions[other.units == unit, 0]
                word = text[regions[:, 0].min() : regions[:, 1].max()] if unit >= 0 else ""
                assert own.tokens[token] // plain.vocabulary == pattern_of(word)


def test_words_in_small_letters_have_the_embeddings_of_the_table_alone() -> None:
    table = CapitalsEmbedding(10, 4)
    torch.nn.init.normal_(table.capitals)
    numbers = torch.tensor([3, 13, 33])
    vectors = table(numbers)
    assert torch.equal(vectors[0], table.weight[3])
    torch.testing.assert_close(vectors[1:] - table.weight[3], table.capitals[[0, 2]])


def test_a_vocabulary_that_keeps_case_needs_no_capitals() -> None:
    source = TextSource(Tokenizer.train(TEXTS, style="bytes"))
    assert not source.with_capitals(True).reads_capitals


def test_names_are_told_from_other_words_by_their_capitals_alone(tmp_path: Path) -> None:
    """Also after saving; an arrow whose answers need no capitals starts from the tagger without them."""
    words = [("rose", "we met {} today"), ("bill", "then {} came back"), ("frank", "you asked {} twice")]
    rows = []
    for word, sentence in words * 4:
        for written, names in ((word, []), (word.title(), ["name"])):
            text = sentence.format(written)
            begin = text.index(written)
            tags = [{"start": begin, "end": begin + len(word), "label": label} for label in names]
            rows.append({"text": text, "tags": tags})
    tagger = mapsto.fit("text -> tags", rows, tmp_path / "tagger", layers=1, width=32, steps=150, rate=3e-3, quiet=True)
    for model in (tagger, mapsto.load(tmp_path / "tagger")):
        found = model.predict(["we met Rose today", "we met rose today"])
        assert [[tag["text"] for tag in row["tags"]] for row in found] == [["Rose"], []]
    labelled = [{"text": row["text"], "label": str(len(row["tags"]))} for row in rows]
    labeller = mapsto.fit("text -> label", labelled, start=tmp_path / "tagger", steps=2, method="full", quiet=True)
    source = labeller.mapping.sources["text"]
    assert isinstance(source, TextSource) and not source.reads_capitals
