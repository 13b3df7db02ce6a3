"""`mapsto explain`: attribute answers to parts of the input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapsto.cli.app import Delimiter, Device, Encoding, Json, Model, app
from mapsto.errors import UsageError
from mapsto.options import TextFormat

if TYPE_CHECKING:
    from mapsto.explain.faithfulness import Explanations

# Columns of explanations in a .jsonl file.
COLUMNS = ["file", "row", "answer", "parts", "method", "told", "blank", "gap", "error"]


@app.command(epilog="Example: mapsto explain runs/clf '今天天气真好！' --sample test.csv")
def explain(
    model: Model,
    what: Annotated[
        str,
        typer.Argument(help="A text, a file or a folder of files, or a table with the columns that the model reads."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page (.html) or rows (.jsonl).")] = None,
    method: Annotated[str, typer.Option(help="relevance, gradient, integrated or occlusion.")] = "relevance",
    sample: Annotated[
        Path | None,
        typer.Option(help="Rows to measure the faithfulness of explanations on; by default the explained ones."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients.")] = 50,
    token: Annotated[
        str | None,
        typer.Option(
            help="Of a generated answer, explain only this token: its number from 1, or a part of the answer."
        ),
    ] = None,
    device: Device = "auto",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
) -> None:
    """Highlight the parts of a value that decided the answer, and measure how reliable the highlighting is."""
    from mapsto import api, progress
    from mapsto.cli.output import announce_output, print_json, print_note, print_text, read_table_with_notes
    from mapsto.data.files import require_no_input
    from mapsto.metrics.intervals import to_json

    # Checked before the model is opened, so that a wrong path costs no time.
    if out is not None and out.suffix not in (".html", ".jsonl"):
        raise UsageError(f"{out.name}: explanations are written as .html or .jsonl")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}")
    loaded = api.load(model, device)
    if loaded.is_table_name(what):
        require_no_input(out, Path(what))
    text_format = TextFormat(encoding, delimiter)
    # Anything but the name of a table is itself the value to explain.
    values: Any = read_table_with_notes(what, text_format) if loaded.is_table_name(what) else [what]
    sample_rows = None if sample is None else read_table_with_notes(sample, text_format)
    chosen_token = int(token) if token is not None and token.isdecimal() else token
    choice = progress.choose_progress(as_json=json)
    announce_output(out)
    explanations = loaded.explain(values, method, sample_rows, steps, choice, chosen_token)
    if faults := explanations.faults:
        print_note(f"{len(faults):,} rows cannot be read and have no explanation; the first: {faults[0]}")
    if explanations.num_cut:
        print_note(f"of {explanations.num_cut:,} rows only the start was read: they are longer than the model takes")
    if out is not None:
        _write(explanations, out, model)
    elif json:
        records = {"faithfulness": explanations.faithfulness, "explanations": list(explanations.records())}
        print_json(to_json(records))
    else:
        for explanation in explanations.explanations:
            print_text("\n".join([*explanation.lines(), ""]))
        print_text(f"faithful? {_verdict(explanations)}")


def _verdict(explanations: Explanations) -> str:
    """Return a sentence that says whether the measured faithfulness makes the explanations reliable."""
    return "no row has two parts" if explanations.faithfulness is None else explanations.faithfulness.verdict


def _write(explanations: Explanations, out: Path, model: str) -> None:
    """Write the explanations to `out`: an HTML page if its suffix is .html, else rows as JSON lines (.jsonl).

    model: name of the explained model, for the page's title.
    """
    from mapsto.cli.output import print_status
    from mapsto.data.table import write_rows
    from mapsto.explain.report import explanation_page

    if out.suffix == ".html":
        explanation_page(explanations, model).write(out)
    else:
        write_rows(out, COLUMNS, explanations.records())
    print_status(f"wrote {len(explanations)} explanations to {out}; {_verdict(explanations)}")
