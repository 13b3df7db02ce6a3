"""The metric that training watches on the held-out rows (`--metric`), by the names under which scores are printed.

It replaces the error of the target, such as the share of wrong labels, where the best weights are chosen and where training
ends early. Values are computed without intervals, whose resamples would take longer than the forward pass.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from mapsto.data.examples import Examples
from mapsto.data.rows import Rows
from mapsto.errors import UsageError, near
from mapsto.evaluation.evaluate import metrics_of_examples
from mapsto.evaluation.matching import encode_pairs, pairs_of, score_pairs
from mapsto.metrics.intervals import ERROR_METRICS
from mapsto.model.mapping import Mapping

# What stands between the name of a metric and the target or the sides of the pairs that it is of.
SEPARATORS = (": ", " ")


def metric_values(mapping: Mapping, examples: Examples, rows: Rows | None, device: torch.device) -> dict[str, float]:
    """Return the value of each metric on held-out examples, by its name.

    rows: the rows of the examples, with their labels. Of pairs, all candidates are ranked.
    """
    if mapping.arrow.symmetric:
        assert rows is not None
        pairs = pairs_of(rows)
        scores = score_pairs(mapping, pairs, encode_pairs(mapping, pairs), device)
        return {name: score.value for name, score in scores.items()}
    metrics = [part.by_name for part in metrics_of_examples(mapping, examples, rows, device)]
    return {name: float(compute(*arrays)) for part in metrics for name, (compute, *arrays) in part.items()}


def find_metric(metric: str, names: Collection[str]) -> str:
    """Return the one of `names` that `--metric` means: "macro F1" is "macro_f1"; of several targets or sides it is the first.

    Raises UsageError, with all names and the nearest one, if there is none.
    """
    normalised = _normalise(metric.removeprefix("held-out "))
    matches = [name for name in names if _normalise(name) == normalised]
    matches += [
        name for name in names if any(_normalise(name.rpartition(mark)[2]) == normalised for mark in SEPARATORS)
    ]
    if not matches:
        known = ", ".join(names)
        raise UsageError(
            f"--metric: no metric {metric!r}{near(normalised, names)}; the held-out rows are scored by {known}"
        )
    return matches[0]


def as_error(name: str, value: float) -> float:
    """Return a number that is lower for a better value of a metric: an error rate itself, and 1 less a score."""
    metric = name
    for mark in SEPARATORS:
        metric = metric.rpartition(mark)[2]
    return value if metric in ERROR_METRICS else 1 - value


def _normalise(name: str) -> str:
    """Return a name in lower case, with underscores in place of spaces and hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")
