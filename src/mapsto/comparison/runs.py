"""Execution of the fits of a comparison, in this process or in several; each finished fit is saved.

All fits are scored on the same test sets. An interrupted comparison resumes from its saved fits and ends with the same
numbers.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
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
from mapsto.comparison.baselines import fit_baseline
from mapsto.comparison.design import CLASSICAL, CONSTANT, TEST, Design, Fit, Request, plan
from mapsto.data.rows import Rows
from mapsto.device import choose_device
from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.evaluation.error_analysis import explain_cases
from mapsto.evaluation.evaluate import predict_rows
from mapsto.evaluation.linear_baseline import Predict
from mapsto.explain.attribution import Attribution
from mapsto.fitting import run_folder
from mapsto.fitting.fit import fit_mapping
from mapsto.fitting.method import unused_options
from mapsto.inference.predictor import Predictor
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import Progress, StepReport, duration
from mapsto.report.requirements import require_charts
from mapsto.task.target_capabilities import Comparable
from mapsto.training import checkpoint
from mapsto.training.loop import Interrupted

# Files in the folder of a comparison: its facts, the folder of finished fits, and the results written at the end.
PLAN_FILE, FITS_FOLDER = "compare.json", "cells"
RESULTS_FILE, FITS_FILE, REPORT_FILE = "results.json", "fits.parquet", "report.html"
CURVES_FILE, CALIBRATION_FILE = "curves.svg", "calibration.svg"
OUTPUT_FILES = (RESULTS_FILE, FITS_FILE, REPORT_FILE, CURVES_FILE, CALIBRATION_FILE)

THREADS_PER_JOB = 2  # cores for each fit that runs at the same time, where --jobs is not given


@dataclass(frozen=True)
class FitResult:
    """The result of one fit.

    output: the outputs for the test rows, (n, …).
    item_scores: by test set, the compared metric of each row, (n,).
    target_state: the keyword arguments that rebuild the target object, which decodes the outputs.
    aligned: whether that target reads its answers along the source, and does not generate them.
    metrics: by name, the target's metrics on the test rows.
    seconds: fitting time.
    tokens: number of tokens read over all training steps, without padding.
    peak_megabytes: peak memory of the process; None where the operating system does not report it.
    parts: by index of the test row, the attribution of its answer to parts of the input; only for the fit of a starting
        model or random weights to the most labels with the first seed.
    """

    output: Tensor
    item_scores: dict[str, Tensor]
    target_state: dict[str, Any]
    metrics: dict[str, float]
    seconds: float
    tokens: int
    peak_megabytes: float | None
    parts: dict[int, list[Attribution]] = field(default_factory=dict)
    aligned: bool = False


@dataclass(frozen=True)
class Experiment:
    """A finished comparison: its design and the result of every fit.

    facts: everything that the results depend on, as saved in compare.json.
    """

    design: Design
    results: dict[Fit, FitResult]
    facts: dict[str, Any]


def run_comparison(
    request: Request,
    out: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Experiment:
    """Run the fits of a comparison, and save each in the folder `out`; load fits that `out` already holds.

    out: None saves nothing.
    jobs: number of fits that run at the same time; None for one for every two cores.
    overwrite: delete the comparison in `out` first.
    Raises UsageError for unsuitable arguments, DataError for unusable rows, CheckpointError for a damaged starting
    model, RunError if a fit fails or is interrupted.
    """
    progress = progress or Progress()
    if out is not None:
        require_charts()
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be above 0, not {jobs}")
    if out is not None:
        _require_free(out)
    design, facts = plan(request, progress)
    results: dict[Fit, FitResult] = {}
    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(run_folder.locked(out, progress.say))
            _enter_folder(out, facts, overwrite)
            results = _load_results(design, out, progress)
        _say_plan(design, len(results), progress)
        remaining = [fit for fit in design.fits if fit not in results]
        start_time = time.monotonic()
        stack.enter_context(_explain_interruption(results, out))
        jobs = jobs or max(1, (os.cpu_count() or 1) // THREADS_PER_JOB)
        for fit, result in stack.enter_context(_run_fits(design, remaining, jobs)):
            results[fit] = result
            if out is not None:
                _save_result(out, fit, result)
            score = f"{design.metric} {100 * float(result.item_scores[TEST].mean()):.1f} %"
            name = f"{fit.candidate.name}, {fit.num_labels:,} labels, seed {fit.seed}"
            total = duration(time.monotonic() - start_time)
            count = f"{len(results)}/{len(design.fits)}"
            progress.say(f"{count}  {name}: {score}, {duration(result.seconds)} ({total} in all)")
    return Experiment(design, {fit: results[fit] for fit in design.fits}, facts)


def _say_plan(design: Design, num_finished: int, progress: Progress) -> None:
    """Print the arrow and the numbers of rows, models and fits.

    num_finished: fits that were loaded from the folder.
    """
    rows = f"{len(design.pool):,} rows with labels, {len(design.test_sets[TEST]):,} test rows"
    finished = f", {num_finished} of them finished before" if num_finished else ""
    progress.say(f"{design.arrow}: {rows}; {len(design.candidates)} models, {len(design.fits)} fits{finished}")


@contextmanager
def _explain_interruption(results: dict[Fit, FitResult], out: Path | None) -> Iterator[None]:
    """Turn an interruption of the `with` block, such as Ctrl-C, into a RunError that says how to resume.

    results: the fits finished so far. out: the folder that they are saved in; None if they are lost.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as interruption:
        advice = f"; the same command resumes from them ({out})" if out is not None else ""
        error = RunError(f"stopped after {len(results)} fits{advice}")
        # 128 + the number of the signal is the convention of shells.
        error.exit_status = getattr(interruption, "exit_status", 128 + signal.SIGINT)
        raise error from interruption


