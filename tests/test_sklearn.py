"""The face for scikit-learn: its own checks, pipelines, searches and pickles.

scikit-learn's checks fit numbers in columns. Here each row of numbers is written as a text, so that all checks run; those of
NOT_FOR_TEXTS ask for what only numbers in columns have.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import sentences
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import mapsto
from mapsto.errors import UsageError
from mapsto.sklearn import Classifier, Regressor, Vectors

FEATURES = "a text has no number of columns that a later one could differ from"
VOCABULARY = "values of weight 0 add words to the vocabulary, and equal ones are held out together"
NUMBERS = "what is read are texts: they hold no numbers that are infinite, missing, complex or of a type"
# The checks of scikit-learn that do not apply, and why; docs/python.md lists them.
NOT_FOR_TEXTS = {
    "check_n_features_in": FEATURES,
    "check_n_features_in_after_fitting": FEATURES,
    "check_fit2d_predict1d": FEATURES,
    "check_fit1d": FEATURES,
    "check_estimators_empty_data_messages": FEATURES,
    "check_classifiers_train": FEATURES,
    "check_transformer_general": FEATURES,
    "check_sample_weight_equivalence_on_dense_data": VOCABULARY,
    "check_estimators_nan_inf": NUMBERS,
    "check_complex_data": NUMBERS,
    "check_dtype_object": NUMBERS,
    "check_transformer_preserve_dtypes": NUMBERS,
}


def as_texts(values: Any) -> Any:
    """Return rows of numbers as texts of words, one for each number; anything else unchanged."""
    if getattr(values, "ndim", 0) != 2 or hasattr(values, "toarray") or not np.issubdtype(values.dtype, np.number):
        return values
    return [
        " ".join(f"c{j}v{int(v * 2 // 1)}" for j, v in enumerate(row)) for row in np.nan_to_num(values.real).tolist()
    ]


class ReadsNumbers:
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Any:  # noqa: N803
        return super().fit(as_texts(_as_array(X)), y)  # type: ignore[misc]


class TakesWeights(ReadsNumbers):
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: N803
        return super(ReadsNumbers, self).fit(as_texts(_as_array(X)), y, sample_weight)  # type: ignore[misc]


def _as_array(values: Any) -> Any:
    return np.asarray(values) if hasattr(values, "__array__") or isinstance(values, list) else values


class NumbersClassifier(TakesWeights, Classifier):
    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return super().predict_proba(as_texts(_as_array(X)))


class NumbersRegressor(TakesWeights, Regressor):
    def predict(self, X: Any) -> Any:  # noqa: N803
        return super().predict(as_texts(_as_array(X)))


class NumbersVectors(ReadsNumbers, Vectors):
    def transform(self, X: Any) -> Any:  # noqa: N803
        return super().transform(as_texts(_as_array(X)))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sklearn") / "base"
    rows = [{"text": text} for text in sentences(60)]
    mapsto.pretrain("text", rows, path, steps=2, layers=1, width=64, heads=2, vocabulary=300, device="cpu", quiet=True)
    return path


def require_checks(estimator: Any) -> None:
    results = check_estimator(estimator, expected_failed_checks=NOT_FOR_TEXTS, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert not failed, failed
    assert sum(result["status"] == "passed" for result in results) > 20


def test_vectors_pass_the_checks(base: Path) -> None:
    require_checks(NumbersVectors(str(base), device="cpu", precision="fp32"))


@pytest.mark.slow
def test_regressor_passes_the_checks() -> None:
    require_checks(NumbersRegressor(method="linear"))


@pytest.mark.slow
def test_classifier_passes_the_checks() -> None:
    require_checks(NumbersClassifier(method="linear"))


@pytest.mark.parametrize("estimator", [Classifier(), Regressor(), Vectors()])
def test_what_reads_texts_is_known_as_such(estimator: Any) -> None:
    with pytest.warns(SkipTestWarning, match="requires input"):
        results = check_estimator(estimator)
    assert {result["status"] for result in results} == {"passed"}


def test_a_classifier_in_pipelines_and_searches(base: Path) -> None:
    texts = sentences(60)
    labels = np.array([2 if "winter" in text else 7 for text in texts])
    clf = Classifier(method="linear", seed=3)
    search = GridSearchCV(clf, {"seed": [1]}, cv=2).fit(pd.Series(texts), labels)
    assert search.best_score_ > 0.8
    answers = search.predict(np.array(texts))
    assert answers.dtype == labels.dtype and search.best_estimator_.classes_.tolist() == [2, 7]
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict_proba(texts), search.predict_proba(texts))
    pipe = make_pipeline(Vectors(str(base), device="cpu"), LogisticRegression()).fit(texts, labels)
    assert pipe.predict(texts[:3]).shape == (3,)
    assert clone(clf).get_params() == clf.get_params()


def test_wrong_calls_are_told() -> None:
    for values, answers, says in (
        ("a text", [1], "not str"),
        (["a", "b"], [1], "2 values and y 1 answers"),
        (["a", "b"], None, "y is None"),
        (["a", "b"], ["x", "x"], "one class"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), [1], r"2 columns; name one: X\['a'\]"),
        ([], [], "no values"),
    ):
        with pytest.raises(UsageError, match=says):
            Classifier(method="linear").fit(values, answers)
    fitted = Classifier(method="linear").fit(["winter cold", "summer warm"] * 10, ["c", "w"] * 10)
    with pytest.raises(UsageError, match="value 1 .counted from 0.*blank"):
        fitted.predict(["winter", " "])


def test_weights_of_values_and_of_classes() -> None:
    """A value of weight 0 is not learnt from; classes are weighed by their own names; weights go through a pipeline."""
    texts, answers = ["winter cold", "summer warm"] * 12 + ["winter cold"] * 12, [2, 7] * 12 + [7] * 12
    clf = Classifier(method="linear", device="cpu", class_weight={7: 1.5})
    assert clf.fit(texts, answers).predict_proba(["winter cold"])[0, 1] > 0.4
    weights = np.array([1] * 24 + [0] * 12)
    assert clone(clf).fit(texts, answers, sample_weight=weights).predict(["winter cold"]) == [2]
    pipe = make_pipeline(clone(clf)).fit(texts, answers, classifier__sample_weight=weights)
    assert pipe.predict(["winter cold"]) == [2]
    with pytest.raises(UsageError, match=r"class_weight: no class 'a'; the classes are: 2, 7"):
        Classifier(class_weight={"a": 2}).fit(texts, answers)
    with pytest.raises(UsageError, match="sample_weight has one number for each of the 36 values"):
        clf.fit(texts, answers, sample_weight=[1, 2])
