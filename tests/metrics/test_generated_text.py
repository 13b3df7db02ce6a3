"""BLEU and chrF equal sacrebleu, ROUGE equals rouge-score, and counts may be drawn with replacement."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from mapsto.metrics import generated_text as metrics
from mapsto.metrics.intervals import mean_score, with_intervals
from mapsto.text.pairs import metric_tokens

PIECES = ["a", "a man", "in", "the", "hat", "Hat", ".", ", ", "3.14", "1,000-", "&amp;", "<skipped>", " ", "\n", "-\n"]
PIECES += [
    "男人",
    "今天",
    "。",
    "，",
    "天气",
    "“",
    "…",
    "Ü",
    "für",
    "straße",
    "10",
    "%",
    "'s",
    "１２",
    "かな",
    "\u3000",
    "𠀀",
    "_",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).flatmap(
    lambda words: st.sampled_from(["", " "]).map(lambda space: space.join(words))
)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)
EDGES = [("", ""), ("", "a b c d e"), ("a b c d", ""), ("hat", "hat"), ("hat", "the hat"), ("a b c d e", "a b c d e")]


def bleu_of(hypotheses: list[str], references: list[str], tokenizer: str) -> float:
    tokenize = metric_tokens.BLEU_TOKENIZERS[tokenizer]
    return metrics.bleu(metrics.bleu_statistics([*map(tokenize, hypotheses)], [*map(tokenize, references)]))


def assert_equal_to_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    hypotheses, references = map(list, zip(*pairs, strict=True))
    for tokenizer in metric_tokens.BLEU_TOKENIZERS:
        expected = sacrebleu.BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score
        assert bleu_of(hypotheses, references, tokenizer) == pytest.approx(expected, abs=1e-9)
    counts = metrics.chrf_statistics(hypotheses, references)
    assert metrics.chrf(counts) == pytest.approx(sacrebleu.CHRF().corpus_score(hypotheses, [references]).score)
    rows = [sacrebleu.CHRF().sentence_score(hypothesis, [reference]).score for hypothesis, reference in pairs]
    assert metrics.chrf_of_rows(counts) == pytest.approx(rows)


@given(PAIRS)
@example(EDGES)
@example(EDGES[:1])
@example(EDGES[2:3])
@example(EDGES[3:4])
@settings(max_examples=150, deadline=None)
def test_equal_to_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    assert_equal_to_sacrebleu(pairs)


def test_tokens_equal_those_of_sacrebleu_for_every_character() -> None:
    """Each character of the basic plane and of Chinese extension B, between letters and between digits."""
    codes = [code for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000] + list(range(0x20000, 0x20100))
    for first, last in (("a", "b"), ("1", "2"), ("", "")):
        for name in ("13a", "zh"):
            text = " ".join(f"{first}{chr(code)}{last}" for code in codes)
            expected = sacrebleu.BLEU(tokenize=name).tokenizer(text.rstrip()).split()
            assert metric_tokens.BLEU_TOKENIZERS[name](text) == expected


def shuffled(texts: list[str], rng: np.random.Generator) -> list[str]:
    """Return the texts with some words or characters left out or exchanged, as a bad translation."""
    changed = []
    for text in texts:
        parts = text.split() if " " in text else list(text)
        order = np.argsort(np.arange(len(parts)) + rng.normal(0, 0.6, len(parts)))
        changed.append((" " if " " in text else "").join(parts[index] for index in order if rng.random() > 0.1))
    return changed


@pytest.mark.parametrize("column", ["en", "de"])
def test_real_sentences_equal_the_references(column: str, shared_data: Path) -> None:
    with (shared_data / "text/multi30k/test.csv").open(encoding="utf-8", newline="") as file:
        references = [row[column] for row, _ in zip(csv.DictReader(file), range(300), strict=False)]
    hypotheses = shuffled(references, np.random.default_rng(0))
    assert metric_tokens.choose_bleu_tokenizer(references) == "13a"
    assert_equal_to_sacrebleu(list(zip(hypotheses, references, strict=True)))


def test_real_chinese_sentences_equal_the_references(shared_data: Path) -> None:
    with (shared_data / "text/tnews/test_public.jsonl").open(encoding="utf-8") as file:
        references = [json.loads(line)["sentence"] for line, _ in zip(file, range(300), strict=False)]
    hypotheses = shuffled(references, np.random.default_rng(0))
    assert metric_tokens.choose_bleu_tokenizer(references) == "zh"
    assert_equal_to_sacrebleu(list(zip(hypotheses, references, strict=True)))


def test_the_tokenizer_follows_the_script() -> None:
    assert metric_tokens.choose_bleu_tokenizer(["iPhone 很好用，我每天都用它。"]) == "zh"
    assert metric_tokens.choose_bleu_tokenizer(["これは猫です。", "今日は天気がいい"]) == "char"
    assert metric_tokens.choose_bleu_tokenizer(["The word 猫 means cat."]) == "13a"
    assert metric_tokens.choose_bleu_tokenizer(["", "123 ."]) == "13a"


def test_signatures_are_those_of_sacrebleu() -> None:
    for name in ("13a", "zh"):
        bleu = sacrebleu.BLEU(tokenize=name)
        bleu.corpus_score(["a"], [["a"]])
        assert str(bleu.get_signature()).rpartition("|version")[0] == metrics.bleu_signature(name)
    chrf = sacrebleu.CHRF()
    chrf.corpus_score(["a"], [["a"]])
    assert str(chrf.get_signature()).rpartition("|version")[0] == metrics.CHRF_SIGNATURE


@given(st.lists(st.tuples(*[st.text("aAbB c.,-_'1\n", max_size=40)] * 2), max_size=8))
@example(EDGES)
@settings(max_examples=150, deadline=None)
def test_equal_to_rouge_score(pairs: list[tuple[str, str]]) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    expected = [scorer.score(reference, hypothesis) for hypothesis, reference in pairs]
    hypotheses, references = ([metric_tokens.tokenize_words(pair[side]) for pair in pairs] for side in (0, 1))
    for order in (1, 2):
        scores = [score[f"rouge{order}"].fmeasure for score in expected]
        assert metrics.rouge_n(hypotheses, references, order) == pytest.approx(scores)
    assert metrics.rouge_l(hypotheses, references) == pytest.approx([score["rougeL"].fmeasure for score in expected])


def test_rouge_reads_chinese_and_accents() -> None:
    assert metric_tokens.tokenize_words("今天iPhone很好。Größe 12") == ["今", "天", "iphone", "很", "好", "größe", "12"]
    tokens = [metric_tokens.tokenize_words(text) for text in ("今天天气好", "今天的天气很好")]
    assert metrics.rouge_l(tokens[:1], tokens[1:]) == pytest.approx([2 * 5 / (5 + 7)])
    assert metrics.rouge_n(tokens[:1], tokens[1:], 2) == pytest.approx([2 * 2 / (4 + 6)])


@given(st.lists(st.integers(0, 3), max_size=70), st.lists(st.integers(0, 3), max_size=70))
@settings(deadline=None)
def test_the_longest_common_subsequence_equals_the_table_of_lengths(first: list[int], second: list[int]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), np.int64)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
    assert metrics.longest_common_subsequence(first, second) == table[-1, -1]


def test_an_exact_match_disregards_white_space_at_the_ends() -> None:
    assert metrics.exact_match([" a b\n", "a", ""], ["a b", "A", " "]).tolist() == [1, 0, 1]


def test_intervals_draw_rows_of_counts() -> None:
    """A metric of a drawn corpus is that of the corpus with the drawn sentences."""
    references = ["a b c d e f", "g h i j", "k l m n o"] * 30
    hypotheses = ["a b c d x f", "g h i j", "k l m o n"] * 30
    tokens = [[text.split() for text in texts] for texts in (hypotheses, references)]
    counts = metrics.bleu_statistics(*tokens)
    drawn = np.random.default_rng(0).integers(0, len(counts), len(counts))
    corpus = [[texts[index] for index in drawn] for texts in (hypotheses, references)]
    assert metrics.bleu(counts[drawn]) == pytest.approx(sacrebleu.corpus_bleu(corpus[0], [corpus[1]]).score)
    scores = with_intervals(
        {
            "bleu": (metrics.bleu, counts),
            "chrf": (metrics.chrf, metrics.chrf_statistics(hypotheses, references)),
            "rouge_l": (mean_score, metrics.rouge_l(*tokens)),
            "exact": (mean_score, metrics.exact_match(hypotheses, references)),
        }
    )
    assert all(score.low < score.value < score.high and score.n == 90 for score in scores.values())
