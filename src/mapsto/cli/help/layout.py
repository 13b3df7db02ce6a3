"""The help of commands: options in groups, the common ones first, in 80 columns, without those that an arrow cannot use.

`mapsto fit --help` shows what most runs need; `mapsto help fit --all` shows every option. With an arrow in the command, as in
`mapsto fit 'image -> label' --help`, options that are for other arrows are left out.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand

from mapsto.options import FOR_HIDING, NOT_FOR_HIDING, Options, flag, option_groups

# The widest help, and the columns of the options' names.
MAX_WIDTH, MIN_WIDTH, NAME_WIDTH, COMMAND_WIDTH = 100, 60, 26, 13
COMMON, READING, TRAINING, SCREEN, REMAINING = "Common", "What is read", "The training", "The screen", "More"
# The order of the groups; others follow.
GROUP_ORDER = (
    COMMON,
    READING,
    "The model",
    TRAINING,
    "The objective",
    "Generated answers",
    "Many processes",
    SCREEN,
)
# The groups of options that are no field of Options, by their names.
GROUPS: dict[str, Collection[str]] = {
    COMMON: (
        "out",
        "start",
        "starts",
        "test",
        "labels",
        "top",
        "among",
        "n",
        "min_confidence",
        "suspects",
        "overwrite",
        "help",
    ),
    READING: ("encoding", "delimiter", "bad_rows", "most_skipped", "unlabelled", "group", "long", "text", "config"),
    "Generated answers": (
        *(
            "beams",
            "samples",
            "temperature",
            "top_p",
            "longest",
            "answers",
            "schema",
            "language",
            "task",
            "times",
            "stream",
        ),
    ),
    TRAINING: ("search", "search_minutes", "folds", "seeds", "save_every"),
    "The model": ("like",),
    "Many processes": ("device", "precision", "engine", "jobs"),
    SCREEN: ("quiet", "json", "csv_safe", "draw", "tensorboard"),
}
# What stands in help for a value of a type, by a part of the type's name.
VALUE_NAMES = {"path": "PATH", "file": "PATH", "int": "N", "float": "X"}
# Whether every option is visible.
_shows_all: ContextVar[bool] = ContextVar("shows_all", default=False)


class CommandWithGroups(TyperCommand):
    """A command whose help has its options in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write("\n".join(describe_command(self, ctx, _shows_all.get())) + "\n")


def show_help(command: CommandWithGroups, ctx: Any, shows_all: bool) -> str:
    """Return the help of a command. shows_all: with every option, also the rare ones and those for other arrows."""
    token = _shows_all.set(shows_all)
    try:
        return str(command.get_help(ctx))
    finally:
        _shows_all.reset(token)


def describe_command(command: Any, ctx: Any, shows_all: bool) -> Iterator[str]:
    """Yield the lines of a command's help."""
    width = help_width()
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.get_params(ctx) if param.param_type_name == "option" and not param.hidden]
    required = [f"{option.opts[0]} {_value_name(option)}" for option in options if option.required]
    words = ["mapsto", command.name, *(_argument_name(argument) for argument in arguments), *required, "[OPTIONS]"]
    yield from textwrap.wrap(f"Usage: {' '.join(words)}", width, subsequent_indent=" " * 8, break_on_hyphens=False)
    yield ""
    yield from textwrap.wrap(" ".join((command.help or "").split()), width)
    yield ""
    for argument in arguments:
        yield from _entry(_argument_name(argument).strip("[]"), argument.help or "", width)
    trains = any(param.name == "rate" for param in command.params)
    hidden = () if shows_all or not trains else _hidden_fields(command.name)
    visible = [option for option in options if option.name not in hidden]
    for title, group in _in_groups(visible, trains):
        yield ""
        yield typer.style(f"{title}:", bold=True)
        for option in group:
            yield from _entry(_option_name(option), _option_help(option), width)
    yield ""
    if len(visible) < len(options):
        yield f"All {len(options)} options: mapsto help {command.name} --all"
    if command.epilog:
        yield from textwrap.wrap(command.epilog, width, subsequent_indent=" " * 9, break_on_hyphens=False)


