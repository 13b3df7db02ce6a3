"""The choice of a fit's method by measurement (`--method auto`), and the confidence of fits by any method.

The training rows are split into two halves. Each candidate, such as a linear probe or the training of all weights, is
fitted to one half and scored on the other, both ways round (two-fold cross-validation), so the training of a candidate
takes about as long here as in the final fit. The answers to rows that a model was not fitted to also give the temperature
that calibrates the final model; for it alone, a method that the user names is measured too. Fits that hold rows out choose
by these (see mapsto.selection.linear_rival).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto.data.rows import Rows
from mapsto.errors import DataError, RunError, shorten
from mapsto.evaluation.linear_baseline import MIN_SECONDS, estimate_seconds
from mapsto.fitting import fit, run_folder
from mapsto.fitting.method import choose_method, unused_options
from mapsto.fitting.prepare import PreparedRun, build_run, read_data
from mapsto.fitting.request import FitRequest, MethodChoice
from mapsto.fitting.run_data import RunData
from mapsto.kinds import answering
from mapsto.model.mapping import Mapping
from mapsto.options import Method
from mapsto.progress import duration
from mapsto.selection.candidate import Candidate, measure_method, reason_for, with_method
from mapsto.selection.folds import Fold, make_folds
from mapsto.selection.linear_rival import can_be_linear, fit_beside_linear, linear_request
from mapsto.task.target_capabilities import Calibratable, Classes, LinearProbe, has_exclusive_classes
from mapsto.training.loop import Interrupted

# Below these numbers of rows, and of rows per class, halves are too small to fit a temperature on.
MIN_ROWS, MIN_ROWS_PER_CLASS = 8, 4
# Below this number of rows, halves are too small to choose a method by.
MIN_ROWS_TO_CHOOSE = 32
# With fewer rows, a draw between two methods says little. Then the method wins that did best with as many labels on other
# data (see fitting/method.py); with more rows, the simpler one wins.
DECISIVE_ROWS = 200
# The key of the measured candidates in the record of an unfinished choice.
MEASURED = "measured"


def choose_and_fit(request: FitRequest) -> Mapping:
    """Measure which method suits the training rows of a request, fit a mapping by it, and return the mapping.

    A method that the request names is measured alone, to calibrate the mapping. With too few rows to measure anything, the fit
    takes the method of `choose_method`, and is not calibrated.
    Raises the errors of `fit_mapping`.
    """
    if not _can_measure(request):
        return fit.fit_request(request)
    folder, say = request.folder, request.say
    if folder is not None:
        run_folder.require_free(folder, request.overwrite)
    # Read once, as the halves take their rows from the table.
    request = request.with_tables()
    data = read_data(request)
    if data.num_held_out and request.options.method == "auto":
        return fit_beside_linear(request, data)
    if data.num_held_out or not _is_measurable(data) or _began_without_choice(request):
        return fit.fit_request(request, data)
    run = build_run(request, data)
    methods, reason = candidate_methods(run, request)
    # A single method is measured for its temperature alone.
    if len(methods) < 2 and not any(isinstance(target, Calibratable) for target in data.targets):
        return fit.fit_request(request, data)
    with run_folder.locked(folder, say):
        record = _recorded(request, run)
        choice = MethodChoice.from_record(record) if "method" in record else None
        if choice is None:
            try:
                choice = measure(request, run, methods, reason)
            except Interrupted as interrupted:
                # Not after which step of a half, whose model is not kept.
                error = RunError(_advice(request))
                error.exit_status = interrupted.exit_status
                raise error from interrupted
            except KeyboardInterrupt:
                say(_advice(request))
                raise
            if folder is not None and choice is not None:
                # Only now, so that an error or an interruption does not cost the former run.
                if request.overwrite:
                    run_folder.clear(folder)
                run_folder.record_choice(folder, run.facts, choice.record())
    if choice is None:
        return fit.fit_request(request, data)
    options = with_method(request.options, choice.method)
    final = replace(request, options=options, choice=choice, overwrite=False)
    if choice.method == "linear" and request.options.method == "auto":
        others = [entry for entry in choice.candidates if entry["method"] != "linear"]
        if request.start is not None and others:
            second = min(others, key=lambda entry: float(entry["loss"]))["method"]
            say(f"note: the linear model leaves the starting model aside; --method {second} uses it")
        final, data = linear_request(final)
    mapping = fit.fit_request(final, data)
    _say_share(request, choice)
    return mapping


def _began_without_choice(request: FitRequest) -> bool:
    """Return whether the folder holds an unfinished run that began without a measured choice, and goes on without one."""
    folder = request.folder
    is_resumed = folder is not None and not request.overwrite and run_folder.holds_run(folder)
    return is_resumed and folder is not None and not (folder / run_folder.CHOICE).exists()


def _advice(request: FitRequest) -> str:
    """Return the message of a run that is stopped while methods are measured, with advice on how to go on."""
    is_kept = request.folder is not None and not request.overwrite
    goes_on = "goes on with those that are not measured yet" if is_kept else "begins again"
    return f"stopped while methods were measured; the same command {goes_on}"


def _can_measure(request: FitRequest) -> bool:
    """Return whether methods can be measured for the request: it is a fit in one process whose length is left open."""
    options = request.options
    has_length = any(value is not None for value in (options.steps, options.epochs, options.minutes))
    return not request.arrow.corrupted and not has_length and request.ranks.size == 1 and not options.shard


def _is_measurable(data: RunData) -> bool:
    """Return whether methods can be measured on halves of the rows: answers that a linear model gives, and enough rows."""
    most_classes = max((len(target.classes) for target in data.targets if isinstance(target, Classes)), default=0)
    has_enough_rows = data.num_rows >= max(MIN_ROWS, MIN_ROWS_PER_CLASS * most_classes)
    return has_enough_rows and all(isinstance(target, LinearProbe) for target in data.targets)


def candidate_methods(run: PreparedRun, request: FitRequest) -> tuple[list[Method], str]:
    """Return (the methods to measure, the simplest first; the reason in words if there is only one).

    It is a single one if the request names it, or if there are too few rows to choose: then the one by the number of labels.
    Methods that would ignore an option that is set, or that suit neither the answers nor the starting model, are left out.
    Raises UsageError for a named method that the run does not allow.
    """
    options = run.options
    by_labels, reason = choose_method(run)
    if options.method != "auto" or run.data.num_rows < MIN_ROWS_TO_CHOOSE:
        return [by_labels], reason
    has_start = run.start.tensors is not None
    candidates: list[Method] = ["linear"] if can_be_linear(request, run.data.arrow) else []
    fewest = min(source.defaults.linear_rows for source in run.mapping.sources.values())
    if candidates and not has_start and run.data.num_rows < fewest:
        return candidates, f"fewer than {fewest:,} rows and no starting model; --method full trains new weights"
    candidates += ["probe"] if has_start and not unused_options("probe", options) else []
    return list(dict.fromkeys([*candidates, by_labels])), reason


def measure(request: FitRequest, run: PreparedRun, methods: Sequence[Method], reason: str) -> MethodChoice | None:
    """Fit each of the methods to both halves of the training rows, and return the choice that their scores suggest.

    reason: why a single method is measured, in words.

    The scores of each are printed in a line. A method that trains is given up after the first half beside a far better one.
    Return None if the rows cannot be halved, such as a single text under many labels, or if no method can be fitted to them.
    """
    rows, say = run.data.training_rows, request.say
    assert rows is not None
    folds = _halves(request, run, rows)
    if len(folds) < 2:
        return None
    scored = sum(len(fold.held_out) for fold in folds)
    by_labels, _ = choose_method(run)
    work, advice = "setting the confidence", ""
    if len(methods) > 1:
        work, advice = "choosing the method", f" (--method measures a single one: {', '.join(methods)})"
    say(f"{work} by {scored:,} rows; each half is scored by models fitted to the other half{advice}")
    candidates = _measured_before(request, run)
    for candidate in candidates:
        say(f"  {candidate}, measured before")
    remaining = set(methods) - {candidate.method for candidate in candidates}
    target, seed = run.mapping.targets[0], run.options.seed
    linear_seconds = estimate_seconds(target, 0, rows, seed) if "linear" in remaining else 0.0
    is_slow = linear_seconds > MIN_SECONDS
    # The simplest first, since what trains is given up early beside a far better one; but a slow linear model last.
    for method in sorted(remaining, key=lambda name: (is_slow and name == "linear", methods.index(name))):
        try:
            if method == "linear" and is_slow:
                _require_time(linear_seconds, candidates)
            candidates.append(measure_method(method, folds, run, candidates, request.progress))
            say(f"  {candidates[-1]}")
            _record(request, run, {MEASURED: [candidate.to_json() for candidate in candidates]})
        except Interrupted:  # a RunError too, but one that must end the run
            raise
        except (DataError, RunError) as error:
            say(f"  {method}: not measured, {error}")
    if not any(candidate.is_whole for candidate in candidates):
        return None
    candidates.sort(key=lambda candidate: methods.index(candidate.method))
    complete = [candidate for candidate in candidates if candidate.is_whole]
    best = choose(complete, by_labels, run.start.tensors is not None)
    records = [candidate.summary() for candidate in candidates]
    if len(methods) > 1:
        reason = reason_for(best, candidates, run.data.arrow)
    if note := _describe_failure(best, rows):
        say(f"note: {note}")
    return MethodChoice(best.method, reason, best.temperatures, records, best.relative_distances, best.scales)


def _describe_failure(best: Candidate, rows: Rows) -> str:
    """Return a sentence if the best method is not significantly better than always the commonest class; "" otherwise.

    rows: the training rows. Only answers of one class, with errors of 0 and 1, are compared.
    """
    (target, *_), answers = answering(rows.arrow), rows.targets[0]
    if not has_exclusive_classes(target) or not set(np.unique(best.errors)) <= {0.0, 1.0}:
        return ""
    name, count = Counter(map(str, answers)).most_common(1)[0]
    constant = 1 - count / len(answers)
    if best.error.high < constant:
        return ""
    return (
        f"no method is significantly better here than always answering {shorten(name)!r}, whose error is {constant:.4g}: "
        "more labelled rows or a starting model may help"
    )


def _require_time(needed: float, candidates: Sequence[Candidate]) -> None:
    """Raise RunError if a linear model would take `needed` seconds, more than each measured candidate."""
    if needed > max((candidate.seconds for candidate in candidates), default=np.inf):
        raise RunError(f"it would take {duration(needed)}")


def _halves(request: FitRequest, run: PreparedRun, rows: Rows) -> list[Fold]:
    """Return the two folds, each with one half of the rows to train on and the other to score on."""
    options = replace(run.options, hold_out=0.0, track="none")
    return [
        Fold(FitRequest(run.mapping.arrow, training, None, request.start, request.like, options=options), held_out)
        for training, held_out in make_folds(rows, 0.5, 2, options.seed, options.group, options.weight)
    ]


def choose(candidates: Sequence[Candidate], by_labels: str, has_start: bool) -> Candidate:
    """Return the best of the measured candidates, the simplest first.

    Where they draw, it is the linear model without a starting model; with one, the method `by_labels` if the rows are few,
    else the simplest that uses the starting model. A linear model replaces one that uses it only if its error is lower.
    by_labels: the method for as many labels (see fitting/method.py).
    """
    measured = {candidate.method: candidate for candidate in candidates}
    preferred = [method for method in measured if method != "linear"] if has_start else list(measured)
    if has_start and len(candidates[0].errors) < DECISIVE_ROWS and by_labels in measured:
        preferred = [by_labels]
    # Where no method that uses the starting model could be measured, the others are left.
    best = measured[preferred[0]] if preferred else candidates[0]
    for candidate in candidates:
        leaves_start = has_start and candidate.method == "linear"
        if candidate.is_better_than(best) and not (leaves_start and candidate.error.value >= best.error.value):
            best = candidate
    return best


def _record(request: FitRequest, run: PreparedRun, record: Dict[str, Any]) -> None:
    """Record the choice, or what is measured of it, in the run's folder, unless that may hold the run to be replaced."""
    if request.folder is not None and not request.overwrite:
        run_folder.record_choice(request.folder, run.facts, record)


def _recorded(request: FitRequest, run: PreparedRun) -> dict[str, Any]:
    """Return what `_record` has written to the folder of an unfinished run; an empty dict if there is nothing."""
    if request.folder is None or request.overwrite:
        return {}
    return run_folder.recorded_choice(request.folder, run.facts, run.options) or {}


def _measured_before(request: FitRequest, run: PreparedRun) -> list[Candidate]:
    """Return the candidates that had been measured when the same run was interrupted."""
    return [Candidate.from_json(record) for record in _recorded(request, run).get(MEASURED, [])]


def _say_share(request: FitRequest, choice: MethodChoice) -> None:
    """Print how long the choice, or the confidence alone, took beside the whole run."""
    seconds, total = sum(entry["seconds"] for entry in choice.candidates), time.monotonic() - request.started_at
    # A resumed run may last shorter than the choice, which it does not repeat.
    if seconds < total:
        work = "the choice of the method" if len(choice.candidates) > 1 else "setting the confidence"
        request.say(f"{work} took {duration(seconds)} of {duration(total)}")
