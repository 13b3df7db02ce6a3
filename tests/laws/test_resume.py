"""A run that is killed anywhere and started again by the same command ends with the same bits."""

from __future__ import annotations

import errno
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from matching import write_pairs
from runs import KILL, TINY, kill_when, result, run, sentences, start, steps_done, write_corpus, write_labelled

import mapsto
from mapsto.errors import RunError, UsageError
from mapsto.fitting import run_folder

SAVE_EVERY = 4


def pretraining(folder: Path, out: str, *more: str) -> list[str]:
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        write_corpus(corpus)
    return ["pretrain", "text", str(corpus), "--out", str(folder / out), "--steps", "300", "--batch", "8"] + [
        "--save-every", str(SAVE_EVERY), "--hold-out", "0.1", *TINY, *more,
    ]  # fmt: skip


def fitting(folder: Path, out: str, *more: str) -> list[str]:
    """Return the command of a fit with early stopping, from a starting model, with a linear probe."""
    data = folder / "train.csv"
    if not data.exists():
        write_labelled(data)
        base = pretraining(folder, "start")
        base[base.index("--steps") + 1] = "20"
        assert run(*base).returncode == 0
    return ["fit", "text -> label", str(data), "--start", str(folder / "start"), "--out", str(folder / out)] + [
        "--steps", "240", "--batch", "8", "--save-every", str(SAVE_EVERY), "--hold-out", "0.2",
        "--device", "cpu", "--quiet", *more,
    ]  # fmt: skip


def watching(folder: Path, out: str, *more: str) -> list[str]:
    return fitting(folder, out, "--patience", "99", *more)


def contrasting(folder: Path, out: str, *more: str) -> list[str]:
    return fitting(folder, out, "--method", "contrast", "--freeze", "1", *more)


def adapting(folder: Path, out: str, *more: str) -> list[str]:
    return fitting(folder, out, "--lora", "4", "--layer-decay", "0.8", "--smooth", "0.1", "--average", *more)


def matching(folder: Path, out: str, *more: str) -> list[str]:
    """Return the command of a fit to pairs, whose steps have several batches' worth of negatives."""
    data = folder / "pairs.csv"
    if not data.exists():
        write_pairs(data, 60)
    command = fitting(folder, out, "--sizes", "64,16", *more)
    return [*command[:1], "query:text <-> passage:text", str(data), *command[3:]]


RUNS = {"pretrain": pretraining, "fit": watching, "contrast": contrasting, "lora": adapting, "match": matching}


def check_kills(kind: str, kills: int, folder: Path, num_steps: int | None = None) -> None:
    """Kill a run this many times and compare it with an unbroken one. num_steps: of the run, by default those of its kind."""

    def command(folder: Path, out: str) -> list[str]:
        words = RUNS[kind](folder, out)
        if num_steps is not None:
            words[words.index("--steps") + 1] = str(num_steps)
        return words

    unbroken = run(*command(folder, "unbroken"))
    assert unbroken.returncode == 0, unbroken.stderr
    rng = random.Random(kills)
    done = num_inside_save = 0
    for number in range(kills):
        process = start(*command(folder, "killed"))
        inside_save = number % 5 < 2
        if not kill_when(process, folder / "killed", rng, inside_save, KILL):
            break
        done += 1
        num_inside_save += inside_save
        saved = max((int(path.name[5:]) for path in (folder / "killed" / "checkpoints").glob("step-*")), default=0)
        assert steps_done(folder / "killed") - saved <= SAVE_EVERY
    final = run(*command(folder, "killed"))
    assert final.returncode == 0, final.stderr
    assert done == kills, f"the run ended after {done} kills; make it longer"
    assert num_inside_save >= kills * 2 // 5
    assert result(folder / "killed") == result(folder / "unbroken")


