"""match: the answer of `<->`, whether two values belong together: the cosine of their vectors.

There is no head: both values of a pair are read by the same Transformer, and training moves the vectors themselves. Without
scores, the other rows' values are the wrong candidates of each query (in-batch negatives, Henderson et al. 2017,
https://arxiv.org/abs/1705.00652). With scores, the cosines are put in the order of the scores.

Legend of shapes: n pairs, q queries, c candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.intervals import mean_score
from mapsto.metrics.regression import pearson, spearman
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import MATCH
from mapsto.task.readout import Sides
from mapsto.task.target import Metric, State, Target
from mapsto.task.target_capabilities import Comparable

# Divides the cosines before the softmax: 0.05, as sentence-transformers and SimCSE (Gao et al. 2021) have it.
TEMPERATURE = 0.05


class _Similarity(Target):
    """A target that answers for a pair of values with the cosine of their vectors."""

    kind = MATCH
    readout = Sides()

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Learn nothing: there is no head."""

    def state(self) -> State:
        return {}

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the identity, since vectors are compared as they are."""
        return nn.Identity()

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"score": cosine} for each pair. output: (n,), the cosines."""
        return [{"score": score} for score in output.double().clamp(-1, 1).tolist()]

    def baseline(self, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return {}: no constant answer ranks anything."""
        return {}


class Match(_Similarity, Comparable):
    """The target of pairs without scores: to find the value that belongs to a query among all others."""

    primary_metric = "mrr"

    @staticmethod
    def samples() -> list[Any]:
        """Return one cell: a row of the table is a pair that matches, which no cell has to say."""
        return [None]

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return False: a match is not in a column."""
        return False

    @staticmethod
    def read(cell: object) -> None:
        """Return None: a match is not in a column."""

    def learn(self, answers: Sequence[Any], balance: bool = False) -> None:
        """Check that there is a pair to compare another one with. Raises DataError if there is one pair alone."""
        if len(answers) < 2:
            raise DataError("a single pair has no other one to be compared with; two are needed")

    def encode(self, answer: None, pieces: Sequence[Piece]) -> Answer:
        """Return 1: the pair matches."""
        return Answer(np.ones((), np.float32))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy of the right candidate of each query, summed over queries.

        output: (q, c), cosines; −∞ for candidates that are left out. values: (q,), the index of the right candidate.
        """
        return F.cross_entropy(output.float() / TEMPERATURE, values, reduction="sum")

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return MRR and the share of queries whose first candidate is right. output: (n,), the rank of the best right one."""
        ranks = output.double().numpy()
        return {"mrr": (mean_score, 1 / ranks), "hit@1": (mean_score, (ranks == 1).astype(np.float64))}

    def per_item_metric(self, output: Tensor, answers: Sequence[Any]) -> NDArray[np.float32]:
        """Return the reciprocal rank of the best right candidate of each query, (n,). output: (n,), its rank."""
        return (1 / output.numpy()).astype(np.float32)


class ScoredMatch(_Similarity):
    """The target of pairs with scores, whose cosines shall have the order of the scores."""

    published_scores: ClassVar[list[Any]] = [0.0, 1, "4.5"]

    @staticmethod
    def samples() -> list[Any]:
        """Return a decimal number, a whole one, and one written as text."""
        return list(ScoredMatch.published_scores)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column are finite numbers; cells that are None are ignored."""
        try:
            return bool([ScoredMatch.read(value) for value in values if value is not None])
        except BadCell:
            return False

    @staticmethod
    def read(cell: object) -> float:
        """Return the score in a cell. Raises BadCell if it is not a finite number."""
        try:
            score = float("nan") if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
        except (OverflowError, TypeError, ValueError):
            score = float("nan")
        if not np.isfinite(score):
            raise BadCell("the score is blank" if cell is None else "the score of a pair is a finite number")
        return score

    def learn(self, answers: Sequence[float], balance: bool = False) -> None:
        """Check the training scores. Raises DataError if all are the same, since then they give no order."""
        if len(set(answers)) < 2:
            raise DataError("every pair has the same score; leave the score out if all pairs match")

    def encode(self, answer: float, pieces: Sequence[Piece]) -> Answer:
        """Return the score."""
        return Answer(np.asarray(answer, np.float32))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return n times the CoSENT loss (Su 2022, https://kexue.fm/archives/8847): ln(1 + Σ exp(wrong difference / T)).

        The sum is over all pairs i, j with score i > score j, the difference is cosine j − cosine i.
        output, values: (n,), cosines and scores.
        """
        differences = (output[None, :] - output[:, None]).float() / TEMPERATURE
        wrong = differences[values[:, None] > values[None, :]]
        return len(output) * torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), 0)

    def metrics(self, output: Tensor, answers: Sequence[float]) -> dict[str, Metric]:
        """Return the correlation of cosines and scores, by ranks ("spearman") and by values ("pearson"). output: (n,)."""
        scores, labels = output.double().numpy(), np.asarray(answers, np.float64)
        return {"spearman": (spearman, scores, labels), "pearson": (pearson, scores, labels)}


# The answers of `<->`: without scores, and with them.
matched: type[Target] = Match
scored: type[Target] = ScoredMatch
