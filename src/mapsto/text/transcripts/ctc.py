"""Decoding of connectionist temporal classification (CTC, Graves et al. 2006).

A model gives at each output the probability of each character and of a blank. An alignment is one symbol for each output; its
text is what is left when repeated symbols are merged and blanks dropped. The probability of a text is the sum over its
alignments. The likeliest alignment (greedy) is found in one pass; prefix beam search (Hannun et al. 2014) adds the alignments of
the likeliest beginnings, and is about 100 times slower.
Legend of shapes: t outputs, v symbols, s characters of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

# The index of the blank.
BLANK = 0
# Symbols with a lower log-probability at an output begin no new prefix there.
LEAST = math.log(1e-4)

# A text as symbols, and its score by a language model, which depends on the text so far.
Score = Callable[[tuple[int, ...]], float]


def num_outputs_needed(symbols: Sequence[int] | str) -> int:
    """Return the fewest outputs that a text takes: one for each character, and a blank between two equal ones."""
    return len(symbols) + sum(first == second for first, second in pairwise(symbols))


def best_path(log_probabilities: Floats) -> tuple[int, ...]:
    """Return the text of the likeliest alignment. log_probabilities: (t, v)."""
    path = log_probabilities.argmax(1)
    is_new = np.diff(path, prepend=BLANK) != 0
    return tuple(path[is_new & (path != BLANK)].tolist())


def search_prefixes(log_probabilities: Floats, beams: int, score: Score | None = None) -> tuple[int, ...]:
    """Return the text with the highest probability that prefix beam search finds, with that of its score if there is one.

    log_probabilities: (t, v). beams: number of beginnings of texts that are kept at each output.
    score: the logarithm of a factor for the last character of a text, such as from a language model.
    """
    # By prefix: the log-probabilities that it ends in a blank and in its last character, and its score.
    kept: dict[tuple[int, ...], tuple[float, float, float]] = {(): (0.0, -math.inf, 0.0)}
    for row in log_probabilities:
        symbols = [symbol for symbol in np.flatnonzero(row > LEAST).tolist() if symbol != BLANK]
        values, blank = row.tolist(), float(row[BLANK])
        grown: dict[tuple[int, ...], tuple[float, float, float]] = {}

        def add(prefix: tuple[int, ...], in_blank: float, in_symbol: float, factor: float) -> None:
            old = grown.get(prefix, (-math.inf, -math.inf, factor))  # noqa: B023
            grown[prefix] = (_add_logs(old[0], in_blank), _add_logs(old[1], in_symbol), factor)  # noqa: B023

        for prefix, (in_blank, in_symbol, factor) in kept.items():
            total = _add_logs(in_blank, in_symbol)
            last = prefix[-1] if prefix else BLANK
            add(prefix, total + blank, in_symbol + values[last] if prefix else -math.inf, factor)
            for symbol in symbols:
                longer = (*prefix, symbol)
                # Without a blank between them, two equal symbols are one.
                before = in_blank if symbol == last else total
                added = 0.0 if score is None else score(longer)
                add(longer, -math.inf, before + values[symbol], factor + added)
        best = sorted(grown.items(), key=lambda entry: -_add_logs(*entry[1][:2]) - entry[1][2])
        kept = dict(best[:beams])
    return max(kept, key=lambda prefix: _add_logs(*kept[prefix][:2]) + kept[prefix][2])


def _add_logs(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second))."""
    high, low = (first, second) if first > second else (second, first)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def log_likelihood(log_probabilities: Tensor, symbols: Sequence[int]) -> float:
    """Return the log-probability of a text: the sum over all of its alignments. log_probabilities: (t, v)."""
    sizes = (torch.tensor([len(log_probabilities)]), torch.tensor([len(symbols)]))
    target = torch.tensor([list(symbols)], dtype=torch.long)
    return -float(F.ctc_loss(log_probabilities[:, None], target, *sizes, blank=BLANK, reduction="sum"))


def align(log_probabilities: Floats, symbols: Sequence[int]) -> NDArray[np.int64]:
    """Return the first and the last output of each character in the likeliest alignment of a text, (s, 2) (Viterbi).

    log_probabilities: (t, v), with t at least `num_outputs_needed`.
    """
    if not symbols:
        return np.zeros((0, 2), np.int64)
    # Blanks stand before, between and after the characters.
    states = np.zeros(2 * len(symbols) + 1, np.int64)
    states[1::2] = symbols
    # A blank may be left out between two different characters.
    may_skip = np.zeros(len(states), np.bool_)
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    scores = np.full(len(states), -np.inf)
    scores[:2] = log_probabilities[0, states[:2]]
    moves = np.zeros((len(log_probabilities), len(states)), np.int64)
    for output in range(1, len(log_probabilities)):
        options = np.full((3, len(states)), -np.inf)
        options[0] = scores
        options[1, 1:] = scores[:-1]
        options[2, 2:] = np.where(may_skip[2:], scores[:-2], -np.inf)
        moves[output] = options.argmax(0)
        scores = options.max(0) + log_probabilities[output, states]
    state = len(states) - 1 if scores[-1] > scores[-2] else len(states) - 2
    edges = np.zeros((len(symbols), 2), np.int64)
    edges[:, 0], edges[:, 1] = len(log_probabilities), -1
    for output in range(len(log_probabilities) - 1, -1, -1):
        if state % 2:
            edges[state // 2, 0] = output
            edges[state // 2, 1] = max(edges[state // 2, 1], output)
        state -= int(moves[output, state])
    return edges


def ctc_loss(log_probabilities: Tensor, sizes: Sequence[int], symbols: Tensor, lengths: Tensor) -> Tensor:
    """Return the summed negative log-probability of texts in fp32.

    log_probabilities: (sum of sizes, v), those of all examples end to end. sizes: number of outputs of each example.
    symbols: (sum of lengths,), the texts end to end. lengths: number of characters of each.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(torch.split(log_probabilities.float(), list(sizes))))
    loss: Tensor = F.ctc_loss(
        padded, symbols, torch.tensor(list(sizes)), lengths.cpu(), blank=BLANK, reduction="sum", zero_infinity=False
    )
    return loss
