"""The training loop: errors, early stopping, averaging, the log files, and how options become a plan."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mappings import CPU, small_mapping
from runs import sentences, write_corpus, write_labelled
from trainings import TINY_OPTIONS, RecordingProgress, StepListener, make_plan

import mapsto
from mapsto.errors import DataError, MapstoError, RunError, UsageError
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.progress import StepReport
from mapsto.training import checkpoint
from mapsto.training.loggers import MetricsFile, ProgressLogger, read_metrics
from mapsto.training.loop import Training
from mapsto.training.optimizer import decay_end, rate_factor
from mapsto.training.plan import RunContext, TrainingState


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(poison: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mapping, examples = small_mapping("text:text -> label")
    progress = RecordingProgress()
    training = Training(mapping, examples, make_plan(), RunContext(CPU, loggers=[ProgressLogger(progress)], workers=0))
    real = type(mapping.targets[0]).loss
    calls = []

    def loss(self: Any, output: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        found: torch.Tensor = real(self, output, values)
        if len(calls) != 2:
            return found
        if poison == "loss":
            return found * float("nan")
        found.register_hook(lambda gradient: gradient * float("inf"))
        return found

    monkeypatch.setattr(type(mapping.targets[0]), "loss", loss)
    training.step(0)
    before = {name: p.detach().clone() for name, p in mapping.named_parameters()}
    training.step(1)
    assert all(torch.equal(p, before[name]) for name, p in mapping.named_parameters())
    rows = ", ".join(map(str, sorted(training.loader.rows_of_step(1))))
    assert (
        "step 2" in progress.lines[0]
        and "not finite" in progress.lines[0]
        and f"(examples {rows})" in progress.lines[0]
    )
    training.step(2)
    assert any(not torch.equal(p, before[name]) for name, p in mapping.named_parameters()), "training goes on"
    assert training.state.skipped == 0


def test_three_steps_that_are_not_finite_stop_the_run() -> None:
    mapping, examples = small_mapping("text:text -> label")
    with torch.no_grad():
        mapping.heads[0].weight.fill_(float("nan"))
    before = {name: p.detach().clone() for name, p in mapping.named_parameters()}
    with pytest.raises(RunError, match="3 such steps in a row"):
        Training(mapping, examples, make_plan(), RunContext(CPU)).run()
    for name, parameter in mapping.named_parameters():
        torch.testing.assert_close(parameter, before[name], equal_nan=True, rtol=0, atol=0)


def test_the_schedule_warms_up_stays_and_decays() -> None:
    shares = [rate_factor(step, 1000, 0.06) for step in range(1000)]
    assert shares[0] < 0.02 and shares[59] == 1.0 and max(shares) == 1.0
    assert all(share == 1.0 for share in shares[60:600]) and 0 < shares[-1] <= 1 / 400
    assert rate_factor(0, 1, 0.06) == 1.0
    longer = [rate_factor(step, 1000, 0.3) for step in range(1000)]
    assert longer[149] == 0.5 and all(share == 1.0 for share in longer[299:600])


def test_a_checkpoint_of_an_older_version_may_hold_more_fields() -> None:
    saved = {**asdict(TrainingState(step=3, best=0.5)), "best_step": 2}
    assert TrainingState.restore(saved) == TrainingState(step=3, best=0.5)


def test_early_stopping_takes_the_best_weights() -> None:
    mapping, examples = small_mapping("text:text -> label")
    values = iter([3.0, 1.0, 1.0, 2.0, 2.0, 0.5, 0.5, 0.7, 0.6])
    scored: list[torch.Tensor] = []

    def score(mapping: Any) -> dict[str, float]:
        scored.append(mapping.heads[0].weight.detach().clone())
        return {"loss": 0.0, "error": next(values)}

    rates: list[float] = []
    listener = StepListener(lambda report: rates.append(report.learning_rate))
    context = RunContext(CPU, loggers=[listener], score_held_out=score)
    training = Training(mapping, examples, make_plan(steps=100, watch_every=2, patience=3), context)
    state = training.run()
    assert state.step == state.end == 17, "the rate decays from step 10 on, the third score without improvement"
    assert rates[9] == rates[10] == max(rates) and rates[10] > rates[11] > rates[-1] > 0
    assert [look["step"] for look in state.watched] == [*range(2, 18, 2), 17], "the last weights are scored too"
    assert torch.equal(mapping.heads[0].weight, scored[6])


def test_weights_that_no_step_improves_are_kept() -> None:
    mapping, examples = small_mapping("text:text -> label")
    first, values = mapping.heads[0].weight.detach().clone(), iter([0.4, *[0.5] * 20])
    context = RunContext(CPU, score_held_out=lambda held: {"loss": 0.0, "error": next(values)}, scores_start=True)
    training = Training(mapping, examples, make_plan(steps=10, watch_every=2), context)
    assert [look["step"] for look in training.run().watched] == [0, 2, 4, 6, 8, 10]
    assert torch.equal(training.mapping.heads[0].weight, first)


def test_a_decay_is_never_broken_off() -> None:
    """Nothing improves, but at the third score without improvement the learning rate decays already."""
    mapping, examples = small_mapping("text:text -> label")
    values = iter(range(50))
    context = RunContext(CPU, score_held_out=lambda held: {"loss": 0.0, "error": float(next(values))})
    training = Training(mapping, examples, make_plan(steps=10, watch_every=2, patience=3), context)
    state = training.run()
    assert state.step == 10 and state.end is None


def test_a_falling_held_out_loss_counts_as_improvement() -> None:
    """The error of few rows may stay equal by chance; training stops only where their loss stays too."""
    mapping, examples = small_mapping("text:text -> label")
    losses = iter([3.0, 2.0, 1.0, 0.9, 0.8, 0.7, *range(2, 40)])
    context = RunContext(CPU, score_held_out=lambda held: {"loss": float(next(losses)), "error": 0.5})
    training = Training(mapping, examples, make_plan(steps=100, watch_every=2, patience=3), context)
    state = training.run()
    assert [look["step"] for look in state.watched if look["loss"] == 0.7] == [12]
    assert state.step == state.end == decay_end(18), (
        "the rate decays where the loss has not improved for the third time"
    )


def test_the_tail_is_averaged() -> None:
    mapping, examples = small_mapping("text:text -> label")
    weights: list[torch.Tensor] = []
    listener = StepListener(lambda report: weights.append(mapping.heads[0].weight.detach().clone()))
    Training(mapping, examples, make_plan(steps=10, average=True), RunContext(CPU, loggers=[listener])).run()
    torch.testing.assert_close(mapping.heads[0].weight, torch.stack(weights[8:]).mean(0))


def test_metrics_hold_the_documented_fields(tmp_path: Path) -> None:
    mapsto.pretrain("text", write_corpus(tmp_path / "a.txt"), tmp_path / "run", steps=5, **TINY_OPTIONS)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert set(lines[0]) == {"step", "tokens", "seconds", "loss", "lr"}
    assert lines[0]["tokens"] < lines[-1]["tokens"] and lines[0]["seconds"] < lines[-1]["seconds"]


def test_bad_rows_stop_the_run_before_its_first_step(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "train.csv")
    with data.open("a", encoding="utf-8") as stream:
        stream.write(",warm\nno label,\n")
    with pytest.raises(DataError, match="2 bad cells") as stopped:
        mapsto.fit("text -> label", data, tmp_path / "run", steps=2, **TINY_OPTIONS)
    assert [(f.row, f.column) for f in stopped.value.findings] == [(122, "text"), (123, "label")]
    assert not (tmp_path / "run" / "run.json").exists()


def test_bad_rows_are_skipped_counted_and_kept_aside(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "train.csv", 300)
    with data.open("a", encoding="utf-8") as stream:
        stream.write("no label,\n")
    progress = RecordingProgress()
    mapsto.fit("text -> label", data, tmp_path / "run", steps=2, bad_rows="skip", progress=progress, **TINY_OPTIONS)
    assert any("1 row is left out" in message and "302" in message for message in progress.lines)
    rows = list(csv.DictReader((tmp_path / "run" / "rejected.csv").open(encoding="utf-8")))
    assert len(rows) == 1 and rows[0]["row"] == rows[0]["record"] == "302" and rows[0]["column"] == "label"
    assert rows[0]["reason"]
    spanning = data.with_name("spanning.csv")
    spanning.write_text(data.read_text(encoding="utf-8").replace("\n", '\n"two\nlines",warm\n', 1), encoding="utf-8")
    mapsto.fit("text -> label", spanning, tmp_path / "spanning", steps=2, bad_rows="skip", **TINY_OPTIONS)
    (row,) = csv.DictReader((tmp_path / "spanning" / "rejected.csv").open(encoding="utf-8"))
    assert (row["row"], row["record"]) == ("304", "303")
    with data.open("a", encoding="utf-8") as stream:
        stream.write("no label,\n" * 5)
    with pytest.raises(DataError, match="more than the 1 %"):
        mapsto.fit("text -> label", data, tmp_path / "more", steps=2, bad_rows="skip", **TINY_OPTIONS)


def test_test_rows_that_training_sees_stop_the_run(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "train.csv")
    rows = data.read_text(encoding="utf-8").splitlines()
    fresh = [f"{text},warm" for text in sentences(20, seed=9)]
    (tmp_path / "test.csv").write_text("\n".join([rows[0], rows[5], *fresh]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="are also in the training data"):
        mapsto.fit("text -> label", data, test=tmp_path / "test.csv", steps=2, **TINY_OPTIONS)
    progress = RecordingProgress()
    mapsto.fit(
        "text -> label", data, test=tmp_path / "test.csv", steps=2, bad_rows="skip", progress=progress, **TINY_OPTIONS
    )
    assert any("not scored" in line for line in progress.lines)
    assert any(line.startswith("accuracy") and "n = 20" in line for line in progress.lines)


def test_test_rows_of_pretraining_are_checked_before_the_first_step(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "a.txt")
    lines = corpus.read_text(encoding="utf-8").splitlines()
    (tmp_path / "broken.csv").write_text("text\na,b\nfine\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("words,label\na,b\n", encoding="utf-8")
    (tmp_path / "seen.txt").write_text("\n".join([*lines[:3], "unseen winter"]) + "\n", encoding="utf-8")
    (tmp_path / "all.txt").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    for name, bad_rows, message in (
        ("broken.csv", "stop", "1 bad cells or rows"),
        ("other.csv", "stop", "no column 'text'"),
        ("seen.txt", "stop", "3 rows of the test are also in the training data"),
        ("all.txt", "skip", "nothing to score"),
    ):
        with pytest.raises(MapstoError, match=message):
            mapsto.pretrain(
                "text", corpus, tmp_path / "run", test=tmp_path / name, steps=1, bad_rows=bad_rows, **TINY_OPTIONS
            )
    assert not (tmp_path / "run").exists()
    progress = RecordingProgress()
    mapsto.pretrain(
        "text", corpus, test=tmp_path / "seen.txt", steps=1, bad_rows="skip", progress=progress, **TINY_OPTIONS
    )
    assert any(line.startswith("masked_loss") for line in progress.lines)


def test_long_texts_are_counted_and_cut_or_refused(tmp_path: Path) -> None:
    rows = [{"text": "river mill " * 30, "label": "long"}, *({"text": t, "label": "short"} for t in sentences(20))]
    progress = RecordingProgress()
    mapsto.fit("text -> label", rows, steps=1, length=32, progress=progress, **TINY_OPTIONS)
    assert any("1 of 21 rows are longer than 32 tokens" in line and "cut off" in line for line in progress.lines)
    with pytest.raises(DataError, match="longer than 32 tokens"):
        mapsto.fit("text -> label", rows, steps=1, length=32, long="error", **TINY_OPTIONS)
    progress = RecordingProgress()
    mapsto.fit("text -> label", rows, steps=1, length=32, long="window", progress=progress, **TINY_OPTIONS)
    assert any("windows" in line for line in progress.lines)


def test_balance_weighs_rare_classes_up(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "rare" if i % 10 == 0 else "common"} for i, text in enumerate(sentences(100))]
    balanced = mapsto.fit("text -> label", rows, steps=1, balance=True, **TINY_OPTIONS)
    weights = dict(zip(balanced.mapping.targets[0].classes, balanced.mapping.targets[0].weights, strict=True))
    assert weights["rare"] == pytest.approx(5.0) and weights["common"] == pytest.approx(100 / 180)
    common = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    assert balanced.mapping.targets[0].classes == ["common", "rare"]
    error = balanced.mapping.targets[0].validation_error(common, torch.tensor([1] * 10 + [0] * 90))
    assert float(error) == pytest.approx(50), "held-out rows choose no weights that always answer the common class"


def test_holding_out_less_than_a_row_is_reported() -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(16))]
    for share, is_reported in ((0.01, True), (0.25, False)):
        progress = RecordingProgress()
        mapsto.fit("text -> label", rows, steps=1, hold_out=share, progress=progress, **TINY_OPTIONS)
        assert any("so no row is held out" in line for line in progress.lines) == is_reported


def test_one_class_and_unknown_options_are_errors(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "one"} for text in sentences(20)]
    with pytest.raises(DataError, match="two classes are needed"):
        mapsto.fit("text -> label", rows, steps=1, **TINY_OPTIONS)
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        mapsto.fit("text -> label", rows, step=1)
    with pytest.raises(UsageError, match="needs a start="):
        mapsto.fit("text -> label", [*rows, {"text": "another", "label": "two"}], method="probe", **TINY_OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 1, "epochs": 1}, "steps= and epochs="),
        ({"steps": 0}, "above 0"),
        ({"rate": -1.0}, "above 0"),
        ({"hold_out": 1.0}, "hold_out="),
        ({"hide": 1.5}, "hide="),
        ({"long": "cutt"}, "did you mean 'cut'"),
        ({"width": 100, "heads": 3}, "does not split"),
        ({"workers": 1000}, "workers="),
        ({"seed": -1}, "seed="),
        ({"epochs": float("inf")}, "epochs="),
        ({"rate": float("nan")}, "rate="),
        ({"lora": True}, "lora= is a whole number, not True"),
        ({"steps": 2.5}, "steps= is a whole number, not 2.5"),
        ({"hold_out": "0.1"}, "hold_out= is a number, not '0.1'"),
        ({"seed": None}, "seed= is a whole number, not None"),
    ],
)
def test_options_out_of_range_are_errors(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Options(**given)


def test_numbers_of_numpy_are_numbers() -> None:
    given = Options(seed=np.int64(3), rate=np.float32(0.5), epochs=np.int32(2))  # type: ignore[arg-type]
    assert given == Options(seed=3, rate=0.5, epochs=2) and json.loads(json.dumps(asdict(given))) == asdict(given)


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping, examples = small_mapping("text:text -> label")
    real, calls = os.fsync, []

    def full_after_some(descriptor: int) -> None:
        calls.append(1)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full_after_some)
    with pytest.raises(RunError, match="disk is full") as stopped:
        Training(mapping, examples, make_plan(steps=50, save_every=2), RunContext(CPU, tmp_path)).run()
    assert stopped.value.exit_status == 1
    monkeypatch.undo()
    found = checkpoint.load_newest_checkpoint(tmp_path, print)
    assert found is not None
    again, examples = small_mapping("text:text -> label")
    state = Training(again, examples, make_plan(steps=50, save_every=2), RunContext(CPU, tmp_path)).run()
    assert state.step == 50


class SteadyClock:
    """A clock by which each step of a training run takes the same time, since a run looks at the time once a step."""

    def __init__(self, seconds_per_step: float) -> None:
        self.now, self.seconds_per_step = 0.0, seconds_per_step

    def monotonic(self) -> float:
        self.now += self.seconds_per_step
        return self.now


@pytest.mark.parametrize(("planned", "done"), [(10, 50), (49, 50), (60, 50), (5000, 50)])
def test_a_run_takes_as_many_steps_as_its_time_allows(planned: int, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 5 seconds 50 steps of 0.1 seconds."""
    monkeypatch.setattr("mapsto.training.loop.time", SteadyClock(0.1))
    mapping, examples = small_mapping("text:text -> label")
    rates: list[float] = []
    listener = StepListener(lambda report: rates.append(report.learning_rate))
    state = Training(
        mapping, examples, make_plan(steps=planned, seconds=5.0), RunContext(CPU, loggers=[listener])
    ).run()
    assert abs(state.step - done) <= 1
    # The learning rate falls to zero over the last 40 % of the steps, however many they are.
    assert rates[-1] < 0.1 * max(rates) and rates[round(0.55 * state.step)] == max(rates)


