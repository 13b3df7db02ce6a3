"""The Typer application, the arguments that commands share, and the handling of errors.

Command modules import torch, pyarrow and scikit-learn inside their functions, so that `mapsto --help` stays fast.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.core import TyperGroup

from mapsto.cli.help.layout import CommandWithGroups, describe_group, flag_hint
from mapsto.distributed import exit_process, read_ranks
from mapsto.errors import MapstoError, coloured, printable
from mapsto.errors.wording import on_command_line
from mapsto.options import CHOICES, Options, field_types
from mapsto.options import flag as flag_name

# torchrun ends every process as soon as one has ended, so the process that prints the error must end first.
SECONDS_TO_PRINT = 2.0


class Stopped(MapstoError):
    """The error after Ctrl-C in a command that does not train. Training itself handles Ctrl-C and saves a checkpoint."""

    exit_status = 130


class UnreadOutput(MapstoError):
    """The error when the reader of standard output or standard error, such as `head`, has ended. It is not printed.

    The exit status is that of a program which SIGPIPE ends: 128 + 13.
    """

    exit_status = 141


class CommandGroup(TyperGroup):
    """The group of all commands, which raises errors of mapsto where Typer would end silently.

    These are Stopped on Ctrl-C, and UnreadOutput when the reader of a pipe has ended.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(describe_group(self, ctx)) + "\n")

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            # What is still buffered fails here, and not when Python exits, which would print an error.
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as interrupt:
            raise Stopped("stopped by SIGINT") from interrupt
        except BrokenPipeError as error:
            raise UnreadOutput from error


# The errors of a wrong call, such as an unknown option. typer exports only some of them, which have this base class.
CALL_ERRORS: Any = next(base for base in reversed(typer.BadParameter.__mro__) if base.__name__ == "ClickException")

# What is closed when the command of this process ends; None outside of the command line.
RESOURCES: ContextVar[ExitStack | None] = ContextVar("resources", default=None)


Function = TypeVar("Function", bound=Callable[..., Any])


class App(typer.Typer):
    """An application whose commands show their help in groups."""

    def command(self, *names: Any, **settings: Any) -> Callable[[Function], Function]:
        return super().command(*names, **{"cls": CommandWithGroups, **settings})


app = App(
    name="mapsto",
    cls=CommandGroup,
    help="Pretrain, fit, check and use models on your own data. A task is an arrow: mapsto fit 'text -> label' train.csv",
    no_args_is_help=True,
    add_completion=True,  # --install-completion and --show-completion
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    """Print the version and end, if `--version` is given."""
    if is_asked:
        from mapsto import __version__

        typer.echo(f"mapsto {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Declare the options of `mapsto` itself."""


# Arguments that several commands have.
Arrow = Annotated[str, typer.Argument(help="The task, such as 'text -> label' or 'review:text -> stars:label'.")]
Data = Annotated[
    list[Path],
    typer.Argument(
        help="A table: csv, tsv, jsonl, json, parquet, xlsx, txt or conll, texts also gzipped; several tables with the same "
        "columns, also as 'part-*.csv'; texts with one value on a line, as a.en,a.de; or a folder of tables, pictures, "
        "videos or sounds."
    ),
]
Input = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Tables with the columns that the model reads, or a file or folder of pictures, videos or sounds."
    ),
]
Texts = Annotated[list[str] | None, typer.Option("--text", help="A text, in place of a table; may be repeated.")]
Model = Annotated[
    str, typer.Argument(help="A run's folder, a model folder, a file of `mapsto export`, or hf:user/name of the hub.")
]

# Options that several commands have.
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder of the run. An unfinished run in it is resumed.")]
Test = Annotated[Path | None, typer.Option(help="Rows to score at the end; training never sees them.")]
Start = Annotated[
    str | None,
    typer.Option(
        help="The starting model, whose weights to begin with: a run, a model folder, or hf:user/name of the hub."
    ),
]
Like = Annotated[
    str | None, typer.Option(help="Take the shape and the tokenizer of this model, and begin with random weights.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print progress and results as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[
    str, typer.Option(help="auto, bf16 or fp32; int4, 4 bits a weight, for generated answers on a CPU.")
]
ExportedEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        help="onnx, openvino: compute a file of `mapsto export` in ONNX Runtime or OpenVINO (the extras `export`, "
        "`openvino`). local: by the form of the file, or a folder.",
    ),
]
CsvSafe = Annotated[
    bool,
    typer.Option(
        "--csv-safe", help="csv for spreadsheets: cells that begin like a formula (=, +, -, @) get a quote in front."
    ),
]
Encoding = Annotated[str | None, typer.Option(help="Encoding of text files that are neither UTF-8 nor UTF-16.")]
Group = Annotated[
    str | None,
    typer.Option(
        help="Columns such as speaker, with commas: rows with an equal cell belong together, so intervals resample them. none: "
        "no column; by default columns of recordings are found by their names."
    ),
]
Delimiter = Annotated[
    str | None, typer.Option(help="The character between the cells of csv files, such as ';', or tab.")
]

