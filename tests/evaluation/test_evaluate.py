"""What `mapsto evaluate` says about rows that the model was fitted to: on the screen, as JSON and on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import TINY, run, write_labelled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier `clf`, its training file, a clean test file, and one of which the last 10 of 40 rows were trained on."""
    folder = tmp_path_factory.mktemp("evaluated")
    train = write_labelled(folder / "train.csv", 50)
    test = write_labelled(folder / "clean.csv", 30, seed=5)
    rows = test.read_text(encoding="utf-8") + "\n".join(train.read_text(encoding="utf-8").splitlines()[-10:]) + "\n"
    (folder / "mixed.csv").write_text(rows, encoding="utf-8")
    done = run("fit", "text -> label", str(train), "--out", str(folder / "clf"), "--steps", "2", *TINY)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("data", "share"), [("train.csv", "50 of 50"), ("mixed.csv", "10 of 40"), ("clean.csv", None)])
def test_scores_on_training_rows_are_marked(data: str, share: str | None, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("evaluate", str(folder / "clf"), str(folder / data), "--device", "cpu")
    shown = run(*arguments, "--out", str(tmp_path / "page.html"))
    assert shown.returncode == 0, shown.stderr
    scores = [line for line in shown.stdout.splitlines() if "(best constant answer:" in line]
    record = json.loads(run(*arguments, "--json").stdout)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    headline = page[: page.index("<h2")]
    if share is None:
        assert scores and "too good" not in shown.stdout + shown.stderr + page
        assert record["overlap"]["rows"] == 0 and record["overlap"]["checked"]
        assert all("linear model" in note for note in record["notes"])
        assert "and are not among them: train.csv" in page
        return
    assert scores and all(line.endswith(f"– too good: {share} rows were trained on") for line in scores)
    assert f"note: {share} rows were trained on by this model" in shown.stderr
    assert f"{record['overlap']['rows']} of {record['overlap']['of']}" == share
    assert any(share in note for note in record["notes"])
    assert f"too good: {share} rows were trained on" in headline
    # A warning above the verdict says it, and beside the figure and each score too.
    assert headline.index("Careful") < headline.index('class="verdict"')
    scores_section = next(part for part in page.split("<h2")[1:] if part.startswith(">All scores"))
    assert f"{share} rows were trained on" in headline[headline.index('class="key"') :] and share in scores_section
