"""`mapsto pretrain` and `mapsto fit`: train a model without and with labels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Arrow, Data, Json, Like, Out, Overwrite, Quiet, Start, Test, app, with_options
from mapsto.cli.help.config_file import Config
from mapsto.options import NOT_FOR_HIDING, Options
from mapsto.task.arrow import parse


@app.command(epilog="Example: mapsto pretrain text corpus.txt --out runs/base --minutes 10")
@with_options(refused=NOT_FOR_HIDING)
def pretrain(
    what: Annotated[str, typer.Argument(help="A kind, such as text or image, or an arrow with `~`.")],
    data: Data,
    out: Out,
    options: Options,
    config: Config = None,
    start: Start = None,
    like: Like = None,
    test: Test = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Pretrain a model on data without labels: hide parts of your texts, pictures or sounds and learn to fill them in."""
    from mapsto import device, progress
    from mapsto.cli.output import report_run
    from mapsto.data.files import join_paths
    from mapsto.fitting.fit import pretrain_mapping
    from mapsto.progress.python import Recorder

    # A setting for the whole process, which only a program may make and not the library.
    device.keep_memory()
    recorder = Recorder(progress.choose_progress(quiet, json))
    pretrain_mapping(
        what,
        join_paths(data),
        out,
        start=start,
        like=like,
        test=test,
        options=options,
        progress=recorder,
        overwrite=overwrite,
    )
    kind = what.removeprefix("~").partition(" ")[0]
    advice = ["mapsto", "fit", f"{kind} -> label", "TABLE.csv", "--start", str(out), "--out", f"{out}-fitted"]
    report_run(out, recorder, quiet, json, [shlex.join(advice)])


@app.command(epilog="Example: mapsto fit 'text -> label' train.csv --start runs/base --test test.csv --out runs/clf")
@with_options()
def fit(
    arrow: Arrow,
    data: Data,
    out: Out,
    options: Options,
    config: Config = None,
    start: Start = None,
    like: Like = None,
    test: Test = None,
    overwrite: Overwrite = False,
    search: Annotated[
        int | None,
        typer.Option(help="First try this many settings on held-out training rows (the extra `search`)."),
    ] = None,
    search_minutes: Annotated[float | None, typer.Option(help="Start no further trial after this long.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="First score the fit by cross-validation: each row is answered by a model of the other folds (folds.csv)."
        ),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Fit a model to a table with labels, from a starting model or from random weights."""
    from mapsto import device, progress
    from mapsto.cli.output import report_run
    from mapsto.data.files import join_paths
    from mapsto.progress.python import Recorder
    from mapsto.selection.search import search_and_fit

    device.keep_memory()
    recorder = Recorder(progress.choose_progress(quiet, json))
    search_and_fit(
        arrow,
        join_paths(data),
        out,
        search=search,
        search_minutes=search_minutes,
        folds=folds,
        start=start,
        like=like,
        test=test,
        options=options,
        progress=recorder,
        overwrite=overwrite,
    )
    report_run(out, recorder, quiet, json, next_steps(arrow, out, test))


def next_steps(arrow: str, out: Path, test: Path | None) -> list[str]:
    """Return the commands that a user is likely to want after a fit."""
    if "<->" in arrow:
        return [shlex.join(["mapsto", "find", str(out), "A QUERY", "--among", "TABLE.csv"])]
    from mapsto.inference.output_files import are_files  # imports torch, as the fit did

    answers = "answers" if any(are_files(parse(arrow))) else "answers.csv"
    use = shlex.join(["mapsto", "predict", str(out), "NEW.csv", "--out", answers])
    score = shlex.join(["mapsto", "evaluate", str(out), "TEST.csv", "--out", "report.html"])
    return [use] if test is not None else [use, score]
