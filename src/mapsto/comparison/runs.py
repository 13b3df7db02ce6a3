"""The fits of a comparison: each is scored on the same rows, kept in the folder when it is done, and never made twice.

So a comparison that was killed goes on, and ends with the same numbers.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mapsto import files
from mapsto.comparison.baselines import _without_pretraining
from mapsto.comparison.design import ALL, BLIND, CLASSICAL, METHODS, SCRATCH, TEST, Cell, Study, planned
from mapsto.data.rows import Rows
from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.evaluation.error_analysis import explain_cases
from mapsto.evaluation.evaluate import predict_rows
from mapsto.explain.attribution import Attribution
from mapsto.fitting import run_folder
from mapsto.fitting.fit import fit_mapping
from mapsto.fitting.hyperparameters import idle
from mapsto.inference.predictor import Predictor
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import Progress, StepReport, duration
from mapsto.task.capabilities import Comparable
from mapsto.training import checkpoint
from mapsto.training.loop import Interrupted

PLAN, CELLS = "compare.json", "cells"


RESULTS, FITS, REPORT, CURVES, CALIBRATION = MADE = (
    "results.json", "fits.parquet", "report.html", "curves.svg", "calibration.svg",
)  # fmt: skip


THREADS_OF_A_JOB = 2


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: outputs (n, …) over the test rows and the target's state, which says what they mean; what each
    row of every view was worth, figures and costs.

    seconds: of fitting. peak: megabytes of memory the process held at most, where the system tells. parts: which parts of a
    row decided, of some rows of one of the fits of each way (see scrutiny.explained).
    """

    output: Tensor
    gains: dict[str, Tensor]
    target: dict[str, Any]
    figures: dict[str, float]
    seconds: float
    tokens: int
    peak: float | None
    parts: dict[int, list[Attribution]] = field(default_factory=dict)


