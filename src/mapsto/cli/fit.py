"""`mapsto pretrain` and `mapsto fit`: train a model without and with labels."""

from __future__ import annotations

from typing import Annotated

import typer

from mapsto.cli.app import Arrow, Data, Json, Like, Out, Overwrite, Quiet, Start, Test, app, with_options
from mapsto.options import NOT_FOR_HIDING, Options


@app.command(epilog="Example: mapsto pretrain text corpus.txt --out runs/base --minutes 10")
@with_options(refused=NOT_FOR_HIDING)
def pretrain(
    what: Annotated[str, typer.Argument(help="A kind, such as text or image, or an arrow with `~`.")],
    data: Data,
    out: Out,
    options: Options,
    start: Start = None,
    like: Like = None,
    test: Test = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Pretrain a model on data without labels: hide parts of your texts, pictures or sounds and learn to fill them in."""
    from mapsto import device, progress
    from mapsto.data.files import join_paths
    from mapsto.fitting.fit import pretrain_mapping

    # A setting for the whole process, which only a program may make and not the library.
    device.keep_memory()
    pretrain_mapping(
        what,
        join_paths(data),
        out,
        start=start,
        like=like,
        test=test,
        options=options,
        progress=progress.choose_progress(quiet, json),
        overwrite=overwrite,
    )


@app.command(epilog="Example: mapsto fit 'text -> label' train.csv --start runs/base --test test.csv --out runs/clf")
@with_options()
def fit(
    arrow: Arrow,
    data: Data,
    out: Out,
    options: Options,
    start: Start = None,
    like: Like = None,
    test: Test = None,
    overwrite: Overwrite = False,
    search: Annotated[
        int | None,
        typer.Option(help="First try this many settings on held-out training rows (the extra `search`)."),
    ] = None,
    search_minutes: Annotated[float | None, typer.Option(help="Start no further trial after this long.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fit a model to a table with labels, from a starting model or from random weights."""
    from mapsto import device, progress
    from mapsto.data.files import join_paths
    from mapsto.selection.search import search_and_fit

    device.keep_memory()
    search_and_fit(
        arrow,
        join_paths(data),
        out,
        search=search,
        search_minutes=search_minutes,
        start=start,
        like=like,
        test=test,
        options=options,
        progress=progress.choose_progress(quiet, json),
        overwrite=overwrite,
    )
