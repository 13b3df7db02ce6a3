"""The registry of kinds of values. Each file in this package is one kind, and the file's name is the kind's name.

A kind's file assigns at least one of three names: `source`, the Source class (task/source.py) that reads values; `target`,
the Target class (task/target.py) that predicts values; `restored`, the Target class that predicts the hidden part of a `~`
source, where that is not `target`; and beside `target` perhaps `aligned`, the Target class that reads a value along the tokens
of a source instead of generating it, or `synthesised`, the Target class of a value that is made with no source of its own kind.
Nothing else has to be edited to add a kind.

A kind's file is imported only when the kind is used, since importing torch modules takes seconds. The names that a file
assigns are found by searching its text, which takes a millisecond.
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
from mapsto.task.arrow import MATCH, Arrow
from mapsto.task.capabilities import FileBacked
from mapsto.task.generation import Generated
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
    """Return the sorted names of the kinds with this role, from the kinds' files in `folders`, without importing them.

    The result is cached. A change of `folders`, the search path of this package, is searched anew.
    """
    modules = sorted(module.name for module in pkgutil.iter_modules(folders))
    return tuple(name for name in modules if DEFINITIONS[role].search(_code(name)))


def _code(name: str) -> str:
    """Return the source code of the kind's file in this package. Raises AssertionError if there is no such file."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None and isinstance(spec.loader, InspectLoader)
    return spec.loader.get_source(spec.name) or ""


def media() -> dict[str, tuple[str, ...]]:
    """Return the file suffixes of each source kind whose values can be stored as files, such as {"image": (".jpg", …)}."""
    sources = {kind: source(kind) for kind in names("source")}
    return {kind: cls.suffixes for kind, cls in sources.items() if issubclass(cls, FileBacked)}


def source(kind: str) -> type[Source]:
    """Return the Source class of a kind.

    If the kind does not exist or cannot be read, raises UsageError listing those that can.
    """
    # Checked by name first, so that a misspelt kind gets a hint, not an ImportError.
    _require(kind, "source")
    cls: type[Source] = _module(kind).source
    return cls


def target(kind: str, restored: bool = False, aligned: bool = False, is_read: bool = True) -> type[Target]:
    """Return the Target class of a kind.

    restored: whether the answer is the hidden part of a source, written with `~`.
    aligned: whether the answer is read along the tokens of the source; only for kinds with `can_align`.
    is_read: whether the arrow reads a value of the kind too.

    Raises UsageError if there is no such kind, or if the kind can be answered only as the hidden part of a source.
    """
    _require(kind, "target")
    module = _module(kind)
    # A kind without a `restored` of its own fills in hidden parts by its `target`.
    attributes = ("restored", "target") if restored else ("aligned",) if aligned else ("target",)
    if not is_read and not aligned:
        # A kind without a `synthesised` of its own answers by its `target`.
        attributes = ("synthesised", *attributes)
    cls: type[Target] | None = next((getattr(module, name) for name in attributes if hasattr(module, name)), None)
    if cls is None:
        raise UsageError(f"a {kind} answer needs `~{kind}` among the sources; generated {kind} is not here yet")
    return cls


def can_align(kind: str) -> bool:
    """Return whether answers of a kind can be read along the tokens of a source, such as a transcript along a sound."""
    return kind in names("target") and hasattr(_module(kind), "aligned")


def targets() -> Iterator[type[Target]]:
    """Yield the Target classes by name of the kind, but not of kinds that are predicted only as the hidden part of a source.

    A kind's file is imported when the iteration reaches it.
    """
    for name in names("target"):
        if hasattr(_module(name), "target"):
            yield _module(name).target


def reading(arrow: Arrow) -> dict[str, type[Source]]:
    """Return {kind: Source class} of the arrow's source ports. Raises UsageError if one of their kinds cannot be read."""
    return {port.kind: source(port.kind) for port in arrow.sources}


def embedded(arrow: Arrow) -> list[str]:
    """Return the kinds whose values become tokens of a model: first those that it reads, then those that it only generates."""
    read = sorted({port.kind for port in arrow.sources})
    generated = {target.kind for target in answering(arrow) if issubclass(target, Generated)}
    return [*read, *sorted(generated - {*read})]


def answering(arrow: Arrow) -> list[type[Target]]:
    """Return the Target class of each target port of an arrow, in the order of the ports.

    A port that fills in a `~` source gets the kind's class for that, an aligned port the class that reads along the source, one
    of a kind that is not read the class that makes it, and the port of `<->` the class of pairs with or without scores.
    Raises UsageError if a kind cannot be predicted.
    """
    if arrow.symmetric:
        module = _module(MATCH)
        return [module.scored if arrow.is_scored else module.matched for _ in arrow.targets]
    read = {port.kind for port in arrow.sources}
    return [target(port.kind, port.restores is not None, port.aligned, port.kind in read) for port in arrow.targets]


def _require(kind: str, role: Role) -> None:
    """Raise UsageError unless `kind` is the name of a kind that can have the role `role`."""
    if kind not in names(role):
        raise UsageError(f"no {role} kind {kind!r} here{near(kind, names(role))}; there are: {', '.join(names(role))}")


def _module(name: str) -> ModuleType:
    """Import the file of the kind `name` in this package, and return the module. Raises ImportError if there is no such file."""
    return importlib.import_module(f"{__name__}.{name}")
