"""`mapsto suggest`: suggest which rows to label next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import CsvSafe, Data, Delimiter, Device, Encoding, Model, app
from mapsto.errors import UsageError
from mapsto.options import TextFormat

if TYPE_CHECKING:
    from mapsto.active_learning.suggestions import Suggestions

MAX_SHOWN_CHARACTERS = 90  # of a row's cells, on the screen


@app.command(epilog="Example: mapsto suggest runs/clf pool.csv --n 50 --labelled train.csv --out to_label.csv")
def suggest(
    model: Model,
    pool: Data,
    n: Annotated[int, typer.Option("--n", help="How many rows to suggest.")] = 50,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A new table to fill in, or with the ending .json tasks for Label Studio."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page (.html) that shows the rows and where they lie among the others.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Rows that have labels already; they are not suggested again.")
    ] = None,
    device: Device = "auto",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    csv_safe: CsvSafe = False,
    seed: Annotated[int, typer.Option(help="Everything random is a function of it.")] = 0,
) -> None:
    """Suggest which rows to label next: typical rows while labels are few, later those the model is unsure about."""
    from mapsto import api
    from mapsto.active_learning.suggestions import require_new
    from mapsto.cli.output import print_note, read_manifest, read_table_with_notes
    from mapsto.data.files import join_paths

    # Checked first: an existing file may hold labels, and suggesting takes time.
    if out is not None:
        require_new(out)
    if page is not None and (page.suffix != ".html" or not page.parent.is_dir()):
        raise UsageError(f"--page {page}: the page is an .html file in a folder that exists")
    num_fitted = read_manifest(model).get("provenance", {}).get("rows", 0)
    loaded = api.load(model, device)
    text_format = TextFormat(encoding, delimiter)
    labelled_rows = None if labelled is None else read_table_with_notes(labelled, text_format)
    suggestions = loaded.suggest(
        read_table_with_notes(join_paths(pool), text_format), n, labelled_rows, num_fitted, seed
    )
    print_note(f"chosen from {suggestions.num_candidates:,} different rows without a label")
    if suggestions.num_unreadable:
        print_note(f"{suggestions.num_unreadable:,} rows cannot be read and were left out")
    if page is not None:
        _write_page(suggestions, page, model)
    if out is None:
        _print_suggestions(suggestions)
    else:
        _write_suggestions(suggestions, out, csv_safe)


def _write_suggestions(suggestions: Suggestions, out: Path, csv_safe: bool) -> None:
    """Write the rows suggested for labelling to the file `out`, and print which column the user is to fill in.

    csv_safe: whether csv is written so that a spreadsheet computes nothing.
    """
    from mapsto.cli.output import note_bytes, print_status
    from mapsto.data.writers import find_binary

    if out.suffix != ".json":
        note_bytes(find_binary(suggestions.pool.data), out)
    count = suggestions.write(out, csv_safe)
    reason = suggestions.suggestions[0].reason
    print_status(f"wrote {count} {reason} rows to {out}; fill in the column {suggestions.column!r}")


def _write_page(suggestions: Suggestions, path: Path, model: str) -> None:
    """Write the page of the suggested rows. model: name of the model, for the page."""
    from mapsto.active_learning.report import suggestion_page
    from mapsto.cli.output import print_status

    suggestion_page(suggestions, model).write(path)
    print_status(f"wrote {path}")


def _print_suggestions(suggestions: Suggestions) -> None:
    """Print a line for each row suggested for labelling: file and row number, reason, the model's answer, and the cells."""
    from mapsto.cli.output import print_text
    from mapsto.errors import places, shorten

    pool = suggestions.pool
    origins = places([pool.origin(suggestion.row) for suggestion in suggestions.suggestions])
    for origin, suggestion in zip(origins, suggestions.suggestions, strict=True):
        answer = ""
        if suggestion.confidence is not None:
            answer = f", {suggestion.answer!r} ({100 * suggestion.confidence:.0f} %)"
        cells = " · ".join(str(pool.column(name)[suggestion.row]) for name in pool.columns)
        print_text(f"{origin}, {suggestion.reason}{answer}: {shorten(cells, MAX_SHOWN_CHARACTERS)}")
