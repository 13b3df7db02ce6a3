"""Measuring one method of a fit on halves of the training rows: each half is answered by a model fitted to the other half.

A candidate is a method with its errors and log losses on all rows, for `mapsto.selection.method_choice` to choose from.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mapsto.data.examples import Examples
from mapsto.evaluation.evaluate import scoring_examples
from mapsto.evaluation.linear_baseline import feature_names
from mapsto.fitting import fit
from mapsto.fitting.method import STEPLESS_METHODS
from mapsto.fitting.plan import default_hyperparameters
from mapsto.fitting.prepare import PreparedRun
from mapsto.fitting.probe import SCALE_ROWS, held_out_distances
from mapsto.fitting.request import number_keys, text_keys
from mapsto.inference.forward import Evidence, collect_evidence
from mapsto.metrics.calibration import Answered, fit_temperature, logit_scale
from mapsto.metrics.intervals import Floats, Score, mean_score, to_json, with_interval
from mapsto.model.familiarity import sample_rows, summarise
from mapsto.model.mapping import Mapping
from mapsto.options import Method, Options
from mapsto.progress import PartProgress, Progress
from mapsto.selection.folds import Fold, read_examples, score_answers
from mapsto.task.arrow import Arrow
from mapsto.task.target_capabilities import Calibratable

# A method that trains is given up after the first half if its error is higher than another's by this many standard errors
# of the difference.
HOPELESS = 2.0


@dataclass(frozen=True)
class Candidate:
    """A method and how it did on the rows that it was not fitted to.

    errors, losses: (m,), validation error and log loss of each answer to the first target, the loss after calibration.
    temperatures: by target port; empty for targets without calibration.
    scales: by target port, the scale of the logits of fitted rows to which the temperature belongs.
    relative_distances: of the same rows from those that were fitted to, relative to the distances of the latter to each other
        (see model/familiarity.py); may be empty.
    seconds: how long it took. is_whole: False if it was given up after the first half, to whose m answers all is limited.
    """

    method: Method
    errors: Floats
    losses: Floats
    temperatures: dict[int, float]
    scales: dict[int, float]
    relative_distances: list[float]
    seconds: float
    is_whole: bool = True

    @cached_property
    def error(self) -> Score:
        """The mean error with its interval."""
        return with_interval(mean_score, self.errors)

    def __str__(self) -> str:
        end = "" if self.is_whole else ", given up after the first half"
        return f"{self.method}: error {self.error}, loss {self.losses.mean():.4f}{end}"

    def summary(self) -> dict[str, Any]:
        """Return method, mean scores and duration as plain JSON."""
        return {
            "method": self.method,
            "error": to_json(self.error),
            "loss": float(self.losses.mean()),
            "seconds": round(self.seconds, 1),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the candidate as plain JSON, from which `from_json` makes it again."""
        lists = {"errors": self.errors.tolist(), "losses": self.losses.tolist()}
        by_port = {name: text_keys(getattr(self, name)) for name in ("temperatures", "scales")}
        return {**asdict(self), **lists, **by_port}

    @staticmethod
    def from_json(record: Dict[str, Any]) -> Candidate:
        """Return the candidate that `record` describes, as returned by `to_json`."""
        by_port = {name: number_keys(record.get(name, {})) for name in ("temperatures", "scales")}
        arrays = {name: np.array(record[name], np.float64) for name in ("errors", "losses")}
        # Records of earlier versions have the distances as they were.
        others = {name: value for name, value in record.items() if name != "distances"}
        return Candidate(**{"relative_distances": [], **others, **arrays, **by_port})

    def is_better_than(self, other: Candidate) -> bool:
        """Return whether loss or error is lower by more than one standard error of the difference, and neither is higher."""
        # Of one that was given up, only the rows of the first half are known.
        count = min(len(self.errors), len(other.errors))
        pairs = ((self.losses, other.losses), (self.errors, other.errors))
        differences = [values[:count] - rival_values[:count] for values, rival_values in pairs]
        deviations = [difference.std(ddof=1) / len(difference) ** 0.5 for difference in differences]
        means = [difference.mean() for difference in differences]
        is_clear = any(mean < -deviation for mean, deviation in zip(means, deviations, strict=True))
        return bool(is_clear and max(means) <= 0)


@dataclass(frozen=True)
class Half:
    """A model fitted to one half of the rows, with its answers to the other half.

    mapping: the model. examples: the other half. outputs: the model's outputs for it with the true answers, by target port.
    fitted_outputs: the outputs for rows that the model was fitted to.
    """

    mapping: Mapping
    examples: Examples
    outputs: dict[int, Evidence]
    fitted_outputs: dict[int, Evidence]

    def relative_distances(self, run: PreparedRun) -> list[float]:
        """Return the distances of the other half's rows from the training rows, relative to those of the latter to each other."""
        familiarity = self.mapping.familiarity
        if familiarity is None:
            return []
        distances = held_out_distances(self.mapping, self.examples, run.device, run.options.seed)
        return [distance / familiarity.unit for distance in distances]

    def score(self, temperature: float = 1.0) -> list[tuple[float, float]]:
        """Return (validation error, log loss) of each answer to the first target, in the order of the rows.

        So the answers of all candidates can be compared one by one. temperature: divides the outputs.
        """
        if 0 not in self.outputs:
            return []
        order, weights = np.argsort(self.outputs[0].rows), None
        if self.examples.weights is not None:
            weights = self.examples.weights[self.outputs[0].rows[order]].tolist()
        evidence, values = self.outputs[0].evidence[order] / temperature, self.outputs[0].values[order]
        # A half knows only the classes of its own rows, so its own target scores.
        return score_answers(self.mapping.targets[0], evidence, values, weights)


