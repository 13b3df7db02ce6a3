"""Baselines that need no pretraining: a constant answer, and a linear model on classical features such as TF-IDF."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto import kinds
from mapsto.comparison.design import CONSTANT, Design, Fit
from mapsto.data.rows import Rows
from mapsto.task.capabilities import Comparable, Describable, LinearProbe

Predict = Callable[[Rows], Tensor]  # computes the outputs (n, …) of n rows


def fit_baseline(design: Design, rows: Rows, fit: Fit) -> tuple[Comparable, Predict]:
    """Fit a baseline (constant answer or linear model) to the training rows.

    Return (target object, function): the target object scores outputs, the function computes the outputs (n, …) of test
    rows.
    rows: the training rows. fit: its candidate's method selects the baseline.
    """
    target = design.target()
    labels = rows.targets[design.port]
    target.learn(labels, design.options.balance)
    # Baselines exist only for targets that read one pooled vector, so no pieces with token positions are needed.
    values = np.array([target.encode(label, ()).values for label in labels])
    if fit.candidate.method == CONSTANT:
        return target, _fit_constant(target, values)
    assert isinstance(target, LinearProbe)
    features = _fit_features(design, rows)
    weight, bias = (part.numpy() for part in target.probe(features(rows), values, fit.seed))
    return target, lambda test_rows: torch.from_numpy(features(test_rows) @ weight.T + bias).float()


def _fit_constant(target: Comparable, values: Any) -> Predict:
    """Return the function that gives every row the same output: the most frequent class, or the mean of numbers.

    values: encoded training answers.
    """
    output = target.constant_output(values)
    assert output is not None
    return lambda test_rows: output.expand(len(test_rows), -1).clone()


def _fit_features(design: Design, rows: Rows) -> Callable[[Rows], Any]:
    """Fit classical features such as TF-IDF to the training rows.

    Return the function from rows to sparse features (n, f), which joins the features of all sources. A source is left
    out if its kind has no classical features.
    """
    from scipy.sparse import hstack  # a second to import

    source_kinds = [kinds.source(port.kind) for port in design.arrow.sources]
    extractors = [
        (port, kind.fit_features(rows.sources[port]))
        for port, kind in enumerate(source_kinds)
        if issubclass(kind, Describable)
    ]

    def extract(test_rows: Rows) -> Any:
        return hstack([extractor(test_rows.sources[port]) for port, extractor in extractors], format="csr")

    return extract
