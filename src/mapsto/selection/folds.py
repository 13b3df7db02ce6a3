"""Cross-validation folds: the training rows are split into rows to train on and rows to score on.

The rows of a fold are read and encoded once for all fits to them. Test rows are never part of a fold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from mapsto.data.encoding import encode_to_answer
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import Rows, load_rows
from mapsto.data.split import split_indices
from mapsto.data.table import Int64s, Table
from mapsto.data.weights import read_relative_weights, read_row_weights
from mapsto.errors import DataError
from mapsto.evaluation.evaluate import predict_rows, scoring_examples
from mapsto.fitting import fit
from mapsto.fitting.prepare import read_data
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import RunData
from mapsto.inference.forward import forward_batches
from mapsto.kinds import answering
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.progress import Progress
from mapsto.sequence.corruption import Corruption
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Comparable, Composed, has_exclusive_classes

# A trial of a search is scored on about SCORED_ROWS rows: on a fifth of 5,000 rows, on two folds of a fifth of 2,500 each, and so
# on up to five folds. On 1,000 rows an error of 15 % has an interval of about ±2 points. A fold scores at most
# LARGEST_SHARE of the rows.
SCORED_ROWS, LARGEST_SHARE = 1000, 0.2


@dataclass(frozen=True)
class Fold:
    """One fold of the training rows.

    request: the request of a fit to the fold's training rows, with the options that all fits share.
    held_out: the training table's other rows, on which each fitted mapping is scored.
    """

    request: FitRequest
    held_out: Table

    @cached_property
    def data(self) -> RunData:
        """The fold's training rows, read and encoded once for all fits."""
        return read_data(self.request)

    def train(self, options: Options, progress: Progress | None = None) -> Mapping:
        """Return a new mapping trained with `options` on the fold's training rows. Raises RunError when training fails.

        progress: shows the training; None shows nothing.
        """
        # A fold may be too small to hold rows out, where the final fit does.
        metric = options.metric if self.data.num_held_out else None
        options = replace(options, metric=metric)
        return fit.fit_request(replace(self.request, options=options, progress=progress or Progress()), self.data)


def search_folds(
    rows: Rows, seed: int, group: str | None = None, weight: str | None = None
) -> list[tuple[Table, Table]]:
    """Return the one to five folds of a hyperparameter search, each a pair of tables (rows to train on, rows to score on).

    The more rows there are, the fewer folds: about SCORED_ROWS rows are scored on in total. No row is scored on twice.
    rows: the training rows of the final fit. seed: of the split. group: `--group`, columns of rows to keep together.
    weight: `--weight`; rows of weight 0 are not scored on.
    Raises DataError if there are too few rows for one fold.
    """
    share = min(LARGEST_SHARE, SCORED_ROWS / len(rows))
    # Large tables need a smaller share to score as many rows, and fewer folds.
    num_folds = min(round(1 / LARGEST_SHARE), math.ceil(SCORED_ROWS / (share * len(rows))))
    folds = make_folds(rows, share, num_folds, seed, group, weight)
    if not folds:
        raise DataError(f"{len(rows)} rows are too few to hold some out for --search")
    return folds


def make_folds(
    rows: Rows, share: float, num_folds: int, seed: int, group: str | None = None, weight: str | None = None
) -> list[tuple[Table, Table]]:
    """Return at most `num_folds` pairs of tables (rows to train on, rows to score on); no row is scored on twice.

    A fold all of whose rows to score on are of classes that its other rows lack is left out.
    rows: the rows to split. share: fraction of the rows that each fold scores on. seed: seeds the random split.
    group: `--group`, the columns of rows to keep together. weight: `--weight`; rows of weight 0 are not scored on.
    """
    row_indices = np.arange(len(rows))
    weights = read_row_weights(rows, weight)
    # A fold is split off the rows that no earlier fold scores on, so its share of the remaining rows grows.
    remaining, folds = row_indices, []
    for fold in range(num_folds):
        part = rows.select(remaining)
        training_positions, positions = split_indices(part, share / (1 - fold * share), seed, group=group)
        held_out = _drop_unknown_classes(rows, np.setdiff1d(row_indices, remaining[positions]), remaining[positions])
        remaining = remaining[training_positions]
        training = np.setdiff1d(row_indices, held_out)
        if weights is not None:
            held_out = held_out[weights[held_out] > 0]
        if len(held_out):
            folds.append((rows.select(training).own_table(), rows.select(held_out).own_table()))
    return folds


