"""Tests of `--track`: each tracker, with its real library and local storage, gets what metrics.jsonl has, and no step twice.

MLflow and Trackio need other versions of pyarrow and Pillow than constraints.txt has, so `make trackers` runs these tests in an
environment of their own; elsewhere the tests of a tracker whose library is missing are skipped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import write_corpus, write_labelled
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto.errors import RunError, UsageError
from mapsto.progress import StepReport
from mapsto.training.loggers import MetricsFile
from mapsto.training.trackers import TrackedRun, Tracking, tensorboard, tracking

# By tracker: a function that returns, of the local storage in a folder, [(step, loss)] in the order in which they were logged,
# the recorded options, and the names of the files that it has.
Stored = tuple[list[tuple[int, float]], dict[str, str], set[str]]


def read_tensorboard(folder: Path) -> Stored:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "run" / "tensorboard"))
    events.Reload()
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    options = {name: str(value) for name, value in json.loads(text).items()}
    return [(event.step, event.value) for event in events.Scalars("loss")], options, set()


def read_mlflow(folder: Path) -> Stored:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mapsto")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    names = {entry.path for parent in ("", "model") for entry in client.list_artifacts(run.info.run_id, parent)}
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")]
    return losses, run.data.params, {Path(name).name for name in names}


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file of Weights & Biases: LevelDB's log format in blocks of 32 KB, behind 7 bytes of its own."""
    block, position, parts = 32768, 7, b""
    while position + 7 <= len(content):
        if block - position % block < 7:  # no header fits in the rest of the block
            position += block - position % block
            continue
        length, part = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if part in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def read_wandb(folder: Path) -> Stored:
    from wandb.proto import wandb_internal_pb2

    losses, options, names = [], {}, set()
    # A resumed run has a further folder; both are one run when they are sent.
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for content in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if "loss" in items:
                losses.append((int(items["_step"]), float(items["loss"])))
            for item in record.run.config.update:
                options[item.key] = str(json.loads(item.value_json))
            names |= {entry.path for entry in record.request.log_artifact.artifact.manifest.contents}
            names |= {entry.path for entry in record.artifact.manifest.contents}
    return losses, options, names


def read_trackio(folder: Path) -> Stored:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("mapsto")
    logs = [entry for entry in SQLiteStorage.get_logs("mapsto", name) if "loss" in entry]
    options = {key: str(value) for key, value in (SQLiteStorage.get_run_config("mapsto", name) or {}).items()}
    names = {path.name for path in folder.rglob("trackio/**/*") if path.is_file()}
    return [(entry["step"], entry["loss"]) for entry in logs], options, names


READERS: dict[str, Callable[[Path], Stored]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
    "trackio": read_trackio,
}


@pytest.fixture
def local_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let all trackers keep their data in a temporary folder, and return it."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def fit_in_a_process(folder: Path, name: str, steps: int = 12) -> list[str]:
    """Return the command that fits with a tracker in a new process, with a checkpoint after every second step."""
    options = f"--steps {steps} --save-every 2 --hold-out 0 --device cpu --precision fp32".split()
    shape = ["--layers", "1", "--width", "64", "--vocabulary", "300"]
    data = [
        "text -> label",
        str(folder / "train.csv"),
        "--test",
        str(folder / "test.csv"),
        "--out",
        str(folder / "run"),
    ]
    return [sys.executable, "-m", "mapsto", "fit", *data, "--track", name, *options, *shape]


def steps_in(path: Path) -> list[tuple[int, float]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


def test_tensorboard_gets_the_same_numbers_as_metrics_jsonl(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    data = write_corpus(tmp_path / "a.txt")
    mapsto.pretrain("text", data, tmp_path / "run", steps=3, track="tensorboard", **TINY_OPTIONS)
    losses, options, _ = read_tensorboard(tmp_path)
    expected = steps_in(tmp_path / "run" / "metrics.jsonl")
    assert losses == [(step, pytest.approx(loss)) for step, loss in expected] and len(expected) == 3
    assert options["arrow"] == "~text:text -> text:text" and options["steps"] == "3"


@pytest.mark.slow
@pytest.mark.parametrize("name", list(READERS))
def test_a_run_that_is_interrupted_and_resumed_is_tracked_once(name: str, local_trackers: Path) -> None:
    """The first process stops on SIGTERM, the second one finishes: every step, the options and the files are there once."""
    pytest.importorskip(name)
    write_labelled(local_trackers / "train.csv")
    write_labelled(local_trackers / "test.csv", 30, seed=5)
    command = fit_in_a_process(local_trackers, name, steps=40)
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = local_trackers / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(steps_in(metrics)) < 3 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    _, notes = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM, notes
    second = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert f"tracked by {name} as run" in second.stderr and not second.stdout
    losses, options, names = READERS[name](local_trackers)
    expected = steps_in(metrics)
    assert [step for step, _ in losses] == [step for step, _ in expected] == list(range(1, 41))
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in expected], rel=1e-6)
    assert options["arrow"] == "text:text -> label:label" and options["layers"] == "1" and options["steps"] == "40"
    if name != "tensorboard":
        assert f"{name} gets " in second.stderr
    if name != "trackio":  # which keeps files by their hashes
        assert name == "tensorboard" or {"model.safetensors", "mapsto.json", "README.md", "report.html"} <= names, names


