"""`mapsto explain`."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from mapsto.cli.app import AsJson, Device, Encoding, ModelName, app
from mapsto.cli.output import print_note, read_table_with_notes
from mapsto.errors import UsageError

COLUMNS = ["file", "row", "answer", "parts", "method", "told", "blank", "gap", "error"]  # of the rows in a .jsonl


@app.command(epilog="Example: mapsto explain runs/clf '今天天气真好！' --sample test.csv")
def explain(
    model: ModelName,
    what: Annotated[
        str,
        typer.Argument(help="A text, a file or a folder of files, or a table with the columns that the model reads."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page (.html) or rows (.jsonl).")] = None,
    method: Annotated[str, typer.Option(help="relevance, gradient, integrated or occlusion.")] = "relevance",
    sample: Annotated[
        Path | None,
        typer.Option(help="Rows to measure the faithfulness of explanations on; by default those explained."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients.")] = 50,
    device: Device = "auto",
    encoding: Encoding = None,
    json: AsJson = False,
) -> None:
    """Show which parts of the input decided an answer, and measure how faithful that explanation is."""
    from mapsto.api import load
    from mapsto.data.table import write_rows
    from mapsto.explain.report import explanation_page
    from mapsto.metrics.intervals import to_json
    from mapsto.progress import choose_progress

    if out is not None and out.suffix not in (".html", ".jsonl"):
        raise UsageError(f"{out.name}: explanations are written as .html or .jsonl")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}")
    opened = load(model, device)
    rows: Any = read_table_with_notes(what, encoding) if opened.is_table_name(what) else [what]
    sample_rows = None if sample is None else read_table_with_notes(sample, encoding)
    explanations = opened.explain(rows, method, sample_rows, steps, choose_progress(as_json=json))
    faithfulness = explanations.faithfulness
    verdict = "no row has two parts" if faithfulness is None else faithfulness.verdict
    if explanations.faults:
        count = len(explanations.faults)
        print_note(f"{count:,} rows cannot be read and have no explanation; the first: {explanations.faults[0]}")
    if explanations.num_cut:
        print_note(
            f"of {explanations.num_cut:,} rows only the beginning was read: they are longer than the model takes"
        )
    if out is not None:
        if out.suffix == ".html":
            explanation_page(explanations, model).write(out)
        else:
            write_rows(out, COLUMNS, explanations.records())
        print(f"wrote {len(explanations)} explanations to {out}; {verdict}", file=sys.stderr)
    elif json:
        record = {"faithfulness": faithfulness, "explanations": list(explanations.records())}
        print(dumps(to_json(record), ensure_ascii=False))
    else:
        for explanation in explanations.explanations:
            print("\n".join(explanation.lines()), end="\n\n")
        print(f"faithful? {verdict}")
