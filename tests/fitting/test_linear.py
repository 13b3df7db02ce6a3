"""Linear models: `--method linear`."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mappings import make_table
from runs import require_better_than_constant, run, sentences
from sklearn.linear_model import LogisticRegression

import mapsto
from mapsto.data.table import write_rows
from mapsto.errors import CheckpointError, UsageError


def make_rows(count: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows whose label, number and labels depend on words of the text."""
    texts = sentences(count, seed)
    return [
        {
            "text": text,
            "label": "cold" if "winter" in text or "天气" in text else "warm",
            "number": float(text.count("river")) - float(text.count("mill")),
            "labels": [word for word in ("hope", "age") if word in text],
        }
        for text in texts
    ]


ROWS, TEST = make_rows(), make_rows(60, seed=1)


@pytest.fixture(scope="module")
def model() -> mapsto.Model:
    return mapsto.fit("text -> label", ROWS, method="linear", hold_out=0)


def test_probabilities_are_those_of_logistic_regression_on_tfidf(model: mapsto.Model) -> None:
    source = model.mapping.sources["text"]
    features = [source.features(source.encode([row["text"] for row in rows], 0)) for rows in (ROWS, TEST)]  # type: ignore[attr-defined]
    answers = model.predict([row["text"] for row in TEST])
    possible = []
    for penalty in (1.0, 10.0, 100.0, 1000.0):
        fitted = LogisticRegression(C=penalty, max_iter=1000, tol=1e-3).fit(features[0], [row["label"] for row in ROWS])
        possible.append(fitted.decision_function(features[1]))
    scores = np.array([[answer["scores"][name] for name in fitted.classes_] for answer in answers])
    # A temperature divides the logits, so they are equal but for a factor.
    logits = np.log(scores[:, 1] / scores[:, 0])
    factors = [float(expected @ logits / (expected @ expected)) for expected in possible]
    residuals = [np.abs(logits - factor * expected).max() for factor, expected in zip(factors, possible, strict=True)]
    assert min(residuals) < 1e-3 and all(factor > 0 for factor in factors)


def test_a_linear_model_is_saved_and_opened(tmp_path: Path, model: mapsto.Model) -> None:
    model.save(tmp_path / "saved")
    opened = mapsto.load(tmp_path / "saved")
    texts = [row["text"] for row in TEST]
    assert opened.predict(texts) == model.predict(texts)
    assert opened.evaluate(TEST).scores["accuracy"].value > 0.8
    (tmp_path / "saved" / "ngrams.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="ngrams.json"):
        mapsto.load(tmp_path / "saved")


def test_explanations_add_up_to_the_answer(model: mapsto.Model) -> None:
    text = "winter river, old mill 天气"
    (explanation,) = model.explain([text])
    weights = {part.text: part.weight for part in explanation.parts}
    assert max(weights, key=lambda part: abs(weights[part])) in ("winter", "天", "气")
    assert list(weights) == ["winter", "river,", "old", "mill", "天", "气"]
    assert sum(weights.values()) == pytest.approx(explanation.score - explanation.baseline_score, abs=1e-4)


@pytest.mark.parametrize("arrow", ["text -> number", "text -> labels", "text -> label, number"])
def test_other_answers(arrow: str, tmp_path: Path) -> None:
    model = mapsto.fit(arrow, ROWS, tmp_path / "run", method="linear", hold_out=0)
    require_better_than_constant(model, TEST)
    assert mapsto.load(tmp_path / "run").predict(TEST) == model.predict(TEST)


def test_from_the_command_line(tmp_path: Path) -> None:
    table, out = tmp_path / "rows.csv", str(tmp_path / "run")
    write_rows(table, ["text", "label"], [{name: row[name] for name in ("text", "label")} for row in ROWS])
    fitted = run("fit", "text -> label", str(table), "--method", "linear", "--out", out)
    assert fitted.returncode == 0 and "a linear model" in fitted.stderr, fitted.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "linear"
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "library_name: mapsto" in card and "pipeline_tag" not in card and "random weights" not in card
    answered = run("predict", out, "--text", "old winter", "--json")
    assert json.loads(answered.stdout)["label"] == "cold"
    assert run("info", out).returncode == run("explain", out, "old winter").returncode == 0
    refused = run("fit", "text -> label", str(table), "--start", out, "--out", str(tmp_path / "next"))
    assert refused.returncode == 2 and "linear model" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arrow", "options", "reason"),
    [
        ("video -> label", {}, "'video'"),
        ("image -> label", {"size": 32}, 'size= would change nothing with method="linear"'),
        ("~text -> text", {}, 'method="linear"'),
        ("en:text, de:text -> label", {}, "reads one value"),
        ("text -> label", {"steps": 3}, 'steps= would change nothing with method="linear"'),
        ("text -> label", {"layers": 3}, 'layers= would change nothing with method="linear"'),
        ("text -> label", {"search": 2}, "leave search= nothing to try"),
    ],
)
def test_what_a_linear_model_cannot_do_is_said(arrow: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        mapsto.fit(arrow, make_table(), method="linear", **options)


def test_a_linear_model_has_no_vectors(model: mapsto.Model) -> None:
    with pytest.raises(UsageError, match="linear model"):
        model.embed(["a text"])


def test_long_texts_take_memory_in_proportion() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = [
        {"text": " ".join(f"w{(i * 7 + j * j) % 900}" for j in range(1200)), "label": str(i % 2)} for i in range(12)
    ]
    model = mapsto.fit("text -> label", rows, method="linear")
    assert model.predict([rows[0]["text"]])[0]["label"] in ("0", "1")
    # One entry for each pair of n-grams took 8 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "more than 1 GB"
