"""Fits that hold rows out: once the model is trained, a linear model is fitted too, and replaces it if it is better.

Both are scored on the held-out rows, which neither was fitted to. With fewer rows, none are held out, and methods are
measured on halves of the training rows (see mapsto.selection.method_choice).
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from mapsto.evaluation.evaluate import scoring_examples
from mapsto.evaluation.linear_baseline import estimate_seconds, time_limit, why_not_linear
from mapsto.fitting import fit, run_folder
from mapsto.fitting.method import method_by_labels, unused_options
from mapsto.fitting.prepare import PreparedRun, build_run, read_data
from mapsto.fitting.request import FitRequest, MethodChoice
from mapsto.fitting.run_data import RunData
from mapsto.inference.forward import collect_evidence
from mapsto.model.mapping import Mapping
from mapsto.options import Method
from mapsto.progress import Progress
from mapsto.selection.candidate import Candidate, Half, reason_for, with_method
from mapsto.selection.folds import drop_weightless, read_examples
from mapsto.task.arrow import Arrow
from mapsto.task.target_capabilities import LinearProbe

# With fewer held-out rows, a difference says little.
MIN_HELD_OUT_ROWS = 100


def can_be_linear(request: FitRequest, arrow: Arrow) -> bool:
    """Return whether `--method linear` can fit the arrow and would ignore no option of the request."""
    options = request.options
    return (
        request.like is None
        and not why_not_linear(arrow)
        and not unused_options("linear", with_method(options, "linear"))
    )


def fit_beside_linear(request: FitRequest, data: RunData) -> Mapping:
    """Fit a mapping by the method for the number of labels, and return it, or a linear model if that is better.

    A trained model that is replaced is kept in the folder's subfolder `trained`. An interrupted training is resumed by the
    same request. data: of the request, with held-out rows.
    Raises the errors of `fit_mapping`.
    """
    choice = _recorded_choice(request, data)
    if choice is None:
        started_at = time.monotonic()
        mapping = fit.fit_request(request, data)
        if not _is_comparable(request, data):
            return mapping
        # Its weights are not used, only its facts.
        run = build_run(request, data)
        choice = _compare(request, run, mapping, time.monotonic() - started_at)
        if choice is None:
            return mapping
        if request.folder is not None:
            with run_folder.locked(request.folder, request.say):
                run_folder.record_choice(request.folder, run.facts, choice.record())
                run_folder.set_trained_aside(request.folder)
    final, linear_data = linear_request(replace(request, choice=choice, overwrite=False))
    return fit.fit_request(final, linear_data)


def linear_request(request: FitRequest) -> tuple[FitRequest, RunData]:
    """Return the request of the linear model, which uses no starting model, and its data, read without a word."""
    request = replace(request, options=with_method(request.options, "linear"), start=None)
    # What the data is like has been said.
    return request, read_data(replace(request, progress=Progress()))


def _recorded_choice(request: FitRequest, data: RunData) -> MethodChoice | None:
    """Return the choice of a linear model whose fit was interrupted in the request's folder; None if there is none."""
    folder = request.folder
    if folder is None or request.overwrite or not (folder / run_folder.CHOICE).exists():
        return None
    record = run_folder.recorded_choice(folder, build_run(request, data).facts, request.options)
    return MethodChoice.from_record(record) if record and "method" in record else None


def _is_comparable(request: FitRequest, data: RunData) -> bool:
    """Return whether a linear model can be compared with the trained one on enough held-out rows."""
    is_linear = all(isinstance(target, LinearProbe) for target in data.targets) and can_be_linear(request, data.arrow)
    return is_linear and data.training_rows is not None and data.num_held_out >= MIN_HELD_OUT_ROWS


def _compare(request: FitRequest, run: PreparedRun, mapping: Mapping, seconds: float) -> MethodChoice | None:
    """Score the mapping and a linear model on the held-out rows; return the choice of the linear model if it is better.

    seconds: duration of the mapping's fit, which limits that of the linear model.
    """
    say, rows = request.say, run.data.training_rows
    assert rows is not None
    needed = estimate_seconds(mapping.targets[0], 0, rows, run.options.seed)
    if needed > time_limit(seconds):
        # That no linear model is shown beside the scores says why none was tried.
        return None
    trained = _score(run, method_by_labels(run)[0], mapping, seconds)
    started_at = time.monotonic()
    linear, linear_data = linear_request(replace(request, folder=None, test=None, overwrite=False, progress=Progress()))
    rival = _score(run, "linear", fit.fit_request(linear, linear_data), time.monotonic() - started_at)
    if not rival.is_better_than(trained) or rival.error.value >= trained.error.value:
        return None
    reason = reason_for(rival, [trained, rival], run.data.arrow)
    kept = f"{request.folder / run_folder.TRAINED} keeps" if request.folder else f"--method {trained.method} fits"
    say(f"on {len(rival.errors):,} held-out rows a linear model of {reason}")
    say(f"so the linear model takes the place of the trained one, which {kept}")
    return MethodChoice("linear", reason, {}, [trained.summary(), rival.summary()])


def _score(run: PreparedRun, method: Method, mapping: Mapping, seconds: float) -> Candidate:
    """Score a mapping on the held-out rows of a run. method, seconds: how the mapping was fitted, and how long that took."""
    held_out = run.data.held_out_rows
    assert held_out is not None
    examples = read_examples(mapping, drop_weightless(held_out, run.options.weight).own_table(), run.options.weight)
    half = Half(mapping, examples, collect_evidence(mapping, scoring_examples(examples), run.device), {})
    errors, losses = np.array(half.score()).T
    return Candidate(method, errors, losses, {}, {}, [], seconds)
