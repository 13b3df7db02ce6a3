"""Cross-validation folds of a hyperparameter search: the training rows are split into rows to train on and to score on.

The rows of a fold are read and encoded once for all trials. Test rows are never part of a fold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mapsto.data.encoding import encode_rows
from mapsto.data.examples import make_examples
from mapsto.data.rows import Rows, load_rows
from mapsto.data.split import split_indices
from mapsto.data.table import Int64s, Table
from mapsto.errors import DataError
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.fitting import fit
from mapsto.fitting.prepare import read_data
from mapsto.fitting.request import FitRequest
from mapsto.fitting.run_data import RunData
from mapsto.inference.forward import forward_batches
from mapsto.kinds import answering
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.sequence.corruption import Corruption
from mapsto.task.capabilities import has_exclusive_classes

# A trial is scored on about SCORED_ROWS rows: on a fifth of 5,000 rows, on two folds of a fifth of 2,500 each, and so
# on up to five folds. On 1,000 rows an error of 15 % has an interval of about ±2 points. A fold scores at most
# LARGEST_SHARE of the rows.
SCORED_ROWS, LARGEST_SHARE = 1000, 0.2


@dataclass(frozen=True)
class Fold:
    """One fold of a hyperparameter search.

    request: the request of a fit to the fold's training rows, with the options that all trials share.
    held_out: the training table's other rows, on which each trial's mapping is scored.
    """

    request: FitRequest
    held_out: Table

    @cached_property
    def data(self) -> RunData:
        """The fold's training rows, read and encoded once for all trials."""
        return read_data(self.request)

    def train(self, options: Options) -> Mapping:
        """Return a new mapping trained with `options` on the fold's training rows. Raises RunError when training fails."""
        return fit.fit_request(replace(self.request, options=options), self.data)


def make_folds(rows: Rows, seed: int) -> list[tuple[Table, Table]]:
    """Return one to five folds, each a pair of tables (rows to train on, rows to score on); no row is scored on twice.

    The more rows there are, the fewer folds: about SCORED_ROWS rows are scored on in total.
    rows: the training rows of the final fit. seed: seeds the random split.
    Raises DataError if there are too few rows for one fold.
    """
    count, row_indices = len(rows), np.arange(len(rows))
    # Large tables need a smaller share to score as many rows, and fewer folds.
    share = min(LARGEST_SHARE, SCORED_ROWS / count)
    num_folds = min(round(1 / LARGEST_SHARE), math.ceil(SCORED_ROWS / (share * count)))
    # A fold is split off the rows that no earlier fold scores on, so its share of the remaining rows grows.
    remaining, folds = row_indices, []
    for fold in range(num_folds):
        training_positions, positions = split_indices(rows.select(remaining), share / (1 - fold * share), seed)
        held_out = _drop_unknown_classes(rows, np.setdiff1d(row_indices, remaining[positions]), remaining[positions])
        remaining = remaining[training_positions]
        # A fold whose rows are all of unknown classes is dropped.
        if len(held_out):
            training = np.setdiff1d(row_indices, held_out)
            folds.append((rows.table.select(rows.indices[training]), rows.table.select(rows.indices[held_out])))
    if not folds:
        raise DataError(f"{count} rows are too few to hold some out for --search")
    return folds


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


def score_rows(mapping: Mapping, table: Table) -> list[tuple[float, float]]:
    """Return (validation error, loss) of the mapping's answer to the first target for each row of `table`.

    The loss and the error measure are those of validation during training; rows without a true answer are left out.
    """
    target = mapping.targets[0]
    rows = load_rows(mapping.arrow, table)
    encoded = encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut")
    examples = make_examples(rows, encoded, mapping.sources, mapping.targets, 0, Corruption())
    results = []
    for batch, hidden in forward_batches(mapping, scoring_examples(examples), next(mapping.parameters()).device):
        readout = batch.answers[0]
        if readout is not None:
            output = mapping.read(hidden, batch, 0)
            # One row after another, since the search needs an interval of the mean error.
            for i in range(len(readout.values)):
                answer = output[i : i + 1], readout.values[i : i + 1]
                results.append((float(target.validation_error(*answer)), float(target.loss(*answer))))
    return results
