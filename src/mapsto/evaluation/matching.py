"""Scores of a model that matches pairs: how well it finds the right candidate among all of a table, beside a simple ranking.

Every distinct query is compared with every distinct candidate of the table, in both directions, and the intervals resample
queries. With a score for each pair it is the correlation of cosines and scores instead.
Legend of shapes: q queries, c candidates, d width, n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mapsto import kinds
from mapsto.data.encoding import EncodedRows, encode_sides
from mapsto.data.grouping.row_groups import find_independent_groups
from mapsto.data.rows import Rows, load_rows, require_readable, side_keys
from mapsto.data.table import Table
from mapsto.errors import Finding
from mapsto.evaluation.verification import comes_in_groups, verify_pairs, verify_values
from mapsto.inference.forward import embed_examples
from mapsto.metrics.intervals import Floats, Score, mean_score, with_interval, with_intervals
from mapsto.metrics.ranking import GroupRelevance, Ints, Relevance, by_query, number_by_occurrence, right_ranks
from mapsto.model.mapping import Mapping
from mapsto.options import RowPolicy
from mapsto.sequence.batch import Example
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Describable

# Queries whose scores of all candidates are in memory at a time.
QUERIES_AT_ONCE = 256

# Computes the scores (k, c) of all candidates for the queries from one number to another.
ScoreQueries = Callable[[int, int], NDArray[Any]]


def load_pairs(arrow: Arrow, table: Table, policy: RowPolicy) -> tuple[Rows, list[Finding]]:
    """Return the pairs of a table, without hard negatives, and findings about unreadable rows.

    Raises DataError for unreadable rows, unless the policy allows them.
    """
    rows = load_rows(arrow.pair, table)
    return rows, require_readable(rows, policy)


def pairs_of(rows: Rows) -> Rows:
    """Return rows of a matching arrow without their hard negatives."""
    return replace(rows, arrow=rows.arrow.pair, sources=rows.sources[:2])


def encode_pairs(mapping: Mapping, rows: Rows) -> EncodedRows:
    """Return the pairs, each value encoded as an example of its own."""
    assert mapping.config.sentence is not None
    return encode_sides(rows, mapping.sources, mapping.config.sentence)


def relevance(rows: Rows) -> Relevance:
    """Return the distinct queries and candidates of rows, by their texts without case and spaces."""
    queries, candidates = side_keys(rows)[:2]
    if rows.arrow.is_grouped:
        return GroupRelevance.of_groups(queries, candidates, rows.targets[0])
    return Relevance.of_pairs(queries, candidates)


def unit_vectors(
    mapping: Mapping, encoded: EncodedRows, side: int, rows: Sequence[int] | Ints, device: torch.device
) -> Tensor:
    """Return the vectors of the values on one side of some rows, scaled to length 1, (n, d) on the CPU."""
    examples: Iterator[Example] = (
        Example((encoded.pieces[row][side],), (), index) for index, row in enumerate(map(int, rows))
    )
    vectors = embed_examples(mapping, examples, len(rows), device, mapping.sentence_vectors)
    return F.normalize(torch.from_numpy(vectors), dim=-1)


def cosines(mapping: Mapping, encoded: EncodedRows, device: torch.device) -> Tensor:
    """Return the cosine of the vectors of each pair, (n,)."""
    rows = range(len(encoded.pieces))
    queries, passages = (unit_vectors(mapping, encoded, side, rows, device) for side in (0, 1))
    return (queries * passages).sum(-1).clamp(-1, 1)


def rank_pairs(
    mapping: Mapping, rows: Rows, encoded: EncodedRows, device: torch.device
) -> tuple[Relevance, list[Ints], list[Ints]]:
    """Return the relevance of the rows, and the ranks of the right candidates of each query in both directions.

    encoded: the result of `encode_pairs` for the rows.
    """
    pairs = relevance(rows)
    queries = unit_vectors(mapping, encoded, 0, pairs.query_rows, device)
    candidates = unit_vectors(mapping, encoded, 1, pairs.candidate_rows, device)
    return (
        pairs,
        _rank(pairs, lambda start, end: (queries[start:end] @ candidates.T).numpy()),
        _rank(pairs.reverse, lambda start, end: (candidates[start:end] @ queries.T).numpy()),
    )


def ranker_name(arrow: Arrow) -> str:
    """Return the ranking without a model in words, such as "BM25" for texts; an empty string if the kind has none."""
    kind = kinds.source(arrow.sources[0].kind)
    return kind.ranker_name if issubclass(kind, Describable) else ""


def rank_without_model(rows: Rows) -> tuple[Relevance, list[Ints], list[Ints]]:
    """Return what `rank_pairs` does, by the ranking without a model of the kind, such as BM25. The kind is `Describable`."""
    pairs = relevance(rows)
    queries = [rows.sources[0][row] for row in pairs.query_rows.tolist()]
    candidates = [rows.sources[1][row] for row in pairs.candidate_rows.tolist()]
    kind = kinds.source(rows.arrow.sources[0].kind)
    assert issubclass(kind, Describable)
    forward, backward = kind.fit_ranker(candidates), kind.fit_ranker(queries)
    return (
        pairs,
        _rank(pairs, lambda start, end: forward(queries[start:end])),
        _rank(pairs.reverse, lambda start, end: backward(candidates[start:end])),
    )


def _rank(pairs: Relevance, score: ScoreQueries) -> list[Ints]:
    """Return the ranks of the right candidates of each query."""
    ranks: list[Ints] = []
    for start in range(0, len(pairs.right), QUERIES_AT_ONCE):
        end = min(start + QUERIES_AT_ONCE, len(pairs.right))
        ranks += right_ranks(pairs.without_itself(score(start, end), start), pairs.right[start:end])
    return ranks


def best_ranks(queries: Tensor, candidates: Tensor, pairs: Relevance) -> Tensor:
    """Return for each row the rank of the best right candidate of its query among the distinct candidates, (n,).

    queries, candidates: (n, d), vectors of length 1 of the values of each row.
    """
    distinct, searched = (
        vectors[torch.from_numpy(rows)]
        for vectors, rows in ((queries, pairs.query_rows), (candidates, pairs.candidate_rows))
    )
    return row_ranks(pairs, _rank(pairs, lambda start, end: (distinct[start:end] @ searched.T).numpy()))


def row_ranks(pairs: Relevance, ranks: Sequence[Ints]) -> Tensor:
    """Return the rank of the best right candidate of each row's query, (n,). ranks: those of each distinct query."""
    return torch.tensor([int(ranks[query][0]) for query in pairs.query_of_row.tolist()])


