"""N-grams and their TF-IDF weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from mapsto.text.ngram_source import NgramSource
from mapsto.text.ngrams import NgramEncoder, split_into_units

TEXTS = [
    "A plain sentence, with words; and words again.",
    "今天天气真好！房间很干净，服务也好",
    "Mixed 中文 and English, with 3 numbers and 1,000 more.",
    "İstanbul'da\tÇOK   güzel\n😀😀 x",
    "😀",
    "a",
]


def expected(train: list[str], texts: list[str]) -> np.ndarray:
    """Return the features of scikit-learn: both vocabularies, each of unit norm, side by side."""
    options = {"sublinear_tf": True, "dtype": np.float64}
    parts = [
        TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), **options),
        TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", **options),
    ]
    return np.hstack([part.fit(train).transform(texts).toarray() for part in parts]) / 2**0.5


def features(encoder: NgramEncoder, texts: list[str], aligned: bool = False) -> np.ndarray:
    source = NgramSource(encoder)
    dense: np.ndarray = source.features(source.encode(texts, 0, aligned)).toarray()
    return dense


@pytest.mark.parametrize("aligned", [False, True])
def test_features_are_those_of_scikit_learn(aligned: bool) -> None:
    encoder = NgramEncoder.learn(TEXTS)
    new = [*TEXTS, "Words that nobody saw, 今天 again; İ", "zzz"]
    np.testing.assert_allclose(features(encoder, new, aligned), expected(TEXTS, new), atol=1e-6)


def test_an_encoder_is_read_back_from_json() -> None:
    encoder = NgramEncoder.learn(TEXTS)
    again = NgramEncoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again.fingerprint == encoder.fingerprint != NgramEncoder.learn(TEXTS[:2]).fingerprint
    np.testing.assert_array_equal(features(again, TEXTS), features(encoder, TEXTS))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"letters": {"ngrams": ["a"], "rarity": [1.0]}},
        {"words": {"ngrams": ["a", "a"], "rarity": [1.0, 1.0]}},
        {"words": {"ngrams": ["a"], "rarity": []}},
        {"words": {"ngrams": ["a"]}},
        {"words": {"ngrams": ["a"], "rarity": ["many"]}},
    ],
)
def test_damaged_vocabularies_are_refused(content: dict[str, dict[str, object]]) -> None:
    with pytest.raises((KeyError, ValueError)):
        NgramEncoder.from_json(content)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_units_cover_the_text_and_keep_the_weights(text: str) -> None:
    encoder = NgramEncoder.learn([*TEXTS, text])
    ngrams = encoder.encode(text, with_places=True)
    parts, units = split_into_units(text, ngrams)
    assert parts.places is not None and np.all(np.diff(units) >= 0)
    assert parts.weights.sum() == pytest.approx(ngrams.weights.sum(), abs=1e-5)
    covered = {position for start, end in parts.places.tolist() for position in range(start, end)}
    assert covered >= {index for index, character in enumerate(text) if not character.isspace()}
    for start, end in parts.places.tolist():
        assert 0 <= start < end <= len(text) and not text[start].isspace() and not text[end - 1].isspace()


def test_units_are_words_and_single_chinese_characters() -> None:
    encoder = NgramEncoder.learn(TEXTS)
    text = "Mixed 中文, again"
    parts, units = split_into_units(text, encoder.encode(text, with_places=True))
    assert parts.places is not None
    shown = {int(unit): text[start:end] for unit, (start, end) in zip(units, parts.places.tolist(), strict=True)}
    assert list(shown.values()) == ["Mixed", "中", "文", ",", "again"]