# Options of commands that listen.
Host = Annotated[str, typer.Option(help="The address to listen on; others than this machine's need a key.")]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 for a free one.")]
Log = Annotated[str, typer.Option(help="lines, json or none.", metavar="lines|json|none")]


def with_options(refused: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command a command-line flag for each field of Options.

    The command receives the parsed flags as one Options object, its parameter `options`.
    refused: fields that the command always refuses. Its help leaves them out; when one is set, the error says why.
    """
    return lambda command: _add_flags(command, refused)


def _add_flags(command: Callable[..., None], refused: Sequence[str]) -> Callable[..., None]:
    """Return a command with a flag for each field of Options; those of `refused` are not in its help."""
    hints = field_types(Options)
    parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    option_parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=_typer_option(field.name, field.metadata["help"], hints[field.name], field.name in refused),
        )
        for field in fields(Options)
    ]

    @wraps(command)
    def wrapped(**arguments: Any) -> None:
        options = Options(**{field.name: arguments.pop(field.name) for field in fields(Options)})
        command(**arguments, options=options)

    # Typer derives the flags from the signature. Keyword-only parameters may follow each other with and without
    # defaults.
    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    wrapped.__signature__ = inspect.Signature(keyword_only + option_parameters)  # type: ignore[attr-defined]
    return wrapped


def _typer_option(name: str, text: str, hint: Any, hidden: bool) -> Any:
    """Return the type annotation from which Typer makes the command-line flag for a field of Options.

    name: name of the field. text: help text of the flag. hint: type of the field. hidden: whether the help leaves it out.
    """
    flag = flag_name(name)
    is_tristate = hint == bool | None  # None: the run decides, unless the user gives --x or --no-x
    # Choices stay plain strings for Typer: Options itself checks them, and its error names the nearest choice.
    choices = CHOICES.get(name)
    option = typer.Option(
        f"{flag}/{flag_name(f'no_{name}')}" if is_tristate else flag,
        help=text,
        hidden=hidden,
        metavar="|".join(choices) if choices else None,
    )
    return Annotated[str if choices else hint, option]


def main() -> None:
    """Run the command line. A MapstoError or OSError ends the program with one message and an exit status, no traceback."""
    # A name of a file in bytes that are no UTF-8 cannot be printed as it is.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run()
    except SystemExit as end:
        exit_process(end.code if isinstance(end.code, int) else 0)
        raise


def _run() -> None:
    """Run the command that `sys.argv` names; print a MapstoError or OSError as a message and exit."""
    # Pillow warns of faulty metadata; unreadable pixels are reported by the readers themselves.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with ExitStack() as resources, on_command_line():
            resources.callback(RESOURCES.reset, RESOURCES.set(resources))
            if "_MAPSTO_COMPLETE" in os.environ:
                completion_init()
            status = app(standalone_mode=False, prog_name="mapsto")
        # One process of several must end by `exit_process`, after a success too.
        sys.exit(status if isinstance(status, int) else 0)
    except CALL_ERRORS as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
            sys.exit(2)
        _fail(_describe_call_error(error), 2)
    except UnreadOutput as error:
        _discard_output()
        sys.exit(error.exit_status)
    except MapstoError as error:
        with on_command_line():
            text = str(error)
        _fail(text, error.exit_status, error.reporter)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _describe_call_error(error: Any) -> str:
    """Return the message of a wrong call, with what is near to an unknown option and where its help is."""
    context, text = getattr(error, "ctx", None), error.format_message().rstrip(".")
    name = getattr(error, "option_name", None)
    if name is not None and context is not None:
        names = {param.name for param in context.command.params if not getattr(param, "hidden", False)}
        text = f"no option {name}{flag_hint(name, names)}" if "such option" in text else text
    command = "mapsto" if context is None or context.parent is None else f"mapsto {context.info_name}"
    # "No such command 'fitt'. Did you mean 'fit'?" ends a sentence itself.
    return f"{text[:1].lower()}{text[1:]}{' See' if text.endswith('?') else '; see'} {command} --help"


def _fail(text: str, status: int, reporter: int = 0) -> None:
    """Print an error to standard error, as JSON with --json, and exit with `status`.

    reporter: the rank of the process that prints. Other processes of the run exit silently, SECONDS_TO_PRINT later, so that
        torchrun does not end the reporter before it has printed.
    """
    if read_ranks().rank != reporter:
        time.sleep(SECONDS_TO_PRINT)
        sys.exit(status)
    line = json.dumps({"error": text}, ensure_ascii=False) if "--json" in sys.argv else f"error: {text}"
    try:
        print(coloured(printable(line), sys.stderr), file=sys.stderr, flush=True)
    except OSError:  # the terminal or the reader of the pipe has gone, so the exit status says it alone
        _discard_output()
    sys.exit(status)


def _discard_output() -> None:
    """Send what is still buffered for standard output and standard error nowhere; Python would print an error on exit."""
    with open(os.devnull, "w") as nowhere, suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
