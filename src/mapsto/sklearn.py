"""Estimators with the interface of scikit-learn: `Classifier`, `Regressor` and `Vectors`, for pipelines, searches and scores.

They read a column of values, such as texts or names of pictures, and not numbers in columns. `fit` learns a mapping in memory;
every keyword of `mapsto.Options` can be given by name, and `arrow` names what is read and what is answered.

>>> from mapsto.sklearn import Classifier
>>> clf = Classifier(method="linear").fit(texts, labels)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from mapsto import api
from mapsto.errors import UsageError

# The columns in which values, answers and weights are handed to `fit`.
VALUES, ANSWERS, WEIGHTS = "x", "y", "w"


def _read_values(values: Any, name: str = "X") -> list[Any]:
    """Return the values of a column: a list, an array, a Series, or a table with one column.

    Raises UsageError for a table of several columns, for an object that is no column, and for one without values.
    """
    if hasattr(values, "toarray"):
        raise UsageError(f"{name} is sparse; it must be a list, an array or a Series of values such as texts")
    if hasattr(values, "__array__") and not hasattr(values, "columns"):
        values = np.asarray(values)
    if isinstance(values, str | bytes) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise UsageError(f"{name} is a list, an array or a Series of values, not {type(values).__name__}")
    if hasattr(values, "columns"):
        if len(values.columns) != 1:
            raise UsageError(f"{name} has {len(values.columns)} columns; name one: {name}[{values.columns[0]!r}]")
        values = values[values.columns[0]]
    if getattr(values, "ndim", 1) == 2 and values.shape[1] == 1:
        values = values[:, 0]
    column = values.tolist() if isinstance(values, np.ndarray) and values.ndim == 1 else list(values)
    if not column:
        raise UsageError(f"Found array with 0 sample(s): {name} has no values")
    return column


def _read_pairs(values: Any, answers: Any) -> tuple[list[Any], Any]:
    """Return values and answers as columns of one length. Raises UsageError for other lengths and for no answers."""
    if answers is None:
        raise UsageError("fit(X, y) requires y to be passed, but the target y is None")
    column, labels = _read_values(values), column_or_1d(answers, warn=True)
    if len(labels) != len(column):
        raise UsageError(f"X has {len(column):,} values and y {len(labels):,} answers")
    if len(set(labels.tolist())) < 2:
        raise UsageError(
            f"y has one class or number only, with n_samples = {len(labels)}; two are needed to learn from"
        )
    return column, labels


def _read_weights(weights: Any, count: int) -> list[float] | None:
    """Return the weights of `count` values as numbers; None for none. Raises UsageError for others than one number each."""
    if weights is None:
        return None
    numbers = np.asarray(weights, np.float64)
    if numbers.shape != (count,):
        raise UsageError(
            f"sample_weight has one number for each of the {count:,} values, and not the shape {numbers.shape}"
        )
    if not numbers.any():
        raise UsageError("Sample weights must contain at least one non-zero number.")
    return [float(number) for number in numbers]


def _tag_values(tags: Any) -> Any:
    """Return the tags of an estimator that reads one column of values, such as texts, and no columns of numbers."""
    tags.input_tags.two_d_array, tags.input_tags.string = False, True
    return tags


class _Estimator(BaseEstimator):
    """Base class of the estimators: their parameters, and the fit of a mapping to a column of values.

    source: the kind of the values, such as "text" or "image". start: the starting model, as for `mapsto.fit`.
    quiet: show no progress, and warn of nothing. options: further keywords of `mapsto.fit`, such as {"epochs": 3}.
    """

    model_: api.Model

    def __init__(
        self, source: str = "text", *, start: Any = None, method: str = "auto", seed: int = 0, device: str = "auto",
        quiet: bool = True, options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.source, self.start, self.method, self.seed = source, start, method, seed
        self.device, self.quiet, self.options = device, quiet, options

    def __sklearn_tags__(self) -> Any:
        """Return the tags by which scikit-learn knows what an estimator reads: one column of values, no numbers."""
        return _tag_values(super().__sklearn_tags__())

    def _fit(
        self, target: str, values: list[Any], answers: Sequence[Any], sample_weight: Any, **more: Any
    ) -> api.Model:
        """Return the model of an arrow from the values to a kind of answers.

        sample_weight: a number for each value; None for 1. more: further keywords of `mapsto.fit`, which `options` overrides.
        """
        columns = {VALUES: values, ANSWERS: answers}
        if (weights := _read_weights(sample_weight, len(values))) is not None:
            columns[WEIGHTS], more["weight"] = weights, WEIGHTS
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return api.fit(
            f"{VALUES}:{self.source} -> {ANSWERS}:{target}", rows, start=self.start, quiet=self.quiet,
            **{"method": self.method, "seed": self.seed, "device": self.device, **more, **(self.options or {})},
        )  # fmt: skip

    def _answers(self, values: Any) -> list[dict[str, Any]]:
        """Return the model's answer to each value. Raises UsageError for a value that cannot be read."""
        check_is_fitted(self)
        column = _read_values(values)
        answers: list[dict[str, Any]] = self.model_.predict([{VALUES: value} for value in column], quiet=True)
        for index, answer in enumerate(answers):
            if "error" in answer:
                raise UsageError(f"value {index} (counted from 0): {answer['error']}")
        return answers


