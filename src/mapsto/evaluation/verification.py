"""Verification: whether two values are of one group, such as two recordings of one speaker, for kinds that come in groups.

Pairs with scores of 0 and 1 are the trials. Without scores, each value is compared with each other one. Which values are of one
speaker is said by a column of speakers, by the label of the arrow, or by the pairs: a chain of pairs of one speaker joins them.
Legend of shapes: n rows, q queries, c candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.data.grouping.row_groups import find_independent_groups, group_nouns
from mapsto.data.rows import Rows, normalize, side_keys
from mapsto.metrics.intervals import Floats, Score
from mapsto.metrics.ranking import Ints, number_by_occurrence
from mapsto.metrics.verification import verification_scores
from mapsto.task.source_capabilities import Grouped
from mapsto.text.pairs.groups import number_components

# The most values on a side that are compared with each other: 9 million trials.
MAX_VALUES = 3000

# Returns the scores (q, c) of the values of the first side in some rows for those of the second side in others.
ScoreValues = Callable[[Ints, Ints], Floats]


def comes_in_groups(rows: Rows) -> bool:
    """Return whether the values of a matching arrow are of a kind that comes in groups, such as recordings."""
    return issubclass(kinds.source(rows.arrow.sources[0].kind), Grouped)


def describe_trials(rows: Rows, group: str | None = None) -> list[str]:
    """Return the sentences on the trials of the error rates: over which groups they are, and of how many values."""
    if not comes_in_groups(rows) or (rows.arrow.is_scored and not set(rows.targets[0]) <= {0.0, 1.0}):
        return []
    is_one = np.asarray(rows.targets[0], np.float64) == 1 if rows.arrow.is_scored else np.ones(len(rows), np.bool_)
    num_groups = len(np.unique(np.concatenate(_owners(rows, is_one, group))))
    noun = group_nouns(rows.arrow)[0]
    sentences = [
        f"eer and min_dcf are of pairs of values; their intervals resample the {num_groups:,} different {noun}s"
    ]
    count = len(set(side_keys(rows)[0]))
    if count > MAX_VALUES and not rows.arrow.is_scored:
        sentences.append(f"they are of pairs among about {MAX_VALUES:,} of the {count:,} values")
    return sentences


def verify_pairs(rows: Rows, scores: Floats, group: str | None = None) -> dict[str, Score]:
    """Return the error rates of pairs with labels 0 and 1, (n,); empty for other scores, and for kinds without groups.

    scores: (n,), high for values of one group. group: `--group`, see `find_groups`.
    """
    labels = np.asarray(rows.targets[0], np.float64)
    if not comes_in_groups(rows) or not set(np.unique(labels)) <= {0.0, 1.0}:
        return {}
    first, second = _owners(rows, labels == 1, group)
    return verification_scores(scores, labels == 1, first, second)


def verify_values(rows: Rows, score: ScoreValues, group: str | None = None) -> dict[str, Score]:
    """Return the error rates of all trials of a value of the first side and one of the second; empty for kinds without groups.

    group: `--group`, see `find_groups`.
    """
    if not comes_in_groups(rows):
        return {}
    keys = side_keys(rows)[:2]
    owners = _owners(rows, np.ones(len(rows), np.bool_), group)
    # The first row of each distinct value.
    first, second = (_sample(np.unique(number_by_occurrence(side), return_index=True)[1]) for side in keys)
    if rows.arrow.is_grouped:
        second = _rows_of_partners(keys, first)
    scores = score(first, second)
    # Equal values of both sides have one number.
    numbers = number_by_occurrence([*keys[0], *keys[1]]).reshape(2, -1)
    left, right = numbers[0, first][:, None], numbers[1, second][None, :]
    # A value is no trial with itself, and two values are one trial.
    is_trial = left < right if rows.arrow.is_grouped else left != right
    speakers = np.broadcast_arrays(owners[0][first][:, None], owners[1][second][None, :])
    one, other = (side[is_trial] for side in speakers)
    return verification_scores(scores[is_trial].astype(np.float64), one == other, one, other)


def _sample(rows: Ints) -> Ints:
    """Return at most MAX_VALUES of some rows, at regular distances."""
    return rows[:: -(-len(rows) // MAX_VALUES)] if len(rows) else rows


def _rows_of_partners(keys: Sequence[Sequence[str]], first: Ints) -> Ints:
    """Return for values of one column, by their rows `first`, the rows in which they stand on the second side."""
    row_of = {key: row for row, key in enumerate(keys[1])}
    return np.array([row_of[keys[0][row]] for row in first.tolist() if keys[0][row] in row_of], np.int64)


def _owners(rows: Rows, is_one: NDArray[np.bool_], group: str | None) -> tuple[Ints, Ints]:
    """Return the number of the group, such as the speaker, of the value on each side of each row, (n,) each.

    is_one: (n,), whether both values of a row are of one group.
    """
    first, second = ([("value", key) for key in side] for side in side_keys(rows)[:2])
    links: list[tuple[Sequence[Hashable], Sequence[Hashable]]] = [(first, first), (second, second)]
    same = np.flatnonzero(is_one).tolist()
    links.append(([first[row] for row in same], [second[row] for row in same]))
    if rows.arrow.is_grouped:
        links.append((first, [("group", str(label)) for label in rows.targets[0]]))
    groups = find_independent_groups(rows, group)
    if groups is not None and len(groups.columns) == 2:
        for side, column in zip((first, second), groups.columns, strict=True):
            cells = [rows.table.column(column)[row] for row in rows.indices.tolist()]
            named = [index for index, cell in enumerate(cells) if cell is not None]
            links.append(([side[i] for i in named], [("owner", normalize(str(cells[i]))) for i in named]))
    elif groups is not None and not rows.arrow.is_scored:
        links.append((first, [("row", number) for number in groups.numbers.tolist()]))
    components = number_components(([*first, *second], [*first, *second]), *links)
    return components[: len(rows)], components[len(rows) :]
