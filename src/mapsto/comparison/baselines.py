"""Baselines that need no pretraining: a constant answer, and a linear model on classical features such as TF-IDF."""

from __future__ import annotations

from typing import Any

import numpy as np

from mapsto.comparison.design import CONSTANT, Design, Fit
from mapsto.data.rows import Rows
from mapsto.data.weights import read_relative_weights
from mapsto.evaluation import matching
from mapsto.evaluation.linear_baseline import Predict, fit_linear_baseline
from mapsto.fitting.run_data import learn_answers
from mapsto.task.target_capabilities import Comparable


def fit_baseline(design: Design, rows: Rows, fit: Fit) -> tuple[Comparable, Predict]:
    """Fit a baseline (constant answer or linear model) to the training rows; the ranking of pairs needs none.

    Return (target object, function): the target object scores outputs, the function computes the outputs (n, …) of test
    rows.
    rows: the training rows. fit: its candidate's method selects the baseline.
    """
    target = design.target()
    labels = rows.targets[design.port]
    learn_answers(target, labels, design.options)
    if design.arrow.symmetric:
        return target, lambda test_rows: matching.row_ranks(
            *matching.rank_without_model(matching.pairs_of(test_rows))[:2]
        )
    if fit.candidate.method == CONSTANT:
        # Targets with a constant answer read one vector a row, so no pieces with token positions are needed.
        return target, _fit_constant(target, np.array([target.encode(label, ()).values for label in labels]))
    return target, fit_linear_baseline(
        target, design.port, rows, fit.seed, read_relative_weights(rows, design.options.weight)
    )


def _fit_constant(target: Comparable, values: Any) -> Predict:
    """Return the function that gives every row the same output: the most frequent class, or the mean of numbers.

    values: encoded training answers.
    """
    output = target.constant_output(values)
    assert output is not None
    return lambda test_rows: output.expand(len(test_rows), -1).clone()
