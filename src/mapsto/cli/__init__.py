"""The command line: a few lines for each command; nobody imports this."""

from __future__ import annotations

import inspect
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from mapsto.distributed import exit_process, read_ranks
from mapsto.errors import MapstoError
from mapsto.options import CHOICES, Options

# torchrun ends every process as soon as one has ended, so the one that speaks goes first.
SECONDS_TO_SPEAK = 2.0


class Commands(TyperGroup):
    """All commands. Typer ends one that Ctrl-C stops without a word; `_run` says so."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            raise Stopped("stopped by SIGINT") from stopped


class Stopped(MapstoError):
    """Stopped by a person before there was a step to finish."""

    exit_status = 130


app = typer.Typer(
    name="mapsto",
    cls=Commands,
    help="Pretrain, fit, check and use models on your own data. A task is an arrow: mapsto fit 'text -> label' train.csv",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Arrow = Annotated[str, typer.Argument(help="The task, such as 'text -> label' or 'review:text -> stars:label'.")]


Data = Annotated[
    Path,
    typer.Argument(
        help="csv, tsv, jsonl, parquet or txt, one of these gzipped, or a folder of them, of pictures or of videos."
    ),
]


Answerable = Annotated[
    Path | None, typer.Argument(help="A table with the columns the model reads, or a file or folder of pictures, …")
]


Model = Annotated[str, typer.Argument(help="A run's folder, a model folder, or a hub name.")]


Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run. An unfinished run there goes on.")]


Test = Annotated[Path | None, typer.Option(help="Rows to score at the end; training never sees them.")]


Start = Annotated[
    str | None, typer.Option(help="Begin with these weights: a run's folder, a model folder, or a hub name.")
]


Like = Annotated[str | None, typer.Option(help="Take shape and tokenizer of this folder, with random weights.")]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]


Json = Annotated[bool, typer.Option("--json", help="Progress and results as JSON.")]


Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]


Encoding = Annotated[str | None, typer.Option(help="Encoding of text files, when it is not UTF-8 or UTF-16.")]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` one option for each field of Options, handed in as `options`."""
    hints = get_type_hints(Options)
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=_option(field.name, field.metadata["help"], hints[field.name]),
        )
        for field in fields(Options)
    ]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        options = Options(**{field.name: given.pop(field.name) for field in fields(Options)})
        command(**given, options=options)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    wrapped.__signature__ = inspect.Signature(keyword_only + shared)  # type: ignore[attr-defined]
    return wrapped


def _option(name: str, text: str, hint: Any) -> Any:
    flag = name.replace("_", "-")
    undecided = hint == bool | None  # can be switched off as well as on
    choices = CHOICES.get(name)  # Options says which one a wrong word is near to
    shown = "|".join(choices) if choices else None
    option = typer.Option(f"--{flag}/--no-{flag}" if undecided else f"--{flag}", help=text, metavar=shown)
    return Annotated[str if choices else hint, option]


