"""`mapsto compare`: compare starting models with few and with many labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Arrow, Data, Json, Overwrite, Quiet, app, with_options
from mapsto.options import FOR_HIDING, SET_BY_COMPARE, Options


@app.command(
    epilog="Example: mapsto compare 'text -> label' train.csv --test test.csv --starts scratch,runs/base --out runs/cmp"
)
@with_options(refused=(*SET_BY_COMPARE, *FOR_HIDING))
def compare(
    arrow: Arrow,
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of the report. An unfinished comparison in it is resumed.")
    ],
    options: Options,
    test: Annotated[Path | None, typer.Option(help="Rows to score on; by default a fifth of the data.")] = None,
    starts: Annotated[
        str,
        typer.Option(
            help="Starting models, separated by commas: folders, hf:user/name of the hub, and scratch: random weights."
        ),
    ] = "scratch",
    labels: Annotated[
        str, typer.Option(help="Numbers of labelled rows to fit to, separated by commas, and all.")
    ] = "16,64,256,all",
    seeds: Annotated[int, typer.Option(help="How many random draws of the labelled rows.")] = 5,
    methods: Annotated[
        str, typer.Option(help="How starting models are fitted, separated by commas: full, probe, contrast.")
    ] = "full,probe,contrast",
    shift: Annotated[Path | None, typer.Option(help="Rows from another source, scored as well.")] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option(
            "--allow-overlap", help="Compare also starts that were fitted to some of these rows, and mark them."
        ),
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Fits at a time; by default one per two cores.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare starting models: fit each with few and with many labels, and report which differences are significant."""
    from mapsto import api, device, progress
    from mapsto.cli.output import print_json, print_text
    from mapsto.data.files import join_paths

    device.keep_memory()
    comparison = api.compare(
        arrow,
        join_paths(data),
        out,
        test=test,
        starts=_split(starts),
        labels=_split(labels),
        seeds=seeds,
        methods=_split(methods),
        shift=shift,
        allow_overlap=allow_overlap,
        jobs=jobs,
        overwrite=overwrite,
        progress=progress.choose_progress(quiet, json),
        options=options,
    )
    if json:
        print_json(comparison.record())
        return
    print_text("\n".join(["", *comparison.lines(), "", f"in {out}: report.html, results.json"]))


def _split(text: str) -> list[str]:
    """Split a text at its commas; return the parts that are not empty, without spaces around them."""
    return [part.strip() for part in text.split(",") if part.strip()]
