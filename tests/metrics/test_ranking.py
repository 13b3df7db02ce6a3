"""Ranks and metrics of search: equal to trec_eval's, ties in the order of the table, equal values counted once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.metrics import ranking
from mapsto.metrics.ranking import Relevance, by_query, right_ranks

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), min_size=1, max_size=40)


@given(pairs)
def test_every_pair_is_right_and_nothing_else(rows: list[tuple[int, int]]) -> None:
    relevance = Relevance.of_pairs(*zip(*rows, strict=True))
    queries = [rows[row][0] for row in relevance.query_rows]
    candidates = [rows[row][1] for row in relevance.candidate_rows]
    assert len(set(queries)) == len(queries) and len(set(candidates)) == len(candidates)
    right = {(queries[q], candidates[c]) for q, numbers in enumerate(relevance.right) for c in numbers.tolist()}
    assert right == set(rows)
    reverse = relevance.reverse
    assert {(candidates[c], queries[q]) for c, numbers in enumerate(reverse.right) for q in numbers.tolist()} == {
        (candidate, query) for query, candidate in rows
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.booleans())
def test_ranks_are_those_of_a_stable_sort(seed: int, num_right: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(1, 80))
    scores = scores.round() if coarse else scores  # rounded scores have many ties
    right = np.sort(rng.permutation(80)[:num_right])
    order = sorted(range(80), key=lambda i: -scores[0, i])  # Python's sort is stable
    (ranks,) = right_ranks(scores, [right])
    assert ranks.tolist() == sorted(order.index(i) + 1 for i in right)


def test_metrics_by_hand() -> None:
    values = {name: metric(np.array([2, 5])) for name, metric in ranking.METRICS.items()}
    gain = 1 / np.log2(3) + 1 / np.log2(6)
    assert values == pytest.approx({"recall@1": 0, "recall@10": 1, "mrr": 0.5, "ndcg@10": gain / (1 + 1 / np.log2(3))})
    assert ranking.ndcg(np.arange(1, 31), 10) == pytest.approx(1), "a perfect ranking of more than ten"
    assert ranking.ndcg(np.array([11]), 10) == 0


def test_metrics_are_those_of_trec_eval() -> None:
    trec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 50))
    right = [np.sort(rng.permutation(50)[: 1 + i % 20]) for i in range(30)]
    names = {"recall@1": "recall_1", "recall@10": "recall_10", "mrr": "recip_rank", "ndcg@10": "ndcg_cut_10"}
    truth = {str(query): {str(number): 1 for number in numbers} for query, numbers in enumerate(right)}
    run = {str(query): {str(i): float(score) for i, score in enumerate(row)} for query, row in enumerate(scores)}
    expected = trec_eval.RelevanceEvaluator(truth, {"recall.1,10", "recip_rank", "ndcg_cut.10"}).evaluate(run)
    for name, values in by_query(right_ranks(scores, right)).items():
        assert values.tolist() == pytest.approx([expected[str(query)][names[name]] for query in range(30)]), name