# Fits at the same time, each in a process of its own


@contextmanager
def _run_fits(design: Design, fits: list[Fit], jobs: int) -> Iterator[Iterator[tuple[Fit, FitResult]]]:
    """Run the fits during the `with` block, which receives an iterator over (fit, result) in the order of completion.

    They run in this process if `jobs` is 1 or there is one fit at most, else in `jobs` worker processes.
    Raises RunError if a worker process dies.
    """
    if jobs == 1 or len(fits) < 2:
        yield ((fit, run_fit(design, fit)) for fit in fits)
        return
    # Spawned, not forked: a fork of a process with OpenMP threads may hang.
    # More threads than cores would slow down all fits.
    num_threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (design, num_threads))
    try:
        futures = {pool.submit(_run_in_worker, fit): fit for fit in fits}
        yield ((futures[future], future.result()) for future in as_completed(futures))
    except BrokenProcessPool as error:
        raise RunError("a fitting process died; the same command resumes from the finished fits") from error
    finally:
        # After an error nobody needs the fits that still run.
        pool.shutdown(wait=False, cancel_futures=True)


# The design in a worker process; empty once the worker was told to stop.
_WORKER_DESIGN: list[Design] = []


def _start_worker(design: Design, num_threads: int) -> None:
    """Prepare a worker process: keep the design, limit the threads, and end with the parent process."""
    torch.set_num_threads(num_threads)
    _WORKER_DESIGN[:] = [design]
    # The main thread is busy with fits, so another one watches the parent.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Wait until the parent process has ended, then end this worker, which would otherwise wait for fits for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(fit: Fit) -> FitResult:
    """Run a fit in this worker process, and return its result.

    After an interruption such as Ctrl-C, this and every later call in the process raise KeyboardInterrupt; otherwise
    the process would go on with the next fit.
    """
    if _WORKER_DESIGN:
        # Ctrl-C reaches all processes of the group; the pool would hand this one the next fit.
        with suppress(Interrupted, KeyboardInterrupt):
            return run_fit(_WORKER_DESIGN[0], fit)
        _WORKER_DESIGN.clear()
    raise KeyboardInterrupt


# One fit


