"""The linear baseline of a task: logistic or ridge regression on classical features, such as TF-IDF.

Answers that are composed of those of words have a baseline of their own instead, such as the commonest tag of each word, and
generated answers have that of the nearest training row.
It needs no network and is what anyone would try first, so a model's score is shown beside the baseline's.
Legend of shapes: n rows, f features.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto import kinds
from mapsto.data.grouping.row_groups import find_independent_groups
from mapsto.data.rows import Rows
from mapsto.data.weights import Weights, read_relative_weights
from mapsto.metrics.intervals import Floats, mean_half_width
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.progress import duration
from mapsto.sequence.corruption import make_generator
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Describable, linear_source
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Comparable, Extracted, Free, LinearProbe, ProbeSettings, located_port

Predict = Callable[[Rows], Tensor]  # computes the outputs (n, …) of n rows

# The linear model beside another may take this share of its training's duration, or this many seconds if that is more.
TIME_SHARE, MIN_SECONDS = 0.1, 3.0
# Rows whose nearest training rows are searched for at a time.
ROWS_AT_ONCE = 256
# Training rows that are fitted to estimate the time for all.
TIMED_ROWS = 300

# The beginning of the sentence that says why there is no linear model.
NO_LINEAR_MODEL = "no linear model beside this one"


def feature_names(arrow: Arrow) -> list[str]:
    """Return the names of the classical features of an arrow's sources, such as ["TF-IDF"]; sources without any are left out."""
    sources = dict.fromkeys(kinds.source(port.kind) for port in arrow.sources)
    return [source.feature_name for source in sources if issubclass(source, Describable)]


def has_linear_baseline(mapping: Mapping) -> bool:
    """Return whether a linear baseline can be scored beside the first target of a mapping, which is not linear itself."""
    target = next(iter(mapping.targets), None)
    if isinstance(target, Extracted | Free):
        return isinstance(target, Comparable)
    is_scored = isinstance(target, LinearProbe) and isinstance(target, Comparable)
    return is_scored and not mapping.config.is_linear and bool(feature_names(mapping.arrow))


def baseline_name(arrow: Arrow, target: Target | type[Target]) -> str:
    """Return the linear baseline in words, such as "a linear model of TF-IDF". target: an object or a class."""
    kind = target if isinstance(target, type) else type(target)
    if issubclass(kind, Extracted | Free):
        return kind.baseline_rule
    return f"a linear model of {' and '.join(feature_names(arrow))}"


def why_not_linear(arrow: Arrow) -> str:
    """Return why `--method linear` cannot fit an arrow, for a message; an empty string if it can."""
    if arrow.corrupted or not all(issubclass(target, LinearProbe) for target in kinds.answering(arrow)):
        return f"--method linear fits one answer a row, such as a label; {arrow} asks for others"
    if len(arrow.sources) > 1:
        return f"--method linear reads one value a row, and {arrow} has {len(arrow.sources)}"
    if linear_source(kinds.source(arrow.sources[0].kind)) is None:
        return f"--method linear cannot read values of the kind {arrow.sources[0].kind!r}"
    return ""


def fit_linear_baseline(target: Target, port: int, rows: Rows, seed: int, weights: Weights | None = None) -> Predict:
    """Fit the linear baseline of one target to training rows; return the function from rows to its outputs (n, …).

    target: has learnt its classes from these rows; must be a LinearProbe, Extracted or Free.
    port: index of the target. seed: draws the folds that choose the penalty.
    weights: of the rows in the loss of a regression; None if all count alike.
    """
    if isinstance(target, Extracted):
        source = located_port(target, [port.kind for port in rows.arrow.sources])
        answer = target.fit_baseline(rows.targets[port], rows.sources, source)
        return lambda new_rows: answer(new_rows.sources)
    if isinstance(target, Free):
        return _fit_nearest(target, port, rows)
    assert isinstance(target, LinearProbe)
    # A target with a linear probe reads one vector a row, so no pieces with token positions are needed.
    values = np.array([target.encode(answer, ()).values for answer in rows.targets[port]])
    features = _fit_features(rows)
    weight, bias = (part.numpy() for part in target.probe(features(rows), values, seed, ProbeSettings(weights=weights)))
    return lambda new_rows: torch.from_numpy(features(new_rows) @ weight.T + bias).float()


def _fit_nearest(target: Free, port: int, rows: Rows) -> Predict:
    """Return the function that answers each row as the training row does whose features have the highest cosine with its own.

    port: index of the target. rows: the training rows.
    """
    from sklearn.preprocessing import normalize  # imported here since it takes a second

    features, answers = _fit_features(rows), rows.targets[port]
    known = normalize(features(rows))

    def answer(new_rows: Rows) -> Tensor:
        new_features, nearest = normalize(features(new_rows)), []
        # A few rows at a time: the products with all training rows are dense.
        for first in range(0, len(new_rows), ROWS_AT_ONCE):
            cosines = new_features[first : first + ROWS_AT_ONCE] @ known.T
            nearest += np.asarray(cosines.argmax(axis=1)).ravel().tolist()
        return target.pack_values([answers[index] for index in nearest])

    return answer


