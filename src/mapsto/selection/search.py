"""Hyperparameter search: trials on cross-validation folds of the training rows, then a fit with the best values.

A trial trains in memory and is scored on rows that it did not train on; test rows are never part of a trial. The data
is read and encoded once for all trials. The next hyperparameters depend only on the seed and the finished trials (a
tree-structured Parzen estimator, Bergstra et al. 2011), so a search that was killed resumes to the same result.
"""

from __future__ import annotations

import importlib
import math
import time
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.data.duplicates.overlap import find_overlap
from mapsto.data.files import is_path
from mapsto.data.rows import load_rows
from mapsto.data.table import Table
from mapsto.distributed import read_ranks
from mapsto.errors import DataError, RunError, UsageError
from mapsto.fitting import fit, run_folder
from mapsto.fitting.method import STEPLESS_METHODS, choose_method, contrast_port
from mapsto.fitting.plan import default_hyperparameters
from mapsto.fitting.prepare import PreparedRun, build_run, read_data
from mapsto.fitting.request import FitRequest
from mapsto.metrics.intervals import Score, mean_score, to_json, with_interval
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import Progress, duration
from mapsto.selection import folds as selection_folds
from mapsto.selection.cross_validation import cross_validate
from mapsto.selection.folds import Fold, search_folds
from mapsto.selection.method_choice import choose_and_fit
from mapsto.task.arrow import Arrow, parse
from mapsto.training.loop import Interrupted

# Bounds of learning rate and epochs, and the batch sizes, as multiples of the values of a fit without a search.
RATES, EPOCHS, BATCHES = (0.1, 4.0), (0.5, 2.0), (0.5, 1.0, 2.0)
# Significant digits of a suggested learning rate or number of epochs.
DIGITS = 2

# The methods of a fit that a search tries besides a linear probe.
TRIED_METHODS: tuple[Method, ...] = ("probe+full", "full", "contrast")

# Trials drawn at random before the estimator chooses.
RANDOM_TRIALS = 5

# The hyperparameters of a search, by name: a list of values, or the bounds of a number.
SearchSpace = dict[str, list[Any] | tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """The hyperparameters of a trial and its result.

    number: from 1. knobs: the hyperparameters by name.
    error: the mean validation error over the held-out rows of all folds; None for a trial that failed.
    loss: the mean loss on the same rows, which decides between trials of equal error; None for a trial that failed.
    failed: the reason for the failure in words; None for a trial that succeeded.
    """

    number: int
    knobs: dict[str, Any]
    error: Score | None
    loss: float | None
    seconds: float
    failed: str | None = None

    def __str__(self) -> str:
        values = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.knobs.items()
        )
        return f"{values}: {f'error {self.error}' if self.error else self.failed}"

    @property
    def rank(self) -> tuple[float, float, int]:
        """The sort key of the trial, (error, loss, number); the best trial has the lowest."""
        if self.error is None or self.loss is None:
            return (math.inf, math.inf, self.number)
        return (self.error.value, self.loss, self.number)


@dataclass(frozen=True)
class Search:
    """The plan of a hyperparameter search.

    options: of every trial, apart from the hyperparameters. space: the hyperparameters to choose.
    first_trials: the hyperparameters of the first trials, which are fixed in advance.
    num_trials: the number of trials.
    minutes: no trial begins after the trials have taken this many minutes; None for no limit.
    """

    options: Options
    space: SearchSpace
    first_trials: list[dict[str, Any]]
    folds: list[Fold]
    num_trials: int
    minutes: float | None