@pytest.mark.slow
@pytest.mark.parametrize("name", list(READERS))
def test_a_killed_run_logs_no_step_twice(name: str, local_trackers: Path) -> None:
    """Killed, the run repeats the steps after its checkpoint; the tracker may lack some before the kill, and has none twice."""
    pytest.importorskip(name)
    write_labelled(local_trackers / "train.csv")
    write_labelled(local_trackers / "test.csv", 30, seed=5)
    command = [*fit_in_a_process(local_trackers, name, steps=2000), "--save-every", "300"]
    first = subprocess.Popen(command, stderr=subprocess.PIPE)
    metrics = local_trackers / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while len(steps_in(metrics)) < 350 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, first.communicate()
    first.kill()
    first.communicate()
    num_before = len(steps_in(metrics))
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    steps = [step for step, _ in READERS[name](local_trackers)[0]]
    assert len(set(steps)) == len(steps) and set(range(num_before + 1, 2001)) <= set(steps)
    assert len(steps) > 1600


def test_a_tracker_that_is_named_late_gets_the_steps_from_before(tmp_path: Path) -> None:
    """The steps come from metrics.jsonl; steps of a resumed run that were logged before its kill are not logged again."""
    folder, taken = tmp_path / "run", []

    class Recorder(tensorboard.TensorBoard):
        def open(self, run: TrackedRun) -> str:
            return "memory"

        def log(self, records: Any) -> None:
            taken.extend(int(record["step"]) for record in records)

        def close(self, is_finished: bool) -> None:
            pass

    def run_steps(first: int, last: int, with_tracker: bool) -> None:
        metrics = MetricsFile(folder, print)
        metrics.start(first)
        reports = [StepReport(step, 9, 10 * step, 0.1 * step, 1 / step, 1e-3) for step in range(first + 1, last + 1)]
        if not with_tracker:
            for report in reports:
                metrics.step(report)
            return
        tracker = Tracking("tensorboard", folder, {}, print)
        tracker.tracker = Recorder()
        with tracker:
            tracker.start(first)
            for report in reports:
                metrics.step(report)
                tracker.step(report)
            tracker.close()

    run_steps(0, 3, with_tracker=False)
    run_steps(3, 6, with_tracker=True)
    assert taken == [1, 2, 3, 4, 5, 6]
    # Resumed from a checkpoint of step 4.
    run_steps(4, 9, with_tracker=True)
    assert taken == list(range(1, 10))


def test_a_failing_tracker_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise ConnectionError("no route to the server\nand a long explanation")

    pytest.importorskip("tensorboard")
    monkeypatch.setattr(tensorboard.TensorBoard, "log", fail)
    progress = RecordingProgress()
    data = write_corpus(tmp_path / "a.txt")
    options = {**TINY_OPTIONS, "steps": 2, "track": "tensorboard"}
    mapsto.pretrain("text", data, tmp_path / "run", progress=progress, **options)
    assert any(
        "tensorboard did not take steps 1 to" in line and "no route to the server;" in line for line in progress.lines
    )
    monkeypatch.setattr(tensorboard.TensorBoard, "open", fail)
    with pytest.raises(RunError, match="cannot be opened there: no route to the server$"):
        mapsto.pretrain("text", data, tmp_path / "other", **options)
    assert not (tmp_path / "other" / "metrics.jsonl").exists()


def test_what_is_missing_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'track="wandb" needs the package wandb: pip install .*\[wandb\]'):
        mapsto.pretrain("text", tmp_path / "is-not-there.txt", tmp_path / "run", track="wandb")
    monkeypatch.undo()
    pytest.importorskip("tensorboard")
    with pytest.raises(UsageError, match="name the folder with out="):
        mapsto.pretrain("text", tmp_path / "is-not-there.txt", track="tensorboard")
    with pytest.raises(UsageError, match="did you mean 'wandb'"):
        mapsto.pretrain("text", tmp_path / "is-not-there.txt", track="wanbd")
    assert replace(mapsto.options.Options(), track="mlflow").flags() == ["--track", "mlflow"]
