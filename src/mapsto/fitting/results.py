"""The results of a run: validation during training, final scores, report.html and rejected.csv."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import chain
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mapsto.data.duplicates.overlap import Overlap, find_overlap
from mapsto.data.encoding import EncodedRows
from mapsto.data.files import is_path
from mapsto.data.grouping.row_groups import describe_intervals
from mapsto.data.rows import Rows
from mapsto.data.table import Table, write_rows
from mapsto.data.writers import TextStyle
from mapsto.distributed import Ranks
from mapsto.errors import Finding, LineNumber, UsageError
from mapsto.evaluation.error_analysis import analyse_evaluation
from mapsto.evaluation.evaluate import Evaluation, evaluate, predict_rows, score_examples, scoring_examples
from mapsto.evaluation.linear_baseline import BaselineComparison, compare_with_linear_model, has_linear_baseline
from mapsto.evaluation.matching import best_ranks, encode_pairs, pairs_of, relevance, score_pairs, unit_vectors
from mapsto.evaluation.report import Provenance, evaluation_page, headline, write_page
from mapsto.evaluation.watched_metric import as_error, find_metric, metric_values
from mapsto.files.remote import public_address
from mapsto.fitting import run_folder
from mapsto.fitting.plan import MATCH_LEARNING
from mapsto.fitting.prepare import PreparedRun
from mapsto.fitting.request import FitRequest
from mapsto.inference.forward import forward_batches
from mapsto.inference.predictor import Predictor
from mapsto.inference.table_engine import AnsweredRows
from mapsto.metrics.intervals import Score, with_intervals
from mapsto.model.mapping import Mapping
from mapsto.progress import FinalScores, Progress
from mapsto.task.arrow import Arrow
from mapsto.training.loggers import read_metrics
from mapsto.training.objectives.matching import Matching


@dataclass(frozen=True)
class Validation:
    """Hold how training is validated on the held-out rows.

    score: returns {"loss": …, "error": …} of a mapping; None without held-out rows. With `--metric` the
        metric, under its name, is in the place of the error.
    watched_error: returns of these scores the number that is lowest for the best weights.
    """

    score: Callable[[Mapping], dict[str, float]] | None
    watched_error: Callable[[dict[str, float]], float] = itemgetter("error")


def make_validation(run: PreparedRun, ranks: Ranks) -> Validation:
    """Return the validation of a run on its held-out rows.

    Loss and error are means over the answers to the first target, by the weights of their rows. Each process computes its share
    of the rows, and all return the means over all rows.
    """
    if run.held_out is None:
        return Validation(None)
    validate = _make_pair_validation(run) if run.mapping.arrow.symmetric else _make_row_validation(run, ranks)
    return (
        Validation(validate) if run.options.metric is None else _watch_metric(run, ranks, run.options.metric, validate)
    )


def _watch_metric(
    run: PreparedRun, ranks: Ranks, metric: str, validate: Callable[[Mapping], dict[str, float]]
) -> Validation:
    """Return the validation with the metric `metric`, under its name, in the place of the error.

    The main process computes the metric, on all held-out rows. Raises UsageError for a metric that the rows are not scored by.
    """
    held_out, rows = run.held_out, run.data.held_out_rows
    assert held_out is not None

    def values_of(mapping: Mapping) -> dict[str, float]:
        values = ranks.run_on_main(lambda: metric_values(mapping.eval(), held_out, rows, run.device))
        result: dict[str, float] = ranks.broadcast_json(values)
        return result

    # A name is checked before the first step, by what the untrained model is scored by.
    name = find_metric(metric, values_of(run.mapping))

    def validate_by_metric(mapping: Mapping) -> dict[str, float]:
        value = values_of(mapping)[name]
        # Without the error of the target: weights are not chosen by it.
        return {"loss": validate(mapping)["loss"], name: value}

    return Validation(validate_by_metric, lambda scores: as_error(name, scores[name]))


def _make_row_validation(run: PreparedRun, ranks: Ranks) -> Callable[[Mapping], dict[str, float]]:
    """Return the function that scores a mapping on held-out rows for `make_validation`, for rows with answers of their own."""
    assert run.held_out is not None
    # Made once: the examples to score are the same at every validation.
    examples, device = ranks.own_share(list(scoring_examples(run.held_out))), run.device

    def validate(mapping: Mapping) -> dict[str, float]:
        target, loss, error, count = mapping.targets[0], 0.0, 0.0, 0.0
        for batch, hidden in forward_batches(mapping, examples, device):
            readout = batch.answers[0]
            if readout is not None:
                output = mapping.read(hidden, batch, 0)
                loss += float(readout.sum_weighted(target.loss, output))
                error += float(readout.sum_weighted(target.validation_error, output))
                count += readout.total_weight
        # Sums, as processes may have shares of different sizes.
        loss, error, total = ranks.sum([loss, error, count])
        return {"loss": loss / (total or 1), "error": error / (total or 1)}

    return validate


def _make_pair_validation(run: PreparedRun) -> Callable[[Mapping], dict[str, float]]:
    """Return the function that scores a mapping on held-out rows for `make_validation`, for pairs.

    The loss is that of training, on batches of held-out pairs. The error is 1 − MRR among all held-out candidates, or for pairs
    with scores 1 − Spearman's correlation.
    """
    examples, rows, batch = run.held_out, run.data.held_out_rows, run.options.batch or MATCH_LEARNING.batch
    assert examples is not None and rows is not None
    objective = Matching(run.mapping, examples, run.options.vector_sizes)
    pairs, indices = pairs_of(rows), np.arange(len(examples))

    def validate(mapping: Mapping) -> dict[str, float]:
        with torch.inference_mode():
            encoded = EncodedRows([examples.pieces[row] for row in indices.tolist()], indices, indices[:0], 0, 0)
            sides = torch.stack(
                [unit_vectors(mapping, encoded, side, indices, run.device) for side in range(objective.num_views)]
            )
            parts = [indices[start : start + batch] for start in range(0, len(indices), batch)]
            losses = [float(objective.total(mapping, sides[:, torch.from_numpy(part)], part)) for part in parts]
            if objective.scores is None:
                metrics = mapping.targets[0].metrics(best_ranks(sides[0], sides[1], relevance(pairs)), [])
            else:
                metrics = mapping.targets[0].metrics((sides[0] * sides[1]).sum(-1), pairs.targets[0])
        metric, *arrays = next(iter(metrics.values()))
        return {"loss": sum(losses) / (objective.num_views * len(indices)), "error": 1 - float(metric(*arrays))}

    return validate


@dataclass(frozen=True)
class RunScores:
    """The scores of a finished run.

    scores: by metric, on the test rows, or without test rows on the held-out rows.
    overlap: the scored rows that a model on the way to this one was fitted to.
    evaluation: on the test rows; None without test rows.
    """

    scores: dict[str, Score]
    overlap: Overlap
    evaluation: Evaluation | None = None


def score_run(run: PreparedRun, progress: Progress, seconds: float | None) -> RunScores:
    """Score the trained mapping on the test rows, or else on the held-out rows if there are any, and print the scores.

    seconds: duration of the training, which limits that of the linear baseline; None prints no baseline beside the scores.
    """
    mapping, data = run.mapping.eval(), run.data
    result = RunScores({}, Overlap())
    if not mapping.targets:
        progress.say("note: the head of this objective serves training alone, so there is nothing to score yet")
    elif data.test is not None:
        evaluation = evaluate(mapping, data.test, run.device, run.options.row_policy, progress=progress)
        result = RunScores(evaluation.scores, evaluation.overlap, evaluation)
        for note in evaluation.notes:
            progress.say(f"note: {note}")
    elif run.held_out is not None:
        if mapping.arrow.symmetric and data.held_out_rows is not None:
            pairs = pairs_of(data.held_out_rows)
            held_out = score_pairs(mapping, pairs, encode_pairs(mapping, pairs), run.device, run.options.group)
        else:
            held_out = score_examples(mapping, run.held_out, data.held_out_rows, run.device, group=run.options.group)
        if data.held_out_rows is not None:
            for note in describe_intervals(data.held_out_rows, run.options.group):
                progress.say(f"note: {note}")
        # Not the run's own filter, which counts its held-out rows in.
        overlap = Overlap() if data.held_out_rows is None else find_overlap(run.start.row_filters, data.held_out_rows)
        result = RunScores({f"held-out {name}": value for name, value in held_out.items()}, overlap)
        if overlap.warning:
            progress.say(f"note: held-out rows: {overlap.warning}")
    comparison = None if seconds is None else _compare_with_linear_model(run, result.evaluation, seconds)
    if comparison is not None:
        progress.say(str(comparison))
        if result.evaluation is not None:
            result = replace(result, evaluation=result.evaluation.beside_linear_model(comparison))
    progress.scores(_final_scores(run, result))
    return result


def _final_scores(run: PreparedRun, result: RunScores) -> FinalScores:
    """Return the scores of a run with the rows that they are of, and the best constant answer to these rows beside them."""
    evaluation, mark = result.evaluation, result.overlap.mark
    if evaluation is not None:
        assert run.data.test is not None
        rows = f"{evaluation.num_rows:,} test rows of {run.data.test.name}"
        return FinalScores(result.scores, rows, mark, evaluation.baseline, evaluation.baseline_name)
    rows, baseline = f"{run.data.num_held_out:,} rows held out from training", dict[str, Score]()
    held_out = run.data.held_out_rows
    if result.scores and held_out is not None and not run.mapping.arrow.symmetric:
        for port in run.mapping.ports_per_example:
            prefix = f"{run.mapping.arrow.targets[port].column}: " if len(run.mapping.targets) > 1 else ""
            scores = with_intervals(run.mapping.targets[port].baseline(held_out.targets[port]))
            baseline |= {f"held-out {prefix}{name}": score for name, score in scores.items()}
    return FinalScores(result.scores, rows if result.scores else "", mark, baseline, Evaluation.baseline_name)


def _compare_with_linear_model(
    run: PreparedRun, evaluation: Evaluation | None, seconds: float
) -> BaselineComparison | str | None:
    """Return the result of `compare_with_linear_model` on the test rows of the evaluation, or without one on the held-out rows.

    None if there are no such rows, or if the mapping has no linear baseline. seconds: duration of the training.
    """
    mapping, training, rows = run.mapping, run.data.training_rows, _scored_rows(run, evaluation)
    if training is None or rows is None or not has_linear_baseline(mapping):
        return None

    def answer() -> Tensor:
        """Return the mapping's outputs for the rows."""
        if evaluation is not None:
            return evaluation.predictions[0].outputs
        return predict_rows(mapping, run.data.arrow, rows, 0, run.device)

    return compare_with_linear_model(mapping, training, rows, answer, seconds, run.options)


