"""`mapsto suggest`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Data, Device, Encoding, ModelName, app
from mapsto.cli.output import print_note, read_table_with_notes
from mapsto.errors import places, shorten


@app.command(epilog="Example: mapsto suggest runs/clf pool.csv --n 50 --labelled train.csv --out to_label.csv")
def suggest(
    model: ModelName,
    pool: Data,
    n: Annotated[int, typer.Option("--n", help="How many rows.")] = 50,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A table to fill in, or .json: tasks for Label Studio.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Rows that have labels already; they are not suggested again.")
    ] = None,
    device: Device = "auto",
    encoding: Encoding = None,
    seed: Annotated[int, typer.Option(help="Everything random is a function of it.")] = 0,
) -> None:
    """Choose the rows to label next: typical ones while labels are few, later those that the model is unsure of."""
    from mapsto.active_learning import require_new
    from mapsto.api import load
    from mapsto.pretrained.model_folder import MANIFEST_FILE

    if out is not None:
        require_new(out)
    manifest = Path(model) / MANIFEST_FILE
    num_labels = json.loads(manifest.read_text("utf-8"))["provenance"].get("rows", 0) if manifest.exists() else 0
    opened = load(model, device)
    labelled_rows = None if labelled is None else read_table_with_notes(labelled, encoding)
    suggestions = opened.suggest(read_table_with_notes(pool, encoding), n, labelled_rows, num_labels, seed)
    print_note(f"chosen from {suggestions.looked_at:,} different rows without a label")
    if suggestions.unreadable:
        print_note(f"{suggestions.unreadable:,} rows cannot be read and were left out")
    if out is not None:
        count, reason = suggestions.write(out), suggestions.found[0].why
        print(f"wrote {count} {reason} rows to {out}; fill in the column {suggestions.column!r}", file=sys.stderr)
        return
    origins = places([suggestions.pool.origin(suggestion.row) for suggestion in suggestions.found])
    for origin, suggestion in zip(origins, suggestions.found, strict=True):
        guess = ""
        if suggestion.confidence is not None:
            guess = f", {suggestion.answer!r} ({100 * suggestion.confidence:.0f} %)"
        cells = [suggestions.pool.column(name)[suggestion.row] for name in suggestions.pool.columns]
        print(f"{origin}, {suggestion.why}{guess}: {shorten(' · '.join(map(str, cells)), 90)}")
