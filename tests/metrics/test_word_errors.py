"""Error rates equal those of jiwer, on words that hypothesis draws, and with Whisper's normalizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.metrics.word_errors import error_counts, error_rate, split_characters, split_normalised_words

jiwer = pytest.importorskip("jiwer", reason="jiwer is the oracle")

SENTENCES = st.lists(st.sampled_from(["one", "two", "three", "ein", "天气", "真好"]), min_size=1, max_size=12).map(
    " ".join
)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=8))
def test_word_and_character_error_rates_are_those_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    answers, references = ([pair[side] for pair in pairs] for side in (0, 1))
    assert error_rate(error_counts(answers, references)) == pytest.approx(jiwer.wer(references, answers))
    counts = error_counts(answers, references, split_characters)
    assert error_rate(counts) == pytest.approx(jiwer.cer(references, answers))


def test_an_empty_answer_misses_every_word_and_words_in_silence_are_errors() -> None:
    assert error_rate(error_counts(["", "a b"], ["a b", "a b"])) == 0.5
    assert error_rate(error_counts(["a b"], [""])) == 1.0
    assert error_rate(error_counts([""], [""])) == 0.0


def test_normalised_words_are_those_of_whispers_normalizer() -> None:
    normalizer = pytest.importorskip("transformers.models.whisper.english_normalizer").BasicTextNormalizer()
    texts = [
        "Hello, World!",
        "It's [noise] fine (laughs).",
        "Ça va? Übergrößen…",
        "<b>x</b> 3,5 %",
        "天气真好！",
        "a-b_c",
    ]
    for text in texts:
        assert split_normalised_words(text) == normalizer(text).split()
