"""`mapsto compare`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Arrow, AsJson, Data, Overwrite, Quiet, app, with_options
from mapsto.options import Options


@app.command(
    epilog="Example: mapsto compare 'text -> label' train.csv --test test.csv --starts scratch,runs/base --out runs/cmp"
)
@with_options
def compare(
    arrow: Arrow,
    data: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the fits and the report. An unfinished comparison is continued."),
    ],
    options: Options,
    test: Annotated[
        Path | None, typer.Option(help="Rows to score on; by default a fifth of the data is kept for it.")
    ] = None,
    starts: Annotated[
        str, typer.Option(help="Starting models: folders, hub names, and scratch (random weights).")
    ] = "scratch",
    labels: Annotated[str, typer.Option(help="Numbers of labels to fit with, and all.")] = "16,64,256,all",
    seeds: Annotated[int, typer.Option(help="Random draws of the labels.")] = 5,
    methods: Annotated[
        str, typer.Option(help="How starting models are fitted: full, probe, contrast.")
    ] = "full,probe,contrast",
    shift: Annotated[Path | None, typer.Option(help="Rows from another source, scored too.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Fits at once; by default one for every two cores.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: AsJson = False,
) -> None:
    """Measure what pretraining is worth: fit every starting model with few and many labels, and report the differences."""
    from mapsto import device, progress
    from mapsto.api import compare as compare_starts

    device.keep_memory()
    comparison = compare_starts(
        arrow,
        data,
        out,
        test=test,
        shift=shift,
        seeds=seeds,
        jobs=jobs,
        overwrite=overwrite,
        starts=_split(starts),
        labels=_split(labels),
        methods=_split(methods),
        options=options,
        progress=progress.choose_progress(quiet, json),
    )
    if json:
        print(dumps(comparison.record(), ensure_ascii=False))
    else:
        print("\n".join(["", *comparison.lines(), "", f"in {out}: report.html, results.json"]))


def _split(text: str) -> list[str]:
    """Split a list that is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