def score_pairs(
    mapping: Mapping, rows: Rows, encoded: EncodedRows, device: torch.device, group: str | None = None
) -> dict[str, Score]:
    """Return the scores of a model on pairs by name, such as "query→passage recall@1".

    encoded: of `encode_pairs`. group: `--group`, the column of the groups of rows that intervals resample, see `find_groups`.
    """
    if rows.arrow.is_scored:
        outputs = cosines(mapping, encoded, device)
        scores = with_intervals(mapping.targets[0].metrics(outputs, rows.targets[0]), _row_groups(rows, group))
        return scores | verify_pairs(rows, outputs.double().numpy(), group)
    scores = _with_intervals(rows, group, *rank_pairs(mapping, rows, encoded, device))

    def cosines_of(first: Ints, second: Ints) -> Floats:
        queries = unit_vectors(mapping, encoded, 0, first, device)
        return (queries @ unit_vectors(mapping, encoded, 1, second, device).T).double().numpy()

    return scores | verify_values(rows, cosines_of, group)


def score_baseline(rows: Rows, group: str | None = None) -> dict[str, Score]:
    """Return the scores of the ranking without a model, by the same names as `score_pairs`; empty for pairs with scores.

    group: as there.
    """
    kind = kinds.source(rows.arrow.sources[0].kind)
    if rows.arrow.is_scored or not issubclass(kind, Describable):
        return {}

    def score(first: Ints, second: Ints) -> Floats:
        candidates = [rows.sources[1][row] for row in second.tolist()]
        scores: Floats = kind.fit_ranker(candidates)([rows.sources[0][row] for row in first.tolist()])
        return scores

    return _with_intervals(rows, group, *rank_without_model(rows)) | verify_values(rows, score, group)


def _row_groups(rows: Rows, group: str | None) -> Ints | None:
    """Return the number of the group of each row, (n,), that intervals resample; None to resample single queries or pairs."""
    groups = find_independent_groups(rows, group)
    if groups is None and group is None and rows.arrow.is_grouped and comes_in_groups(rows):
        return number_by_occurrence(rows.targets[0])
    return None if groups is None else groups.numbers


def _with_intervals(
    rows: Rows, group: str | None, pairs: Relevance, forward: Sequence[Ints], backward: Sequence[Ints]
) -> dict[str, Score]:
    """Return the metrics of both directions with intervals over queries, or over the groups of their rows.

    pairs: the relevance of the rows. forward, backward: the ranks of each query.
    """
    groups = _row_groups(rows, group)
    query, passage = (port.column or port.kind for port in rows.arrow.sources[:2])
    directions = ((query, passage, forward, pairs.query_rows), (passage, query, backward, pairs.candidate_rows))
    return {
        f"{source}→{found} {name}": with_interval(mean_score, values, groups=None if groups is None else groups[first])
        # Values of one column are searched in one direction.
        for source, found, ranks, first in directions[: 1 if rows.arrow.is_grouped else 2]
        for name, values in by_query(ranks).items()
    }