@app.command(epilog="Example: mapsto pretrain text corpus.txt --out runs/base --minutes 10")
@with_options
def pretrain(
    what: Annotated[str, typer.Argument(help="A kind, such as text, or an arrow with `~`.")],
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
    """Learn from values without labels: the map from a corrupted value back to itself."""
    from mapsto import device, progress
    from mapsto.fitting.fit import pretrain_mapping

    device.keep_memory()
    shown = progress.choose_progress(quiet, json)
    pretrain_mapping(
        what, data, out, start=start, like=like, test=test, options=options, progress=shown, overwrite=overwrite
    )


@app.command(epilog="Example: mapsto fit 'text -> label' train.csv --start runs/base --test test.csv --out runs/clf")
@with_options
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
        int | None, typer.Option(help="First try so many settings on held-out training rows (the extra `search`).")
    ] = None,
    search_minutes: Annotated[float | None, typer.Option(help="Begin no trial of the search after this long.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Learn the map that an arrow names, from a table with its columns."""
    from mapsto import device, progress
    from mapsto.fitting.search import search_and_fit

    device.keep_memory()
    shown = progress.choose_progress(quiet, json)
    given: dict[str, Any] = {
        "search": search,
        "search_minutes": search_minutes,
        "start": start,
        "like": like,
        "test": test,
    }
    search_and_fit(arrow, data, out, **given, options=options, progress=shown, overwrite=overwrite)


@app.command(
    epilog="Example: mapsto compare 'text -> label' train.csv --test test.csv --starts scratch,runs/base --out runs/cmp"
)
@with_options
def compare(
    arrow: Arrow,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Finished fits and the report. An unfinished one goes on.")],
    options: Options,
    test: Annotated[Path | None, typer.Option(help="Rows to score on; without it a fifth of the data is kept.")] = None,
    starts: Annotated[str, typer.Option(help="Folders, hub names, and scratch: random weights.")] = "scratch",
    labels: Annotated[str, typer.Option(help="Numbers of labels, and all.")] = "16,64,256,all",
    seeds: Annotated[int, typer.Option(help="How many draws of the labels.")] = 5,
    methods: Annotated[str, typer.Option(help="How starts are fitted: full, probe, contrast.")] = "full,probe,contrast",
    shift: Annotated[Path | None, typer.Option(help="Rows from elsewhere, which are scored too.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Fits at once; one for every two cores unless told.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """What did the pretraining buy? Many fits with few and many labels from every start, and a report of them."""
    from mapsto import device, progress
    from mapsto.cli import commands

    device.keep_memory()
    given: dict[str, Any] = {"test": test, "shift": shift, "seeds": seeds, "jobs": jobs, "overwrite": overwrite}
    given |= {"starts": _listed(starts), "labels": _listed(labels), "methods": _listed(methods), "options": options}
    commands.compare(arrow, data, out, json, progress=progress.choose_progress(quiet, json), **given)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@app.command(epilog="Example: mapsto predict runs/clf new.csv --out answers.csv")
def predict(
    model: Model,
    data: Answerable = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to answer, instead of a table; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="csv, jsonl or parquet; else csv on the screen. A folder where answers are pictures."
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: Json = False,
    long: Annotated[
        str, typer.Option(help="Texts longer than the model takes: cut, window (mean of the parts), error.")
    ] = "cut",
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process. ray: every core, or the cluster that RAY_ADDRESS names (the extra `ray`).",
        ),
    ] = "local",
    min_confidence: Annotated[
        float, typer.Option(help="Leave an answer blank that is less sure; `mapsto evaluate` shows what that gains.")
    ] = 0.0,
    draw: Annotated[
        Path | None, typer.Option(help="A folder for copies of the pictures with the answers, such as boxes, drawn in.")
    ] = None,
    hide: Annotated[
        float | None,
        typer.Option(
            help="Of a pretrained model: hide this share of each value and fill it in; pictures go into the folder --out."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Of a model pretrained on pictures: fill in what is not black in this picture of the same size, or in those "
            "of a folder that have the pictures' names."
        ),
    ] = None,
) -> None:
    """Answer every row of a table, in order."""
    from mapsto.cli import answering
    from mapsto.device import keep_memory

    keep_memory()
    if hide is not None or mask is not None:
        answering.complete(model, data, text, out, device, precision, encoding, hide, mask)
        return
    answering.predict(model, data, text, out, device, precision, encoding, json, long, engine, min_confidence, draw)


@app.command(epilog="Example: mapsto embed runs/base texts.csv --out vectors.parquet")
def embed(
    model: Model,
    data: Answerable = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to embed, instead of a table; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="parquet, jsonl or csv, the rows with a column `vector`; else csv on the screen."
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="first, mean or normed_mean; by default as the model was trained to give vectors."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: Json = False,
) -> None:
    """A vector for every row of a table, in order: for search, clustering or models of your own."""
    from mapsto.cli import answering
    from mapsto.device import keep_memory

    keep_memory()
    answering.embed(model, data, text, out, device, precision, encoding, json, pooling)


@app.command(epilog="Example: mapsto evaluate runs/clf test.csv")
def evaluate(
    model: Model,
    data: Data,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page (.html) of all of it.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: Json = False,
    bad_rows: Annotated[str, typer.Option(help="stop, or skip rows that cannot be read (at most 1 %).")] = "stop",
) -> None:
    """Score a model on a table with answers, each figure with its 95 % interval, and show where it fails."""
    from mapsto.cli import commands

    commands.evaluate(model, data, out, device, precision, encoding, json, bad_rows)


@app.command(epilog="Example: mapsto explain runs/clf '今天天气真好！' --sample test.csv")
def explain(
    model: Model,
    what: Annotated[
        str, typer.Argument(help="A text, a file or a folder of files, or a table with what the model reads.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A page (.html) or rows (.jsonl).")] = None,
    method: Annotated[str, typer.Option(help="relevance, gradient, integrated or occlusion.")] = "relevance",
    sample: Annotated[
        Path | None, typer.Option(help="Rows to measure on how faithful explanations are; else those explained.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients.")] = 50,
    device: Device = "auto",
    encoding: Encoding = None,
    json: Json = False,
) -> None:
    """Which parts of a value decided, and whether leaving them out bears it out."""
    from mapsto import progress
    from mapsto.cli import commands

    shown = progress.choose_progress(as_json=json)
    commands.explain(model, what, out, method, sample, steps, device, encoding, json, shown)


@app.command(epilog="Example: mapsto suggest runs/clf pool.csv --n 50 --labelled train.csv --out to_label.csv")
def suggest(
    model: Model,
    pool: Data,
    n: Annotated[int, typer.Option("--n", help="How many rows.")] = 50,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A table to fill in, or .json: tasks for Label Studio.")
    ] = None,
    labelled: Annotated[Path | None, typer.Option(help="Rows that have labels; they are not asked for again.")] = None,
    device: Device = "auto",
    encoding: Encoding = None,
    seed: Annotated[int, typer.Option(help="Everything random is a function of it.")] = 0,
) -> None:
    """Which rows to label next: typical ones while labels are few, later those the model doubts."""
    from mapsto.cli import commands

    commands.suggest(model, pool, n, out, labelled, device, encoding, seed)


@app.command(epilog="Example: mapsto check 'text -> label' train.csv --test test.csv")
def check(
    arrow: Arrow,
    data: Data,
    test: Test = None,
    start: Annotated[str | None, typer.Option(help="Count tokens as this model does.")] = None,
    encoding: Encoding = None,
    json: Json = False,
) -> None:
    """Look for everything that is wrong with a table, at once. Exit status 1 when something must be mended."""
    from mapsto.cli import commands

    commands.check(arrow, data, test, start, encoding, json)


@app.command(epilog="Example: mapsto trace 'text -> label' train.csv --row 3")
def trace(
    arrow: Arrow,
    data: Data,
    start: Annotated[str | None, typer.Option(help="The model to trace with; else a small new one.")] = None,
    row: Annotated[int, typer.Option(help="Which row, from 1.")] = 1,
    encoding: Encoding = None,
) -> None:
    """Show one example after every stage, from the cell to the loss."""
    from mapsto.fitting.trace import trace as stages

    for line in stages(arrow, data, start, row, encoding):
        print(line)


@app.command(epilog="Example: mapsto info runs/clf")
def info(model: Model, json: Json = False) -> None:
    """What a folder holds: arrow, shape, answers, scores, where it came from."""
    from mapsto.cli import commands

    commands.info(model, json)


@app.command(epilog="Example: mapsto demo --out runs/demo")
def demo(
    what: Annotated[str, typer.Argument(metavar="text|image", help="What the demo is about.")] = "text",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where reports and mappings go, by default runs/demo or runs/demo-image."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="How long to pretrain, by default 5 minutes on text, 1 on pictures.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Pretrain, fit and compare on data that packages carry; about 11 minutes on two cores, 4 with pictures."""
    from mapsto import device, options, progress
    from mapsto.demo import run

    options.require_choice("what", what, ("text", "image"))
    device.keep_memory()
    if what == "image":
        run.run_pictures(out or Path("runs/demo-image"), minutes or 1.0, progress.choose_progress(quiet))
    else:
        run.run(out or Path("runs/demo"), minutes or 5.0, progress.choose_progress(quiet))


def main() -> None:
    """Run the command line; every error of ours is one message and an exit status, never a traceback."""
    try:
        _run()
    except SystemExit as end:
        exit_process(end.code if isinstance(end.code, int) else 0)
        raise


def _run() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of what stands beside the pixels; what is damaged we say
    try:
        app()
    except MapstoError as error:
        _fail(str(error), error.exit_status, error.reporter)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _fail(text: str, status: int, reporter: int = 0) -> None:
    """Say it, once for all processes of a run, and end."""
    if read_ranks().rank != reporter:
        time.sleep(SECONDS_TO_SPEAK)
        sys.exit(status)
    if "--json" in sys.argv:
        print(json.dumps({"error": text}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {text}", file=sys.stderr)
    sys.exit(status)