def estimate_seconds(target: Target, port: int, rows: Rows, seed: int) -> float:
    """Return the estimated duration of `fit_linear_baseline` on training rows, from the measured one on some of them.

    It is 0 for few rows, which take no time worth an estimate.
    """
    if len(rows) <= TIMED_ROWS:
        return 0.0
    sample = rows.select(make_generator(seed, len(rows), 0).permutation(len(rows))[:TIMED_ROWS])
    if len({str(answer) for answer in sample.targets[port]}) < 2:  # nothing to fit
        return 0.0
    started_at = time.monotonic()
    fit_linear_baseline(target, port, sample, seed)
    return (time.monotonic() - started_at) * len(rows) / len(sample)


def time_limit(seconds: float) -> float:
    """Return how many seconds a linear model may take beside a training of `seconds`."""
    return max(MIN_SECONDS, TIME_SHARE * seconds)


def _fit_features(rows: Rows) -> Callable[[Rows], Any]:
    """Fit classical features to training rows; return the function from rows to features (n, f), sparse if any are.

    The features of all sources are joined. A source is left out if its kind has no classical features.
    """
    from scipy.sparse import hstack  # imported here since it takes a second

    source_kinds = [kinds.source(port.kind) for port in rows.arrow.sources]
    extractors = [
        (port, kind.fit_features(rows.sources[port]))
        for port, kind in enumerate(source_kinds)
        if issubclass(kind, Describable)
    ]

    def extract(new_rows: Rows) -> Any:
        parts = [extractor(new_rows.sources[port]) for port, extractor in extractors]
        # Dense features stay dense: a regression on them is several times faster than on a sparse matrix without zeros.
        are_dense = all(isinstance(part, np.ndarray) for part in parts)
        return np.hstack(parts) if are_dense else hstack(parts, format="csr")

    return extract


@dataclass(frozen=True)
class BaselineComparison:
    """The scores of a model and of the linear baseline on the same rows.

    name: the baseline in words, such as "a linear model of TF-IDF". metric: name of the score.
    is_method: whether `--method linear` fits the baseline as a model.
    difference: mean over the rows of the model's score minus the baseline's. half_width: half the width of its 95 % interval.
    """

    name: str
    metric: str
    model: float
    baseline: float
    is_method: bool
    difference: float
    half_width: float

    @property
    def is_better(self) -> bool:
        """Return whether the model is significantly better than the baseline."""
        return self.difference > self.half_width

    @property
    def is_worse(self) -> bool:
        """Return whether the model is significantly worse than the baseline."""
        return self.difference < -self.half_width

    def __str__(self) -> str:
        both = f"{self.metric} {100 * self.baseline:.1f} % against {100 * self.model:.1f} %"
        name = self.name
        advice = "; --method linear fits it, without a start" if self.is_method else ""
        if self.is_worse:
            return f"{name} is better here: {both}{advice}"
        if not self.is_better:
            return f"{name} is as good here, within chance: {both}{advice}"
        return f"{name}: {both} of this model"


def compare_with_baseline(
    target: Comparable,
    outputs: Tensor,
    baseline: Tensor,
    rows: Rows,
    is_method: bool,
    group: str | None = None,
) -> BaselineComparison | None:
    """Compare a model's outputs (n, …) with those of the linear baseline for the same rows, by the target's main metric.

    rows: with the labels of the arrow's first target. is_method: see BaselineComparison.
    group: `--group`, the column of the groups of rows that the interval is over, see `find_groups`.
    Return None if single rows have no score.
    """
    labels, metric = rows.targets[0], target.primary_metric
    row_scores = [target.per_item_metric(values, labels) for values in (outputs, baseline)]
    if row_scores[0] is None or row_scores[1] is None:
        return None
    differences: Floats = row_scores[0].astype(np.float64) - row_scores[1]
    groups = find_independent_groups(rows, group)
    half_width = mean_half_width(differences, None if groups is None else groups.numbers)
    compute, *arrays = target.metrics(outputs, labels)[metric]
    compute_baseline, *baseline_arrays = target.metrics(baseline, labels)[metric]
    return BaselineComparison(
        baseline_name(rows.arrow, target),
        metric,
        float(compute(*arrays)),
        float(compute_baseline(*baseline_arrays)),
        is_method,
        float(differences.mean()),
        half_width,
    )


def compare_with_linear_model(
    mapping: Mapping,
    training: Rows,
    rows: Rows,
    answer: Callable[[], Tensor],
    seconds: float,
    options: Options,
) -> BaselineComparison | str | None:
    """Return the scores of a mapping's first target beside those of the linear baseline, for fits and for `evaluate`.

    A sentence says why, if the baseline would take more than TIME_SHARE of the training. None if single rows have no score.
    mapping: one for which `has_linear_baseline` is true. training: the rows that it was trained on. rows: the rows to score.
    answer: returns the mapping's outputs (n, …) for `rows`. seconds: duration of the mapping's training.
    options: their `seed` draws the folds that choose the baseline's penalty; their `group` is as for `compare_with_baseline`.
    """
    target = mapping.targets[0]
    assert isinstance(target, Comparable)
    if (needed := estimate_seconds(target, 0, training, options.seed)) > time_limit(seconds):
        return f"{NO_LINEAR_MODEL}: it would take {duration(needed)}, more than a tenth of the training"
    weights = read_relative_weights(training, options.weight)
    baseline = fit_linear_baseline(target, 0, training, options.seed, weights)(rows)
    is_method = not why_not_linear(mapping.arrow)
    return compare_with_baseline(target, answer(), baseline, rows, is_method, options.group)
