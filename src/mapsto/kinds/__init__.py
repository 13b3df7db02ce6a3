"""The registry of kinds: the file name is the entry.

A kind is one file here. It defines `source`, a Source class (source.py), `target`, a Target class (target.py), or both; and
`restored`, where what puts back the hidden part of a source is another Target than what answers a value of its own. Nothing else
is edited.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Literal

from mapsto.errors import UsageError, near
from mapsto.task.arrow import Arrow, restores
from mapsto.task.source import Source
from mapsto.task.target import Target


@cache
def names(role: Literal["source", "target"]) -> tuple[str, ...]:
    """The kinds that can stand on one side of an arrow."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(name for name in found if hasattr(_module(name), role))


@cache
def media() -> dict[str, tuple[str, ...]]:
    """The endings of files that are a value each, by kind."""
    return {kind: source(kind).suffixes for kind in names("source") if source(kind).suffixes}


def source(kind: str) -> type[Source]:
    """The Source of `kind`. Raises UsageError naming the kinds there are."""
    _require(kind, "source")
    found: type[Source] = _module(kind).source
    return found


def target(kind: str, restored: bool = False) -> type[Target]:
    """The Target of `kind`, or the one that puts back what `~` hides of it. Raises UsageError naming the kinds there are."""
    _require(kind, "target")
    module = _module(kind)
    found: type[Target] = getattr(module, "restored", module.target) if restored else module.target
    return found


def reading(arrow: Arrow) -> dict[str, type[Source]]:
    """The Source of each kind that an arrow reads. Raises UsageError."""
    return {port.kind: source(port.kind) for port in arrow.sources}


def answering(arrow: Arrow) -> list[type[Target]]:
    """The Target of each port behind an arrow. Raises UsageError."""
    return [target(port.kind, of is not None) for port, of in zip(arrow.targets, restores(arrow), strict=True)]


def _require(kind: str, role: Literal["source", "target"]) -> None:
    if kind not in names(role):
        raise UsageError(f"no {role} kind {kind!r} here{near(kind, names(role))}; there are: {', '.join(names(role))}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
