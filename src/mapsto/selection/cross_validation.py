"""Cross-validation (`--folds`): each row is answered by a model that was fitted to the rows of the other folds.

The rows are dealt into folds as held-out rows are split off: of each class about the same share, with equal and similar rows,
dialogues and groups together. The fits are whole fits with the options of the run, so that the choice of a method and early
stopping are a part of what is scored. Finished folds are kept when a run is interrupted: their models stay in the folder until
all folds are scored.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data.grouping.row_groups import find_independent_groups
from mapsto.data.rows import Rows, load_rows
from mapsto.data.split import deal_rows
from mapsto.data.table import Int64s, Table, write_rows
from mapsto.data.writers import style_of
from mapsto.errors import MapstoError, RunError, UsageError, counted
from mapsto.evaluation.evaluate import PortMetrics, metrics_of_examples
from mapsto.fitting import run_folder
from mapsto.fitting.method import choose_method
from mapsto.fitting.prepare import PreparedRun, build_run, read_data
from mapsto.fitting.request import FitRequest
from mapsto.inference.predictor import Predictor
from mapsto.inference.table_engine import AnsweredRows
from mapsto.metrics.fold_scores import FoldScores
from mapsto.metrics.intervals import Array, Score, with_interval
from mapsto.model.mapping import Mapping as FittedMapping
from mapsto.options import Options
from mapsto.pretrained import model_folder
from mapsto.pretrained.manifest import MANIFEST_FILE
from mapsto.progress import PartProgress
from mapsto.selection.folds import read_examples
from mapsto.selection.method_choice import choose_and_fit
from mapsto.task.target_capabilities import HeadRows
from mapsto.training.loop import Interrupted

# The column of folds.csv with the number of the fold in which a row was answered.
FOLD = "fold"


@dataclass(frozen=True)
class CrossValidation:
    """A cross-validation that is ready to begin.

    request: of the fit to all rows, with its data as a table. run: the prepared run of that fit, whose facts identify both.
    rows: all rows with an answer. folds: the sorted indices in `rows` of the rows of each fold.
    """

    request: FitRequest
    run: PreparedRun
    rows: Rows
    folds: Sequence[Int64s]

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts that identify the cross-validation; a recorded one with other facts is not continued."""
        return {**self.run.facts, "--folds": len(self.folds)}

    def table_of(self, fold: int, held_out: bool) -> Table:
        """Return the rows that a fold scores (held_out), or those that its model is fitted to."""
        indices = self.folds[fold]
        if not held_out:
            indices = np.setdiff1d(np.arange(len(self.rows)), indices)
        return self.rows.select(indices).own_table()


@dataclass(frozen=True)
class FoldResult:
    """Hold the answers of a fold's model to the rows that it was not fitted to.

    metrics: of each target, on the rows of the fold. answers: by the row's place in the table its cells and its answer.
    """

    metrics: Sequence[PortMetrics]
    answers: Mapping[int, Mapping[str, Any]]


def require_folds(request: FitRequest, num_folds: int) -> None:
    """Raise UsageError for a number of folds, an arrow or an option that rules a cross-validation out."""
    arrow, options = request.arrow, request.options
    if isinstance(num_folds, bool) or not isinstance(num_folds, int) or num_folds < 2:
        raise UsageError(f"--folds is a whole number of at least 2, not {num_folds!r}: a fold is scored by the others")
    if arrow.corrupted:
        raise UsageError(f"--folds scores answers to rows, and {arrow} is pretraining")
    if arrow.symmetric:
        raise UsageError(
            f"--folds scores each row by itself, and {arrow} ranks the rows of a table: with fewer rows a right one is found "
            "more easily; hold some out with --hold-out"
        )
    single = [kind.kind for kind in kinds.answering(arrow) if not kind.readout.per_example]
    if single:
        raise UsageError(f"--folds scores one answer a row, and {single[0]} is answered part by part; see --hold-out")
    if options.time is not None:
        raise UsageError(
            f"--time {options.time} holds out the latest rows, and most folds would be answered by models of later rows: give "
            "one of --time and --folds"
        )
    if request.ranks.size > 1 or options.shard:
        raise UsageError("--folds runs in one process; cross-validate without torchrun and --shard")


