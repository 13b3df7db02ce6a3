"""Metrics of generated text against one reference per row: BLEU, chrF, ROUGE and exact match.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) belong to a corpus: their n-gram counts are summed over all rows before a
score is computed, so they come in two parts. `…_statistics` counts each row once, and the metric adds up the rows that it is
given, which a bootstrap may draw. A mean of the rows' BLEU would be another number. ROUGE (Lin 2004) is the mean of the rows'
F1. Values equal those of sacrebleu 2.6 (both from 0 to 100) and rouge-score 0.1.2 (0 to 1).
Legend of shapes: n rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats, bounded

Counts = NDArray[np.int64]
Tokens = Sequence[Hashable]
T = TypeVar("T", bound=Hashable)

# The longest word n-grams of BLEU, and the longest character n-grams of chrF.
BLEU_ORDER, CHRF_ORDER = 4, 6
# Recall weighs β² as much as precision in chrF2.
CHRF_BETA = 2
CHRF_SIGNATURE = f"nrefs:1|case:mixed|eff:yes|nc:{CHRF_ORDER}|nw:0|space:no"


def bleu_signature(tokenizer: str) -> str:
    """Return the settings of `bleu` as sacrebleu writes them. tokenizer: its name, such as "13a" or "zh"."""
    return f"nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp"


def bleu_statistics(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> Counts:
    """Return for each row the counts that `bleu` adds up, (n, 2 + 2 · 4).

    The columns are the number of tokens of the hypothesis and of the reference, then for 1- to 4-grams the number that both
    share, then the number in the hypothesis. hypotheses, references: the tokens of each row.
    """
    rows = zip(hypotheses, references, strict=True)
    return np.array([_count_bleu(*row) for row in rows], np.int64).reshape(-1, 2 + 2 * BLEU_ORDER)


@bounded(high=100.0)
def bleu(counts: Counts) -> float:
    """Return the BLEU score of a corpus, 0 to 100, from the counts of its rows, see `bleu_statistics`.

    The k-th order without a shared n-gram counts as half of the order before it that has none, at first half an n-gram
    (NIST's smoothing). Without any shared token, or without any 4-gram in the hypotheses, the score is 0.
    """
    hypothesis_length, reference_length, *ngrams = counts.sum(0).tolist()
    shared, total = ngrams[:BLEU_ORDER], ngrams[BLEU_ORDER:]
    if not any(shared) or not all(total):
        return 0.0
    log_precision, smoothed = 0.0, 1.0
    for num_shared, num_total in zip(shared, total, strict=True):
        if not num_shared:
            smoothed /= 2
        log_precision += math.log((num_shared or smoothed) / num_total) / BLEU_ORDER
    brevity = min(0.0, 1 - reference_length / hypothesis_length)
    return 100 * math.exp(brevity + log_precision)


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> Counts:
    """Return for each row the counts that `chrf` adds up, (n, 6 · 3).

    For n-grams of 1 to 6 characters, white space aside, these are the number in the hypothesis (0 if the reference has none of
    this length), the number in the reference, and the number that both share.
    """
    rows = zip(hypotheses, references, strict=True)
    return np.array([_count_chrf(*row) for row in rows], np.int64).reshape(-1, 3 * CHRF_ORDER)


@bounded(high=100.0)
def chrf(counts: Counts) -> float:
    """Return the chrF2 score of a corpus, 0 to 100, from the counts of its rows, see `chrf_statistics`."""
    return float(chrf_of_rows(counts.sum(0, keepdims=True))[0])


def chrf_of_rows(counts: Counts) -> Floats:
    """Return the chrF2 score of each row on its own, (n,), 0 to 100. counts: (n, 6 · 3), see `chrf_statistics`."""
    hypothesis, reference, shared = np.moveaxis(counts.reshape(-1, CHRF_ORDER, 3), 2, 0)
    # Precision and recall are means over the lengths of which both texts have n-grams.
    is_counted = (hypothesis > 0) & (reference > 0)
    num_orders = np.maximum(is_counted.sum(1), 1)
    precision, recall = (
        np.divide(shared, total, out=np.zeros(total.shape), where=is_counted).sum(1) / num_orders
        for total in (hypothesis, reference)
    )
    weighted = CHRF_BETA**2 * precision + recall
    product = (1 + CHRF_BETA**2) * precision * recall
    scores: Floats = 100 * np.divide(product, weighted, out=np.zeros(len(counts)), where=weighted > 0)
    return scores


def rouge_n(hypotheses: Sequence[Tokens], references: Sequence[Tokens], order: int) -> Floats:
    """Return for each row the F1 of the n-grams that hypothesis and reference share, (n,).

    hypotheses, references: the tokens of each row. order: length of the n-grams in tokens, such as 1 for ROUGE-1.
    """
    f1 = []
    for row in zip(hypotheses, references, strict=True):
        first, second = (_ngrams(tokens, order) for tokens in row)
        f1.append(_f1(_num_shared(first, second), first.total(), second.total()))
    return np.array(f1, np.float64)


def rouge_l(hypotheses: Sequence[Tokens], references: Sequence[Tokens]) -> Floats:
    """Return for each row the F1 of the longest common subsequence of hypothesis and reference, (n,).

    hypotheses, references: the tokens of each row.
    """
    rows = zip(hypotheses, references, strict=True)
    return np.array([_f1(longest_common_subsequence(*row), *map(len, row)) for row in rows], np.float64)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Floats:
    """Return for each row 1 if the hypothesis is the reference but for white space at its ends, else 0, (n,)."""
    pairs = zip(hypotheses, references, strict=True)
    return np.array([hypothesis.strip() == reference.strip() for hypothesis, reference in pairs], np.float64)


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common subsequence of two sequences of tokens.

    It holds a row of the table of lengths as the bits of one integer (Hyyrö 2004), and needs one addition for each token of
    `second` instead of len(first) comparisons.
    """
    places: dict[Hashable, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    all_bits = (1 << len(first)) - 1
    # A zero bit is a token of `first` at which the length rises.
    row = all_bits
    for token in second:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & all_bits
    return len(first) - row.bit_count()


def _count_bleu(hypothesis: Tokens, reference: Tokens) -> list[int]:
    """Return a row of `bleu_statistics`."""
    orders = range(1, BLEU_ORDER + 1)
    shared = [_num_shared(_ngrams(hypothesis, order), _ngrams(reference, order)) for order in orders]
    total = [max(0, len(hypothesis) - order + 1) for order in orders]
    return [len(hypothesis), len(reference), *shared, *total]


def _count_chrf(hypothesis: str, reference: str) -> list[int]:
    """Return a row of `chrf_statistics`."""
    texts = ["".join(text.split()) for text in (hypothesis, reference)]
    counts = []
    for order in range(1, CHRF_ORDER + 1):
        first, second = (
            Counter([text[start : start + order] for start in range(len(text) - order + 1)]) for text in texts
        )
        counts += [first.total() if second else 0, second.total(), _num_shared(first, second)]
    return counts


def _ngrams(tokens: Tokens, order: int) -> Counter[Hashable]:
    """Return how often each n-gram of `order` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _num_shared(first: Counter[T], second: Counter[T]) -> int:
    """Return the number of n-grams that two texts share; one that occurs several times counts as often as in both."""
    return sum(min(first[ngram], second[ngram]) for ngram in first.keys() & second.keys())


def _f1(num_shared: int, num_first: int, num_second: int) -> float:
    """Return the harmonic mean of num_shared / num_first and num_shared / num_second; 0 if nothing is shared."""
    return 2 * num_shared / (num_first + num_second) if num_shared else 0.0
