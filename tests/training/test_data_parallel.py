"""Two processes, or four, do what one does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mappings import small_mapping
from runs import (
    KILL,
    TINY,
    ended,
    kill_when,
    result,
    run,
    run_many,
    start,
    start_many,
    steps_done,
    write_corpus,
    write_labelled,
)

from mapsto.data.sampling import rows_of_step
from mapsto.distributed import Ranks, read_ranks
from mapsto.training.loader import Loader
from mapsto.training.objectives import Objective
from mapsto.training.plan import Plan

FIRST_LOSS, LATER_LOSS = 1e-6, 1e-4


def pretraining(folder: Path, out: str, *more: str) -> list[str]:
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        write_corpus(corpus)
    return ["pretrain", "text", str(corpus), "--out", str(folder / out), "--steps", "30", "--batch", "12"] + [
        "--save-every", "4", "--hold-out", "0.1", "--precision", "fp32", *TINY, *more,
    ]  # fmt: skip


def losses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def require_equal(one: Path, other: Path) -> None:
    """Check that two runs read the same rows and begin with the same loss; later ones drift by rounding alone."""
    ours, theirs = losses(one), losses(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs], "not the same rows"
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=FIRST_LOSS)
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=LATER_LOSS)


# Every process runs the real command line; RANK decides which one misbehaves.
MANY_BATCHES = """
from mapsto import cli
from mapsto.training import loader
loader.BATCH_TOKENS = 128  # so that a step has several batches, not equally many in every process
cli.main()
"""
OTHER_WORDS = """
import os, sys
from mapsto import cli
if os.environ["RANK"] == "1":
    sys.argv[sys.argv.index("{word}") + 1] = "{other}"
cli.main()
"""
# A corpus that takes long, while the other processes wait for it; seconds stand for minutes.
SLOW_MAIN = """
import os, time
from datetime import timedelta
from mapsto import cli, distributed
from mapsto.data import corpus
distributed.TIMEOUT, distributed.HEARTBEAT_SECONDS = timedelta(seconds=8), 0.5
real = corpus.write_shards
def fill(*given):
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        time.sleep(0.1)
        sum(range({work}))
    real(*given)
corpus.write_shards = fill
cli.main()
"""
SMALL_DISK = """
import os, resource
from mapsto import cli
if os.environ["RANK"] == "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
cli.main()
"""
BROKEN_ROW = """
import os
from mapsto import cli
from mapsto.errors import DataError
from mapsto.data.examples import Examples
real = Examples.example
def example(self, row, step, progress, view=0):
    if os.environ["RANK"] == "1" and step == 5 and progress < 1:
        raise DataError("row 17 has gone")
    return real(self, row, step, progress, view)
Examples.example = example
cli.main()
"""
NOT_FINITE = """
import gc, hashlib, os, sys
from pathlib import Path
from mapsto import progress
from mapsto.fitting.fit import pretrain_mapping
from mapsto.text.masked_text import MaskedTextTarget
from mapsto.options import Options
from mapsto.distributed import leave_process_group
real, calls = MaskedTextTarget.loss, []
def loss(self, output, values):
    calls.append(1)
    return real(self, output, values) * (float("nan") if os.environ["RANK"] == "1" and len(calls) == 3 else 1.0)
MaskedTextTarget.loss = loss
options = Options(steps=6, batch=8, layers=2, width=64, vocabulary=300, hold_out=0, device="cpu", precision="fp32")
mapping = pretrain_mapping("text", sys.argv[1], options=options, progress=progress.Lines())
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in mapping.parameters())).hexdigest()
Path(sys.argv[1]).with_name(os.environ["RANK"]).write_text(digest)
leave_process_group()
gc.collect()
if os.path.isdir("/proc/self/task"):
    threads = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert "pt_gloo_runloop" not in threads, "a thread that meets an interpreter on its way out aborts it"
"""
DIES_BEFORE_THE_RUN = """
import os
from mapsto import cli
from mapsto.data import corpus
real = corpus.Corpus.split
def split(*given):
    if os.environ["RANK"] == "0" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), 9)
    return real(*given)
