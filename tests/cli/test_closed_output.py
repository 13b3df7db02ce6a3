"""Commands whose terminal is closed, or whose output nobody reads any more: `mapsto fit … 2>&1 | head -1`."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import TINY, restore_hang_up, steps_done, write_corpus, write_labelled

import mapsto
from mapsto.errors import CheckpointError, UsageError
from mapsto.progress import JsonLines, Lines, Live, PartProgress, Progress
from mapsto.training.loggers import Logger, Loggers, ProgressLogger

STEPS = 60


def pretraining(folder: Path) -> list[str]:
    """Return the arguments of a small pretraining in the folder `folder`/run that prints its progress."""
    corpus = write_corpus(folder / "corpus.txt", 100)
    shape = ["--steps", str(STEPS), "--save-every", "100", "--batch", "8", "--hold-out", "0"]
    tiny = [flag for flag in TINY if flag != "--quiet"]
    return ["pretrain", "text", str(corpus), "--out", str(folder / "run"), *shape, *tiny]


def start_with(arguments: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start the command line with other streams than pipes that are read."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "mapsto", *arguments], env=environment, **streams)


def wait_for_a_step(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a run has done its first step."""
    while not steps_done(folder) and process.poll() is None:
        time.sleep(0.005)


def require_saved(folder: Path) -> None:
    """Assert that the run was stopped before its end, and that the last step it did is saved."""
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert int(saved[-1].removeprefix("step-")) == steps_done(folder) < STEPS


def test_a_run_whose_progress_nobody_reads_saves_and_stops(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    process = start_with(pretraining(tmp_path), stderr=writing, stdout=writing)
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    assert process.wait(120) == 128 + signal.SIGPIPE
    require_saved(tmp_path / "run")


@pytest.mark.parametrize("output", [Lines, Live, JsonLines])
def test_progress_that_nobody_reads_is_the_signal_to_stop(
    output: type[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    # Without a buffer, which could not be closed after the error.
    with io.TextIOWrapper(os.fdopen(writing, "wb", buffering=0), write_through=True) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        progress = output()
        progress.say("read")
        assert not ProgressLogger(PartProgress(progress, "part")).hang_up
        os.close(reading)
        for _ in range(2):
            progress.say("not read")
            progress.rows("read", 1, 1)
            progress.close()
            assert Loggers([Logger(), ProgressLogger(PartProgress(progress, "part"))]).hang_up == signal.SIGPIPE


def test_a_run_saves_when_its_terminal_is_closed(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    # A session of its own with this terminal is what a window gives.
    program = [sys.executable, "-c", CONTROLLED, *pretraining(tmp_path)]
    process = subprocess.Popen(
        program, stdin=end, stdout=end, stderr=end, start_new_session=True, preexec_fn=restore_hang_up
    )
    os.close(end)
    wait_for_a_step(process, tmp_path / "run")
    os.close(terminal)
    assert process.wait(120) == 128 + signal.SIGHUP
    require_saved(tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_ignores_the_signal_of_a_terminal_goes_on(tmp_path: Path) -> None:
    with open(tmp_path / "nohup.out", "wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", 'trap "" HUP; exec "$@"', "nohup", sys.executable, "-m", "mapsto", *pretraining(tmp_path)],
            stdout=log,
            stderr=log,
        )
        wait_for_a_step(process, tmp_path / "run")
        process.send_signal(signal.SIGHUP)
        assert process.wait(120) == 0
    assert steps_done(tmp_path / "run") == STEPS


# Makes standard input the controlling terminal of the session, and then is the command line.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "mapsto", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the table train.csv and a linear model fitted to it in the folder model."""
    folder = tmp_path_factory.mktemp("fitted")
    mapsto.fit("text -> label", write_labelled(folder / "train.csv", 60), folder / "model", method="linear")
    return folder


@pytest.mark.parametrize("command", ["predict", "write", "missing"])
def test_output_that_nobody_reads_ends_a_command_quietly(command: str, fitted: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    predict, answers = ["predict", str(fitted / "model"), str(fitted / "train.csv")], tmp_path / "answers.csv"
    arguments, statuses = {
        "predict": (predict, [128 + signal.SIGPIPE]),
        "write": ([*predict, "--out", str(answers)], [0, 128 + signal.SIGPIPE]),
        "missing": (["info", str(tmp_path / "missing")], [CheckpointError.exit_status, UsageError.exit_status]),
    }[command]
    # Errors go where nobody reads them either, except those of the first command, which has none.
    errors = subprocess.PIPE if command == "predict" else writing
    process = start_with(arguments, stdout=writing, stderr=errors)
    os.close(writing)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode in statuses
    assert not stderr or b"rror" not in stderr
    if command == "write":
        assert len(answers.read_text(encoding="utf-8").splitlines()) == 61
