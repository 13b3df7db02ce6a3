"""Corruption for masked modelling: choose the tokens to hide in a piece of a source behind `~`, and replace them.

A unit is a word, a patch or another natural part of a value. Pieces of texts, images and videos are all corrupted here:
positions may have 1, 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mapsto.errors import UsageError
from mapsto.sequence.piece import Ints, Piece, Role

CorruptionShape = Literal["token", "word", "span", "block"]

# The share of causal examples by objective; 0 for objectives not listed.
CAUSAL_SHARES = {"causal": 1.0, "hybrid": 1 / 16}

# The final rate of hidden tokens as a multiple of the first one; by objective where it differs.
LATE, LATE_SHARES = 0.5, {"mae": 1.0}

FILLS_NOTHING = "this model puts a token back from those before it alone, so it fills nothing in"


@dataclass(frozen=True)
class Corruption:
    """Settings of a corruption: how many tokens to hide, in what shape, and by what to replace them.

    rate: share of tokens to hide until 60 % of training, after which it falls linearly to `final_rate`. Hiding 30 % trains
        faster, 15 % is closer to clean text (Wettig et al. 2023; GPT-BERT, Charpentier & Samuel 2024).
    final_rate: share of tokens to hide at the end of training.
    shape: "token", "word", "span" (consecutive words, geometric length; SpanBERT, Joshi et al. 2020) or "block" (axis-aligned
        block of positions; BEiT, Bao et al. 2022). In a video a word is one patch position over all frames (tube; VideoMAE,
        Tong et al. 2022).
    span: mean length of a span in words.
    random: share of the hidden tokens that are replaced by a random token.
    kept: share of the hidden tokens that stay unchanged. All other hidden tokens are replaced by the mask token.
    causal: share of examples in which nothing is hidden and each token is predicted from the tokens before it. 1 is a causal
        language model. Between 0 and 1 a model learns masked and causal modelling (GPT-BERT, Charpentier & Samuel 2024).
    ahead: 0 if a hidden token is predicted at its own place, 1 if at the place before. It is 1 if there are causal examples,
        so that masked and causal modelling share a head.
    """

    rate: float = 0.30
    final_rate: float = 0.15
    shape: CorruptionShape = "token"
    span: float = 3.0
    random: float = 0.0
    kept: float = 0.0
    causal: float = 0.0
    ahead: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.rate < 1 and 0 <= self.final_rate < 1):
            raise UsageError(
                f"the share of hidden tokens must be at least 0 and less than 1, not {self.rate}, {self.final_rate}"
            )
        if self.random < 0 or self.kept < 0 or self.random + self.kept > 1:
            raise UsageError("the shares of random and kept tokens must be at least 0 and add up to at most 1")
        if not 0 <= self.causal <= 1:
            raise UsageError(f"the share of causal examples must lie between 0 and 1, not {self.causal}")
        if self.ahead not in (0, 1) or (self.causal and not self.ahead):
            raise UsageError("tokens are predicted at their own place or, where examples are causal, one before it")

    @classmethod
    def of(cls, objective: str, hide: float, shape: CorruptionShape) -> Corruption:
        """Return the corruption of the pretraining objective named `objective`.

        hide: share of tokens to hide. It falls to half of `hide` by the end of training, except for "mae", where it stays.
        shape: shape of the hidden tokens.
        """
        late, causal = hide * LATE_SHARES.get(objective, LATE), CAUSAL_SHARES.get(objective, 0.0)
        return cls(hide, late, shape, causal=causal, ahead=int(causal > 0))

    def rate_at(self, progress: float) -> float:
        """Return the share of tokens to hide when a share `progress` (0 to 1) of training is finished."""
        return self.rate + (self.final_rate - self.rate) * max(0.0, (progress - 0.6) / 0.4)


def make_generator(seed: int, row: int, step: int) -> np.random.Generator:
    """Return the random number generator of a row at a training step, determined by (seed, row, step) alone.

    So a resumed run draws the same numbers as an uninterrupted one.
    """
    # A Philox key is two 64-bit numbers, so row and step share one of them.
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, (row << 32 | step) % 2**64]))


def read_causally(piece: Piece) -> tuple[Piece, Ints]:
    """Return the piece with causal attention, and the indices (m,) of the tokens that a causal language model predicts.

    These are all tokens after the special tokens at the beginning, special tokens at the end included.
    """
    return replace(piece, role=Role.CAUSAL), np.arange(int(np.argmin(piece.special)), len(piece))


def choose_hidden(corruption: Corruption, piece: Piece, rng: np.random.Generator, progress: float = 0.0) -> Ints:
    """Choose at random the tokens of a piece to hide; return their sorted indices (m,). Special tokens are never hidden.

    At least one token is hidden, unless the rate is 0 or the piece has only special tokens.
    progress: the finished share of training, 0 to 1, on which the share of hidden tokens depends.
    """
    free = np.flatnonzero(~piece.special)
    rate = corruption.rate_at(progress)
    if not len(free) or not rate:
        return free[:0]
    # A short value hides a token too, since it would otherwise teach nothing.
    num_hidden = max(1, round(rate * len(free)))
    if corruption.shape == "token":
        return np.sort(rng.permutation(free)[:num_hidden])
    if corruption.shape == "block":
        return _blocks(piece, free, num_hidden, rng)
    # Without words each token is a unit.
    units = piece.units if piece.units is not None else np.arange(len(piece))
    return _words(units[free], free, num_hidden, corruption.span if corruption.shape == "span" else 1.0, rng)


def _words(units: Ints, free: Ints, num_hidden: int, span: float, rng: np.random.Generator) -> Ints:
    """Choose whole units to hide at random, until at least `num_hidden` tokens are hidden; return the tokens' indices (m,).

    units: (f,), the unit (word) of each token in `free`. free: (f,), indices of the tokens that may be hidden.
    span: mean number of consecutive units that are hidden together; their number is geometrically distributed.
    """
    names, first, inverse = np.unique(units, return_index=True, return_inverse=True)
    # np.unique sorts by value; spans need the units in the order of the piece.
    unit_index = np.argsort(np.argsort(first))[inverse]
    members = np.split(np.argsort(unit_index, kind="stable"), np.cumsum(np.bincount(unit_index))[:-1])
    hidden = np.zeros(len(units), bool)
    for start in rng.permutation(len(names)):
        run = 1 if span <= 1 else int(rng.geometric(1 / span))
        for unit in range(start, min(start + run, len(names))):
            if hidden.sum() >= num_hidden:
                return free[hidden]
            hidden[members[unit]] = True
    return free[hidden]


def _blocks(piece: Piece, free: Ints, num_hidden: int, rng: np.random.Generator) -> Ints:
    """Choose exactly `num_hidden` tokens to hide, in random axis-aligned blocks of positions; return their indices.

    free: (f,), indices of the tokens that may be hidden. Of a block with more tokens than are missing, a random part is hidden.
    """
    places = piece.positions[free]
    extent = places.max(axis=0) - places.min(axis=0) + 1
    hidden = np.zeros(len(free), bool)
    while (missing := num_hidden - int(hidden.sum())) > 0:
        # A block of about the missing area, its sides varied by up to e^±0.4.
        share = min(1.0, missing / len(free))
        size = np.maximum(
            1, np.round(extent * share ** (1 / len(extent)) * np.exp(rng.uniform(-0.4, 0.4, len(extent))))
        )
        corner = places[rng.integers(len(free))] - rng.integers(0, size.astype(np.int64))
        is_in_block = ((places >= corner) & (places < corner + size)).all(axis=1) & ~hidden
        hidden[rng.permutation(np.flatnonzero(is_in_block))[:missing]] = True
    return free[hidden]


def hide_tokens(
    piece: Piece, hidden: Ints, mask_id: int, vocabulary: int, corruption: Corruption, rng: np.random.Generator
) -> Piece:
    """Return the piece with each hidden token id replaced by the mask token or by a random id, or left as it is.

    hidden: (m,), indices of the tokens that count as hidden.
    mask_id: id of the mask token.
    vocabulary: number of ids, from which random ids are drawn.
    corruption: its `random` and `kept` are the shares replaced by random ids and left as they are.
    """
    tokens = piece.tokens.copy()
    replacements = np.full(len(hidden), mask_id, dtype=tokens.dtype)
    if corruption.random or corruption.kept:
        draws = rng.random(len(hidden))
        replacements = np.where(draws < corruption.random, rng.integers(0, vocabulary, len(hidden)), replacements)
        replacements = np.where(draws >= 1 - corruption.kept, tokens[hidden], replacements)
    tokens[hidden] = replacements
    return replace(piece, tokens=tokens)