@pytest.mark.parametrize(
    "kind", ["pretrain", "fit", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("match", "contrast", "lora"))]
)
def test_three_kills_same_bits(kind: str, tmp_path: Path) -> None:
    check_kills(kind, 3, tmp_path, 120)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_fifty_kills_same_bits(kind: str, tmp_path: Path) -> None:
    check_kills(kind, 50, tmp_path)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((signal.SIGINT, 130), (signal.SIGHUP, 129))),
    ],
)
def test_a_signal_ends_the_run_after_the_step_with_a_checkpoint(number: int, status: int, tmp_path: Path) -> None:
    command = pretraining(tmp_path, "stopped")
    process = start(*command)
    assert kill_when(process, tmp_path / "stopped", random.Random(1), False, number)
    _, stderr = process.communicate()
    assert process.returncode == status, stderr
    assert "the same command goes on" in stderr and "Traceback" not in stderr
    saved = sorted(path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert int(saved[-1].removeprefix("step-")) == steps_done(tmp_path / "stopped"), "the last whole step is saved"
    assert run(*command).returncode == 0
    assert run(*pretraining(tmp_path, "unbroken")).returncode == 0
    assert result(tmp_path / "stopped") == result(tmp_path / "unbroken")


def test_workers_never_change_the_result(tmp_path: Path) -> None:
    found = []
    for workers in ("0", "1", "2"):
        command = pretraining(tmp_path, f"workers{workers}", "--workers", workers)
        command[command.index("--steps") + 1] = "30"
        assert run(*command).returncode == 0
        found.append(result(tmp_path / f"workers{workers}"))
    assert found[0] == found[1] == found[2]


def interrupted(folder: Path) -> list[str]:
    command = pretraining(folder, "run")
    process = start(*command)
    assert kill_when(process, folder / "run", random.Random(2), False, KILL)
    return command


def test_resuming_another_run_is_refused(tmp_path: Path) -> None:
    command = interrupted(tmp_path)
    for change, value in (("--rate", "0.001"), ("--seed", "1"), ("--steps", "200"), ("--hide", "0.2")):
        refused = run(*command, change, value)
        named = "seed" if change == "--seed" else change
        assert refused.returncode == 2 and named in refused.stderr and "unfinished run" in refused.stderr
    assert run(*command).returncode == 0, "the run itself still goes on"


def test_resuming_with_other_data_is_refused(tmp_path: Path) -> None:
    command = interrupted(tmp_path)
    with (tmp_path / "corpus.txt").open("a", encoding="utf-8") as stream:
        stream.write("one more sentence\n")
    refused = run(*command)
    assert refused.returncode == 2 and "data" in refused.stderr


def test_a_finished_run_is_overwritten_only_by_overwrite(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "run")
    command[command.index("--steps") + 1] = "4"
    assert run(*command).returncode == 0
    refused = run(*command)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert run(*command, "--overwrite").returncode == 0


def test_a_folder_of_other_files_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("years of work")
    for more in ([], ["--overwrite"]):
        refused = run(*pretraining(tmp_path, "run", *more))
        assert refused.returncode == 2 and "holds other files" in refused.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["README.md"]
    assert (tmp_path / "run" / "README.md").read_text() == "years of work"


def test_a_command_that_cannot_start_overwrites_nothing(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "run")
    command[command.index("--steps") + 1] = "4"
    assert run(*command).returncode == 0
    before = result(tmp_path / "run")
    for change in (["--start", str(tmp_path / "nowhere")], ["--test", str(tmp_path / "nothing.txt")]):
        assert run(*command, "--overwrite", *change).returncode == 1
        assert result(tmp_path / "run") == before
    itself = [word for word in command if word not in ("--layers", "--width", "--vocabulary", "2", "64", "300")]
    assert run(*itself, "--overwrite", "--start", str(tmp_path / "run")).returncode == 0, "its own start is read first"
    assert result(tmp_path / "run") != before


def test_a_run_killed_before_it_is_recorded_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": text} for text in sentences(40)]
    given: dict[str, Any] = {"steps": 2, "layers": 2, "width": 64, "vocabulary": 300, "device": "cpu"}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mapsto.fitting.run_folder.record_run", killed)
        with pytest.raises(KeyboardInterrupt):
            mapsto.pretrain("text", rows, tmp_path / "run", **given)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["corpus"]
    (tmp_path / "run" / "run.lock").touch()
    (tmp_path / "run" / ".unfinished-run.json").write_text("{")
    mapsto.pretrain("text", rows, tmp_path / "run", **given)
    assert (tmp_path / "run" / "mapsto.json").exists()


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "run")
    first = start(*command)
    while steps_done(tmp_path / "run") < 2:
        assert first.poll() is None
    second = run(*command)
    first.kill()
    first.wait()
    assert second.returncode == 1 and "in use by another process" in second.stderr


