"""The application: arguments that commands share, one flag per field of Options, and errors as one message and an exit status."""

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

from mapsto import distributed
from mapsto.errors import MapstoError
from mapsto.options import CHOICES, Options, flag

# torchrun ends every process as soon as one has ended, so the one that prints the error gets this head start.
SECONDS_TO_PRINT = 2.0


class Interrupted(MapstoError):
    """Ctrl-C before there was a step to finish."""

    exit_status = 130


class Commands(TyperGroup):
    """All commands. Ctrl-C becomes an error with a message, where Typer would end silently."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted("stopped by SIGINT") from interrupt


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
        help="A table (csv, tsv, jsonl, parquet or txt, also gzipped), a folder of tables, or one of pictures or videos."
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Argument(help="A table with the columns that the model reads, or a file or folder of pictures, …"),
]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text instead of a table; may be repeated.")]
ModelName = Annotated[str, typer.Argument(help="A run's folder, a model folder, or a hub name.")]
RunFolder = Annotated[
    Path, typer.Option("--out", "-o", help="The folder of the run. An unfinished run in it is continued.")
]
Test = Annotated[Path | None, typer.Option(help="Rows to score at the end; training never sees them.")]
Start = Annotated[str | None, typer.Option(help="Starting model: a run's folder, a model folder, or a hub name.")]
Like = Annotated[str | None, typer.Option(help="Take shape and tokenizer from this model folder, with random weights.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that the folder holds.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print progress and results as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of text files that are neither UTF-8 nor UTF-16.")]


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each field of Options; it receives them as the parameter `options`."""
    hints = get_type_hints(Options)
    parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    flags = [
        inspect.Parameter(
            entry.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=entry.default,
            annotation=_flag(entry.name, entry.metadata["help"], hints[entry.name]),
        )
        for entry in fields(Options)
    ]

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        options = Options(**{entry.name: arguments.pop(entry.name) for entry in fields(Options)})
        command(**arguments, options=options)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    wrapped.__signature__ = inspect.Signature(keyword_only + flags)  # type: ignore[attr-defined]
    return wrapped


def _flag(name: str, help_text: str, hint: Any) -> Any:
    """Return the annotation of a flag for Typer."""
    long = flag(name)
    if hint == bool | None:  # undecided by default, so it can be switched off as well as on
        long = f"{long}/{flag(f'no_{name}')}"
    # Options itself names the nearest choice for a misspelt one, so Typer sees plain text.
    choices = CHOICES.get(name)
    option = typer.Option(long, help=help_text, metavar="|".join(choices) if choices else None)
    return Annotated[str if choices else hint, option]


def main() -> None:
    """Run the command line: each error of ours becomes one message and an exit status, never a traceback."""
    try:
        _run()
    except SystemExit as exit_:
        distributed.exit_process(exit_.code if isinstance(exit_.code, int) else 0)
        raise


def _run() -> None:
    # Pillow warns of odd metadata beside intact pixels; damaged pictures are reported by us.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        app()
    except MapstoError as error:
        _fail(str(error), error.exit_status, error.reporter)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _fail(message: str, status: int, reporter: int = 0) -> None:
    """Print an error once for all processes of a run, and exit. reporter: the rank that prints it."""
    if distributed.read_ranks().rank != reporter:
        time.sleep(SECONDS_TO_PRINT)
        sys.exit(status)
    if "--json" in sys.argv:
        print(json.dumps({"error": message}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
