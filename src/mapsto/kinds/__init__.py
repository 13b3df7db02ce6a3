"""The registry of kinds: the file name is the entry.

A kind is one file here. It defines `source`, a Source class (task/source.py); `target`, the Target class (task/target.py) that
answers values of its own; `restored`, the Target class that puts back the hidden part of a source, where that is another one; or
several of these. Nothing else is edited.

A kind's file is imported only when the kind is used: which roles a file defines is read from its text, which takes a
millisecond where importing torch modules takes seconds.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from types import ModuleType
from typing import Literal

from mapsto.errors import UsageError, near
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import FileBacked
from mapsto.task.source import Source
from mapsto.task.target import Target

Role = Literal["source", "target"]

# The top-level assignments that make a file a kind of a role.
DEFINITIONS = {
    "source": re.compile(r"^source\s*(?::[^=\n]*)?=", re.MULTILINE),
    "target": re.compile(r"^(?:target|restored)\s*(?::[^=\n]*)?=", re.MULTILINE),
}


def names(role: Role) -> tuple[str, ...]:
    """Return the kinds that can stand on one side of an arrow, without importing them."""
    return _names(role, tuple(__path__))


@cache
def _names(role: Role, folders: tuple[str, ...]) -> tuple[str, ...]:
    modules = sorted(module.name for module in pkgutil.iter_modules(folders))
    return tuple(name for name in modules if DEFINITIONS[role].search(_code(name)))


def _code(name: str) -> str:
    """Return the source text of a kind's file."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None and isinstance(spec.loader, InspectLoader)
    return spec.loader.get_source(spec.name) or ""


def media() -> dict[str, tuple[str, ...]]:
    """Return the suffixes of files that are one value each, by source kind."""
    sources = {kind: source(kind) for kind in names("source")}
    return {kind: cls.suffixes for kind, cls in sources.items() if issubclass(cls, FileBacked)}


def source(kind: str) -> type[Source]:
    """Return the Source class of a kind. Raises UsageError naming the kinds there are."""
    _require(kind, "source")
    cls: type[Source] = _module(kind).source
    return cls


def target(kind: str, restored: bool = False) -> type[Target]:
    """Return the Target class of a kind.

    restored: whether the answer is the hidden part of a source behind `~`.

    Raises UsageError naming the kinds there are, and for a kind that is answered only where it is restored.
    """
    _require(kind, "target")
    module = _module(kind)
    attributes = ("restored", "target") if restored else ("target",)
    cls: type[Target] | None = next((getattr(module, name) for name in attributes if hasattr(module, name)), None)
    if cls is None:
        raise UsageError(f"a {kind} answer needs `~{kind}` among the sources; generated {kind} is not here yet")
    return cls


def targets() -> Iterator[type[Target]]:
    """Yield the Target classes that answer values of their own, each imported when its turn comes."""
    for name in names("target"):
        if hasattr(_module(name), "target"):
            yield _module(name).target


def reading(arrow: Arrow) -> dict[str, type[Source]]:
    """Return the Source class of each kind that an arrow reads. Raises UsageError."""
    return {port.kind: source(port.kind) for port in arrow.sources}


def answering(arrow: Arrow) -> list[type[Target]]:
    """Return the Target class of each target port of an arrow. Raises UsageError."""
    return [target(port.kind, port.restores is not None) for port in arrow.targets]


def _require(kind: str, role: Role) -> None:
    if kind not in names(role):
        raise UsageError(f"no {role} kind {kind!r} here{near(kind, names(role))}; there are: {', '.join(names(role))}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
