"""A fit that holds rows out ends with a linear model where that is better on them, and keeps the trained one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import sentences

import mapsto
from mapsto import kinds
from mapsto.errors import UsageError
from mapsto.fitting import fit
from mapsto.fitting.request import FitRequest
from mapsto.progress import Progress
from mapsto.selection import linear_rival
from mapsto.task.source import KindDefaults, Learning


def make_rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Return rows whose label depends on a word."""
    texts = sentences(count, seed)
    return [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in texts]


ROWS, TEST = make_rows(500), make_rows(60, seed=1)


class Said(Progress):
    """Keep what a run says."""

    def __init__(self) -> None:
        self.text = ""

    def say(self, text: str) -> None:
        self.text += text + "\n"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new models train for three steps, after which a linear model is better."""
    monkeypatch.setattr(kinds.source("text"), "defaults", KindDefaults(Learning(0.2, 0.2)))


def fit_rows(folder: Path | None, said: Progress | None = None, **options: Any) -> mapsto.Model:
    return mapsto.fit("text -> label", ROWS, folder, hold_out=0.3, progress=said, device="cpu", **options)


def test_a_better_linear_model_takes_the_place_of_the_trained_one(tmp_path: Path, short: None) -> None:
    said, folder = Said(), tmp_path / "clf"
    model = fit_rows(folder, said)
    assert "on 150 held-out rows a linear model of TF-IDF is better here: error " in said.text
    assert f"which {folder / 'trained'} keeps" in said.text
    assert model.mapping.config.is_linear and "confidence set by 150 held-out rows" in said.text
    texts = [row["text"] for row in TEST]
    opened, trained = mapsto.load(folder), mapsto.load(folder / "trained")
    assert opened.predict(texts) == model.predict(texts) and not trained.mapping.config.is_linear
    assert opened.evaluate(TEST).scores["accuracy"].value > trained.evaluate(TEST).scores["accuracy"].value
    with pytest.raises(UsageError, match="finished run"):
        fit_rows(folder)
    fit_rows(folder, method="linear", overwrite=True)
    assert not (folder / "trained").exists()


def test_the_trained_model_stays_where_it_is_as_good(
    tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_rival.Candidate, "is_better_than", lambda self, other: False)
    said = Said()
    assert not fit_rows(tmp_path / "clf", said).mapping.config.is_linear
    assert not (tmp_path / "clf" / "trained").exists() and "takes the place" not in said.text


@pytest.mark.parametrize("options", [{"method": "full", "epochs": 0.2}, {"epochs": 0.2}, {"layers": 1}])
def test_what_is_asked_for_is_not_replaced(options: dict[str, Any], short: None) -> None:
    """With a model's shape given, too: a linear model has none."""
    assert not fit_rows(None, **options).mapping.config.is_linear


def test_an_interrupted_linear_fit_goes_on(tmp_path: Path, short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        """Ends a run before its linear model is saved."""

    def stop(request: FitRequest, data: Any = None) -> Any:
        if request.folder is not None and request.choice is not None:
            raise Stopped
        return fit_request(request, data)

    fit_request, folder = fit.fit_request, tmp_path / "clf"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(fit, "fit_request", stop)
        fit_rows(folder)
    assert mapsto.load(folder / "trained").predict(["winter"]) and not (folder / "mapsto.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(linear_rival, "_compare", lambda *arguments: pytest.fail("trained again"))
        resumed = fit_rows(folder)
    assert resumed.mapping.config.is_linear and mapsto.load(folder).predict(["winter"]) == resumed.predict(["winter"])
