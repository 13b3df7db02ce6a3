"""Cross-validation (`--folds`): each row is answered once by a model of the other folds, and an interrupted run goes on."""

from __future__ import annotations

import csv
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import KILL, run, sentences
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto import files
from mapsto.cli.output import report_run
from mapsto.data.rows import load_rows
from mapsto.data.sampling import deal_folds
from mapsto.data.split import deal_rows
from mapsto.data.table import read_table
from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.fitting import run_folder
from mapsto.options import Options
from mapsto.progress.python import Recorder
from mapsto.selection import cross_validation
from mapsto.selection.search import search_and_fit
from mapsto.task.arrow import parse

TEXTS = list(dict.fromkeys(sentences(60)))
ROWS = [
    {"text": text, "label": "ab"["winter" in text], "number": len(text), "who": f"speaker {i % 6}", "day": i}
    for i, text in enumerate(TEXTS)
]


@pytest.mark.parametrize("num_folds", [2, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_each_row_is_in_one_fold_and_classes_and_groups_are_even(num_folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    strata = rng.choice(["common", "common", "common", "rare"], 200).tolist()
    groups = [f"pair {row // 2}" if row < 40 else row for row in range(200)]
    folds = deal_folds(200, groups, strata, num_folds, seed)
    assert np.array_equal(np.sort(np.concatenate(folds)), np.arange(200))
    assert all(
        len({fold for fold, rows in enumerate(folds) for row in rows if groups[row] == group}) == 1 for group in groups
    )
    for name in ("common", "rare"):
        counts = [sum(strata[row] == name for row in rows) for rows in folds]
        assert max(counts) - min(counts) <= 2
    assert all(
        np.array_equal(one, other)
        for one, other in zip(folds, deal_folds(200, groups, strata, num_folds, seed), strict=True)
    )


def test_no_fold_is_empty_with_few_uneven_groups() -> None:
    groups = ["large"] * 20 + ["a"] * 2 + ["b"] + ["c"] + ["d"]
    folds = deal_folds(25, groups, ["x", "y"] * 12 + ["x"], 5, 0)
    assert sorted(map(len, folds)) == [1, 1, 1, 2, 20]


def test_similar_rows_and_named_groups_stay_in_one_fold() -> None:
    rows = [*ROWS, *({**row, "text": row["text"].upper() + "!"} for row in ROWS[:10])]
    loaded = load_rows(parse("text:text -> label"), read_table(rows))
    for group, key in ((None, lambda row: row["text"].lower().rstrip("!")), ("who", lambda row: row["who"])):
        folds = deal_rows(loaded, 4, 0, group=group)
        places = Counter((key(rows[row]), fold) for fold, indices in enumerate(folds) for row in indices.tolist())
        assert len({name for name, _ in places}) == len(places)


def test_the_answers_are_those_of_models_that_did_not_see_the_row(tmp_path: Path) -> None:
    model = mapsto.fit("text:text -> label", ROWS, tmp_path / "run", folds=3, method="linear")
    assert model.report is not None and model.report.folds is not None
    folds = model.report.folds
    with open(tmp_path / "run" / "folds.csv", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    assert [row["text"] for row in answers] == TEXTS
    assert Counter(row["fold"] for row in answers).keys() == {"1", "2", "3"}
    right = [row["label"] == row["predicted_label"] for row in answers]
    assert folds.scores["accuracy"].value == pytest.approx(sum(right) / len(right))
    assert folds.scores["accuracy"].n == folds.num_rows == len(TEXTS)
    # The model of a fold is that of a fit to the other rows.
    others = [row for row, answer in zip(ROWS, answers, strict=True) if answer["fold"] != "2"]
    of_fold = [(row, answer) for row, answer in zip(ROWS, answers, strict=True) if answer["fold"] == "2"]
    fold_model = mapsto.fit("text:text -> label", others, method="linear", hold_out=0.0)
    for row, answer in of_fold:
        said = fold_model(row["text"])
        assert (said["label"], said["probability"]) == (
            answer["predicted_label"],
            pytest.approx(float(answer["probability"]), abs=1e-4),
        )
    # The final model is that of all rows, and its report is read again from the folder.
    whole = mapsto.fit("text:text -> label", ROWS, method="linear")
    assert whole(TEXTS[0])["probability"] == model(TEXTS[0])["probability"]
    saved = mapsto.load(tmp_path / "run").report
    assert saved is not None and saved.folds == folds
    assert "standard deviation" in str(model.report) and "cross-validated accuracy" in model.report._repr_html_()
    assert "| macro_f1 |" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert [row["fold"] for row in folds.answers] == [int(row["fold"]) for row in answers]
    with pytest.raises(UsageError, match=r"read them from .*folds.csv"):
        _ = saved.folds.answers
    assert not (tmp_path / "run" / "folds").exists()


@pytest.mark.filterwarnings("error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning")
def test_the_report_shows_the_folds_and_goes_with_the_saved_model(tmp_path: Path) -> None:
    model = mapsto.fit("text:text -> label", ROWS, folds=2, method="linear")
    report, folds = model.report, model.report.folds
    assert folds is not None and [row["text"] for row in folds.answers] == TEXTS
    scored = report.to_pandas().set_index("metric")["score"]
    assert scored["cross-validated accuracy"] == folds.scores["accuracy"].value
    assert list(folds.to_pandas()["fold_2"]) == [folds.by_fold[1][name] for name in folds.scores]
    assert str(folds).startswith(f"{len(TEXTS)} rows in 2 folds") and "<table>" in folds._repr_html_()
    with pytest.raises(UsageError, match="no metric 'acc'.*scored by 'accuracy', 'macro_f1'"):
        folds.mean("acc")
    model.save(tmp_path / "saved")
    assert mapsto.load(tmp_path / "saved").report.folds == folds
    # A model that is passed on does not hold the rows.
    assert pickle.loads(pickle.dumps(report)).folds.answer_rows is None


def test_the_answers_are_written_as_the_rows_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "train.csv"
    table.write_text("text;label\n" + "".join(f"{row['text']};{row['label']}\n" for row in ROWS), "utf-8-sig")
    recorder = Recorder(RecordingProgress())
    search_and_fit(
        "text -> label", table, tmp_path / "run", folds=2, options=Options(method="linear"), progress=recorder
    )
    assert (tmp_path / "run" / "folds.csv").read_bytes().startswith("\ufefftext;label;fold;predicted".encode())
    size = len(ROWS) // 2
    assert f"2 folds of {size} rows, each answered by a model of the others" in recorder.progress.lines  # type: ignore[attr-defined]
    report_run(tmp_path / "run", recorder, False, False, ["mapsto predict"])
    assert "folds.csv\nnext: mapsto predict" in capsys.readouterr().err


def test_the_answers_stay_where_a_linear_model_replaces_the_trained_one(tmp_path: Path) -> None:
    for name in ("folds.csv", run_folder.FOLDS, "model.safetensors"):
        (tmp_path / name).touch()
    run_folder.set_trained_aside(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"folds.csv", run_folder.FOLDS, run_folder.TRAINED}


def test_a_method_that_the_answers_rule_out_is_refused_before_the_folds() -> None:
    rows = [{"text": f"Ann met Bob {i}", "tags": [{"start": 0, "end": 3, "tag": "P"}]} for i in range(8)]
    base = mapsto.pretrain("text", TEXTS, steps=1, **TINY_OPTIONS)
    with pytest.raises(UsageError, match='^method="probe" is for answers such as labels.*tags cannot be probed$'):
        mapsto.fit("text -> tags", rows, start=base, method="probe", folds=2)


def test_numbers_several_answers_and_groups() -> None:
    model = mapsto.fit("text:text -> label, number", ROWS, folds=3, method="linear", group="who")
    folds = model.report.folds  # type: ignore[union-attr]
    assert {"label: accuracy", "number: mae"} <= set(folds.scores)  # type: ignore[union-attr]
    assert all(score.n == len(TEXTS) for score in folds.scores.values())  # type: ignore[union-attr]


def test_a_column_that_is_called_fold_stays(tmp_path: Path) -> None:
    mapsto.fit(
        "text:text -> label", [{**row, "fold": "mine"} for row in ROWS], tmp_path / "run", folds=2, method="linear"
    )
    with open(tmp_path / "run" / "folds.csv", encoding="utf-8") as stream:
        answers = list(csv.DictReader(stream))
    assert {row["fold"] for row in answers} == {"mine"} and {row["fold_2"] for row in answers} == {"1", "2"}


def test_a_class_with_a_single_row_is_scored() -> None:
    rows = [*ROWS, {"text": "the only row of its class", "label": "lonely"}]
    folds = mapsto.fit("text:text -> label", rows, folds=3, method="linear").report.folds  # type: ignore[union-attr]
    assert folds is not None and folds.scores["accuracy"].n == len(rows)
    assert folds.scores["macro_f1"].value < 0.9


def test_an_interrupted_run_goes_on_with_the_finished_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"folds": 3, "steps": 4, "save_every": 2, **TINY_OPTIONS}
    fitted: list[int] = []
    fit_fold = cross_validation._fit_fold

    def stop_at_the_second(validation: Any, fold: int) -> Any:
        fitted.append(fold)
        if len(fitted) == 2:
            raise RunError("stopped")
        return fit_fold(validation, fold)

    with monkeypatch.context() as patch, pytest.raises(RunError):
        patch.setattr(cross_validation, "_fit_fold", stop_at_the_second)
        mapsto.fit("text:text -> label", ROWS, tmp_path / "run", **given)
    assert (tmp_path / "run" / "folds" / "1" / "model.safetensors").exists()
    with pytest.raises(UsageError, match="other --folds|other folds="):
        mapsto.fit("text:text -> label", ROWS, tmp_path / "run", **{**given, "folds": 4})
    progress = RecordingProgress()
    mapsto.fit("text:text -> label", ROWS, tmp_path / "run", progress=progress, **given)
    mapsto.fit("text:text -> label", ROWS, tmp_path / "whole", **given)
    assert "fold 1 of 3 was fitted before" in progress.lines
    for name in ("folds.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # A finished run is refused, and replaced where that is asked for.
    with pytest.raises(UsageError, match="finished run"):
        mapsto.fit("text:text -> label", ROWS, tmp_path / "run", **given)
    mapsto.fit("text:text -> label", ROWS, tmp_path / "run", overwrite=True, method="linear")
    assert not (tmp_path / "run" / run_folder.FOLDS).exists() and not (tmp_path / "run" / "folds.csv").exists()


def test_folds_that_are_scored_are_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(request: Any) -> Any:
        raise RunError("stopped before the final fit")

    with monkeypatch.context() as patch, pytest.raises(RunError):
        patch.setattr("mapsto.selection.search.choose_and_fit", stop)
        mapsto.fit("text:text -> label", ROWS, tmp_path / "run", folds=2, method="linear")
    monkeypatch.setattr(cross_validation, "_run_folds", None)
    report = mapsto.fit("text:text -> label", ROWS, tmp_path / "run", folds=2, method="linear").report
    assert report is not None and report.folds is not None and report.folds.num_rows == len(ROWS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "at least 2, not 1"),
        ({"folds": 1000}, "more than the"),
        ({"folds": 7, "group": "who"}, r'6 groups by group="?.?who.* at most 6 folds'),
        ({"folds": 3, "time": "day"}, "latest rows"),
        ({"folds": 3, "search": 2}, "give one of them"),
        ({"cv": 3}, "'folds'"),
        (
            {"folds": 3, "method": "full", "metric": "acuracy", "hold_out": 0.2, **TINY_OPTIONS},
            "did you mean 'accuracy'",
        ),
    ],
)
def test_wrong_uses_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, TypeError), match=message):
        mapsto.fit("text:text -> label", ROWS, tmp_path / "run", **{"method": "linear", **options})
    # The folder is free for the command that is meant.
    assert not (tmp_path / "run").exists()