def test_a_lock_counts_where_its_file_still_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run may end, and delete the file, between this one's opening and locking it."""
    fcntl = pytest.importorskip("fcntl")
    real, messages = fcntl.flock, []

    def late(stream: Any, how: int) -> None:
        (tmp_path / run_folder.LOCK).unlink()
        real(stream, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(RunError, match="in use by another process"), run_folder.locked(tmp_path, messages.append):
            pytest.fail("two runs at once")

    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unsupported)
        with run_folder.locked(tmp_path, messages.append):
            assert (
                len(messages) == 1 and "cannot be locked" in messages[0] and "Function not implemented" in messages[0]
            )
    with run_folder.locked(tmp_path, messages.append):
        assert len(messages) == 1


def fit_of_ours(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the arguments of a fit, and changes that make it another fit, by the field that records each."""
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(40)]
    given: dict[str, Any] = {"layers": 2, "width": 64, "device": "cpu"}
    starts = []
    for number, words in enumerate((rows, rows[:30])):
        starts.append(str(folder / f"start{number}"))
        mapsto.pretrain("text", words, starts[-1], steps=1, vocabulary=300, **given)
    mapsto.pretrain("text", rows, folder / "other weights", start=starts[0], steps=1, seed=5, device="cpu")
    cell, label = ([dict(row) for row in rows] for _ in range(2))
    cell[7]["text"] += "!"
    label[7]["label"] = "warm" if label[7]["label"] == "cold" else "cold"
    named = [{**row, "label": row["label"].upper()} for row in rows]
    ours: dict[str, Any] = {"data": rows, "start": starts[0], "steps": 9, "method": "full", "device": "cpu"}
    others: dict[str, dict[str, Any]] = {
        "data (a cell)": {"data": cell},
        "data (a label)": {"data": label},
        "data (one row less)": {"data": rows[:-1]},
        "data (the order)": {"data": rows[::-1]},
        "targets (names of classes)": {"data": named},
        "tokenizer": {"start": starts[1]},
        "start_weights": {"start": str(folder / "other weights")},
        "steps=": {"steps": 8},
        "batch=": {"batch": 7},
        "optimizer=": {"optimizer": "adamw"},
        "seed": {"seed": 1},
        "arrow": {"arrow": "label:text -> label:label"},
    }
    return {"arrow": "text -> label", **ours}, others


def test_resuming_a_fit_with_a_change_is_refused_with_the_field_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = fit_of_ours(tmp_path)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mapsto.training.loop.Training.run", stopped)
        with pytest.raises(KeyboardInterrupt):
            mapsto.fit(**ours, out=tmp_path / "run")
    record = (tmp_path / "run" / "run.json").read_bytes()
    for field, change in others.items():
        with pytest.raises(UsageError, match=f"unfinished run with other .*{field.partition(' ')[0]}"):
            mapsto.fit(**{**ours, **change}, out=tmp_path / "run")
        assert (tmp_path / "run" / "run.json").read_bytes() == record, field
    mapsto.fit(**ours, out=tmp_path / "run")


@pytest.mark.slow
def test_a_run_for_minutes_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "run")
    at = command.index("--steps")
    command[at : at + 2] = ["--minutes", "0.3"]
    process = start(*command)
    assert kill_when(process, tmp_path / "run", random.Random(3), False, KILL)
    planned = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert planned["steps"] and 0 < planned["seconds"] < 18
    assert run(*command).returncode == 0
    made = json.loads((tmp_path / "run" / "mapsto.json").read_text())
    assert made["provenance"]["steps"] == steps_done(tmp_path / "run")


@pytest.mark.slow
def test_another_number_of_threads_changes_losses_by_rounding_alone(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "run")
    command[command.index("--steps") + 1] = "40"
    assert run(*command).returncode == 0
    other = [*command[: command.index("--quiet")], "--out", str(tmp_path / "two")]
    process = start(*other, threads=2)
    process.communicate(timeout=120)
    assert process.returncode == 0
    one, two = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"] for name in ("run", "two")
    )
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.slow
def test_resuming_with_other_threads_is_reported(tmp_path: Path) -> None:
    command = interrupted(tmp_path)
    process = start(*[word for word in command if word != "--quiet"], threads=2)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0 and "note: device changed from" in stderr and "the bits may differ" in stderr


def test_a_damaged_run_json_is_an_error(tmp_path: Path) -> None:
    command = interrupted(tmp_path)
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"steps": 300', '"steps": 301'))
    refused = run(*command)
    assert refused.returncode == 1 and "run.json is damaged" in refused.stderr