class Classifier(ClassifierMixin, _Estimator):
    """A classifier of texts, pictures, videos or sounds. Its parameters are those of `_Estimator`, and `class_weight`.

    class_weight: what a mistake on each class costs, such as {"spam": 5}, or "balanced"; None for 1.
    After `fit`, `classes_` has the classes in the order of `predict_proba`, and `model_` the mapsto.Model.
    """

    def __init__(
        self, source: str = "text", *, start: Any = None, method: str = "auto", seed: int = 0, device: str = "auto",
        quiet: bool = True, class_weight: dict[Any, float] | str | None = None, options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(source, start=start, method=method, seed=seed, device=device, quiet=quiet, options=options)
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to a column of values and their classes. sample_weight: by how much the loss of each value counts, (n,)."""
        values, labels = _read_pairs(X, y)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        # By number, since classes may be of any type, such as numbers that would be written in two ways.
        answers = [f"class {number}" for number in numbers.tolist()]
        weights = self._class_weights()
        more = {} if weights is None else {"class_weights": weights}
        self.model_ = self._fit("label", values, answers, sample_weight, **more)
        return self

    def _class_weights(self) -> dict[str, float] | str | None:
        """Return the weights of the classes by the names that they have here. Raises UsageError for a class that is not in y."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        numbers = {name: number for number, name in enumerate(self.classes_.tolist())}
        if unknown := [name for name in self.class_weight if name not in numbers]:
            raise UsageError(f"class_weight: no class {unknown[0]!r}; the classes are: {', '.join(map(repr, numbers))}")
        return {f"class {numbers[name]}": float(weight) for name, weight in self.class_weight.items()}

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Return the probability of each class for each value, (n, c)."""
        answers = self._answers(X)
        names = [f"class {number}" for number in range(len(self.classes_))]
        return np.array([[answer["scores"].get(name, 0.0) for name in names] for answer in answers])

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the likeliest class of each value, (n,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


class Regressor(RegressorMixin, _Estimator):
    """A model that answers values with numbers. Its parameters are those of `_Estimator`."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Fit to a column of values and their numbers. sample_weight: by how much the loss of each value counts, (n,)."""
        values, numbers = _read_pairs(X, y)
        self.model_ = self._fit("number", values, np.asarray(numbers, np.float64).tolist(), sample_weight)
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the number of each value, (n,)."""
        return np.array([answer["number"] for answer in self._answers(X)], np.float64)


class Vectors(TransformerMixin, BaseEstimator):
    """A transformer of values to vectors, by a model that embeds them; it learns nothing from the values.

    model: a mapsto.Model, a folder, or hf:user/name of the hub. pooling: as for `mapsto.Model.embed`.
    """

    def __init__(
        self, model: Any = None, *, pooling: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> None:
        self.model, self.pooling, self.device, self.precision = model, pooling, device, precision

    def __sklearn_tags__(self) -> Any:
        """Return the tags by which scikit-learn knows what is read, and that vectors are of float32."""
        tags = _tag_values(super().__sklearn_tags__())
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803
        """Open the model, which learns nothing from the values."""
        if self.model is None:
            raise UsageError("name the model that makes the vectors: Vectors('runs/base')")
        _read_values(X)
        is_open = isinstance(self.model, api.Model)
        self.model_ = self.model if is_open else api.load(self.model, self.device, self.precision)
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the vector of each value, (n, d)."""
        check_is_fitted(self)
        return self.model_.embed(_read_values(X), self.pooling)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Return a name for each number of a vector."""
        check_is_fitted(self)
        width = self.model_.mapping.config.transformer.width
        return np.array([f"vector{index}" for index in range(width)], object)
