"""Faithfulness of explanations: a measurement of whether the model relies on the parts with the largest weights.

Parts are removed from the input in the order of their weights, in random order and in reverse order, and the model answers
again. The quantity followed is the probability of the original answer or, for answers without probabilities, their score.
Three measures summarise how it falls: comprehensiveness and sufficiency (ERASER, DeYoung et al. 2020) and the area under the
deletion curve (Petsiuk et al. 2018). An example costs 36 forward passes: three orders with nine deletions and three retentions.
Legend of shapes: n examples, o orders, s shares of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mapsto.data.rows import Rows, require_any_readable
from mapsto.data.table import Table
from mapsto.errors import Finding
from mapsto.explain.attribution import EXPLAINED_AT_ONCE, Explainer, Explanation, split_parts
from mapsto.metrics.intervals import Floats, Score, to_json, with_interval
from mapsto.progress import Progress
from mapsto.report.results import SHOWN_ROWS, ResultTable, Tabular
from mapsto.sequence.batch import Example
from mapsto.sequence.piece import Ints
from mapsto.task.target_capabilities import has_exclusive_classes

# Shares of the parts to delete, and shares of the parts to retain when all others are deleted.
DELETED_SHARES = tuple(tenth / 10 for tenth in range(1, 10))
RETAINED_SHARES = (0.1, 0.2, 0.5)

ORDERS = ("explained", "random", "reversed")

SAMPLE_SIZE = 100  # rows measured at most: the intervals are narrow enough, and it takes seconds
MEASURED_AT_ONCE = 20


@dataclass(frozen=True)
class Measure:
    """One faithfulness measure of an attribution method, and how much better it is than with other orders of deleting the parts.

    value: mean over the examples, with parts deleted in the order of their weights.
    over_random, over_reversed: mean difference to the measure with random and with reverse order, with the sign changed where
        smaller is better, so that positive means that the order of weights is better.
    """

    value: Score
    over_random: Score
    over_reversed: Score


@dataclass(frozen=True)
class Faithfulness:
    """The faithfulness of an attribution method, measured on a sample of examples.

    method: name of the attribution method. num_examples: size of the sample.
    quantity: what is measured of the original answer while parts are deleted: "probability", or a score such as "log-odds".
    comprehensiveness: mean fall of the quantity when the 10, 20 and 50 % of parts with the largest weights are deleted; larger is
        better. sufficiency: mean fall when only these parts are retained; smaller is better.
    deletion: mean of the quantity when 10, 20, … 90 % of the parts are deleted; smaller is better.
    """

    method: str
    num_examples: int = field(metadata={"key": "examples"})
    quantity: str = field(metadata={"key": "of"})
    comprehensiveness: Measure
    sufficiency: Measure
    deletion: Measure

    @property
    def better_than_random(self) -> bool | None:
        """True if comprehensiveness and deletion are both significantly better by the order of weights than in random order.

        None for a single example, with which significance cannot be tested.
        """
        differences = (self.comprehensiveness.over_random, self.deletion.over_random)
        if any(np.isnan(score.low) for score in differences):
            return None
        return all(score.low > 0 for score in differences)

    @property
    def verdict(self) -> str:
        """A sentence with the measured comprehensiveness, which says whether explanations by this method are reliable."""
        if self.better_than_random is None:
            return "faithfulness cannot be measured on one example; name rows like yours with --sample"
        value, difference = self.comprehensiveness.value.value, self.comprehensiveness.over_random
        measured = (
            f"on {self.num_examples:,} examples, deleting the parts with the largest weights lowers the answer's {self.quantity} "
            f"by {self._amount(value)}{' points' if self._is_probability else ''}, deleting random parts by "
            f"{self._amount(value - difference.value)} (difference {self._amount(difference.value)}, 95 % interval "
            f"{self._amount(difference.low)} to {self._amount(difference.high)})"
        )
        if self.better_than_random:
            return f"{measured}: the explanations are reliable"
        return f"{measured}: NOT better than random, so do not rely on the explanations"

    @property
    def _is_probability(self) -> bool:
        return self.quantity == "probability"

    def _amount(self, value: float) -> str:
        """Return an amount of the quantity as text: a probability in percentage points, a score in its own unit."""
        return f"{100 * value:.0f}" if self._is_probability else f"{value:.3g}"


def measure_faithfulness(
    explainer: Explainer, rows: Rows, seed: int = 0, progress: Progress | None = None
) -> Faithfulness | None:
    """Measure faithfulness on at most SAMPLE_SIZE random rows; return None if none of them has two or more parts.

    explainer: the model and the attribution method. Rows with a single part are skipped, as a part has no order.
    seed: seed of the choice of rows and of the random orders.
    """
    order = np.random.Generator(np.random.Philox(key=[seed, 2])).permutation(len(rows))[:SAMPLE_SIZE]
    # A single part has no order.
    examples = [example for example in explainer.examples(rows.select(np.sort(order))) if len(split_parts(example)) > 1]
    if not examples:
        return None
    results = []
    for start in range(0, len(examples), MEASURED_AT_ONCE):
        chunk = examples[start : start + MEASURED_AT_ONCE]
        results.append(_scores_without_parts(explainer, chunk, seed, start))
        if progress is not None and len(examples) > MEASURED_AT_ONCE:
            progress.rows("measured on", start + len(chunk), len(examples))
    full, reduced = map(np.concatenate, zip(*results, strict=True))
    return _summarise(explainer, full, reduced)


def _scores_without_parts(
    explainer: Explainer, examples: Sequence[Example], seed: int, first: int
) -> tuple[Floats, Floats]:
    """Return the quantity (probability or score of the original answer) for full examples and with parts deleted.

    Shapes are (n,) and (n, o, s), where s is first over DELETED_SHARES, then over RETAINED_SHARES.
    first: index in the whole sample of the first of `examples`; with `seed` it determines the random orders.
    """
    outputs = explainer.outputs(examples)
    reference = explainer.reference(outputs, examples)
    weights = explainer.token_weights(examples, reference)
    reduced: list[Example] = []
    for index, (example, token_weights) in enumerate(zip(examples, weights, strict=True), first):
        parts = split_parts(example)
        part_weights = np.array([token_weights[tokens].sum() for tokens in parts])
        for order in _deletion_orders(part_weights, seed, index):
            for share in DELETED_SHARES:
                reduced.append(explainer.remove_parts(example, [parts[i] for i in order[: _count(len(parts), share)]]))
            for share in RETAINED_SHARES:
                reduced.append(explainer.remove_parts(example, [parts[i] for i in order[_count(len(parts), share) :]]))
    reduced_outputs = explainer.outputs(reduced)
    num_reductions = len(ORDERS) * (len(DELETED_SHARES) + len(RETAINED_SHARES))
    indices = torch.arange(len(examples)).repeat_interleave(num_reductions)
    # Always the score of the original answer, whatever the model answers without the parts.
    full_scores = explainer.answer_scores(outputs, reference)
    reduced_scores = explainer.answer_scores(reduced_outputs, reference[indices])
    if has_exclusive_classes(explainer.target):  # the scores are log-odds of one class
        full_scores, reduced_scores = _sigmoid(full_scores), _sigmoid(reduced_scores)
    return full_scores, reduced_scores.reshape(len(examples), len(ORDERS), -1)


def _deletion_orders(weights: Floats, seed: int, index: int) -> tuple[Ints, Ints, Ints]:
    """Return three orders in which to delete the u parts of an example: by falling weight, random, and by rising weight.

    An order is an array (u,) of indices of parts.
    weights: (u,), the weight of each part. index: index of the example, which with `seed` determines the random order.
    """
    ranked = np.argsort(-weights, kind="stable")
    return ranked, np.random.Generator(np.random.Philox(key=[seed, index])).permutation(len(weights)), ranked[::-1]


def _count(num_parts: int, share: float) -> int:
    """Return the number of parts that `share` of `num_parts` parts makes, rounded, but at least one and never all."""
    return min(num_parts - 1, max(1, round(share * num_parts)))


def _sigmoid(scores: Floats) -> Floats:
    """Return the probabilities that correspond to log-odds."""
    return 1 / (1 + np.exp(-scores))


def _summarise(explainer: Explainer, full: Floats, reduced: Floats) -> Faithfulness:
    """Compute comprehensiveness, sufficiency and deletion from the quantity (probability or score of the original answer).

    full: (n,), the quantity for the full examples.
    reduced: (n, o, s), the quantity with parts deleted: by order, for DELETED_SHARES and then RETAINED_SHARES.
    """
    deleted, retained = np.split(reduced, [len(DELETED_SHARES)], axis=2)
    # Comprehensiveness averages over the shares that sufficiency retains, so that the two compare.
    same_shares = [DELETED_SHARES.index(share) for share in RETAINED_SHARES]
    return Faithfulness(
        explainer.method,
        len(full),
        "probability" if has_exclusive_classes(explainer.target) else explainer.target.score_unit,
        comprehensiveness=_measure(full[:, None] - deleted[:, :, same_shares].mean(axis=2), 1),
        sufficiency=_measure(full[:, None] - retained.mean(axis=2), -1),
        deletion=_measure(deleted.mean(axis=2), -1),
    )


def _measure(values: Floats, sign: int) -> Measure:
    """Average a measure over the examples; return the mean, and the mean differences to random and to reverse order.

    values: (n, o), the measure for each example and each of ORDERS.
    sign: 1 if a larger value is better, −1 if a smaller value is better. The differences are multiplied by it.
    """
    explained, random, reverse = values.T
    return Measure(*map(_mean_score, (explained, sign * (explained - random), sign * (explained - reverse))))


def _mean_score(values: Floats) -> Score:
    """Return the mean of values (n,) with its 95 % bootstrap interval over them; a single value gets an interval of NaN."""
    # A bootstrap of one value would claim certainty.
    if len(values) < 2:
        return Score(float(values[0]), float("nan"), float("nan"), 1)
    return with_interval(np.mean, values)


@dataclass(frozen=True, repr=False)
class Explanations(Tabular):
    """The explanations of a model's answers to the rows of a table, in order, and how faithful they are.

    rows: the explained rows.
    source_kinds: the kind of each source.
    faithfulness: the faithfulness measured on a sample of rows; None if no row has two parts.
    num_cut: number of rows that were cut to the model's token limit, so that only their beginning was read.
    faults: findings about rows that could not be read and have no explanation.
    """

    rows: Rows
    source_kinds: list[str]
    explanations: list[Explanation]
    faithfulness: Faithfulness | None
    num_cut: int
    faults: list[Finding]

    def __len__(self) -> int:
        return len(self.explanations)

    def __getitem__(self, row: int) -> Explanation:
        return self.explanations[row]

    def table(self) -> ResultTable:
        """Return for the first rows the answer and the parts that speak most for it and against it."""
        rows = [
            [*self.rows.origin(index), explanation.summary, *explanation.strongest()]
            for index, explanation in enumerate(self.explanations[:SHOWN_ROWS])
        ]
        faults = [f"left out, as it cannot be read: {fault}" for fault in self.faults]
        columns = ["file", "row", "answer", "speaks for it", "against it"]
        return ResultTable(columns, rows, notes=faults, total=len(self.explanations))

    def records(self) -> list[dict[str, Any]]:
        """Return for each row a JSON-serialisable dict: file, row number and the fields of the explanation.

        After these come dicts for unreadable rows, with `error`, the reason, in place of an explanation.
        """
        origins = map(self.rows.origin, range(len(self.explanations)))
        explained = [
            {"file": file, "row": row, **to_json(explanation)}
            for (file, row), explanation in zip(origins, self.explanations, strict=True)
        ]
        return explained + [{"file": fault.file, "row": fault.row, "error": fault.reason} for fault in self.faults]


def explain_table(
    explainer: Explainer, table: Table, sample: Table | None, progress: Progress | None = None
) -> Explanations:
    """Explain the model's answer to every readable row of a table, and measure how faithful the explanations are.

    explainer: the model and the attribution method.
    sample: table to measure faithfulness on; None for the explained table.
    Raises DataError if no row of either table can be read.
    """
    rows, faults = _read(explainer, table)
    sample_rows = rows if sample is None else _read(explainer, sample)[0]
    faithfulness = measure_faithfulness(explainer, sample_rows, progress=progress)
    explanations: list[Explanation] = []
    for explanation in explainer.explain(rows):
        explanations.append(explanation)
        if progress is not None and len(rows) > EXPLAINED_AT_ONCE:
            progress.rows("explained", len(explanations), len(rows))
    source_kinds = [port.kind for port in explainer.mapping.arrow.sources]
    return Explanations(rows, source_kinds, explanations, faithfulness, explainer.num_cut, faults)


def _read(explainer: Explainer, table: Table) -> tuple[Rows, list[Finding]]:
    """Return the readable rows of a table, and the findings about unreadable rows. Raises DataError if no row can be read."""
    rows = explainer.read(table)
    return rows, require_any_readable(rows)