def describe_group(group: Any, ctx: Any) -> Iterator[str]:
    """Yield the lines of the help on all commands."""
    width = help_width()
    yield "Usage: mapsto COMMAND [ARGUMENTS] [OPTIONS]"
    yield ""
    yield from textwrap.wrap(" ".join((group.help or "").split()), width)
    yield ""
    for name in group.list_commands(ctx):
        text = " ".join((group.commands[name].help or "").split())
        lines = textwrap.wrap(text, width - COMMAND_WIDTH, break_on_hyphens=False)
        yield f"  {typer.style(name, bold=True)}{' ' * (COMMAND_WIDTH - 2 - len(name))}{lines[0]}"
        yield from (" " * COMMAND_WIDTH + line for line in lines[1:])
    yield ""
    yield "mapsto COMMAND --help tells more, and mapsto help COMMAND --all everything."
    yield "mapsto --version prints the version."


def help_width() -> int:
    """Return the width of help: that of the terminal, and at most MAX_WIDTH."""
    return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns))


def _entry(name: str, text: str, width: int) -> Iterator[str]:
    """Yield the lines of one option or argument: its name, and beside it or below it what it is."""
    lines = textwrap.wrap(" ".join(text.split()), width - NAME_WIDTH, break_on_hyphens=False) or [""]
    if len(name) > NAME_WIDTH - 4:
        yield f"  {name}"
        name = ""
    yield f"  {name.ljust(NAME_WIDTH - 2)}{lines[0]}".rstrip()
    yield from (" " * NAME_WIDTH + line for line in lines[1:])


def _in_groups(options: list[Any], trains: bool) -> list[tuple[str, list[Any]]]:
    """Return options by the titles of their groups, in the order of GROUP_ORDER.

    trains: whether the command has all fields of Options.
    """
    groups: dict[str, list[Any]] = {}
    for option in options:
        groups.setdefault(_group_of(option.name, trains), []).append(option)
    order = {title: number for number, title in enumerate(GROUP_ORDER)}
    return sorted(groups.items(), key=lambda entry: order.get(entry[0], len(order)))


def _group_of(name: str, trains: bool) -> str:
    """Return the title of the group of an option. trains: whether the command has all fields of Options."""
    if trains and name == "seed":
        return TRAINING
    field_groups = {entry.name: group.title for group in option_groups() for entry in fields(group)}
    rank = {entry.name: entry.metadata["rank"] for entry in fields(Options)}
    if rank.get(name) == "common":
        return COMMON
    title = next((title for title, names in GROUPS.items() if name in names), None)
    return title or (field_groups.get(name, REMAINING) if trains else REMAINING)


def _hidden_fields(command: str) -> set[str]:
    """Return the options that help leaves out: rare ones, and those that the arrow in the command cannot use."""
    rare = {entry.name for entry in fields(Options) if entry.metadata["rank"] == "rare"}
    arrow = next((word for word in sys.argv[1:] if "->" in word), None)
    if arrow is None:
        return rare if command == "pretrain" else rare | {*FOR_HIDING, "style", "features", "style_weight", "sizes"}
    from mapsto.cli.help.arrow_options import useless_options  # imports torch, which other help need not wait for

    return rare | useless_options(arrow) | set(NOT_FOR_HIDING if "~" in arrow else FOR_HIDING)


def _argument_name(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option_name(option: Any) -> str:
    """Return the flags of an option with the name of its value: "--out, -o PATH"."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {_value_name(option)}"


def _value_name(option: Any) -> str:
    """Return the name of an option's value in help: its choices if they are short, or else its type."""
    if option.metavar and len(option.metavar) <= NAME_WIDTH:
        return str(option.metavar)
    # Older versions of typer have click's types.
    kind = str((getattr(option, "type_descriptor", None) and option.type_descriptor.annotation) or option.type).lower()
    return next((name for part, name in VALUE_NAMES.items() if part in kind), "TEXT")


def _option_help(option: Any) -> str:
    """Return the help text of an option with its choices, if they do not stand beside its name, and its default."""
    text = option.help or ""
    if option.metavar and len(option.metavar) > NAME_WIDTH:
        text += f" [{option.metavar.replace('|', ', ')}]"
    is_told = option.default in (None, False, "auto", "", ()) or callable(option.default) or option.required
    return text if is_told or option.is_flag else f"{text} [default: {option.default}]"


def flag_hint(word: str, names: Collection[str]) -> str:
    """Return a hint at the flag that is meant by an unknown one, such as " (here it is --rate)"; "" if none is near."""
    from mapsto.options import near_option

    hint = near_option(word.lstrip("-").replace("-", "_"), names)
    for name in sorted(names, key=len, reverse=True):
        hint = hint.replace(repr(name), flag(name))
    return hint
