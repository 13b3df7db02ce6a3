"""The list of labels that may be wrong: in Python, as a table in each format, and on the page."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mapsto
from mapsto import kinds
from mapsto.cli import main
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.errors import RunError, UsageError
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Evaluation, Predictions
from mapsto.evaluation.report_sections import mistake_sections
from mapsto.evaluation.suspects import join_suspects
from mapsto.task.arrow import parse

COLUMNS = [
    "file", "row", "column", "input", "label", "answer", "label_probability", "answer_probability", "wrong_probability",
    "precision",
]  # fmt: skip
TEXTS = [f"{i} it is {'winter' if i % 2 else 'summer'} in {place}" for i in range(120) for place in ("Rome", "罗马")]


def predictions(count: int = 2000, flipped: int = 0, unseen: int = 0, port: str = "label") -> Predictions:
    """A calibrated model of three classes; the first labels are flipped, the last ones were never seen."""
    rng = np.random.default_rng(0)
    outputs = torch.from_numpy(rng.normal(0, 3, (count, 3)))
    labels = torch.multinomial(outputs.softmax(-1), 1, generator=torch.Generator().manual_seed(0))[:, 0].numpy()
    labels[:flipped] = (labels[:flipped] + rng.integers(1, 3, flipped)) % 3
    names = [f"c{label}" for label in labels[: count - unseen]] + ["new"] * unseen
    rows = load_rows(
        parse(f"text -> {port}:label"),
        read_table([{"text": f"row {i}", port: name} for i, name in enumerate(names)]),
    )
    return Predictions(rows.arrow, kinds.target("label")(["c0", "c1", "c2"]), rows, rows.targets[0], outputs)


def test_suspects_are_the_flipped_labels_and_their_precision_is_estimated() -> None:
    noisy = predictions(flipped=200)
    suspects = noisy.suspects
    is_flipped = np.array([suspect.index < 200 for suspect in suspects.rows])
    assert is_flipped.sum() > 120 and suspects.num_wrong == pytest.approx(is_flipped.sum(), rel=0.2)
    for count in (50, 100, 150, suspects.num_recommended):
        assert suspects.rows[count - 1].precision == pytest.approx(is_flipped[:count].mean(), abs=0.1)
    wrong = [suspect.wrong_probability for suspect in suspects.rows]
    assert wrong == sorted(wrong, reverse=True)
    assert [suspect.precision for suspect in suspects.rows] == pytest.approx(
        np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    )
    assert suspects.num_recommended == sum(np.cumsum(wrong) / np.arange(1, len(wrong) + 1) >= 0.5)
    assert suspects.threshold == wrong[suspects.num_recommended - 1]
    probabilities = noisy.outputs.softmax(-1)
    for suspect in suspects.rows:
        scores = dict(zip(("c0", "c1", "c2"), probabilities[suspect.index].tolist(), strict=True))
        assert suspect.answer == max(scores, key=scores.__getitem__) != suspect.label == noisy.labels[suspect.index]
        assert suspect.label_probability == pytest.approx(scores[suspect.label])
        assert suspect.answer_probability == pytest.approx(scores[suspect.answer])
        assert suspect.row == suspect.index + 1 and suspect.input == f"row {suspect.index}"


def test_clean_labels_have_few_suspects_and_no_list_to_check() -> None:
    suspects = predictions().suspects
    assert len(suspects.rows) < 40 and suspects.num_wrong < 5 and suspects.num_recommended < 3


def test_no_suspects_are_said_and_written(tmp_path: Path) -> None:
    certain = predictions()
    labels = torch.tensor([int(name[1]) for name in certain.labels])
    certain.outputs[:] = 9.0 * torch.nn.functional.one_hot(labels, 3)
    suspects = certain.suspects
    assert (
        suspects.rows == [] and suspects.threshold is None and suspects.summary() == ["no label is likely to be wrong"]
    )
    for suffix in ("csv", "jsonl", "parquet"):
        assert suspects.write(tmp_path / f"none.{suffix}") == 0
    assert (tmp_path / "none.csv").read_text().strip() == ",".join(COLUMNS)
    analysis = analyse_errors(certain)
    assert analysis is not None and not any("may be wrong" in line for line in analysis.lines())


def test_labels_never_seen_are_counted_and_not_listed() -> None:
    suspects = predictions(flipped=100, unseen=30).suspects
    assert suspects.num_unseen == 30 and not any(suspect.label == "new" for suspect in suspects.rows)
    assert len(suspects.rows) > 50 and max(suspect.index for suspect in suspects.rows) < 1970
    assert suspects.summary()[-1] == "not in the list: 30 rows with a label that training never saw"
    only_new = predictions(50, unseen=50).suspects
    assert only_new.rows == [] and only_new.num_unseen == 50


def test_suspects_of_several_targets_are_one_list() -> None:
    parts = [predictions(flipped=100, port="mood"), predictions(flipped=50, port="place")]
    both, single = join_suspects([part.suspects for part in parts]), [part.suspects for part in parts]
    assert {suspect.column for suspect in both.rows} == {"mood", "place"}
    assert len(both.rows) == sum(len(part.rows) for part in single)
    wrong = [suspect.wrong_probability for suspect in both.rows]
    assert wrong == sorted(wrong, reverse=True) and both.rows[-1].precision == pytest.approx(np.mean(wrong))


def test_suspects_need_a_label() -> None:
    rows = load_rows(parse("text -> number"), read_table([{"text": "a", "number": 1.0}, {"text": "b", "number": 2.0}]))
    target = kinds.target("number")()
    target.learn([1.0, 2.0])
    numbers = Predictions(rows.arrow, target, rows, rows.targets[0], torch.zeros(2, 1))
    with pytest.raises(UsageError, match="one of several classes"):
        Evaluation(2, {}, predictions=[numbers]).suspects()


def test_the_page_and_the_screen_say_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 20 are on the screen, and the page marks the most doubtful ones; without the package cleanlab."""
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    noisy = predictions(flipped=200)
    suspects, analysis = noisy.suspects, analyse_errors(noisy)
    assert analysis is not None and [case.index for case in analysis.label_issues] == [
        suspect.index for suspect in suspects.rows[:20]
    ]
    assert analysis.num_label_issues == len(suspects.rows) > 20
    counts = suspects.summary()[0]
    assert f"{counts} (--suspects):" in analysis.lines()
    texts = [line for section in mistake_sections(noisy, analysis) for line in section.text]
    (table,) = mistake_sections(noisy, analysis)[0].tables
    assert 20 < sum("may be wrong" in str(row[-1]) for row in table.rows) < suspects.num_recommended
    assert any(counts in text and "--suspects FILE" in text for text in texts)


