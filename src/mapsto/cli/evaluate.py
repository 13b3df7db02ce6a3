"""`mapsto evaluate`: score a model on labelled rows and analyse its errors."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import Data, Delimiter, Device, Encoding, ExportedEngine, Group, Json, Model, Precision, app
from mapsto.errors import UsageError
from mapsto.options import MAX_SKIPPED, RowPolicy, TextFormat

if TYPE_CHECKING:
    from mapsto.data.table import Table
    from mapsto.evaluation.evaluate import Evaluation
    from mapsto.evaluation.report import Analyses
    from mapsto.task.arrow import Arrow

MAX_MATRIX_CLASSES = 12  # with more, a confusion matrix does not fit on the screen
MAX_CONFUSED_PAIRS = 10


@app.command(epilog="Example: mapsto evaluate runs/clf test.csv")
def evaluate(
    model: Model,
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the full report as a page (.html).")] = None,
    suspects: Annotated[
        Path | None,
        typer.Option(help="Write all rows whose label may be wrong to a table: csv, jsonl or parquet."),
    ] = None,
    mistakes: Annotated[
        Path | None,
        typer.Option(help="Write the rows with a wrong answer to a table, the most confident mistakes first."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Another model, such as the one of last month: score it on the same rows, and the difference."
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: ExportedEngine = "local",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
    bad_rows: Annotated[
        str, typer.Option(help="stop, or skip: leave out rows that cannot be read (see --most-skipped).")
    ] = "stop",
    most_skipped: Annotated[
        float, typer.Option(help="Largest share of the rows that --bad-rows skip leaves out.")
    ] = MAX_SKIPPED,
    unlabelled: Annotated[str, typer.Option(help="Rows without a label: stop, or drop (they are counted).")] = "stop",
    group: Group = None,
) -> None:
    """Score a model on a table with labels, each metric with its 95 % interval, and show where it fails."""
    from mapsto.cli.output import print_json, print_note, print_status, read_table_with_notes
    from mapsto.data.files import join_paths
    from mapsto.evaluation.error_analysis import analyse_evaluation
    from mapsto.evaluation.evaluate import evaluate as evaluate_mapping
    from mapsto.evaluation.paired import compare_models, write_mistakes
    from mapsto.evaluation.report import evaluation_record
    from mapsto.evaluation.suspects import require_exclusive_classes
    from mapsto.inference.predictor import Predictor
    from mapsto.pretrained.model_folder import load_mapping
    from mapsto.progress import choose_progress
    from mapsto.report.requirements import require_charts

    if out is not None and (out.suffix != ".html" or not out.parent.is_dir()):
        raise UsageError(f"--out {out}: the report is an .html file in a folder that exists")
    if out is not None:
        require_charts()
    policy = RowPolicy(bad_rows, most_skipped, unlabelled, group=group)
    mapping = load_mapping(model, engine)
    for path in filter(None, (suspects, mistakes)):
        _require_output(path, join_paths(data))
    if suspects is not None:
        require_exclusive_classes(mapping.targets)
    rival = None if against is None else Predictor(load_mapping(against), device, precision)
    predictor = Predictor(mapping, device, precision)
    source, progress = join_paths(data), choose_progress(as_json=json)
    table = read_table_with_notes(source, TextFormat(encoding, delimiter), answers=True)
    if rival is not None:
        _require_columns(rival.mapping.arrow, table, str(against))
    evaluation = evaluate_mapping(predictor.mapping, table, predictor.device, policy, progress=progress)
    if rival is not None:
        rival_evaluation = evaluate_mapping(rival.mapping, table, rival.device, policy, progress=progress)
        evaluation = evaluation.beside(compare_models(evaluation, rival_evaluation, str(against)))
    # Explanations of mistakes cost time and do not fit on the screen.
    is_explained = (out is not None or json) and mapping.has_weights
    if out is not None and not mapping.has_weights:
        print_note(f"{model} is an exported file, so the report explains no answers")
    analyses = analyse_evaluation(evaluation, mapping if is_explained else None, predictor.device)
    if out is not None:
        # The command shows only flags that differ from their defaults.
        settings = {
            "device": (device, "auto"),
            "precision": (precision, "auto"),
            "engine": (engine, "local"),
            "bad-rows": (bad_rows, "stop"),
            "most-skipped": (most_skipped, MAX_SKIPPED),
            "unlabelled": (unlabelled, "stop"),
        }
        flags = [f"--{name}={value}" for name, (value, default) in settings.items() if value != default]
        flags += [] if group is None else [f"--group={group}"]
        flags += [] if encoding is None else [f"--encoding={encoding}"]
        flags += [] if delimiter is None else [f"--delimiter={delimiter}"]
        flags += [] if against is None else [f"--against={against}"]
        command = shlex.join(["mapsto", "evaluate", model, str(source), *flags, "--out", str(out)])
        _write_report(out, evaluation, analyses, f"How good is {Path(model).name}?", command)
    if json:
        print_json(evaluation_record(evaluation, analyses))
    else:
        _print_evaluation(evaluation, analyses)
    if suspects is not None:
        _write_suspects(suspects, evaluation)
    if mistakes is not None:
        print_status(f"wrote {write_mistakes(mistakes, evaluation.predictions):,} rows to {mistakes}")


def _require_output(path: Path, data: Path) -> None:
    """Raise UsageError for a table of rows that cannot be written, or would replace the data or a table that no model wrote."""
    from mapsto.cli.prediction.answers import require_no_other_table
    from mapsto.data.files import require_no_input
    from mapsto.data.writers import require_writable

    require_writable(path)
    require_no_input(path, data)
    require_no_other_table(path)


def _require_columns(arrow: Arrow, table: Table, name: str) -> None:
    """Raise UsageError if the table lacks a column of the model to compare with, before the first model has read all rows."""
    from mapsto.data.rows import bind_to

    try:
        bind_to(arrow.pair if arrow.symmetric else arrow, table)
    except UsageError as error:
        raise UsageError(f"--against {name}: {error}") from error


def _write_suspects(path: Path, evaluation: Evaluation) -> None:
    """Write the rows whose label may be wrong to a table; print their number, and how many of them to check first."""
    from mapsto.cli.output import print_status

    suspects = evaluation.suspects()
    count = suspects.write(path)
    for line in suspects.summary():
        print_status(line)
    print_status(f"wrote {count:,} rows to {path}")


def _write_report(out: Path, evaluation: Evaluation, analyses: Analyses, title: str, command: str) -> None:
    """Write the report of an evaluation: an HTML page to `out`, and its figures and numbers to a folder beside `out`.

    title: title of the page. command: the shell command that repeats the evaluation, shown on the page.
    """
    from mapsto.cli.output import print_status
    from mapsto.data.checks import check_rows
    from mapsto.evaluation.report import Provenance, evaluation_page, write_page

    findings = check_rows(analyses[0][0].rows).warnings if analyses else []
    page = evaluation_page(evaluation, analyses, Provenance(title, command, findings))
    write_page(out, page, evaluation, analyses)
    print_status(f"wrote {out}")


def _print_evaluation(evaluation: Evaluation, analyses: Analyses) -> None:
    """Print each score beside its baseline; then, for each target, its confusion matrix (for classes) and error analysis.

    A baseline is the score of constant answers, without reading the input.
    """
    from mapsto.cli.output import print_note, print_text
    from mapsto.task.target_capabilities import Classes

    for note in evaluation.notes:
        print_note(note)
    print_text(f"{evaluation.num_rows:,} rows")
    for name, score in evaluation.scores.items():
        baseline = (
            f"   ({evaluation.baseline_name}: {evaluation.baseline[name]})" if name in evaluation.baseline else ""
        )
        print_text(f"{name:<20} {score}{baseline}{evaluation.overlap.mark}")
    for difference in evaluation.differences:
        print_text(str(difference))
    for predictions in evaluation.predictions:
        if predictions.prefix:
            print_text(f"\n{predictions.prefix}")
        target = predictions.target
        if isinstance(target, Classes) and (confusion := target.confusion(predictions.outputs, predictions.labels)):
            _print_confusion(confusion)
        for analysis in (analysis for analysed, analysis in analyses if analysed is predictions):
            print_text("\n".join(analysis.lines()))


def _print_confusion(confusion: dict[str, dict[str, int]]) -> None:
    """Print a confusion matrix; with more than MAX_MATRIX_CLASSES classes print only the most frequent confusions.

    confusion: confusion[label][answer] is the number of rows with this label and this answer of the model.
    """
    from mapsto.cli.output import print_text
    from mapsto.task.label_spelling import distinct_spellings

    answers = list(next(iter(confusion.values())))
    spellings = distinct_spellings(dict.fromkeys([*answers, *confusion]))
    if len(answers) <= MAX_MATRIX_CLASSES:
        width = max(8, *(len(name) + 1 for name in spellings.values()))
        header = "".join(spellings[name].rjust(width) for name in answers)
        print_text("\n" + "truth \\ answer".ljust(width + 6) + header)
        for label, counts in confusion.items():
            print_text(spellings[label].ljust(width + 6) + "".join(str(counts[name]).rjust(width) for name in answers))
        return
    pairs = [
        (count, label, name)
        for label, counts in confusion.items()
        for name, count in counts.items()
        if count and name != label
    ]
    print_text("\nconfused most often:")
    for count, label, name in sorted(pairs, reverse=True)[:MAX_CONFUSED_PAIRS]:
        print_text(f"{count:>6} × {spellings[label]} answered as {spellings[name]}")