def measure_method(
    method: Method, folds: Sequence[Fold], run: PreparedRun, rivals: Sequence[Candidate], progress: Progress
) -> Candidate:
    """Fit by `method` to the rows of each fold, and score the mappings on the folds' other rows.

    rivals: the candidates measured so far. progress: shows the steps of each fit.
    A method that trains is given up after the first fold if it is hopeless beside a rival. Raises RunError when training fails.
    """
    started_at, options = time.monotonic(), with_method(folds[0].request.options, method)
    trains = method not in STEPLESS_METHODS
    if trains:
        # As many epochs as in the final fit, so that both halves together take as many steps.
        options = replace(options, epochs=default_hyperparameters(run, method)["epochs"])
    halves: list[Half] = []
    for number, fold in enumerate(folds, 1):
        shown = PartProgress(progress, f"  {method}, half {number} of {len(folds)}:")
        halves.append(_fit_half(fold, options, run, shown))
        if trains and number < len(folds) and _is_hopeless(halves[0], rivals):
            break
    temperatures = _fit_temperatures(halves)
    scores = [score for half in halves for score in half.score(temperatures.get(0, 1.0))]
    errors, losses = np.array(scores).T
    # A probe leaves the vectors as they are, so that its training rows can be compared with each other. The features of a
    # linear model depend on its rows: its vocabulary lacks the n-grams that only other rows have.
    measured = [] if method == "probe" else halves
    distances = [distance for half in measured for distance in half.relative_distances(run)]
    seconds, is_whole = time.monotonic() - started_at, len(halves) == len(folds)
    scales = _logit_scales(halves, temperatures)
    return Candidate(method, errors, losses, temperatures, scales, summarise(distances), seconds, is_whole)


def with_method(options: Options, method: Method) -> Options:
    """Return the options with the method set; a linear model reads whole values, so `--length` is for the others alone."""
    return replace(options, method=method, length=None if method == "linear" else options.length)


def _fit_half(fold: Fold, options: Options, run: PreparedRun, progress: Progress) -> Half:
    """Fit a mapping to the training rows of a fold, and answer its other rows.

    A linear model has sources of its own and no starting model.
    """
    if options.method == "linear":
        mapping = fit.fit_request(replace(fold.request, options=options, start=None))
    else:
        mapping = fold.train(options, progress)
    training = fold.request.data
    fitted = read_examples(mapping, training.select(sample_rows(len(training), options.seed, SCALE_ROWS)))
    examples = read_examples(mapping, fold.held_out, options.weight)
    outputs, fitted_outputs = (
        collect_evidence(mapping, scoring_examples(part), run.device) for part in (examples, fitted)
    )
    return Half(mapping, examples, outputs, fitted_outputs)


def _is_hopeless(half: Half, rivals: Sequence[Candidate]) -> bool:
    """Return whether the error of the first half's answers is far higher than a rival's on the same rows."""
    errors = np.array([error for error, _ in half.score()])
    differences = [errors - rival.errors[: len(errors)] for rival in rivals if len(errors) > 1]
    return any(one.mean() > HOPELESS * one.std(ddof=1) / len(one) ** 0.5 for one in differences)


def _fit_temperatures(halves: Sequence[Half]) -> dict[int, float]:
    """Return by port the temperature of each target that has one, fitted to the answers of the models of all halves."""
    parts: dict[int, list[Answered]] = {}
    for half in halves:
        for port, target in enumerate(half.mapping.targets):
            if port in half.outputs and isinstance(target, Calibratable):
                outputs = half.outputs[port]
                parts.setdefault(port, []).append(Answered(target.calibration_loss, outputs.evidence, outputs.values))
    # Answers of a single class are right whatever the confidence, and would make it certain.
    return {port: fit_temperature(answers) for port, answers in parts.items() if _have_several_answers(answers)}


def _have_several_answers(parts: Sequence[Answered]) -> bool:
    """Return whether the true answers of all halves are not all the same."""
    return len(torch.unique(torch.cat([part.values for part in parts]), dim=0)) > 1


def _logit_scales(halves: Sequence[Half], ports: Iterable[int]) -> dict[int, float]:
    """Return by port the scale of the logits of rows that a model was fitted to, the mean over the models of all halves."""
    scales = {}
    for port in ports:
        known = [logit_scale(half.fitted_outputs[port].evidence) for half in halves if port in half.fitted_outputs]
        # Logits that are the same for all rows have no scale.
        if sum(known):
            scales[port] = statistics.fmean(known)
    return scales


def reason_for(best: Candidate, candidates: Sequence[Candidate], arrow: Arrow) -> str:
    """Return in words why the best candidate was chosen."""
    others = [candidate for candidate in candidates if candidate is not best]
    if not others:
        return "the only one that could be measured"
    rival = min(others, key=lambda candidate: candidate.error.value)
    is_better = best.is_better_than(rival)
    if best.method == "linear":
        relation = f"{' and '.join(feature_names(arrow))} is {'better' if is_better else 'as good within chance'} here"
    else:
        relation = "measured to be better" if is_better else "measured to be as good, within chance"
    values = [
        f"error {candidate.error.value:.4g} and loss {candidate.losses.mean():.4g}" for candidate in (best, rival)
    ]
    return f"{relation}: {values[0]} against {values[1]} of {rival.method}"
