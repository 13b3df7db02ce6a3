"""`mapsto help` and `mapsto completion`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mapsto.cli.app import app
from mapsto.cli.help.layout import show_help
from mapsto.errors import UsageError, near

SHELLS = ("bash", "zsh", "fish")


@app.command("help", epilog="Example: mapsto help fit --all")
def show(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(help="A command, such as fit.")] = None,
    arrow: Annotated[str | None, typer.Argument(help="A task: options that it cannot use are left out.")] = None,
    shows_all: Annotated[bool, typer.Option("--all", help="Show every option, also the rare ones.")] = False,
) -> None:
    """Show the help of a command, with --all every option of it."""
    group: Any = context.find_root()
    commands: dict[str, Any] = group.command.commands
    if command is None:
        typer.echo(group.get_help())
        return
    if command not in commands:
        raise UsageError(f"no command {command!r}{near(command, commands)}; there are: {', '.join(commands)}")
    inner = context.__class__(commands[command], info_name=command, parent=group)
    typer.echo(show_help(commands[command], inner, shows_all))


@app.command(epilog='Example: eval "$(mapsto completion bash)" in ~/.bashrc')
def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the script by which a shell completes commands and options of mapsto."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}{near(shell, SHELLS)}; there are: {', '.join(SHELLS)}")
    typer.echo(get_completion_script(prog_name="mapsto", complete_var="_MAPSTO_COMPLETE", shell=shell))
