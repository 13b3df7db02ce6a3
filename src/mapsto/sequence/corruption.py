"""What to hide: which tokens of a piece `~` takes away, and what stands in their place.

Units are words, patches or whatever a kind counts as one; positions have 1, 2 or 3 axes, so every kind can use this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mapsto.errors import UsageError
from mapsto.sequence.piece import Ints, Piece, Role

CorruptionShape = Literal["token", "word", "span", "block"]


CAUSAL_SHARES = {"causal": 1.0, "hybrid": 1 / 16}


FILLS_NOTHING = "this model puts a token back from those before it alone, so it fills nothing in"


LATE, LATE_SHARES = 0.5, {"mae": 1.0}  # what is left of the rate late in training


@dataclass(frozen=True)
class Corruption:
    """How much is hidden, in what shape, and what is seen instead.

    The rate falls from `rate` to `final_rate` over the last 40 % of training: 30 % hidden teaches faster, 15 % is closer
    to clean text (RECIPES: Wettig et al. 2023; GPT-BERT 2024). `shape`: single tokens, whole words, spans of words of
    geometric length with mean `span` (SpanBERT, Joshi et al. 2020), or axis-aligned blocks (BEiT, Bao et al. 2022). Of a
    stack of pictures a word is one place in all of them (the tubes of VideoMAE, Tong et al. 2022).
    Of the hidden tokens the share `random` shows a random token and `kept` shows itself; the rest shows the mask.
    causal: the share of examples of which nothing is hidden but what comes later: each token is put back from those before
    it. 1 is a causal language model; between 0 and 1 one stack learns both ways (GPT-BERT, Charpentier & Samuel 2024).
    ahead: how many places before its own a token is told; 1 where some examples are causal, so that both ways share a head.
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
            raise UsageError("tokens are told at their own place or, where examples are causal, one before it")

    @classmethod
    def of(cls, objective: str, hide: float, shape: CorruptionShape) -> Corruption:
        """What the objective of a run hides: `hide` of the tokens, mostly half of that late in training."""
        late, causal = hide * LATE_SHARES.get(objective, LATE), CAUSAL_SHARES.get(objective, 0.0)
        return cls(hide, late, shape, causal=causal, ahead=int(causal > 0))

    def rate_at(self, progress: float) -> float:
        """The share to hide when `progress` (0 to 1) of training is done."""
        return self.rate + (self.final_rate - self.rate) * max(0.0, (progress - 0.6) / 0.4)


def make_generator(seed: int, row: int, step: int) -> np.random.Generator:
    """Random numbers that are a function of (seed, row, step) alone, and not of what ran before."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, (row << 32 | step) % 2**64]))


def read_causally(piece: Piece) -> tuple[Piece, Ints]:
    """The piece as it is read from its start on, and the tokens that are told: all behind its opening frame."""
    return replace(piece, role=Role.CAUSAL), np.arange(int(np.argmin(piece.special)), len(piece))


def choose_hidden(corruption: Corruption, piece: Piece, rng: np.random.Generator, progress: float = 0.0) -> Ints:
    """The indices of the tokens to hide, in order; where any are hidden, at least one that may be."""
    free = np.flatnonzero(~piece.special)
    rate = corruption.rate_at(progress)
    if not len(free) or not rate:
        return free[:0]
    wanted = max(1, round(rate * len(free)))
    if corruption.shape == "token":
        return np.sort(rng.permutation(free)[:wanted])
    if corruption.shape == "block":
        return _blocks(piece, free, wanted, rng)
    units = piece.units if piece.units is not None else np.arange(len(piece))
    return _words(units[free], free, wanted, corruption.span if corruption.shape == "span" else 1.0, rng)


def _words(units: Ints, free: Ints, wanted: int, span: float, rng: np.random.Generator) -> Ints:
    """Whole units, in runs of geometric length of mean `span`, until `wanted` tokens are hidden."""
    names, first, which = np.unique(units, return_index=True, return_inverse=True)
    of = np.argsort(np.argsort(first))[which]
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    hidden = np.zeros(len(units), bool)
    for start in rng.permutation(len(names)):
        run = 1 if span <= 1 else int(rng.geometric(1 / span))
        for unit in range(start, min(start + run, len(names))):
            if hidden.sum() >= wanted:
                return free[hidden]
            hidden[members[unit]] = True
    return free[hidden]


def _blocks(piece: Piece, free: Ints, wanted: int, rng: np.random.Generator) -> Ints:
    """Axis-aligned blocks over the positions, the last one thinned to the number wanted."""
    places = piece.positions[free]
    extent = places.max(axis=0) - places.min(axis=0) + 1
    hidden = np.zeros(len(free), bool)
    while (missing := wanted - int(hidden.sum())) > 0:
        share = min(1.0, missing / len(free))
        size = np.maximum(
            1, np.round(extent * share ** (1 / len(extent)) * np.exp(rng.uniform(-0.4, 0.4, len(extent))))
        )
        corner = places[rng.integers(len(free))] - rng.integers(0, size.astype(np.int64))
        inside = ((places >= corner) & (places < corner + size)).all(axis=1) & ~hidden
        hidden[rng.permutation(np.flatnonzero(inside))[:missing]] = True
    return free[hidden]


def hide_tokens(
    piece: Piece, hidden: Ints, mask_id: int, vocabulary: int, corruption: Corruption, rng: np.random.Generator
) -> Piece:
    """A piece of ids with the hidden ones replaced by the mask, or by what the corruption's shares say."""
    tokens = piece.tokens.copy()
    shown = np.full(len(hidden), mask_id, dtype=tokens.dtype)
    if corruption.random or corruption.kept:
        fate = rng.random(len(hidden))
        shown = np.where(fate < corruption.random, rng.integers(0, vocabulary, len(hidden)), shown)
        shown = np.where(fate >= 1 - corruption.kept, tokens[hidden], shown)
    tokens[hidden] = shown
    return replace(piece, tokens=tokens)