def search_and_fit(
    arrow: str,
    data: Any,
    out: str | Path | None = None,
    *,
    search: int | None = None,
    search_minutes: float | None = None,
    folds: int | None = None,
    start: str | Path | Mapping | None = None,
    like: str | Path | None = None,
    test: Any = None,
    options: Options | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Mapping:
    """Search hyperparameters with `search` trials, fit a mapping with the best ones, and return it.

    search: the number of trials; None searches nothing, and chooses the method as `choose_and_fit` does.
    search_minutes: no trial begins after the trials have taken this many minutes.
    folds: the number of folds of a cross-validation before the fit; None for none.
    The other arguments are those of `fit_mapping`.

    Finished trials are recorded in search.json of the run's folder, and are not repeated when the search is resumed.
    Raises UsageError if the package optuna (the extra [search]) is not installed, and the errors of `fit_mapping`.
    """
    given: dict[str, Any] = {"start": start, "like": like, "test": test, "overwrite": overwrite}
    if folds is not None:
        if search is not None or search_minutes is not None:
            raise UsageError(
                "--folds scores one setting, and --search tries several on folds of its own: give one of them"
            )
        return _cross_validate_and_fit(
            fit.make_request(arrow, data, out, options=options, progress=progress, **given), folds
        )
    if search is None and search_minutes is None:
        return choose_and_fit(fit.make_request(arrow, data, out, options=options, progress=progress, **given))
    options = options or Options()
    num_trials = _require_possible(parse(arrow), options, search, search_minutes)
    request = fit.make_request(arrow, data, out, options=options, progress=progress, **given)
    folder, progress = request.folder, request.progress
    if folder is not None:
        run_folder.require_free(folder, overwrite, searched=True)
        _require_apart(folder, {"start": start, "like": like})
    request = replace(request.with_tables(), overwrite=False)
    run_data = read_data(request)
    assert run_data.training_rows is not None
    overlap = find_overlap(run_data.start.row_filters, run_data.training_rows)
    if overlap.warning:
        progress.say(f"note: trials are scored on training rows; {overlap.warning}")
    run = build_run(request, run_data)
    facts = {**run.facts, "--search": num_trials, "--search-minutes": search_minutes}
    plan = plan_search(request, run, num_trials, search_minutes)
    del run  # the trials have no use for its weights
    with run_folder.locked(folder, progress.say):
        if folder is not None and overwrite:
            run_folder.clear(folder)
        trials = _run_trials(plan, folder, facts, progress)
    # Failed trials rank last: the best one has failed only if all have.
    best = min(trials, key=lambda trial: trial.rank)
    if best.error is None:
        raise RunError(f"none of {len(trials)} trials came to an end; the last one: {trials[-1].failed}")
    progress.say(f"chosen: trial {best.number} of {len(trials)}, {best}")
    progress.say(f"without a search: {trials[0]}")
    record: dict[str, Any] = {"chosen": best.number, "trials": [to_json(trial) for trial in trials]}
    if overlap:
        record["overlap"] = to_json(overlap)
    final = replace(request, options=replace(options, **best.knobs), search_record=record, started_at=time.monotonic())
    return fit.fit_request(final, run_data)


def _cross_validate_and_fit(request: FitRequest, num_folds: int) -> Mapping:
    """Score the setting of a request by cross-validation, then fit a mapping to all rows; return the mapping."""
    if not is_path(request.data):
        request = request.with_tables()  # which can be read once only
    scores = cross_validate(request, num_folds)
    request.progress.folds(scores)
    request.say("the model of all rows:")
    # The folder holds the record of the folds, and nothing of another run any more.
    final = replace(request, overwrite=False, folds_record=scores.to_json(), started_at=time.monotonic())
    return choose_and_fit(final)


def _require_possible(arrow: Arrow, options: Options, num_trials: int | None, minutes: float | None) -> int:
    """Return `num_trials`, the value of `--search`, if a search is possible.

    minutes: the value of `--search-minutes`.
    Raises UsageError if `num_trials` is None, a number is not above 0, the arrow or an option rules a search out, or
    optuna is not installed.
    """
    if num_trials is None:
        raise UsageError("--search-minutes needs --search with the number of trials")
    for name, value in (("search", num_trials), ("search-minutes", minutes)):
        if value is not None and not value > 0:
            raise UsageError(f"--{name} must be above 0, not {value}")
    if arrow.corrupted:
        raise UsageError(f"--search looks for the best fit of answers, and {arrow} is pretraining")
    if arrow.symmetric:
        raise UsageError(
            f"--search scores answers, and {arrow} has none; --rate, --batch and --epochs set a fit of pairs"
        )
    if options.minutes is not None:
        raise UsageError("--search needs trials that can be repeated: give --steps or --epochs in place of --minutes")
    if read_ranks().size > 1 or options.shard:
        raise UsageError(
            "--search runs in one process; search without torchrun and --shard, then train with its choice"
        )
    _import_optuna()
    return num_trials


def _require_apart(folder: Path, models: dict[str, Any]) -> None:
    """Raise UsageError if `folder` holds a model that the trials start from: the run would replace it.

    models: the values of `start` and `like` by name.
    """
    for name, model in models.items():
        if isinstance(model, str | Path) and Path(model).resolve() == folder.resolve():
            raise UsageError(f"--search begins every trial with --{name} {model}; choose another --out")


def plan_search(request: FitRequest, run: PreparedRun, num_trials: int, minutes: float | None) -> Search:
    """Return the plan of a search; the first trial has the hyperparameters of a fit without a search.

    The second trial is a linear probe, if possible. Hyperparameters that the user has set are not searched.
    run: the run of a fit without a search.

    Raises UsageError if the options leave nothing to choose, DataError for too few rows.
    """
    options, mapping = run.options, run.mapping
    method, _ = choose_method(run)
    rows = load_rows(mapping.arrow, request.data)
    splits = search_folds(rows, options.seed, options.group, options.weight)
    methods = _possible_methods(run, [training for training, _ in splits])
    if method not in (*STEPLESS_METHODS, *methods):
        raise DataError("with some rows held out for --search no two classes are left with two rows to contrast")
    default = default_hyperparameters(run, "full" if method in STEPLESS_METHODS else method)
    values: SearchSpace = {
        "method": methods,
        "rate": _bounds(default["rate"], RATES),
        "epochs": _bounds(default["epochs"], EPOCHS),
        "batch": sorted({min(round(default["batch"] * times), len(run.examples)) for times in BATCHES}),
    }
    fixed = {name for name in values if getattr(options, name) not in (None, "auto")}
    fixed |= set(values) if options.method in STEPLESS_METHODS else set()
    fixed |= {"method"} if len(methods) == 1 else set()
    # A number of steps fixes the length of a trial.
    fixed |= {"epochs"} if options.steps is not None else set()
    space = {name: value for name, value in values.items() if name not in fixed}
    if not space:
        raise UsageError(
            "the options given leave --search nothing to try: it chooses --method, --rate, --epochs, --batch"
        )
    first_trials = [{"method": "probe"}] if "method" in space and _is_possible("probe", run) else []
    if method != "probe":
        # First, so that the search can only improve on a fit without it.
        first_trials.insert(0, {name: default[name] for name in space})
    share = run.data.num_held_out / (run.data.num_rows + run.data.num_held_out)
    # Trials hold out the same share as the final fit, of fewer rows.
    hold_out = share if options.hold_out is None else options.hold_out
    trial_options = replace(options, hold_out=hold_out, track="none")
    trial_folds = [
        Fold(FitRequest(mapping.arrow, training, None, request.start, request.like, options=trial_options), held_out)
        for training, held_out in splits
    ]
    return Search(trial_options, space, first_trials, trial_folds, num_trials, minutes)


def _possible_methods(run: PreparedRun, training_tables: Sequence[Table]) -> list[Any]:
    """Return the methods among TRIED_METHODS with which every fold can be fitted.

    training_tables: the rows to train on of each fold.
    """
    methods = [method for method in TRIED_METHODS if _is_possible(method, run)]
    if "contrast" in methods and not all(_can_contrast(run.mapping, training) for training in training_tables):
        methods.remove("contrast")
    return methods


def _is_possible(method: Method, run: PreparedRun) -> bool:
    """Return whether the starting model, the answers and the options of a run allow the method."""
    try:
        choose_method(replace(run, options=replace(run.options, method=method)))
    except UsageError:
        return False
    return True


def _can_contrast(mapping: Mapping, training: Table) -> bool:
    """Return whether contrastive learning is possible with the rows of `training`: two or more classes have two or more rows."""
    port = contrast_port(mapping)
    assert port is not None
    answers = load_rows(mapping.arrow, training).targets[port]
    return sum(count > 1 for count in Counter(answers).values()) > 1


def _bounds(default: float, factors: tuple[float, float]) -> tuple[float, float]:
    return default * factors[0], default * factors[1]


def _run_trials(search: Search, folder: Path | None, facts: Dict[str, Any], progress: Progress) -> list[Trial]:
    """Run the trials that search.json of the folder does not yet record, and return all trials in order.

    It stops early when the time of the search is used up. Each finished trial is recorded and printed.
    folder: the folder of the run; None records nothing.
    facts: the facts that identify the search; a recorded search must have the same ones.
    """
    recorded = None if folder is None else run_folder.recorded_search(folder, facts, Options(**facts["options"]))
    trials = [
        Trial(**{**entry, "error": entry["error"] and Score.from_json(entry["error"])}) for entry in recorded or []
    ]
    if recorded is None and folder is not None:
        run_folder.record_search(folder, facts, [])
    num_scored = sum(len(fold.held_out) for fold in search.folds)
    is_single = len(search.folds) == 1
    scheme = "held out" if is_single else f"in {len(search.folds)} folds, each learning from the other rows"
    progress.say(f"search: {search.num_trials} trials, each scored on {num_scored:,} of the training rows, {scheme}")
    if trials:
        progress.say(f"continuing after trial {len(trials)}")
    while len(trials) < search.num_trials and not _is_out_of_time(search, trials):
        try:
            trials.append(_run_trial(search, trials))
        except Interrupted as interrupted:
            raise _with_advice(interrupted, len(trials) + 1, folder) from interrupted
        if folder is not None:
            run_folder.record_search(folder, facts, [to_json(trial) for trial in trials])
        progress.say(f"trial {len(trials)} of {search.num_trials}: {trials[-1]}, {duration(trials[-1].seconds)}")
    return trials


def _with_advice(interrupted: Interrupted, number: int, folder: Path | None) -> RunError:
    """Return the error for a search that a signal interrupted in trial `number`, with advice on how to resume it."""
    advice = f"; the same command goes on, with this trial from its beginning ({folder})" if folder else ""
    error = RunError(f"{interrupted} of trial {number}{advice}")
    error.exit_status = interrupted.exit_status
    return error


def _is_out_of_time(search: Search, trials: Sequence[Trial]) -> bool:
    return search.minutes is not None and sum(trial.seconds for trial in trials) >= 60 * search.minutes


def _run_trial(search: Search, trials: Sequence[Trial]) -> Trial:
    """Run the next trial on all folds and return it.

    If an earlier trial had the same hyperparameters, its result is copied. A trial that diverges is returned as failed.
    """
    started_at, number = time.monotonic(), len(trials) + 1
    if number <= len(search.first_trials):
        knobs = search.first_trials[number - 1]
    else:
        knobs = suggest_hyperparameters(search.space, trials, search.options.seed)
    # Training is deterministic, so the same hyperparameters give the same result.
    repeated = next((trial for trial in trials if trial.knobs == knobs), None)
    if repeated is not None:
        return replace(repeated, number=number, seconds=0.0)
    options = replace(search.options, **knobs)
    results: list[tuple[float, float]] = []
    try:
        for fold in search.folds:
            results += selection_folds.score_rows(fold.train(options), fold.held_out, options.weight)
    except Interrupted:  # a RunError too, but one that must stop the search
        raise
    except RunError as error:
        return Trial(number, knobs, None, None, time.monotonic() - started_at, str(error))
    errors, losses = np.array(results).T
    return Trial(number, knobs, with_interval(mean_score, errors), float(losses.mean()), time.monotonic() - started_at)


def suggest_hyperparameters(space: SearchSpace, trials: Sequence[Trial], seed: int) -> dict[str, Any]:
    """Return hyperparameters by name for the next trial, suggested by a tree-structured Parzen estimator.

    The suggestion depends only on `space`, the finished trials and the seed (Bergstra et al. 2011).
    space: by name of the hyperparameter, the list of its values or its bounds (lowest, highest).
    """
    optuna = _import_optuna()
    distributions = {
        name: optuna.distributions.CategoricalDistribution(values)
        if isinstance(values, list)
        else optuna.distributions.FloatDistribution(*values, log=True)
        for name, values in space.items()
    }
    # A new sampler for each trial, so that a resumed search continues with the same suggestions.
    state = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=state, n_startup_trials=RANDOM_TRIALS))
    for trial in trials:
        if trial.knobs.keys() == space.keys():  # a probe has no other hyperparameters
            result = {"value": trial.error.value} if trial.error else {"state": optuna.trial.TrialState.PRUNED}
            study.add_trial(optuna.trial.create_trial(params=trial.knobs, distributions=distributions, **result))
    return {name: _round(value, space[name]) for name, value in study.ask(distributions).params.items()}


def _round(value: Any, values: list[Any] | tuple[float, float]) -> Any:
    """Round a suggested number to DIGITS digits, so that a person can type it, within the bounds `values`.

    A value that was chosen from a list is returned unchanged.
    """
    if isinstance(values, list):
        return value
    low, high = values
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _import_optuna() -> Any:
    """Import optuna and turn off its log messages. Raises UsageError if it is not installed."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("--search needs the package: pip install 'mapsto[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