# A fitted model


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows summer from winter, beside a test table with five flipped labels and one never seen."""
    folder = tmp_path_factory.mktemp("suspects")
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in TEXTS]
    options: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "steps": 40, "device": "cpu"}
    mapsto.fit("text -> label", rows[:120], folder / "clf", **options)
    flip = {"cold": "warm", "warm": "cold"}
    test = [{**row, "label": flip[row["label"]]} if i < 5 else row for i, row in enumerate(rows[120:])]
    write_rows(folder / "test.csv", ["text", "label"], [*test, {"text": "fog", "label": "mild"}])
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "csv.gz"])
def test_the_command_writes_every_format(
    clf: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"suspects.{suffix}"
    for _ in range(2):  # the second list replaces the first
        status, _, err = command(monkeypatch, capsys, "evaluate", clf / "clf", clf / "test.csv", "--suspects", path)
        assert status == 0, err
    table = read_table(path)
    assert list(table.columns) == COLUMNS
    found = mapsto.load(clf / "clf", device="cpu").evaluate(clf / "test.csv").suspects()
    assert found.num_unseen == 1 and 0 < len(table) <= 5
    assert {int(row) for row in table.column("row")} <= {2, 3, 4, 5, 6}
    assert [int(row) for row in table.column("row")] == [suspect.row for suspect in found.rows]
    assert [float(value) for value in table.column("precision")] == pytest.approx(
        [suspect.precision for suspect in found.rows]
    )
    assert set(table.column("column")) == {"label"} and table.column("input")[0] in TEXTS
    for line in (*found.summary(), f"wrote {len(found.rows)} rows to {path}"):
        assert line in err.splitlines()


def test_json_stays_json(
    clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "suspects.csv"
    arguments = ("evaluate", clf / "clf", clf / "test.csv", "--json", "--suspects", path)
    status, out, _ = command(monkeypatch, capsys, *arguments)
    record = json.loads(out)["looks"][0]
    with path.open(newline="") as stream:
        assert status == 0 and record["num_suspects"] == len(list(csv.DictReader(stream)))
    assert record["num_wrong_labels"] > 1 and len(record["suspects"]) <= 20


def test_paths_that_cannot_be_written_are_refused(
    clf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path, message in (
        (tmp_path / "suspects.xls", "csv, tsv, jsonl, parquet or xlsx"),
        (tmp_path / "nowhere" / "suspects.csv", "there is no folder"),
        (tmp_path / "folder.csv", "is a folder"),
    ):
        status, out, err = command(monkeypatch, capsys, "evaluate", clf / "clf", clf / "test.csv", "--suspects", path)
        assert status == 2 and message in err and not out
    # The scores are printed although the list cannot be written, and the older list stays.
    path = tmp_path / "suspects.csv"
    older = "row,wrong_probability\n2,0.5\n"
    path.write_text(older)

    def fail(*paths: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    monkeypatch.setattr("os.fsync", fail)
    status, out, err = command(monkeypatch, capsys, "evaluate", clf / "clf", clf / "test.csv", "--suspects", path)
    assert status == 1 and "could not be written" in err and "accuracy" in out and path.read_text() == older
    with pytest.raises(RunError, match="could not be written"):
        predictions().suspects.write(path)


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Run a command in this process; return its exit status and output."""
    monkeypatch.setattr(sys, "argv", ["mapsto", *map(str, arguments)])
    capsys.readouterr()
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("seed", range(1, 6))  # 0 draws the outputs that the labels follow
def test_a_model_that_guesses_judges_no_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    guessing = predictions(200)
    guessing = replace(guessing, outputs=torch.from_numpy(rng.normal(0, 0.5, (200, 3))))
    assert not guessing.suspects.rows and guessing.suspects.num_unseen == 0
    assert "no label is judged: the model is not better" in guessing.suspects.summary()[0]
    assert predictions(200, flipped=20).suspects.rows