def drop_weightless(rows: Rows, weight: str | None) -> Rows:
    """Return the rows whose weight (`--weight`) is above 0, which alone count in scores; all rows if there are none."""
    weights = read_row_weights(rows, weight)
    return rows if weights is None or not weights.any() else rows.select(np.flatnonzero(weights))


def _drop_unknown_classes(rows: Rows, training: Int64s, held_out: Int64s) -> Int64s:
    """Return `held_out` without the rows whose class does not occur among the training rows; all of it if no target is a class.

    A model cannot predict a class that it has not seen in training.
    training, held_out: indices of rows in `rows`.
    """
    for target, answers in zip(answering(rows.arrow), rows.targets, strict=True):
        if has_exclusive_classes(target):
            classes = {answers[row] for row in training}
            held_out = np.array([row for row in held_out if answers[row] in classes], np.int64)
    return held_out


def read_examples(mapping: Mapping, table: Table, weight: str | None = None) -> Examples:
    """Return the rows of `table` as examples with answers for the mapping, to score it on. weight: `--weight`."""
    rows = load_rows(mapping.arrow, table)
    weights = read_relative_weights(rows, weight)
    encoded = encode_to_answer(rows, mapping.sources, mapping.targets, mapping.config.max_tokens)
    return make_examples(rows, encoded, mapping.sources, mapping.targets, 0, Corruption(), weights)


def score_rows(mapping: Mapping, table: Table, weight: str | None = None) -> list[tuple[float, float]]:
    """Return (validation error, loss) of the mapping's answer to the first target for each row of `table`, times its weight.

    The loss and the error measure are those of validation during training; rows without a true answer are left out. An answer
    that is composed of those of windows has the share of it that is wrong as both. weight: `--weight`.
    """
    target, results = mapping.targets[0], []
    if any(isinstance(other, Composed) for other in mapping.targets) and isinstance(target, Comparable):
        rows = load_rows(mapping.arrow, table)
        device = next(mapping.parameters()).device
        metric = target.per_item_metric(predict_rows(mapping, rows.arrow, rows, 0, device), rows.targets[0])
        if metric is None:
            return []
        weights = read_relative_weights(rows, weight)
        errors = (1 - metric) if weights is None else (1 - metric) * weights
        return [(error, error) for error in errors.tolist()]
    examples = scoring_examples(read_examples(mapping, table, weight))
    for batch, hidden in forward_batches(mapping, examples, next(mapping.parameters()).device):
        readout = batch.answers[0]
        if readout is not None:
            answer_weights = None if readout.weights is None else readout.weights.tolist()
            results += score_answers(target, mapping.read(hidden, batch, 0), readout.values, answer_weights)
    return results


def score_answers(
    target: Target, output: Tensor, values: Tensor, weights: Sequence[float] | None = None
) -> list[tuple[float, float]]:
    """Return (validation error, loss) of each answer; single ones, since intervals and comparisons need them.

    output: (m, …), of the target's head. values: (m, …), the encoded true answers.
    weights: (m,), by which error and loss are multiplied; None if all answers count alike.
    """
    answers = ((output[i : i + 1], values[i : i + 1]) for i in range(len(values)))
    scores = [(float(target.validation_error(*answer)), float(target.loss(*answer))) for answer in answers]
    return scores if weights is None else [(w * e, w * x) for w, (e, x) in zip(weights, scores, strict=True)]