def test_a_run_without_time_left_takes_its_one_step() -> None:
    """Where reading the data took all of the minutes, the plan has one step and no seconds."""
    mapping, examples = small_mapping("text:text -> label")
    assert Training(mapping, examples, make_plan(steps=1, seconds=0.0), RunContext(CPU)).run().step == 1


def test_a_run_whose_steps_were_corrected_goes_on_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run breaks off at step 30, after three of four reviews; each has saved a checkpoint with the steps to do."""

    def run(folder: Path, last: int | None = None, workers: int = 0) -> tuple[TrainingState, Mapping]:
        monkeypatch.setattr("mapsto.training.loop.time", SteadyClock(0.1))
        mapping, examples = small_mapping("~text:text -> text")

        def interrupt(report: StepReport) -> None:
            if report.step == last:
                raise KeyboardInterrupt

        plan = make_plan(steps=20, seconds=5.0, average=True)
        training = Training(
            mapping, examples, plan, RunContext(CPU, folder, [StepListener(interrupt)], workers=workers)
        )
        return training.run(), training.mapping

    whole, expected = run(tmp_path / "whole", workers=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", last=29)
    resumed, mapping = run(tmp_path / "broken")
    assert resumed.steps == whole.steps and resumed.step == whole.step and whole.reviews == 4
    assert all(
        torch.equal(weight, other) for weight, other in zip(mapping.parameters(), expected.parameters(), strict=True)
    )


def test_a_run_killed_during_an_early_decay_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """The rate decays from step 6 to step 10; the first run breaks off after step 8."""

    def run(folder: Path, last: int | None = None) -> tuple[TrainingState, Mapping]:
        mapping, examples = small_mapping("text:text -> label")

        def interrupt(report: StepReport) -> None:
            if report.step == last:
                raise KeyboardInterrupt

        given = make_plan(steps=100, watch_every=2, patience=2, save_every=2)
        watch = lambda held: {"loss": 0.0, "error": 1.0}  # noqa: E731
        context = RunContext(CPU, folder, [StepListener(interrupt)], score_held_out=watch)
        training = Training(mapping, examples, given, context)
        return training.run(), training.mapping

    whole, wanted = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 9)
    state, found = run(tmp_path / "broken")
    assert state.step == whole.step == 10 and state.watched == whole.watched
    assert all(map(torch.equal, found.parameters(), wanted.parameters()))


def test_a_metrics_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    mapping, examples = small_mapping("text:text -> label")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            RunError, match=r"metrics\.jsonl could not be written.*; what was saved before is unchanged"
        ):
            context = RunContext(CPU, tmp_path, [MetricsFile(tmp_path, print)])
            Training(mapping, examples, make_plan(steps=50, save_every=50), context).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


BROKEN_LINES = {
    "cut and written on": lambda line: line[: len(line) // 2] + line,
    "cut": lambda line: line[:-9],
    "cut in a number": lambda line: line[: line.index(b'"loss"') + 8] + b"}",
    "zeroed": lambda line: bytes(len(line)),
    "flipped": lambda line: line.replace(b'"', b"\xe2", 1),
    "no record": lambda line: b"[1, 2]",
    "emptied": lambda line: b"",
}


@pytest.mark.parametrize("how", BROKEN_LINES)
def test_a_broken_metrics_line_is_reported_once_and_the_others_are_kept(how: str, tmp_path: Path) -> None:
    mapping, examples = small_mapping("text:text -> label")

    def interrupt(report: StepReport) -> None:
        if report.step == 7:
            raise KeyboardInterrupt

    context = RunContext(CPU, tmp_path, [MetricsFile(tmp_path, print), StepListener(interrupt)])
    with pytest.raises(KeyboardInterrupt):
        Training(mapping, examples, make_plan(steps=9, save_every=3), context).run()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], BROKEN_LINES[how](lines[3].rstrip()) + b"\n", *lines[4:]]))
    recorded = RecordingProgress()
    mapping, examples = small_mapping("text:text -> label")
    context = RunContext(CPU, tmp_path, [ProgressLogger(recorded), MetricsFile(tmp_path, recorded.say)])
    state = Training(mapping, examples, make_plan(steps=9, save_every=3), context).run()
    notes = [line for line in recorded.lines if "metrics.jsonl" in line]
    assert len(notes) == 1 and notes[0].endswith("cannot be read: line 4") and state.step == 9
    kept = path.read_bytes().splitlines(keepends=True)
    assert kept[:5] == [*lines[:3], *lines[4:6]], "whole lines stay as they were"
    assert [json.loads(line)["step"] for line in kept] == [1, 2, 3, 5, 6, 7, 8, 9]
    read_metrics(tmp_path, recorded.say)
    assert [line for line in recorded.lines if "metrics.jsonl" in line] == notes, "reported once"


def test_space_is_checked_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=2_000_000))
    corpus = write_corpus(tmp_path / "a.txt")
    with pytest.raises(RunError, match="2,000,000 are free"):
        mapsto.pretrain("text", corpus, tmp_path / "run", steps=2, **TINY_OPTIONS)
    assert not (tmp_path / "run" / "run.json").exists()
    monkeypatch.undo()
    mapsto.pretrain("text", corpus, tmp_path / "run", steps=2, **TINY_OPTIONS)


def test_one_label_a_class_is_probed_unless_training_is_asked_for(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", write_corpus(tmp_path / "a.txt"), steps=1, **TINY_OPTIONS)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(2))]
    for given, steps in (({}, 0), ({"steps": 3}, 3)):
        out = tmp_path / f"run{steps}"
        mapsto.fit("text -> label", rows, out, start=base, device="cpu", precision="fp32", **given)
        assert json.loads((out / "mapsto.json").read_text())["provenance"]["steps"] == steps


def test_cells_that_are_not_text_are_reported() -> None:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(20))]
    rows[3]["text"], rows[5]["label"], rows[7]["text"] = "half \ud800", "a\0", "a\0"
    with pytest.raises(DataError, match="3 bad cells") as stopped:
        mapsto.fit("text -> label", rows, steps=1, **TINY_OPTIONS)
    assert [finding.row for finding in stopped.value.findings] == [4, 6, 8]
    assert "half a character" in str(stopped.value) and "NUL" in str(stopped.value)


def test_labels_that_look_like_numbers_are_names(tmp_path: Path) -> None:
    odd = ["1", "²", "--3", "10"]
    rows = [{"text": text, "label": odd[i % 4]} for i, text in enumerate(sentences(40))]
    assert mapsto.fit("text -> label", rows, steps=1, **TINY_OPTIONS).mapping.targets[0].classes == sorted(odd)


def test_a_start_of_another_shape_or_kind_is_an_error(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", write_corpus(tmp_path / "a.txt"), steps=1, **TINY_OPTIONS)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(20))]
    with pytest.raises(UsageError, match="cannot change the shape"):
        mapsto.fit("text -> label", rows, start=base, layers=3)
    with pytest.raises(UsageError, match="not both"):
        mapsto.fit("text -> label", rows, start=base, like=tmp_path)


@pytest.mark.parametrize(("objective", "count"), [("masked", 1), ("hybrid", 0)])
def test_another_objective_than_the_starts_is_reported(objective: Any, count: int, tmp_path: Path) -> None:
    corpus, base, progress = write_corpus(tmp_path / "a.txt"), tmp_path / "base", RecordingProgress()
    mapsto.pretrain("text", corpus, base, objective="hybrid", steps=1, **TINY_OPTIONS)
    mapsto.pretrain("text", corpus, start=base, objective=objective, steps=1, device="cpu", progress=progress)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(40))]
    mapsto.fit("text -> label", rows, start=base, steps=1, device="cpu", progress=progress)
    assert len([line for line in progress.lines if "the start was trained with --objective hybrid" in line]) == count


def test_a_mapping_in_memory_is_a_start(tmp_path: Path) -> None:
    base = mapsto.pretrain("text", write_corpus(tmp_path / "a.txt"), steps=3, **TINY_OPTIONS)
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(sentences(40))]
    probed = mapsto.fit("text -> label", rows, start=base, method="probe", device="cpu", precision="fp32")
    for name, parameter in probed.mapping.transformer.named_parameters():
        assert torch.equal(parameter, dict(base.mapping.transformer.named_parameters())[name]), (
            "a probe leaves the body"
        )
    base.save(tmp_path / "base")
    saved = mapsto.fit("text -> label", rows, start=tmp_path / "base", method="probe", device="cpu", precision="fp32")
    assert torch.equal(saved.mapping.heads[0].weight, probed.mapping.heads[0].weight)


def test_an_arrow_that_hides_nothing_is_no_pretraining() -> None:
    rows = [{"text": text, "label": str(i % 2)} for i, text in enumerate(sentences(20))]
    with pytest.raises(UsageError, match="hides nothing"):
        mapsto.pretrain("text -> label", rows, steps=1, **TINY_OPTIONS)