def _scored_rows(run: PreparedRun, evaluation: Evaluation | None) -> Rows | None:
    """Return the rows that the first target was scored on: of the evaluation, else the held-out rows; None if there are none."""
    if evaluation is not None:
        return evaluation.predictions[0].rows if evaluation.predictions else None
    return run.data.held_out_rows if run.data.num_held_out else None


def fit_command(request: FitRequest, arrow: Arrow) -> str | None:
    """Return the shell command that repeats the run, with the placeholder FOLDER for its output folder.

    Return None when data, test rows or starting model are Python objects and not paths.
    """
    paths = [path for path in (request.data, request.test, request.start) if path is not None]
    if not all(is_path(path) for path in paths):
        return None
    words = ["mapsto", "fit", str(arrow), public_address(request.data), "--test", public_address(request.test)]
    words += [] if request.start is None else ["--start", str(request.start)]
    return shlex.join([*words, *request.options.flags(), "--out", "FOLDER"])


def write_report(request: FitRequest, run: PreparedRun, evaluation: Evaluation) -> list[str]:
    """Write report.html about the scores on the test rows, and return its main findings, one sentence each.

    If the packages that the report needs are not installed, a note is printed and no file is written; the findings are
    returned all the same.
    """
    assert request.folder is not None
    analyses = analyse_evaluation(evaluation, run.mapping, run.device)
    if analyses or evaluation.samples:
        title, command = f"How good is {request.folder.name}?", fit_command(request, run.mapping.arrow)
        try:
            steps = read_metrics(request.folder, request.say)
            page = evaluation_page(evaluation, analyses, Provenance(title, command, run.data.findings, steps))
            write_page(request.folder / run_folder.REPORT, page, evaluation, analyses)
        # The model is trained and must be saved, with or without a report.
        except UsageError as error:
            request.say(f"note: no {run_folder.REPORT}: {error}")
    return headline(evaluation, analyses)


def write_unlabelled(run: PreparedRun, table: Table, path: Path, say: Callable[[str], None]) -> None:
    """Write the rows without a label, with the answers of the trained mapping, to a csv file; print their number."""
    predictor = Predictor(run.mapping, str(run.device), run.options.precision)
    rows = AnsweredRows(predictor, table)
    say(f"wrote the answers to {write_rows(path, rows.columns, rows):,} rows without a label to {path.name}")


def write_rejected(folder: Path, rejected: Iterable[Finding]) -> None:
    """Write rejected.csv with file, row, record, column, value and reason of each unreadable row that was skipped, if any.

    The row of a csv file is a line; the record is the number that a spreadsheet shows, another one where cells span lines.
    """
    findings = iter(rejected)
    # Without rejected rows there is no file.
    if (first := next(findings, None)) is None:
        return
    columns = ["file", "row", "record", "column", "value", "reason"]
    rows = (
        {**asdict(finding), "record": finding.row.record if isinstance(finding.row, LineNumber) else finding.row}
        for finding in chain([first], findings)
    )
    write_rows(folder / "rejected.csv", columns, rows, TextStyle(csv_safe=True))
