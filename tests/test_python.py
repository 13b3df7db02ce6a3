"""Python says what the command line says: options by their keywords, findings as warnings, results as tables."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import pickletools
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from runs import sentences
from typer.main import get_command

import mapsto
from mapsto.cli.app import app
from mapsto.cli.evaluate import evaluate
from mapsto.errors import DataError, UsageError, installation
from mapsto.errors.wording import on_command_line, worded
from mapsto.options import FUNCTION_KEYWORDS, Options
from mapsto.progress import Progress
from mapsto.progress.python import NotebookProgress, python_progress
from mapsto.report import requirements
from mapsto.report.results import Answers

SOURCE = Path(mapsto.__file__).parent
TINY: dict[str, Any] = {"layers": 1, "width": 64, "heads": 2, "vocabulary": 300, "device": "cpu", "precision": "fp32"}
ROWS = [{"text": text, "label": "cold" if "winter" in text else "暖"} for text in sentences(60)]


@pytest.fixture(scope="module")
def clf(tmp_path_factory: pytest.TempPathFactory) -> mapsto.Model:
    out = tmp_path_factory.mktemp("python") / "clf"
    return mapsto.fit("text -> label", ROWS, out, hold_out=0.2, steps=12, quiet=True, **TINY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "--bad-rows skip leaves out more than --most-skipped 0.25",
            'bad_rows="skip" leaves out more than most_skipped=0.25',
        ),
        ("choose another --out, or add --overwrite", "choose another out=, or add overwrite=True"),
        ("say --encoding gb18030; --no-average", 'say encoding="gb18030"; average=False'),
        ("no --language 'xx'", "no language='xx'"),
        ("the model's 64 numbers (--sizes)", "the model's 64 numbers (sizes=)"),
        ("'--rate 3' is a cell, as is \"--rate\"", "'--rate 3' is a cell, as is \"--rate\""),
        ("--csv-safe and --text have no keyword", "--csv-safe and --text have no keyword"),
    ],
)
def test_options_are_named_as_the_user_writes_them(text: str, expected: str) -> None:
    assert worded(text) == str(UsageError(text)) == expected
    error = DataError(text)
    with on_command_line():
        assert worded(text) == str(error) == text
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# Files whose texts have style sheets, and flags that are no option of a command.
STYLED = {
    path.relative_to(SOURCE).as_posix() for path in (*SOURCE.glob("report/*.py"), SOURCE / "vision" / "image_io.py")
}
FOREIGN = {"--help", "--version", "--no-x", "--install-completion", "--show-completion"}


def mentioned_flags() -> set[tuple[str, str]]:
    """Return the file and each flag that a text in the source mentions."""
    mentions = set()
    for path in SOURCE.rglob("*.py"):
        file = path.relative_to(SOURCE).as_posix()
        if file not in STYLED:
            # A variable of a style sheet is set with a colon, or read by `var`.
            found = re.findall(r"(?<![\w(-])--[a-z][a-z-]*[a-z](?![\w:*-])", path.read_text(encoding="utf-8"))
            mentions |= {(file, flag) for flag in found}
    return mentions


def test_every_flag_of_a_message_is_one_of_the_command_line() -> None:
    """A message that names a flag which there is not would send its reader astray."""
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    flags = {flag for sub in commands for option in sub.params for flag in (*option.opts, *option.secondary_opts)}
    unknown = {(file, flag) for file, flag in mentioned_flags() if flag not in flags | FOREIGN}
    assert not unknown
    functions = [mapsto.fit, mapsto.pretrain, mapsto.compare, mapsto.Decoding, *vars(mapsto.Model).values()]
    parameters = {
        name for function in functions if callable(function) for name in inspect.signature(function).parameters
    }
    assert set(FUNCTION_KEYWORDS) <= parameters


def test_help_lists_every_option_with_type_default_and_a_line() -> None:
    for function in (mapsto.fit, mapsto.pretrain, mapsto.compare):
        names = inspect.signature(function).parameters
        listed = [entry for entry in fields(Options) if entry.name in names]
        assert len(listed) > 30 and "fields" not in names
        text = " ".join((function.__doc__ or "").split())
        for entry in listed:
            assert names[entry.name].default == entry.default
            assert f" {entry.name}: " in text and f" = {entry.default!r}. " in text, entry.name
    assert (
        "'full' | 'probe'" in (mapsto.fit.__doc__ or "")
        and "patience" not in inspect.signature(mapsto.pretrain).parameters
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("lr", "here it is 'rate'"),
        ("batch_size", "'batch'"),
        ("epoch", "did you mean 'epochs'"),
        ("output_dir", "'out'"),
    ],
)
def test_a_misspelt_option_finds_the_right_one(wrong: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"no option '{wrong}' .*{hint}"):
        mapsto.fit("text -> label", ROWS, **{wrong: 1})
    if wrong != "output_dir":
        with pytest.raises(UsageError, match=hint):
            mapsto.Options(**{wrong: 1})


def test_what_affects_a_result_is_warned_of_each_time(
    clf: mapsto.Model, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "mapsto")
    for _ in range(2):
        with pytest.warns(mapsto.MapstoWarning, match="confidence is as training left it.*steps= leaves out") as caught:
            mapsto.fit("text -> label", ROWS, tmp_path, steps=1, overwrite=True, **TINY)
        assert caught[0].filename == __file__
    assert any("1 steps of" in line for line in caplog.messages)
    with pytest.warns(mapsto.MapstoWarning, match="1 of 2 rows could not be answered"):
        clf.predict(["river", " "])
    with pytest.warns(mapsto.MapstoWarning, match="were trained on"):
        clf.evaluate(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caplog.clear()
        mapsto.fit("text -> label", ROWS, steps=1, quiet=True, **TINY)
        clf.predict(["river", " "], quiet=True)
        clf.evaluate(ROWS, quiet=True)
    assert not caplog.messages


def test_a_script_that_sets_up_nothing_sees_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mapsto"), "propagate", False)  # pytest has set up the root logger
    mapsto.fit("text -> label", ROWS, steps=1, **TINY)
    printed = capsys.readouterr()
    assert not printed.out and "1 steps of" in printed.err


def test_a_notebook_has_one_live_line() -> None:
    drawn: list[str] = []

    class Handle:
        def update(self, content: Any) -> None:
            drawn.append(repr(content))

    def display(content: Any, display_id: bool) -> Handle:
        drawn.append(repr(content))
        return Handle()

    progress = NotebookProgress(display)
    progress.say("1,000 rows")
    progress.show("step 1/2")
    progress.show("step 2/2 \x1b[31m")
    progress.close()
    assert drawn == ["1,000 rows", "1,000 rows\nstep 1/2", "1,000 rows\nstep 2/2 \\u001b[31m", "1,000 rows"]
    assert type(python_progress(quiet=True)) is Progress


def test_a_model_has_the_report_of_its_run(clf: mapsto.Model) -> None:
    report = clf.report
    assert "12 rows held out" in report.title and report.scores["held-out accuracy"].n == 12
    assert any("confidence" in finding for finding in report.findings)
    assert report.curves[-1]["step"] == 12 and {"held_out_loss", "training_loss"} <= set(report.curves[0])
    shown = str(report)
    assert "best constant answer" in shown and "held-out accuracy" in shown and len(shown.splitlines()) < 12
    assert report.to_pandas()["score"][0] == report.scores["held-out accuracy"].value
    again = mapsto.load(report.folder or "").report
    assert again.scores == report.scores and again.curves == report.curves


def test_results_are_tables(clf: mapsto.Model) -> None:
    evaluation = clf.evaluate(ROWS, quiet=True)
    frame = evaluation.to_pandas()
    assert frame.loc[frame["metric"] == "accuracy", "low"].item() == evaluation.scores["accuracy"].low
    assert "<th>95 % interval</th>" in evaluation._repr_html_() and repr(evaluation) == str(evaluation)
    answers = clf.predict(["winter", " ", "今天"], quiet=True)
    assert answers == list(answers) and answers.to_pandas()["label"].tolist()[0] in ("cold", "暖")
    assert list(answers.to_pandas().columns) == ["label", "probability", "familiar", "error"]
    assert Answers([{"label": "<b>"}])._repr_html_().count("&lt;b&gt;") == 1
    assert "… and 5 more" in str(Answers([{"label": "a"}] * 25))
    suggestions = clf.suggest(sentences(6, 3), n=2)
    assert len(suggestions.to_pandas()) == 2 and "reason" in str(suggestions)
    explained = clf.explain(["winter river", "spring hope"])
    assert len(explained.to_pandas()) == 2 and "speaks for it" in str(explained) and "█" in repr(explained[0])


def globals_of(content: bytes) -> set[tuple[str, str]]:
    """Return (module, name) of each class and function that a pickle names."""
    texts: list[str] = []
    found = set()
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name == "STACK_GLOBAL":
            found.add((texts[-2], texts[-1]))
        elif isinstance(argument, str):
            texts.append(argument)
    return found


def test_a_used_model_is_pickled_and_copied(clf: mapsto.Model) -> None:
    expected = clf.predict(["winter river"], quiet=True)
    content = pickle.dumps(clf)
    assert b"model.safetensors" in content
    assert {module for module, _ in globals_of(content)} <= {
        "mapsto.api",
        "mapsto.report.run_report",
        "mapsto.metrics.intervals",
    }
    for again in (pickle.loads(content), copy.copy(clf), copy.deepcopy(clf)):
        assert again.predict(["winter river"], quiet=True) == expected and again.report.scores == clf.report.scores
        for one, other in zip(clf.mapping.parameters(), again.mapping.parameters(), strict=True):
            assert torch.equal(one, other)
    assert copy.deepcopy(clf).mapping is not clf.mapping


def test_columns_of_values_are_read_everywhere(clf: mapsto.Model) -> None:
    texts = sentences(5, 9)
    vectors, answers = clf.embed(texts), clf.predict(texts)
    columns: list[Any] = [
        np.array(texts),
        pd.Series(texts),
        pl.Series(texts),
        pa.array(texts),
        pa.chunked_array([texts]),
    ]
    for column in columns:
        np.testing.assert_array_equal(clf.embed(column), vectors)
        assert clf.predict(column) == answers
        assert [row["text"] for row in clf.find(texts[0], column, top=1)] == texts[:1]
    for table in (pl.DataFrame({"text": texts}), pl.DataFrame({"text": texts}).lazy(), pd.DataFrame({"text": texts})):
        assert clf.predict(table) == answers
        np.testing.assert_array_equal(clf.embed(table), vectors)
    base = mapsto.pretrain("text", pl.Series(sentences(20)), steps=1, quiet=True, **TINY)
    assert base.embed(texts).shape == (5, 64)
    with pytest.raises(UsageError, match=r"'winter day' is no table and no file.*model\(value\)"):
        clf.predict("winter day")
    with pytest.raises(UsageError, match=r'given as {"text": '):
        mapsto.fit("text -> label", list(zip(texts, "abcde", strict=True)))


def test_pictures_of_every_form_are_read() -> None:
    from PIL import Image

    arrays = [np.full((20, 20, 3), 40 * number, np.uint8) for number in range(6)]
    pictures = [Image.fromarray(array) for array in arrays]
    rows = {"image": pictures, "label": ["a", "b"] * 3}
    model = mapsto.fit("image -> label", rows, size=16, steps=1, layers=1, width=64, heads=2, device="cpu", quiet=True)
    answers = model.predict(pictures)
    assert model.predict(np.stack(arrays)) == model.predict(pd.Series(pictures)) == answers == model.predict(arrays)
    assert model(pictures[2]) == model(arrays[2]) == answers[2]
    with pytest.raises(UsageError, match="a single Image is no table"):
        model.predict(pictures[0])


def test_advice_to_install_works_for_how_it_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        origin: str | None = None

        def read_text(self, name: str) -> str | None:
            return self.origin

    error = UsageError("reports need the package matplotlib: pip install 'mapsto[report]'")
    monkeypatch.setattr(installation, "distribution", lambda name: Installed())
    for origin, command in (
        (None, "pip install 'mapsto[report]'"),
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "pip install -e '/a b[report]'"),
        ({"url": "file:///work", "dir_info": {}}, "pip install '/work[report]'"),
        ({"url": "https://x.org/m.whl", "archive_info": {}}, "pip install 'mapsto[report]'"),
    ):
        installation._command.cache_clear()
        monkeypatch.setattr(Installed, "origin", origin and json.dumps(origin))
        assert str(error).endswith(f": {command}")
    installation._command.cache_clear()


def test_what_a_report_needs_is_looked_for_before_the_work(
    clf: mapsto.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"reports need the package matplotlib: pip install"):
        mapsto.compare("text -> label", ROWS, tmp_path / "c", starts=["scratch"], quiet=True)
    assert not (tmp_path / "c").exists()
    with pytest.raises(UsageError, match="reports need"):
        evaluate(clf.report.folder or "", [tmp_path / "none.csv"], out=tmp_path / "a.html")