class _TokenCounter(Progress):
    """A progress output that prints nothing and stores the number of tokens read in training so far."""

    tokens = 0

    def step(self, report: StepReport) -> None:
        self.tokens = report.tokens


def run_fit(design: Design, fit: Fit) -> FitResult:
    """Fit a candidate to its training rows, score it on every test set, and return scores, outputs and costs as a FitResult."""
    # A worker process runs several fits, and each reports a peak of its own.
    _reset_peak_memory()
    counter, start_time = _TokenCounter(), time.monotonic()
    rows = design.training_rows(fit.num_labels, fit.seed)
    mapping: Mapping | None = None
    device = choose_device(design.options.device)
    if fit.candidate.method in (CONSTANT, CLASSICAL):
        target, predict = fit_baseline(design, rows, fit)
        seconds = time.monotonic() - start_time
    else:
        mapping = _fit_model(design, fit, rows, counter)
        seconds = time.monotonic() - start_time
        target, predict = _model_predict(design, mapping)
    outputs = {name: predict(test_rows) for name, test_rows in design.test_sets.items()}
    parts: dict[int, list[Attribution]] = {}
    # One fit of each model is enough to show what it looks at.
    if mapping is not None and (fit.num_labels, fit.seed) == (design.label_counts[-1], design.seeds[0]):
        parts = explain_cases(design.predictions(target, outputs[TEST]), mapping, device)
    metrics = target.metrics(outputs[TEST], design.test_sets[TEST].targets[design.port])
    return FitResult(
        output=outputs[TEST],
        item_scores=_item_scores(design, target, outputs),
        target_state=target.state(),
        metrics={name: float(metric(*arrays)) for name, (metric, *arrays) in metrics.items()},
        seconds=seconds,
        tokens=counter.tokens,
        peak_megabytes=_peak_memory(),
        parts=parts,
        aligned=mapping is not None and mapping.arrow.targets[design.port].aligned,
    )


def _fit_model(design: Design, fit: Fit, rows: Rows, progress: Progress) -> Mapping:
    """Fit the candidate's starting model, or random weights, to the training rows."""
    return fit_mapping(
        str(design.arrow),
        rows.own_table(),
        start=fit.candidate.start,
        # Random weights get the shape of a starting model, so that only pretraining makes the difference.
        like=design.scratch_like if fit.candidate.start is None else None,
        options=_fit_options(design.options, cast(Method, fit.candidate.method), fit.seed),
        progress=progress,
    )


def _model_predict(design: Design, mapping: Mapping) -> tuple[Comparable, Predict]:
    """Return the compared target object of a fitted model, and the function from test rows to outputs (n, …)."""
    predictor = Predictor(mapping, design.options.device, design.options.precision)
    target = mapping.targets[design.port]
    assert isinstance(target, Comparable)

    def predict(test_rows: Rows) -> Tensor:
        return predict_rows(predictor.mapping, design.arrow, test_rows, design.port, predictor.device)

    return target, predict


