"""`mapsto evaluate`."""

from __future__ import annotations

import shlex
import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import AsJson, Data, Device, Encoding, ModelName, Precision, app
from mapsto.cli.output import print_note, read_table_with_notes
from mapsto.errors import UsageError

# A confusion matrix of more classes does not fit on a screen; then the pairs confused most often are printed.
MOST_COLUMNS, MOST_PAIRS = 12, 10


@app.command(epilog="Example: mapsto evaluate runs/clf test.csv")
def evaluate(
    model: ModelName,
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the report as a page (.html).")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: AsJson = False,
    bad_rows: Annotated[str, typer.Option(help="stop, or skip rows that cannot be read (at most 1 %).")] = "stop",
) -> None:
    """Score a model on rows with answers, each score with its 95 % interval, and show where it fails."""
    from mapsto.data.checks import doctor
    from mapsto.evaluation.error_analysis import analyse_evaluation
    from mapsto.evaluation.evaluate import evaluate as evaluate_mapping
    from mapsto.evaluation.report import Provenance, evaluation_page, evaluation_record, write_page
    from mapsto.inference.predictor import Predictor
    from mapsto.pretrained.model_folder import load_mapping
    from mapsto.progress import choose_progress
    from mapsto.task.capabilities import Classes

    if out is not None and (out.suffix != ".html" or not out.parent.is_dir()):
        raise UsageError(f"--out {out}: the report is an .html file in a folder that exists")
    mapping = load_mapping(model)
    predictor = Predictor(mapping, device, precision)
    table = read_table_with_notes(data, encoding, with_answers=True)
    evaluation = evaluate_mapping(
        predictor.mapping, table, predictor.device, bad_rows, progress=choose_progress(as_json=json)
    )
    # Explanations of mistakes take time and stand on the page alone: a screen has no room for them.
    analyses = analyse_evaluation(evaluation, mapping if out is not None or json else None, predictor.device)
    if out is not None:
        flags = {
            "device": (device, "auto"),
            "precision": (precision, "auto"),
            "bad-rows": (bad_rows, "stop"),
            "encoding": (encoding, None),
        }
        changed = [f"--{name}={value}" for name, (value, default) in flags.items() if value != default]
        command = shlex.join(["mapsto", "evaluate", model, str(data), *changed, "--out", str(out)])
        findings = doctor(analyses[0][0].arrow, analyses[0][0].rows).warnings if analyses else []
        provenance = Provenance(f"How good is {Path(model).name}?", command, findings)
        write_page(out, evaluation_page(evaluation, analyses, provenance), evaluation, analyses)
        print(f"wrote {out}", file=sys.stderr)
    if json:
        print(dumps(evaluation_record(evaluation, analyses), ensure_ascii=False))
        return
    for note in evaluation.notes:
        print_note(note)
    print(f"{evaluation.num_rows:,} rows")
    for name, score in evaluation.scores.items():
        baseline = f"   (reading nothing: {evaluation.baseline[name]})" if name in evaluation.baseline else ""
        print(f"{name:<20} {score}{baseline}")
    for predictions in evaluation.predictions:
        if predictions.prefix:
            print(f"\n{predictions.prefix}")
        target = predictions.target
        if isinstance(target, Classes) and (confusion := target.confusion(predictions.outputs, predictions.labels)):
            _print_confusion(confusion)
        for analysed, analysis in analyses:
            if analysed is predictions:
                print("\n".join(analysis.lines()))
    if any(analysis.label_issues is None for _, analysis in analyses):
        print("\nto look for labels that may be wrong: pip install 'mapsto[report]'", file=sys.stderr)


def _print_confusion(confusion: dict[str, dict[str, int]]) -> None:
    """Print the confusion matrix where it fits on a screen, else the pairs confused most often."""
    answers = list(next(iter(confusion.values())))
    if len(answers) <= MOST_COLUMNS:
        width = max(8, *(len(name) + 1 for name in (*answers, *confusion)))
        print("\n" + "truth \\ answer".ljust(width + 6) + "".join(name.rjust(width) for name in answers))
        for truth, counts in confusion.items():
            print(truth.ljust(width + 6) + "".join(str(counts[name]).rjust(width) for name in answers))
        return
    pairs = [
        (count, truth, name)
        for truth, counts in confusion.items()
        for name, count in counts.items()
        if count and name != truth
    ]
    print("\nconfused most often:")
    for count, truth, name in sorted(pairs, reverse=True)[:MOST_PAIRS]:
        print(f"{count:>6} × {truth} answered as {name}")
