"""Tables from the command line: several files, rows without a label, and outputs that keep what the input has."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import mapsto
from mapsto import cli
from mapsto.errors import MapstoError

ROWS = [
    (f"{'bad' if row % 2 == 0 else 'good'} film number {row}", "neg" if row % 2 == 0 else "pos") for row in range(20)
]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app.app, [str(argument) for argument in arguments])


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is fitted to two files, and answers the rows without a label."""
    folder = tmp_path_factory.mktemp("tables")
    first = write(folder / "a.csv", ROWS[:10])
    second = write(folder / "b.csv", [*ROWS[10:], ("a film of nobody", ""), ("another", " ")])
    result = run(
        "fit",
        "text -> label",
        first,
        second,
        "--out",
        folder / "model",
        "--unlabelled",
        "predict",
        "--method",
        "linear",
    )
    assert result.exception is None, result.output
    assert "2 files are read as one table" in result.output and "2 rows have no label" in result.output
    return folder / "model"


def test_rows_without_a_label_are_answered_at_the_end(model: Path) -> None:
    rows = list(csv.DictReader((model / "unlabelled.csv").open()))
    assert [row["text"] for row in rows] == ["a film of nobody", "another"]
    assert all(row["predicted_label"] in ("neg", "pos") and not row["label"].strip() for row in rows)


def test_rows_without_a_label_are_an_error_of_evaluate_or_counted(model: Path) -> None:
    path = model.parent / "b.csv"
    assert 'unlabelled="drop" leaves out the 2 rows' in str(run("evaluate", model, path).exception)
    assert "2 rows without a label are not scored" in run("evaluate", model, path, "--unlabelled", "drop").output
    assert mapsto.load(model).evaluate(path, unlabelled="drop").num_rows == 10
    assert "2 rows have no label" in run("check", "text -> label", path, "--unlabelled", "drop").output


def test_a_gzipped_training_file_has_the_same_rows(model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress((model.parent / "a.csv").read_bytes()))
    assert "10 of 10 rows were trained on" in run("evaluate", model, packed).output


def test_an_output_keeps_the_input_and_its_style(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_bytes("\ufeffsep=;\ntext;label;predicted_label;probability\ngood film;a;by hand;0.99\n".encode())
    assert run("predict", model, path, "--out", out).exception is None
    text = out.read_bytes().decode("utf-8")
    assert text.startswith("\ufefftext;label;predicted_label;probability;predicted_label_2;probability_2")
    assert "\ngood film;a;by hand;0.99;" in text
    before = path.read_bytes()
    with pytest.raises(MapstoError, match="is the input itself"):
        raise run("predict", model, path, "--out", path).exception or AssertionError
    assert path.read_bytes() == before
    again = tmp_path / "again.jsonl"
    assert run("predict", model, out, "--out", again).exception is None
    row = again.read_text(encoding="utf-8")
    assert '"predicted_label": "by hand"' in row and '"predicted_label_3"' in row


def test_many_like_findings_are_told_a_few_times(tmp_path: Path) -> None:
    lines = [f'text {i},"0,{i}"' for i in range(60)]
    (tmp_path / "prices.csv").write_text("text,price\n" + "\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "mapsto", "check", "text -> price:number", str(tmp_path / "prices.csv")]
    output = subprocess.run(command, capture_output=True, text=True).stdout
    assert "and 40 more rows of column 'price'" in output and output.count("decimal point") < 30
