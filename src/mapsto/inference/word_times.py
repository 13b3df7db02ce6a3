"""Compute when each token of a transcript is said, by the cross-attention of the model that wrote it (Radford et al. 2022).

Some heads attend to the moment of the token that they write. Their weights are standardised over tokens, smoothed over time by a
median and averaged; the path through them that never goes back (dynamic time warping) gives each token a stretch of the sound.
It costs a second pass of encoder and decoder over each window.
Legend of shapes: k heads, n tokens of an answer, s source tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate
from mapsto.task.generation import Generated, GeneratedAnswer
from mapsto.task.transcription import Transcriber

# Source tokens over which the median is taken, as published models state it.
MEDIAN_WIDTH = 7

# Moves of the path: both a token and a source token further, a token further, a source token further.
DIAGONAL, TOKEN, SOURCE = 0, 1, 2


def token_ends(weights: Tensor) -> NDArray[np.int64]:
    """Return for each of n tokens the first source token that is no longer its own, (n,).

    weights: (k, n, s), with which the positions that predict the next token attend to the source.
    """
    deviation, mean = torch.std_mean(weights, dim=1, correction=0, keepdim=True)
    standardised = (weights - mean) / deviation
    half = MEDIAN_WIDTH // 2
    if standardised.shape[-1] > half:
        padded = F.pad(standardised, (half, half), mode="reflect")
        standardised = padded.unfold(-1, MEDIAN_WIDTH, 1).sort().values[..., half]
    tokens, sources = warp(-standardised.mean(0).double().numpy())
    begins = np.append(True, np.diff(tokens) > 0)
    ends: NDArray[np.int64] = sources[begins]
    return ends


def warp(costs: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cheapest path through a matrix (n, s) from its first to its last entry, as the rows and columns it passes.

    Each step goes to the next row, the next column or both. The matrix is filled by antidiagonals.
    """
    n, s = costs.shape
    sums = np.full((n + 1, s + 1), np.inf, np.float32)
    sums[0, 0] = 0
    moves = np.full((n + 1, s + 1), SOURCE, np.int8)
    moves[:, 0] = TOKEN
    for diagonal in range(2, n + s + 1):
        i = np.arange(max(1, diagonal - s), min(n, diagonal - 1) + 1)
        j = diagonal - i
        diagonal_sum, token, source = sums[i - 1, j - 1], sums[i - 1, j], sums[i, j - 1]
        is_both, is_token = (diagonal_sum < token) & (diagonal_sum < source), (token < diagonal_sum) & (token < source)
        moves[i, j] = np.where(is_both, DIAGONAL, np.where(is_token, TOKEN, SOURCE))
        sums[i, j] = costs[i - 1, j - 1] + np.where(is_both, diagonal_sum, np.where(is_token, token, source))
    path, i, j = [], n, s
    moves[0, :] = SOURCE
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        move = moves[i, j]
        i, j = i - (move != SOURCE), j - (move != TOKEN)
    rows, columns = np.array(path[::-1], np.int64).T
    return rows, columns


def make_timer(
    mapping: Mapping, port: int, target: Generated, device: torch.device
) -> Callable[[Example, GeneratedAnswer], tuple[float, ...]]:
    """Return the function from an example and its answer to the seconds at which each token of the answer ends.

    target: that of the port, as it was decoded.
    """
    assert isinstance(target, Transcriber)
    heads = target.alignment_heads(mapping.config.answer_stack.layers, mapping.config.answer_stack.heads)

    def measure(example: Example, answer: GeneratedAnswer) -> tuple[float, ...]:
        alignment = example.pieces[0].alignment
        assert alignment is not None, "pieces are aligned where times are asked for"
        regions = np.asarray(alignment.regions[:, 0], np.float64)
        # Behind the sound there is silence, of which a token takes a single sample.
        num_sources = max(1, int((regions[:, 1] - regions[:, 0] > 0.5 * (regions[0, 1] - regions[0, 0])).sum()))
        first = len(target.opening) + len(target.rules.beginning)
        if len(answer.tokens) <= len(target.rules.beginning):
            return (float(regions[0, 0]),) * len(answer.tokens)
        encoded = target.encode_generated(replace(answer, is_ended=False))
        batch = collate([replace(example, answers=(*[None] * port, encoded))]).to(device)
        with torch.inference_mode():
            weights = mapping.attention_weights(batch, heads)[:, first:, :num_sources].float().cpu()
        ends = regions[token_ends(weights), 0]
        return (float(regions[0, 0]),) * len(target.rules.beginning) + tuple(ends.tolist())

    return measure