def test_arrows_without_one_answer_a_row_are_refused() -> None:
    pairs = [{"a": text, "b": text[::-1]} for text in TEXTS]
    with pytest.raises(UsageError, match="ranks the rows"):
        mapsto.fit("a:text <-> b:text", pairs, folds=2, steps=1)
    with pytest.raises(DataError, match=r"fold \d: all 5 rows"):
        mapsto.fit(
            "text -> label",
            [{"text": f"word {i} alone", "label": "ab"[i == 0]} for i in range(6)],
            folds=6,
            method="linear",
        )


@pytest.mark.parametrize(
    "change",
    [lambda folds: folds.pop("rows"), lambda folds: folds["by_fold"].pop(), lambda folds: folds["by_fold"].append(3)],
)
def test_a_record_of_folds_that_was_changed_is_refused(change: Any, tmp_path: Path) -> None:
    mapsto.fit("text:text -> label", ROWS, tmp_path / "run", folds=2, method="linear")
    path = tmp_path / "run" / "mapsto.json"
    manifest = files.read_sealed(path)
    change(manifest["provenance"]["folds"])
    files.write_atomic(path, files.seal(manifest))
    with pytest.raises(CheckpointError, match="folds"):
        mapsto.load(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(not KILL, reason="needs signals")
def test_folds_on_the_command_line(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    table.write_text(
        "text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in ROWS) + "\n", encoding="utf-8"
    )
    finished = run(
        "fit",
        "text -> label",
        str(table),
        "--folds",
        "3",
        "--method",
        "linear",
        "--out",
        str(tmp_path / "run"),
        "--json",
    )
    assert finished.returncode == 0, finished.stderr
    assert '"folds"' in finished.stdout
