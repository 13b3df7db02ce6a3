"""Metrics of search: the ranks of the right candidates of each query, and what they say (Manning et al. 2008, chapter 8).

Equal values are one query or one candidate, and all candidates that stand beside a query in some row are right for it. Of
candidates with equal scores the earlier one in the table ranks first.
Legend of shapes: n rows, q distinct queries, c distinct candidates, r right candidates of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# With more right candidates, ranking all candidates once is faster than counting for each right one those above it.
MANY_RIGHT = 16


@dataclass(frozen=True)
class Relevance:
    """The distinct queries and candidates of a table of pairs, and which candidates are right for which query.

    query_of_row, candidate_of_row: (n,), the number of the distinct query and candidate of each row, by first occurrence.
    """

    query_of_row: Ints
    candidate_of_row: Ints

    @classmethod
    def of_pairs(cls, query_keys: Sequence[Hashable], candidate_keys: Sequence[Hashable]) -> Relevance:
        """Return the relevance of the pairs of n rows. query_keys, candidate_keys: (n,); equal keys are equal values."""
        return cls(number_by_occurrence(query_keys), number_by_occurrence(candidate_keys))

    @property
    def reverse(self) -> Relevance:
        """The same pairs, searched the other way: the candidates are the queries."""
        return Relevance(self.candidate_of_row, self.query_of_row)

    def without_itself(self, scores: NDArray[Any], start: int) -> NDArray[Any]:
        """Return the scores (k, c) of the queries from number `start` on, −∞ for a candidate that is the query itself."""
        return scores

    @cached_property
    def query_rows(self) -> Ints:
        """The first row of each distinct query, (q,)."""
        return np.unique(self.query_of_row, return_index=True)[1]

    @cached_property
    def candidate_rows(self) -> Ints:
        """The first row of each distinct candidate, (c,)."""
        return np.unique(self.candidate_of_row, return_index=True)[1]

    @cached_property
    def right(self) -> list[Ints]:
        """For each distinct query the sorted numbers of its right candidates, q arrays (r,)."""
        pairs = np.unique(np.stack([self.query_of_row, self.candidate_of_row], axis=1), axis=0)
        return np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)


@dataclass(frozen=True)
class GroupRelevance(Relevance):
    """The relevance of texts to each other: all other texts of a text's groups are right for it.

    group_of_row: (n,), the number of the group of each row.
    self_candidates: (q,), the number of the candidate that is the query itself, or −1.
    """

    group_of_row: Ints
    self_candidates: Ints

    @classmethod
    def of_groups(
        cls, query_keys: Sequence[Hashable], candidate_keys: Sequence[Hashable], groups: Sequence[Hashable]
    ) -> GroupRelevance:
        """Return the relevance of n texts to those of their groups. query_keys: the texts, (n,). candidate_keys: others, (n,).

        The candidate of a row is of the group of its text. groups: (n,), the group of each row.
        """
        candidate_numbers: dict[Hashable, int] = {}
        candidates = [candidate_numbers.setdefault(key, len(candidate_numbers)) for key in candidate_keys]
        self_candidates = [candidate_numbers.get(key, -1) for key in dict.fromkeys(query_keys)]
        numbers = (number_by_occurrence(query_keys), np.array(candidates, np.int64), number_by_occurrence(groups))
        return cls(*numbers, np.array(self_candidates, np.int64))

    @property
    def reverse(self) -> Relevance:
        """The same: texts are searched among themselves."""
        return self

    @cached_property
    def right(self) -> list[Ints]:
        """For each distinct query the sorted numbers of the other candidates of its groups, q arrays (r,)."""
        order = np.argsort(self.group_of_row, kind="stable")
        ends = np.flatnonzero(np.diff(self.group_of_row[order])) + 1
        members = [self.candidate_of_row[rows] for rows in np.split(order, ends)]
        groups_of: list[set[int]] = [set() for _ in self.query_rows]
        for query, group in zip(self.query_of_row.tolist(), self.group_of_row.tolist(), strict=True):
            groups_of[query].add(group)
        return [
            np.setdiff1d(np.concatenate([members[group] for group in sorted(groups)]), candidate)
            for groups, candidate in zip(groups_of, self.self_candidates.tolist(), strict=True)
        ]

    def without_itself(self, scores: NDArray[Any], start: int) -> NDArray[Any]:
        candidates = self.self_candidates[start : start + len(scores)]
        rows = np.flatnonzero(candidates >= 0)
        scores = scores.copy()
        scores[rows, candidates[rows]] = -np.inf
        return scores


def number_by_occurrence(keys: Sequence[Hashable]) -> Ints:
    """Return the number of each key, (n,), where different keys are numbered in the order of their first occurrence."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def right_ranks(scores: NDArray[Any], right: Sequence[Ints]) -> list[Ints]:
    """Return for each query the ranks of its right candidates, from 1, in ascending order.

    scores: (q, c), the higher the better. right: for each query the numbers of its right candidates.
    """
    return [_ranks(scores[query], numbers) for query, numbers in enumerate(right)]


def _ranks(scores: NDArray[Any], right: Ints) -> Ints:
    """Return the sorted ranks, (r,), of the candidates `right` by their scores (c,)."""
    if len(right) > MANY_RIGHT:
        ranks = np.empty(len(scores), np.int64)
        ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return np.sort(ranks[right])
    return np.sort([1 + (scores > scores[i]).sum() + (scores[:i] == scores[i]).sum() for i in right.tolist()])


def reciprocal_rank(ranks: Ints) -> float:
    """Return 1 / rank of the best right candidate; its mean over queries is the MRR (Voorhees 1999)."""
    return 1.0 / float(ranks[0])


def recall(ranks: Ints, depth: int) -> float:
    """Return the share of the right candidates that are among the first `depth`."""
    return float((ranks <= depth).mean())


def ndcg(ranks: Ints, depth: int) -> float:
    """Return the normalised discounted cumulative gain of the first `depth` candidates (Järvelin & Kekäläinen 2002).

    A right candidate gains 1 / log₂(1 + rank); the sum is divided by that of the best possible ranking.
    """
    gains = (1 / np.log2(1 + ranks[ranks <= depth])).sum()
    return float(gains / (1 / np.log2(1 + np.arange(1, min(depth, len(ranks)) + 1))).sum())


# The metrics by name, each of the sorted ranks of one query's right candidates. The score of a model is the mean over queries.
METRICS: dict[str, Callable[[Ints], float]] = {
    "recall@1": lambda ranks: recall(ranks, 1),
    "recall@10": lambda ranks: recall(ranks, 10),
    "mrr": reciprocal_rank,
    "ndcg@10": lambda ranks: ndcg(ranks, 10),
}


def by_query(ranks: Sequence[Ints]) -> dict[str, Floats]:
    """Return each metric of METRICS for every query, (q,). ranks: the result of `right_ranks`."""
    return {name: np.array([metric(numbers) for numbers in ranks]) for name, metric in METRICS.items()}
