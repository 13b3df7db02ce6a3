"""`--config run.toml`: the arguments and options of a command from a file, such as the one that a run leaves in its folder."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from mapsto.cli.help.layout import flag_hint
from mapsto.errors import UsageError


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Make the values of a file the defaults of a command; what stands on the command line overrides them.

    Raises UsageError for a file that cannot be read, and for a name that the command does not have.
    """
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from error
    names: dict[str, Any] = {param.name: param for param in context.command.params if param.name != "config"}
    # Runs of `pretrain` and of `fit` call the arrow differently.
    for name, alias in (("arrow", "what"), ("what", "arrow")):
        if name in values and name not in names:
            values[alias] = values.pop(name)
    defaults = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in names:
            raise UsageError(
                f"--config {path}: mapsto {context.info_name} has no {key!r}{flag_hint(name, list(names))}"
            )
        if isinstance(value, dict):
            raise UsageError(f"--config {path}: {key!r} is a table; give each option as a line such as rate = 0.001")
        is_list = getattr(names[name], "nargs", 1) == -1
        defaults[name] = [value] if is_list and not isinstance(value, list) else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


# The option of commands that take a file.
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_read,
        is_eager=True,
        help="A file with lines such as rate = 0.001, which flags override; run.toml of a run's folder repeats the run.",
    ),
]