def cross_validate(request: FitRequest, num_folds: int) -> FoldScores:
    """Fit a model for each fold to the rows of the other folds, score its answers to the rows of the fold; return the scores.

    request: of the fit to all rows. In its folder the answers are written to folds.csv, and finished folds are kept, so that the
    same command goes on after an interruption.

    Raises UsageError for folds that the rows or the options do not allow, RunError if a fit fails or is interrupted, and the
    errors of `fit_mapping`.
    """
    require_folds(request, num_folds)
    folder, say = request.folder, request.say
    if folder is not None:
        run_folder.require_free(folder, request.overwrite)
        for name, model in {"start": request.start, "like": request.like}.items():
            if isinstance(model, str | Path) and Path(model).resolve() == folder.resolve():
                raise UsageError(f"--folds begins every fit with --{name} {model}; choose another --out")
    validation = _prepare(request, num_folds)
    with run_folder.locked(folder, say):
        if folder is not None and request.overwrite:
            run_folder.clear(folder)
        recorded = None
        if folder is not None:
            facts = validation.facts
            recorded = run_folder.recorded_folds(folder, facts, Options(**facts["options"]))
        if recorded:
            say(f"the {num_folds} folds were scored before")
            return FoldScores.from_json(recorded[0])
        if folder is not None and recorded is None:
            run_folder.record_folds(folder, validation.facts, [])
        try:
            return _run_folds(validation)
        except MapstoError:
            if folder is not None:
                _leave_free(folder)
            raise


def _leave_free(folder: Path) -> None:
    """Delete the record of a cross-validation of which no fit could begin, as for an option that a fit refuses."""
    with suppress(OSError):  # fails where fits have begun
        (folder / run_folder.FOLDS_FOLDER).rmdir()
    if not (folder / run_folder.FOLDS_FOLDER).exists():
        (folder / run_folder.FOLDS).unlink(missing_ok=True)


def _prepare(request: FitRequest, num_folds: int) -> CrossValidation:
    """Read the data of a request, and deal its rows into folds."""
    request = replace(request.with_tables(), overwrite=False)
    data = read_data(request)
    assert data.training_rows is not None
    # With the rows that the final fit holds out: in a cross-validation each row is scored.
    rows = load_rows(data.arrow, data.training_rows.table)
    if num_folds > len(rows):
        raise UsageError(f"--folds {num_folds} is more than the {len(rows):,} rows, and each fold needs one")
    options, run = request.options, build_run(request, data)
    if options.method != "auto":
        choose_method(run)  # raises for a method that the run does not allow, which no fold is to begin with
    return CrossValidation(request, run, rows, deal_rows(rows, num_folds, options.seed, request.say, options.group))


def _run_folds(validation: CrossValidation) -> FoldScores:
    """Fit and score all folds, write the answers, record and return the scores, and delete the models of the folds."""
    request, num_folds = validation.request, len(validation.folds)
    folder, sizes = request.folder, [len(fold) for fold in validation.folds]
    size = counted(sizes[0], "row") if len(set(sizes)) == 1 else f"{min(sizes):,} to {max(sizes):,} rows"
    request.say(f"{num_folds} folds of {size}, each answered by a model of the others")
    results = []
    for fold in range(num_folds):
        results.append(_run_fold(validation, fold))
        values = _values(results[-1].metrics)
        request.say(
            f"fold {fold + 1} of {num_folds}: {', '.join(f'{name} {value:.4f}' for name, value in values.items())}"
        )
    columns, answers = _table_of_answers(validation, results)
    scores = FoldScores(
        _pool(validation, results),
        [_values(result.metrics) for result in results],
        len(validation.rows),
        None if folder is None else run_folder.FOLD_ANSWERS,
        answers,
    )
    if folder is not None:
        style = style_of(validation.rows.table.path, request.options.text_format)
        write_rows(folder / run_folder.FOLD_ANSWERS, columns, answers, replace(style, csv_safe=True))
        run_folder.record_folds(folder, validation.facts, [scores.to_json()])
        shutil.rmtree(folder / run_folder.FOLDS_FOLDER)
    return scores


def _run_fold(validation: CrossValidation, fold: int) -> FoldResult:
    """Answer the rows of a fold by a model of the rows of the other folds, and return the answers with their metrics."""
    request, run = validation.request, validation.run
    held_out = validation.table_of(fold, held_out=True)
    mapping = _fit_fold(validation, fold)
    rows = load_rows(mapping.arrow, held_out)
    metrics = list(metrics_of_examples(mapping, read_examples(mapping, held_out), rows, run.device))
    places = validation.rows.select(validation.folds[fold]).indices
    answer_rows = AnsweredRows(Predictor(mapping, str(run.device), request.options.precision), held_out)
    answers = dict(zip(dict.fromkeys(places.tolist()), answer_rows, strict=True))
    return FoldResult(metrics, answers)