corpus.Corpus.split = split
cli.main()
"""
ABORTS_AT_THE_END = """
import importlib, os
from mapsto import cli
app = importlib.import_module("mapsto.cli.app")
real = app.exit_process
def exit_process(status):
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.abort()
    real(status)
app.exit_process = exit_process
cli.main()
"""
GRADIENTS = """
import os, sys, torch
from mapsto.training.data_parallel import ReplicatedWeights
from mapsto.distributed import join_process_group
ranks = join_process_group()
torch.manual_seed(ranks.rank)
net = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2) for name in ("all", "one", "none")})
layout = ReplicatedWeights(ranks, net)
start = [p.detach().clone() for p in net.parameters()]
loss = torch.zeros(())
for turn, _ in layout.iterate_batches([0, 1][ranks.rank :]):
    share = net["all"](torch.full((1, 3), 1.0 + turn)).sum() * (ranks.rank + 1)
    if ranks.rank == 1:
        share = share + net["one"](torch.ones(1, 3)).sum()
    share.backward()
    loss += share.detach()
here = float(loss)
loss = layout.sum_over_processes(loss)
assert abs(float(loss) - ranks.sum([here])[0]) < 1e-5
assert ranks.sum([float(start[0].sum())])[0] == 2 * float(start[0].sum()), "all begin with the same weights"
assert torch.equal(net["all"].weight.grad, torch.full((2, 3), 1.0 + 2.0 + 2 * 2.0)), net["all"].weight.grad
assert torch.equal(net["one"].weight.grad, torch.ones(2, 3)), "a gradient that one process has, all have"
assert net["none"].weight.grad is None, "and one that nobody has, nobody gets"
"""


def script(folder: Path, content: str) -> Path:
    path = folder / "script.py"
    path.write_text(content)
    return path


@pytest.mark.parametrize("optimizer", [pytest.param("muon", marks=pytest.mark.slow), "adamw"])
def test_several_processes_train_as_one(optimizer: str, tmp_path: Path) -> None:
    many = script(tmp_path, MANY_BATCHES)
    assert run(*pretraining(tmp_path, "one", "--optimizer", optimizer)).returncode == 0
    ways = {"muon": {"four": (4, [])}, "adamw": {"two": (2, []), "sharded": (2, ["--shard"])}}[optimizer]
    for name, (processes, more) in ways.items():
        done = run_many(processes, *pretraining(tmp_path, name, "--optimizer", optimizer, *more), script=many)
        assert done.returncode == 0, done.stderr
        require_equal(tmp_path / name, tmp_path / "one")
        parallel, alone = (json.loads((tmp_path / way / "mapsto.json").read_text()) for way in (name, "one"))
        assert parallel["provenance"]["tokens"] == alone["provenance"]["tokens"]
        for score, value in alone["scores"].items():
            assert parallel["scores"][score]["n"] == value["n"]
            assert parallel["scores"][score]["value"] == pytest.approx(value["value"], rel=1e-3)


def test_every_process_reads_its_part_of_the_same_rows() -> None:
    _, examples = small_mapping("text:text -> label")
    plan = Plan(steps=9, batch=7, rate=1e-3, optimizer="adamw", seed=3, save_every=9)
    for step in range(9):
        wanted = sorted(rows_of_step(3, step, 7, len(examples)).tolist())
        for size in (1, 2, 4):
            loaders = [Loader(examples, plan, 0, Objective(), Ranks(rank, size)) for rank in range(size)]
            read = [int(row) for loader in loaders for batch in loader.get_batches(step) for row in batch.rows]
            assert sorted(read) == wanted


def test_gradients_are_summed_whichever_process_has_them(tmp_path: Path) -> None:
    done = run_many(2, script=script(tmp_path, GRADIENTS))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("begun", "processes", "more"),
    [
        ([], 1, []),
        pytest.param([], 4, [], marks=pytest.mark.slow),
        pytest.param([], 2, ["--shard"], marks=pytest.mark.slow),
        pytest.param(["--shard"], 1, [], marks=pytest.mark.slow),
    ],
    ids=["on one", "on four", "on shards", "from shards on one"],
)
def test_a_checkpoint_of_two_goes_on(begun: list[str], processes: int, more: list[str], tmp_path: Path) -> None:
    choice = ["--optimizer", "adamw"]
    assert run(*pretraining(tmp_path, "one", *choice)).returncode == 0
    stop(start_many(2, *pretraining(tmp_path, "two", *choice, *begun)), tmp_path / "two")
    command = pretraining(tmp_path, "two", *choice, *more)
    done = run(*command) if processes == 1 else run_many(processes, *command)
    assert done.returncode == 0, done.stderr
    require_equal(tmp_path / "two", tmp_path / "one")


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    done = run_many(2, str(corpus), script=script(tmp_path, NOT_FINITE))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("not finite") == 1 and "step 3: loss" in done.stderr
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()


def test_a_checkpoint_of_one_goes_on_with_two(tmp_path: Path) -> None:
    command = pretraining(tmp_path, "first")
    assert kill_when(start(*command), tmp_path / "first", random.Random(0), False, KILL)
    assert run_many(2, *command).returncode == 0
    assert run(*pretraining(tmp_path, "one")).returncode == 0
    require_equal(tmp_path / "first", tmp_path / "one")


def stop(process: subprocess.Popen[str], folder: Path) -> None:
    """Send SIGTERM to torchrun after some steps: all processes finish the same step, and the main one saves it."""
    assert kill_when(process, folder, random.Random(0), False, signal.SIGTERM)
    assert process.returncode != 0
    last = sorted((folder / "checkpoints").iterdir())[-1]
    assert 0 < int(last.name.removeprefix("step-")) == steps_done(folder) < 30
    assert not (folder / "mapsto.json").exists()


@pytest.mark.parametrize(
    "victims",
    [[1], pytest.param([0], marks=pytest.mark.slow), pytest.param([0, 1] * 10, marks=pytest.mark.slow)],
    ids=["the other", "the main one", "twenty"],
)
def test_a_killed_process_is_started_again_and_the_bits_are_the_same(victims: list[int], tmp_path: Path) -> None:
    """Each is killed some steps behind the last checkpoint that was there before."""

    def command(name: str) -> list[str]:
        longer = pretraining(tmp_path, name)
        longer[longer.index("--steps") + 1] = str(120 * len(victims))
        return longer

    assert run_many(2, *command("unbroken")).returncode == 0
    process = start_many(2, *command("killed"), restarts=len(victims) + 1)
    for number, rank in enumerate(victims):
        target = 120 * number + random.Random(number).randint(10, 60)
        while steps_done(tmp_path / "killed") < target:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(worker(process.pid, rank), KILL)
    done = ended(process)
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "killed") == result(tmp_path / "unbroken")


def test_a_process_that_dies_after_the_run_does_not_undo_it(tmp_path: Path) -> None:
    process = start_many(2, *pretraining(tmp_path, "run"), script=script(tmp_path, ABORTS_AT_THE_END), restarts=1)
    done = ended(process)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -6" in done.stderr and "error:" not in done.stderr
    assert run(*pretraining(tmp_path, "unbroken")).returncode == 0
    require_equal(tmp_path / "run", tmp_path / "unbroken")
    refused = run(*pretraining(tmp_path, "run"))
    assert refused.returncode == 2 and "holds a finished run" in refused.stderr


def test_a_process_that_dies_before_a_run_is_overwritten_does_not_restore_it(tmp_path: Path) -> None:
    assert run(*pretraining(tmp_path, "run", "--steps", "6")).returncode == 0
    command = pretraining(tmp_path, "run", "--overwrite", "--steps", "4")
    done = ended(start_many(2, *command, script=script(tmp_path, DIES_BEFORE_THE_RUN), restarts=1))
    assert done.returncode == 0 and "exitcode: -9" in done.stderr, done.stderr
    assert len(losses(tmp_path / "run")) == 4 and (tmp_path / "run" / "mapsto.json").exists()


def worker(torchrun: int, rank: int) -> int:
    """Return the number of the process of this rank."""
    for child in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"torchrun has no process {rank}")


def fitting(folder: Path, out: str) -> list[str]:
    data = write_labelled(folder / "train.csv")
    return ["fit", "text -> label", str(data), "--out", str(folder / out), "--steps", "30", "--batch", "12", *TINY]


@pytest.mark.parametrize(
    ("command", "content", "message", "status"),
    [
        (fitting, OTHER_WORDS.format(word="text -> label", other="nothing.csv"), "process 1: there is no file", 1),
        (
            fitting,
            OTHER_WORDS.format(word="text -> label", other="other.csv"),
            "process 1: this process has other d",
            2,
        ),
        (pretraining, OTHER_WORDS.format(word="--batch", other="16"), "process 1: this process has other options", 2),
        (
            pretraining,
            OTHER_WORDS.format(word="--out", other="elsewhere"),
            "process 1: elsewhere is not shared by all processes",
            2,
        ),
        (pretraining, SMALL_DISK, "could not be written", 1),
        (pretraining, BROKEN_ROW, "process 1: row 17 has gone", 1),
    ],
    ids=["unreadable", "other data", "other options", "other folder", "small disk", "broken row"],
)
def test_an_error_in_one_process_is_reported_once_and_ends_all(
    command: Callable[[Path, str], list[str]],
    content: str,
    message: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labelled(tmp_path / "other.csv", 119)
    done = run_many(2, *command(tmp_path, "run"), script=script(tmp_path, content))
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0], done.stderr
    assert f"exitcode  : {status} " in done.stderr
    assert done.stderr.count("Traceback") == 1, "that of torchrun itself"


def test_only_the_main_process_reads_a_corpus(tmp_path: Path) -> None:
    elsewhere = script(tmp_path, OTHER_WORDS.format(word="text", other="nothing.txt"))
    done = run_many(2, *pretraining(tmp_path, "run", "--steps", "4"), script=elsewhere)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_working", [True, False])
@pytest.mark.slow
def test_processes_wait_for_the_main_one_while_it_works_and_no_longer(is_working: bool, tmp_path: Path) -> None:
    slow = SLOW_MAIN.format(seconds=18, work=10**6) if is_working else SLOW_MAIN.format(seconds=240, work=1)
    process = start_many(2, *pretraining(tmp_path, "run", "--steps", "4"), script=script(tmp_path, slow))
    done = ended(process)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    if is_working:
        assert done.returncode == 0 and not errors, done.stderr
    else:
        assert done.returncode != 0 and len(errors) == 1 and "nothing was heard of process 0 for" in errors[0], (
            done.stderr
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard", "--optimizer", "muon"], "Muon needs whole matrices"),
        (["--batch", "1"], "cannot be shared by 2 processes"),
    ],
)
def test_unsuitable_options_are_refused_before_anything_is_written(
    more: list[str], message: str, tmp_path: Path
) -> None:
    done = run_many(2, *pretraining(tmp_path, "run"), *more)
    assert done.returncode != 0 and done.stderr.count("error: ") == 1 and message in done.stderr
    assert not (tmp_path / "run" / "run.json").exists()


def test_rows_are_compared_within_one_process(tmp_path: Path) -> None:
    assert run(*pretraining(tmp_path, "base", "--steps", "1")).returncode == 0
    data = write_labelled(tmp_path / "train.csv", 16)
    done = run_many(
        2, "fit", "text -> label", str(data), "--start", str(tmp_path / "base"), "--out", str(tmp_path / "run")
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "--method contrast (8 labels a class, at most 16) compares rows" in errors[0], (
        done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_one_process_has_nothing_to_shard(tmp_path: Path) -> None:
    refused = run(*pretraining(tmp_path, "run", "--shard"))
    assert refused.returncode == 2 and "torchrun" in refused.stderr


def test_held_out_rows_stop_all_processes_together(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "train.csv")
    found = []
    for name, go in (("one", run), ("two", lambda *words: run_many(2, *words))):
        done = go(
            "fit", "text -> label", str(data), "--out", str(tmp_path / name), "--steps", "60", "--batch", "8",
            "--hold-out", "0.3", "--patience", "2", "--precision", "fp32", *TINY,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append([(line["step"], line.get("held_out_error")) for line in losses(tmp_path / name)])
    assert found[0] == found[1] and any(error is not None for _, error in found[0])


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert read_ranks() == Ranks() and Ranks().is_main
    assert Ranks().sum([1, 2]) == [1, 2] and Ranks().maximum(7) == 7 and Ranks().broadcast_json({"a": 1}) == {"a": 1}