def _item_scores(design: Design, target: Comparable, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return by test set the compared metric of each row, (n,).

    outputs: by test set, the outputs of the fit, (n, …).
    Raises DataError if the metric is undefined because all labels of a test set are equal.
    """
    item_scores = {}
    for name, test_rows in design.test_sets.items():
        scores = target.per_item_metric(outputs[name], test_rows.targets[design.port])
        if scores is None:
            raise DataError(f"{design.metric} is not defined: the answers of the {name} rows are all the same")
        item_scores[name] = torch.from_numpy(scores)
    return item_scores


def _fit_options(options: Options, method: Method, seed: int) -> Options:
    """Return the options of one fit: `options` with its method and seed.

    Options that the method does not use are reset to their defaults, since a fit refuses them.
    """
    default = Options()
    # One set of options serves all methods, and a fit refuses options that it does not use.
    ignored: dict[str, Any] = {name: getattr(default, name) for name in unused_options(method, options)}
    return replace(options, method=method, seed=seed, **ignored)


def _reset_peak_memory() -> None:
    """Reset the peak memory that the operating system reports for this process (Linux only)."""
    with suppress(OSError):
        # 5 resets the peak (VmHWM), see proc(5).
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> float | None:
    """Return this process's peak memory in megabytes; None where the operating system does not report it."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
    return None


# The folder


def _require_free(out: Path) -> None:
    """Raise UsageError if `out` is a file, or a folder that holds anything but a comparison."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; --out needs a folder")
    names = set(os.listdir(out)) if out.exists() else set()
    # A lock or a half-written plan is left by a comparison that was killed at its beginning.
    if PLAN_FILE not in names and any(name != run_folder.LOCK and not files.is_temporary(name) for name in names):
        raise UsageError(f"{out} holds other files; choose another --out")


def _enter_folder(out: Path, facts: dict[str, Any], overwrite: bool) -> None:
    """Write the facts into the folder of the comparison.

    overwrite: first delete the comparison that the folder holds.
    Raises UsageError if the folder holds a comparison with other facts.
    """
    if overwrite and (out / PLAN_FILE).exists():
        shutil.rmtree(out / FITS_FOLDER, ignore_errors=True)
        # The plan goes last: it marks the folder as a comparison, should this be interrupted.
        for name in (*OUTPUT_FILES, PLAN_FILE):
            (out / name).unlink(missing_ok=True)
    _require_same_facts(out, facts)
    files.write_atomic(out / PLAN_FILE, files.seal(facts))


def _require_same_facts(out: Path, facts: dict[str, Any]) -> None:
    """Raise UsageError if compare.json in the folder records other facts, such as other data, than those in `facts`."""
    if not (out / PLAN_FILE).exists():
        return
    try:
        saved = files.read_sealed(out / PLAN_FILE)
    except CheckpointError as error:
        raise UsageError(f"{error}; start anew with --overwrite") from error
    if mismatches := sorted(name for name in facts if saved.get(name) != facts[name]):
        raise UsageError(
            f"{out} holds a comparison with other {', '.join(map(_fact_name, mismatches))}; choose another --out, or add "
            "--overwrite"
        )


def _fact_name(key: str) -> str:
    """Return the name under which error messages mention the fact `key` of compare.json."""
    return {"ways": "models", "tested": "test rows", "scratch is like": "shape of scratch"}.get(key, key)


# Key in the file of a saved fit → field of FitResult.
STATE_KEYS = {
    "target": "target_state",
    "figures": "metrics",
    "seconds": "seconds",
    "tokens": "tokens",
    "peak": "peak_megabytes",
    "aligned": "aligned",
}


def _save_result(out: Path, fit: Fit, result: FitResult) -> None:
    """Save the result of a finished fit in the folder, atomically."""
    scores = {f"gains.{name}": item_scores for name, item_scores in result.item_scores.items()}
    state = {key: getattr(result, name) for key, name in STATE_KEYS.items()}
    # JSON has no integer keys.
    state["parts"] = {str(row): list(map(asdict, parts)) for row, parts in result.parts.items()}
    checkpoint.save_checkpoint(out / FITS_FOLDER / fit.folder_name, {"output": result.output, **scores}, state)


def _load_results(design: Design, out: Path, progress: Progress) -> dict[Fit, FitResult]:
    """Return the results of the fits of `design` that are saved in the folder, by fit.

    Damaged files are left out with a printed note, so that their fits run again.
    """
    results = {}
    for fit in design.fits:
        path = out / FITS_FOLDER / fit.folder_name
        if not path.exists():
            continue
        try:
            tensors, state = checkpoint.load_checkpoint(path)
        except CheckpointError as error:
            progress.say(f"{error}; this fit runs again")
            continue
        output = tensors.pop("output")
        item_scores = {name.removeprefix("gains."): tensor for name, tensor in tensors.items()}
        parts = {int(row): [Attribution(**part) for part in parts] for row, parts in state.pop("parts", {}).items()}
        fields = {STATE_KEYS[key]: value for key, value in state.items()}
        results[fit] = FitResult(output, item_scores, **fields, parts=parts)
    return results
