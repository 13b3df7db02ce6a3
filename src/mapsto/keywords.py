"""The keywords of `fit`, `pretrain` and `compare`: help lists every option, and a wrong name finds the right one."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from mapsto.errors import UsageError
from mapsto.errors.wording import worded
from mapsto.options import CHOICES, OptionGroup, Options, near_option, option_groups

Function = TypeVar("Function", bound=Callable[..., Any])

HELP_WIDTH = 100  # characters of a line of help


def list_options(refused: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Return a decorator that shows each field of Options as a keyword of the function, in its signature and its help.

    refused: fields that the function always refuses, which are left out.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        parameters = [
            entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        entries = [entry for entry in fields(Options) if entry.name not in refused]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[
                *parameters,
                *(
                    inspect.Parameter(
                        entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=entry.type
                    )
                    for entry in entries
                ),
            ]
        )
        names = {entry.name for entry in entries}
        groups = (_describe_group(group, names) for group in option_groups())
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *groups])
        return function

    return decorate


def _describe_group(group: type[OptionGroup], names: set[str]) -> str:
    """Return the help on the options of a group: for each its type, its default and one sentence, those of `names` alone."""
    lines = [f"  {group.title}:"]
    for entry in fields(group):
        if entry.name in names:
            kind = " | ".join(map(repr, CHOICES[entry.name])) if entry.name in CHOICES else entry.type
            text = f"{entry.name}: {kind} = {entry.default!r}. {worded(entry.metadata['help'])}"
            lines.append(textwrap.fill(text, HELP_WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8))
    return "\n".join(lines)


def read_options(function: Callable[..., Any], options: Options | None, keywords: Mapping[str, Any]) -> Options:
    """Return `options`, or else the Options that the keywords of a call of `function` set.

    Raises UsageError for an unknown keyword, and if both are given.
    """
    names = {entry.name for entry in fields(Options)} | set(inspect.signature(function).parameters)
    for name in keywords:
        if name not in names:
            raise UsageError(f"no option {name!r}{near_option(name, names)}")
    if keywords and options is not None:
        raise UsageError("give options=Options(…) or single options, not both")
    return options or Options(**keywords)