def run(
    arrow: str,
    data: Any,
    out: Path | None,
    *,
    test: Any = None,
    starts: Sequence[str] = (SCRATCH,),
    labels: Sequence[int | str] = (16, 64, 256, ALL),
    seeds: int = 5,
    methods: Sequence[str] = METHODS,
    shift: Any = None,
    jobs: int | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> tuple[Study, dict[Cell, Outcome], dict[str, Any]]:
    """Every cell of a comparison, those that are in the folder `out` already as they are; and the facts it is a function of.

    Raises UsageError, DataError, CheckpointError, RunError.
    """
    options, progress = options or Options(), progress or Progress()
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be above 0, not {jobs}")
    if out is not None:
        _require_free(out)
    study, facts = planned(arrow, data, test, starts, labels, seeds, methods, shift, options, progress)
    jobs = jobs or max(1, (os.cpu_count() or 1) // THREADS_OF_A_JOB)
    done: dict[Cell, Outcome] = {}
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(run_folder.locked(out, progress.say))
            if overwrite and (out / PLAN).exists():
                shutil.rmtree(out / CELLS, ignore_errors=True)
                for name in (*MADE, PLAN):  # what says that a comparison is here goes last
                    (out / name).unlink(missing_ok=True)
            _require_same(out, facts)
            files.write_atomic(out / PLAN, files.seal(facts))
            done = _kept(study, out, progress)
        left = [cell for cell in study.cells if cell not in done]
        kept = f", {len(done)} of them done before" if done else ""
        rows = f"{len(study.pool):,} rows with labels, {len(study.views[TEST]):,} to test on"
        progress.say(f"{study.arrow}: {rows}; {len(study.ways)} ways, {len(study.cells)} fits{kept}")
        began = time.monotonic()
        stack.enter_context(_advice(done, out))
        for cell, outcome in stack.enter_context(_outcomes(study, left, jobs)):
            done[cell] = outcome
            if out is not None:
                _keep(out, cell, outcome)
            score = float(outcome.gains[TEST].mean())
            spent = duration(time.monotonic() - began)
            what = f"{cell.way.name}, {cell.labels:,} labels, seed {cell.seed}: {study.gain} {100 * score:.1f} %"
            progress.say(f"{len(done)}/{len(study.cells)}  {what}, {duration(outcome.seconds)} ({spent} in all)")
    return study, {cell: done[cell] for cell in study.cells}, facts


@contextmanager
def _advice(done: dict[Cell, Outcome], out: Path | None) -> Iterator[None]:
    """Say how to go on, where a signal stops it."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        how = f"; the same command goes on from them ({out})" if out is not None else ""
        error = RunError(f"stopped after {len(done)} fits{how}")
        error.exit_status = getattr(stopped, "exit_status", 128 + signal.SIGINT)
        raise error from stopped


@contextmanager
def _outcomes(study: Study, cells: list[Cell], jobs: int) -> Iterator[Iterator[tuple[Cell, Outcome]]]:
    """Each cell with what became of it, in this process or in `jobs` others."""
    if jobs == 1 or len(cells) < 2:
        yield ((cell, fitted(study, cell)) for cell in cells)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _enter, (study, threads))
    try:
        waiting = {pool.submit(_fitted, cell): cell for cell in cells}
        yield ((waiting[ended], ended.result()) for ended in as_completed(waiting))
    except BrokenProcessPool as error:
        raise RunError(
            "a process that was fitting died; the same command goes on from the fits that are done"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_STUDY: list[Study] = []


def _enter(study: Study, threads: int) -> None:
    torch.set_num_threads(threads)
    _STUDY[:] = [study]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for fits for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _fitted(cell: Cell) -> Outcome:
    """As `fitted`; once a process is told to stop it fits nothing more of what waits for it, and says so for all."""
    if _STUDY:
        with suppress(Interrupted, KeyboardInterrupt):
            return fitted(_STUDY[0], cell)
        _STUDY.clear()
    raise KeyboardInterrupt


class _Meter(Progress):
    """Counts the tokens that a fit reads."""

    tokens = 0

    def step(self, report: StepReport) -> None:
        self.tokens = report.tokens


def fitted(study: Study, cell: Cell) -> Outcome:
    """Fit one cell, and score it on every view."""
    _forget_peak()
    meter, began = _Meter(), time.monotonic()
    rows = study.drawn(cell.labels, cell.seed)
    mapping: Mapping | None = None
    if cell.way.method in (BLIND, CLASSICAL):
        target, answer = _without_pretraining(study, rows, cell)
        seconds = time.monotonic() - began
    else:
        mapping = fit_mapping(
            str(study.arrow),
            study.pool.table.select(rows.rows),
            start=cell.way.start,
            like=study.like if cell.way.start is None else None,
            options=_options(study.options, cast(Method, cell.way.method), cell.seed),
            progress=meter,
        )
        seconds = time.monotonic() - began
        predictor = Predictor(mapping, study.options.device, study.options.precision)
        fitted_target = mapping.targets[study.port]
        assert isinstance(fitted_target, Comparable)
        target = fitted_target

        def answer(view: Rows) -> Tensor:
            return predict_rows(predictor.mapping, study.arrow, view, study.port, predictor.device)

    outputs = {name: answer(view) for name, view in study.views.items()}
    gains = {}
    for name, view in study.views.items():
        found = target.per_item_metric(outputs[name], view.targets[study.port])
        if found is None:
            raise DataError(f"{study.gain} has nothing to measure by: the answers of the {name} rows are all the same")
        gains[name] = torch.from_numpy(found)
    parts: dict[int, list[Attribution]] = {}
    if mapping is not None and (cell.labels, cell.seed) == (study.labels[-1], study.seeds[0]):
        parts = explain_cases(study.answers(target, outputs[TEST]), mapping, predictor.device)
    figures = target.metrics(outputs[TEST], study.views[TEST].targets[study.port])
    values = {name: float(metric(*arrays)) for name, (metric, *arrays) in figures.items()}
    return Outcome(outputs[TEST], gains, target.state(), values, seconds, meter.tokens, _peak(), parts)


def _options(options: Options, method: Method, seed: int) -> Options:
    """The options for one fit: those that this method could only ignore are left out."""
    usual = Options()
    unused: dict[str, Any] = {name: getattr(usual, name) for name in idle(method, options)}
    return replace(options, method=method, seed=seed, **unused)


def _forget_peak() -> None:
    """Begin to measure the most memory anew, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float | None:
    """Megabytes this process held at most."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    return None


def _require_free(out: Path) -> None:
    """Raise UsageError where something stands at `out` that is no comparison."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out needs a folder")
    held = set(os.listdir(out)) if out.exists() else set()
    if PLAN not in held and held - {run_folder.LOCK, f"{files.TEMPORARY_PREFIX}{PLAN}"}:
        raise UsageError(f"{out} holds other files; choose another --out")


def _require_same(out: Path, facts: dict[str, Any]) -> None:
    """Raise UsageError when the folder holds another comparison."""
    if not (out / PLAN).exists():
        return
    try:
        held = files.read_sealed(out / PLAN)
    except CheckpointError as error:
        raise UsageError(f"{error}; begin again with --overwrite") from error
    if differing := sorted(name for name in facts if held.get(name) != facts[name]):
        raise UsageError(
            f"{out} holds a comparison with other {', '.join(differing)}; choose another --out, or add --overwrite"
        )


def _keep(out: Path, cell: Cell, outcome: Outcome) -> None:
    """Write a finished cell; it is whole, or not there."""
    tensors = {"output": outcome.output, **{f"gains.{name}": gains for name, gains in outcome.gains.items()}}
    state = {name: getattr(outcome, name) for name in ("target", "figures", "seconds", "tokens", "peak")}
    state["parts"] = {str(row): list(map(asdict, parts)) for row, parts in outcome.parts.items()}
    checkpoint.save_checkpoint(out / CELLS / cell.name, tensors, state)


def _kept(study: Study, out: Path, progress: Progress) -> dict[Cell, Outcome]:
    """The finished cells in a folder; a damaged one is made again."""
    found = {}
    for cell in study.cells:
        path = out / CELLS / cell.name
        if not path.exists():
            continue
        try:
            tensors, state = checkpoint.load_checkpoint(path)
        except CheckpointError as error:
            progress.say(f"{error}; this fit is made again")
            continue
        output = tensors.pop("output")
        gains = {name.removeprefix("gains."): tensor for name, tensor in tensors.items()}
        parts = {int(row): [Attribution(**part) for part in parts] for row, parts in state.pop("parts", {}).items()}
        found[cell] = Outcome(output, gains, **state, parts=parts)
    return found
