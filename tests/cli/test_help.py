"""Help in groups and in 80 columns, hints at misspelt options, completion, and options from a file."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from runs import TINY, write_labelled
from typer.testing import CliRunner

from mapsto.cli.app import app
from mapsto.errors import coloured
from mapsto.options import CHOICES, Options, flag


def show(*words: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the help that a command line prints in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["mapsto", *words])
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def test_help_has_groups_the_common_options_first(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show("fit", "--help", monkeypatch=monkeypatch)
    titles = [line.rstrip(":") for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Common", "What is read", "The model", "The training", "Generated answers", "Many processes", "The screen",
    ]  # fmt: skip
    common = text[text.index("Common:") : text.index("What is read:")]
    assert all(word in common for word in ("--out", "--start", "--test", "--rate"))
    assert max(map(len, text.splitlines())) <= 80
    assert "--hide" not in text and "--layer-decay" not in text and "mapsto help fit --all" in text


def test_help_with_all_has_every_option_with_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show("help", "fit", "--all", monkeypatch=monkeypatch)
    words = text.replace("|", " ").replace(",", " ").replace("[", " ").replace("]", " ").split()
    assert {flag(entry.name) for entry in fields(Options)} <= set(words)
    assert all(choice in words for choices in CHOICES.values() for choice in choices)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arrow", "absent", "present"),
    [
        (
            "image -> label",
            ["--vocabulary", "--language", "--sizes", "--architecture"],
            ["--size ", "--augment", "--balance"],
        ),
        ("text -> number", ["--size ", "--augment", "--balance", "--language"], ["--vocabulary"]),
        ("a:text <-> b:text", ["--balance", "--size "], ["--sizes"]),
        ("~text -> text, label", ["--sizes"], ["--hide", "--objective", "--balance"]),
    ],
)
def test_options_that_an_arrow_cannot_use_are_left_out(
    arrow: str, absent: list[str], present: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = show("fit", arrow, "--help", monkeypatch=monkeypatch)
    assert not [word for word in absent if f"  {word}" in text] and all(f"  {word}" in text for word in present)


def test_the_group_lists_its_commands_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    text = show("--help", monkeypatch=monkeypatch)
    assert all(f"  {name} " in text for name in ("fit", "predict", "completion", "help"))
    assert show("--version", monkeypatch=monkeypatch).startswith("mapsto 0.")


def test_a_terminal_has_bold_titles_and_80_columns() -> None:
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "mapsto", "fit", "--help"], stdout=side, stderr=side, env=environment
    ) as process:
        os.close(side)
        text = b""
        while process.poll() is None or not text.endswith(b"clf\r\n"):
            try:
                text += os.read(main, 65536)
            except OSError:
                break
    assert b"\x1b[1mCommon:\x1b[0m" in text and process.returncode == 0


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert (
        coloured("note: a", Terminal()) == "\x1b[33mnote:\x1b[0m a" and coloured("a note: b", Terminal()) == "a note: b"
    )
    assert coloured("note: a", io.StringIO()) == "note: a"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("error: a", Terminal()) == "error: a"


def test_shells_complete_commands_and_options() -> None:
    for shell, variable in (("bash", "COMP_WORDS"), ("zsh", "_TYPER_COMPLETE_ARGS"), ("fish", "_TYPER_COMPLETE_ARGS")):
        script = CliRunner().invoke(app, ["completion", shell])
        assert script.exit_code == 0 and "_MAPSTO_COMPLETE" in script.output and variable in script.output
    environment = {
        **os.environ,
        "_MAPSTO_COMPLETE": "complete_bash",
        "COMP_WORDS": "mapsto fit --ra",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mapsto"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["--rate"]


def test_a_file_gives_the_options_and_flags_override_it(tmp_path: Path) -> None:
    train = write_labelled(tmp_path / "train.csv", 60)
    shape = [word for word in TINY if word != "--quiet"]
    words = [
        "fit",
        "text -> label",
        str(train),
        "--out",
        str(tmp_path / "a"),
        "--steps",
        "2",
        "--hold-out",
        "0.2",
        *shape,
    ]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "scores on 12 rows held out from training:" in first.stderr and "; best constant answer: 0." in first.stderr
    assert first.stderr.splitlines()[-2].startswith("next: mapsto predict ") and not first.stdout
    again = CliRunner().invoke(
        app, ["fit", "--config", str(tmp_path / "a" / "run.toml"), "--out", str(tmp_path / "b"), "--json"]
    )
    assert again.exit_code == 0, again.output
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    (line,) = again.stdout.splitlines()
    assert '"held-out accuracy": {"value"' in line and '"baseline"' in line
    (tmp_path / "bad.toml").write_text("lr = 3\n", encoding="utf-8")
    for name, says in (("bad.toml", "has no 'lr' (here it is"), ("none.toml", "No such file")):
        wrong = CliRunner().invoke(app, ["fit", "--config", str(tmp_path / name), "x", "y", "--out", "z"])
        assert says in str(wrong.exception)
