"""The registry of kinds of values. Each file in this package is one kind, and the file's name is the kind's name.

A kind's file defines one or several of: `source`, a Source class (task/source.py); `target`, the Target class
(task/target.py) of answers; `restored`, the Target class that fills in the hidden part of a source, if that is another
class. Nothing else has to be edited to add a kind.

A kind's file is imported only when the kind is used, since importing torch modules takes seconds. Which roles a file
defines is read from its text, which takes a millisecond.
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
    """Return the names of the kinds that can be a "source" or a "target" (`role`), without importing their files."""
    return _names(role, tuple(__path__))


@cache
def _names(role: Role, folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the kinds with this role, cached by `folders`, the folders of this package."""
    modules = sorted(module.name for module in pkgutil.iter_modules(folders))
    return tuple(name for name in modules if DEFINITIONS[role].search(_code(name)))


def _code(name: str) -> str:
    """Return the Python code of the file that defines a kind."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None and isinstance(spec.loader, InspectLoader)
    return spec.loader.get_source(spec.name) or ""


def media() -> dict[str, tuple[str, ...]]:
    """Return the suffixes of the files whose content is one value, by source kind, such as {"image": (".jpg", …)}."""
    sources = {kind: source(kind) for kind in names("source")}
    return {kind: cls.suffixes for kind, cls in sources.items() if issubclass(cls, FileBacked)}


def source(kind: str) -> type[Source]:
    """Return the Source class of a kind. Raises UsageError, which names all kinds, if there is none."""
    # Checked by name first, so that a misspelt kind gets a hint, not an ImportError.
    _require(kind, "source")
    cls: type[Source] = _module(kind).source
    return cls


def target(kind: str, restored: bool = False) -> type[Target]:
    """Return the Target class of a kind.

    restored: whether the answer is the hidden part of a source, written with `~`.

    Raises UsageError if there is no such kind, or if the kind can be answered only as the hidden part of a source.
    """
    _require(kind, "target")
    module = _module(kind)
    # A kind without a `restored` of its own fills in hidden parts by its `target`.
    attributes = ("restored", "target") if restored else ("target",)
    cls: type[Target] | None = next((getattr(module, name) for name in attributes if hasattr(module, name)), None)
    if cls is None:
        raise UsageError(f"a {kind} answer needs `~{kind}` among the sources; generated {kind} is not here yet")
    return cls


def targets() -> Iterator[type[Target]]:
    """Yield the Target class of each kind that can be answered without hiding part of a source.

    A kind's file is imported only when its class is reached.
    """
    for name in names("target"):
        if hasattr(_module(name), "target"):
            yield _module(name).target


def reading(arrow: Arrow) -> dict[str, type[Source]]:
    """Return the Source class of each kind that an arrow reads, by kind. Raises UsageError for a kind that cannot be read."""
    return {port.kind: source(port.kind) for port in arrow.sources}


def answering(arrow: Arrow) -> list[type[Target]]:
    """Return the Target class of each target port of an arrow, in order. Raises UsageError for a kind that cannot be answered."""
    return [target(port.kind, port.restores is not None) for port in arrow.targets]


def _require(kind: str, role: Role) -> None:
    """Raise UsageError if no kind of this name can be a "source" or a "target", as `role` says."""
    if kind not in names(role):
        raise UsageError(f"no {role} kind {kind!r} here{near(kind, names(role))}; there are: {', '.join(names(role))}")


def _module(name: str) -> ModuleType:
    """Import the file of a kind and return its module."""
    return importlib.import_module(f"{__name__}.{name}")
