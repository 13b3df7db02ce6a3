"""Decoding by CTC: against all alignments of short outputs, one by one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.text.transcripts import ctc


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Return the text of an alignment: repeated symbols merged, then blanks dropped."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != ctc.BLANK)


def texts_of(values: Any) -> dict[tuple[int, ...], float]:
    """Return the probability of each text, by summing over every alignment of the outputs (t, v)."""
    texts: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(values.shape[1]), repeat=len(values)):
        text = collapse(path)
        probability = math.exp(sum(values[output, symbol] for output, symbol in enumerate(path)))
        texts[text] = texts.get(text, 0.0) + probability
    return texts


def outputs(seed: int, num_outputs: int = 5, num_symbols: int = 3, sharpness: float = 2.0) -> Any:
    """Return random log-probabilities (t, v)."""
    logits = sharpness * np.random.default_rng(seed).normal(size=(num_outputs, num_symbols))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_wide_search_finds_the_likeliest_text_and_its_probability(seed: int) -> None:
    values = outputs(seed)
    texts = texts_of(values)
    assert sum(texts.values()) == pytest.approx(1)
    best = max(texts.values())
    found = ctc.search_prefixes(values, 1000)
    assert texts[found] == pytest.approx(best)
    for text, probability in texts.items():
        assert math.exp(ctc.log_likelihood(torch.from_numpy(values), text)) == pytest.approx(probability, rel=1e-6)
    path = tuple(values.argmax(1).tolist())
    assert ctc.best_path(values) == collapse(path)
    assert texts[found] >= texts[ctc.best_path(values)] - 1e-12


def test_alignments_that_agree_outweigh_the_likeliest_one() -> None:
    """The example of Graves 2012: the best path is blank twice, but one symbol has more probability in all."""
    values = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert ctc.best_path(values) == () and ctc.search_prefixes(values, 2) == (1,)


def test_a_score_of_texts_is_weighed_against_the_outputs() -> None:
    values = np.log(np.array([[0.1, 0.5, 0.4]]))
    assert ctc.search_prefixes(values, 5) == (1,)
    assert ctc.search_prefixes(values, 5, lambda prefix: math.log(0.9 if prefix[-1] == 2 else 0.1)) == (2,)


@given(seed=st.integers(0, 10**6), text=st.lists(st.integers(1, 2), min_size=0, max_size=3))
@settings(max_examples=40, deadline=None)
def test_an_alignment_is_the_likeliest_of_its_text(seed: int, text: list[int]) -> None:
    values = outputs(seed)
    needed = ctc.num_outputs_needed(text)
    paths = [p for p in itertools.product(range(3), repeat=5) if collapse(p) == tuple(text)]
    assert bool(paths) == (needed <= 5)
    if not paths:
        return
    best = max(paths, key=lambda path: sum(values[output, symbol] for output, symbol in enumerate(path)))
    runs, place = [], 0
    for symbol, run in itertools.groupby(best):
        length = len(list(run))
        if symbol != ctc.BLANK:
            runs.append([place, place + length - 1])
        place += length
    assert ctc.align(values, text).tolist() == runs


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_loss_of_a_batch_is_that_of_its_examples(seed: int) -> None:
    first, second = outputs(seed, 5), outputs(seed + 1, 4)
    together = torch.from_numpy(np.concatenate([first, second]))
    symbols, lengths = torch.tensor([1, 1, 2]), torch.tensor([2, 1])
    expected = -math.log(texts_of(first)[1, 1]) - math.log(texts_of(second)[2,])
    assert float(ctc.ctc_loss(together, [5, 4], symbols, lengths)) == pytest.approx(expected, rel=1e-4)
