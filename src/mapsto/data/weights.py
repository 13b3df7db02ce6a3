"""Weights of rows in the loss, from a column of the table (`--weight`).

A row of weight 2 counts in the loss like two equal rows. Weights are divided by their mean over the training rows, so that the
loss, and with it the best learning rate, keeps its scale.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.data.rows import Rows
from mapsto.data.table import Table
from mapsto.errors import DataError, Finding, UsageError, counted, near
from mapsto.task.arrow import Arrow
from mapsto.task.target_capabilities import WeightedClasses
from mapsto.text.cells import decimal_point_hint

Weights = NDArray[np.float32]


def leave_out_weights(arrow: Arrow, table: Table, column: str | None) -> Table:
    """Return the table without its column of weights, so that the arrow does not take it for a source or an answer.

    column: `--weight`; None leaves the table as it is. Raises UsageError for a column that the table lacks or the arrow names.
    """
    if column is None:
        return table
    if column not in table.columns:
        names = ", ".join(map(repr, table.columns))
        raise UsageError(f"--weight: no column {column!r}{near(column, table.columns)}; the columns are: {names}")
    if column in {port.column for port in (*arrow.sources, *arrow.targets)}:
        raise UsageError(f"--weight {column!r}: {arrow} reads this column; weights are a column of their own")
    return replace(table, data={name: cells for name, cells in table.data.items() if name != column})


def read_row_weights(rows: Rows, column: str | None) -> Weights | None:
    """Return the weight of each row, (n,), from a column of its table; None without a column.

    Raises DataError with file, row and column of each cell that is no number of at least 0.
    """
    if column is None:
        return None
    cells, weights, faults = rows.table.column(column), np.ones(len(rows)), list[Finding]()
    for index, row in enumerate(rows.indices.tolist()):
        weight, fault = _read_weight(cells[row])
        weights[index] = weight
        if fault:
            value = None if cells[row] is None else str(cells[row])
            faults.append(Finding(*rows.origin(index), column, value, fault))
    if faults:
        raise DataError(f"--weight {column!r}: {counted(len(faults), 'bad weight')}:", faults)
    return weights.astype(np.float32)


def read_relative_weights(rows: Rows, column: str | None) -> Weights | None:
    """Return the weight of each row, (n,), divided by the mean of all; None without a column.

    Raises DataError as `read_row_weights`.
    """
    weights = read_row_weights(rows, column)
    return None if weights is None else weights / (weights.mean() or 1)


def _read_weight(cell: Any) -> tuple[float, str]:
    """Return (weight, "") of a cell, or (1, the fault in words) of one that holds no weight."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return 1.0, "the weight is missing; 0 leaves a row out of the loss"
    try:
        weight = float(cell)
    except (TypeError, ValueError):
        return 1.0, f"a weight is a number of at least 0{decimal_point_hint(str(cell))}"
    if not math.isfinite(weight):
        return 1.0, "a weight is a finite number, not infinite and not NaN"
    return (weight, "") if weight >= 0 else (1.0, "a weight is at least 0; a negative one would teach the opposite")


def describe_weightless(rows: Rows, column: str | None) -> list[str]:
    """Return a sentence for each class of which no row has a weight above 0, so that nothing is learnt of it.

    rows: the training rows. column: `--weight`.
    """
    weights = read_row_weights(rows, column)
    if weights is None or not weights.any():
        return []
    sentences = []
    for kind, answers in zip(kinds.answering(rows.arrow), rows.targets, strict=True):
        if not issubclass(kind, WeightedClasses):
            continue
        names = [(answer,) if kind.exclusive else answer for answer in answers]
        counted_names = {name for row in np.flatnonzero(weights).tolist() for name in names[row] or ()}
        without_weight = dict.fromkeys(name for row in names for name in row or () if name not in counted_names)
        sentences += [
            f"no row of class {name!r} has a weight above 0: it will hardly be answered"
            for name in without_weight
            if name
        ]
    return sentences


def normalise_weights(training: Weights | None, held_out: Weights | None) -> tuple[Weights | None, Weights | None]:
    """Return the weights of training rows and held-out rows divided by the mean of those of training rows.

    None for weights that are all the same, which change nothing. Raises DataError if all training rows have the weight 0.
    """
    if training is None or held_out is None:
        return None, None
    if len(training) and not training.any():
        raise DataError(f"--weight: all {len(training):,} training rows have the weight 0, so none counts in the loss")
    if np.ptp(np.concatenate([training, held_out])) == 0:
        return None, None
    mean = training.mean(dtype=np.float64)
    first, second = ((part / mean).astype(np.float32) for part in (training, held_out))
    return first, second