def _fit_fold(validation: CrossValidation, fold: int) -> FittedMapping:
    """Return the model of the rows of the other folds. Raises RunError, with advice, when a signal interrupts the fit."""
    request, run, num_folds = validation.request, validation.run, len(validation.folds)
    folder = None
    if request.folder is not None:
        folder = request.folder / run_folder.FOLDS_FOLDER / str(fold + 1)
        if (folder / MANIFEST_FILE).exists():
            request.say(f"fold {fold + 1} of {num_folds} was fitted before")
            return model_folder.load_mapping(str(folder)).to(run.device).compute_in(run.mapping.precision)
    # Folds hold out the same share as the final fit, of fewer rows.
    share = run.data.num_held_out / len(validation.rows)
    hold_out = share if request.options.hold_out is None else request.options.hold_out
    fold_request = replace(
        request,
        arrow=run.data.arrow,
        data=validation.table_of(fold, held_out=False),
        test=None,
        folder=folder,
        options=replace(request.options, unlabelled="stop", track="none", hold_out=hold_out),
        progress=PartProgress(request.progress, f"fold {fold + 1} of {num_folds}:"),
        # A class whose rows are all in this fold is known by name, so that the answers of all folds have the same classes.
        classes=[target.classes if isinstance(target, HeadRows) else () for target in run.data.targets],
    )
    try:
        return choose_and_fit(fold_request)
    except Interrupted as interrupted:
        advice = f"; the same command goes on from there ({request.folder})" if request.folder else ""
        error = RunError(f"{interrupted.reason} of fold {fold + 1} of {num_folds}{advice}")
        error.exit_status = interrupted.exit_status
        raise error from interrupted
    except MapstoError as error:
        error.args = (f"--folds {num_folds}: fold {fold + 1}: {error}",)
        raise


def _values(metrics: Sequence[PortMetrics]) -> dict[str, float]:
    """Return the value of each metric of a fold, by name."""
    return {name: float(compute(*arrays)) for part in metrics for name, (compute, *arrays) in part.by_name.items()}


def _pool(validation: CrossValidation, results: Sequence[FoldResult]) -> dict[str, Score]:
    """Return the score of each metric over the answers of all folds.

    Where a metric cannot be taken of them together, it is the mean of the folds by their rows, without an interval.
    """
    groups = find_independent_groups(validation.rows, validation.request.options.group)
    sizes, scores = [len(fold) for fold in validation.folds], dict[str, Score]()
    for port, first in enumerate(results[0].metrics):
        parts = [result.metrics[port] for result in results]
        numbers = None
        if groups is not None and all(part.rows is not None for part in parts):
            numbers = np.concatenate(
                [groups.numbers[fold[part.rows]] for fold, part in zip(validation.folds, parts, strict=True)]
            )
        for name in first.by_name:
            if any(name not in part.by_name for part in parts):
                continue
            metrics = [part.by_name[name] for part in parts]
            arrays = _join([arrays for _, *arrays in metrics])
            if arrays is not None and all(metric[0] == metrics[0][0] for metric in metrics):
                scores[name] = with_interval(metrics[0][0], *arrays, groups=numbers)
            else:
                values = [float(compute(*arrays)) for compute, *arrays in metrics]
                scores[name] = Score(float(np.average(values, weights=sizes)), np.nan, np.nan, sum(sizes))
    return scores


def _join(folds: Sequence[Sequence[Array]]) -> list[Array] | None:
    """Return the arrays of a metric with the items of all folds; None if those of one item differ in size between folds."""
    columns = list(zip(*folds, strict=True))
    if any(len({array.shape[1:] for array in column}) > 1 for column in columns):
        return None
    return [np.concatenate(column) for column in columns]


def _table_of_answers(
    validation: CrossValidation, results: Sequence[FoldResult]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the columns and the rows of a table of all rows, in their order, with their fold and the answer of its model."""
    row_columns = validation.rows.table.columns
    # No column of the rows is changed.
    fold_column = next(
        name for name in chain([FOLD], (f"{FOLD}_{number}" for number in count(2))) if name not in row_columns
    )
    cells_by_place = {
        place: {**cells, fold_column: fold}
        for fold, result in enumerate(results, 1)
        for place, cells in result.answers.items()
    }
    names = dict.fromkeys(name for cells in cells_by_place.values() for name in cells)
    answer_columns = [name for name in names if name not in (*row_columns, fold_column)]
    columns = [*row_columns, fold_column, *answer_columns]
    return columns, [{name: cells_by_place[place].get(name) for name in columns} for place in sorted(cells_by_place)]
