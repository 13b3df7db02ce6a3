"""The notation: parse, check, bind to columns, print. A task is an arrow between kinds of values.

side ("->" | "<->") side;   side = port ("," port)*;   port = ["~"] [column ":"] kind
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mapsto.errors import UsageError, near

Role = Literal["source", "target"]


NEEDS_QUOTES = re.compile(r'[,:~"]|->|^\s|\s$|^$')


TOKEN = re.compile(r'\s*(?:(?P<arrow><->|->)|(?P<sign>[,:~])|"(?P<quoted>[^"]*)"|(?P<name>(?:(?!<->|->)[^,:~"])+))')


class ArrowError(UsageError):
    """An arrow that does not parse, or does not fit the kinds or columns at hand."""


@dataclass(frozen=True)
class Port:
    """One value of an example.

    kind: the name of its kind, such as "text".
    column: the column it is read from; None until the arrow is bound to a table.
    corrupted: True for a source that `~` hides in part.
    restores: for a target that reconstructs a corrupted source, the number of that source; set by the arrow.
    """

    kind: str
    column: str | None = None
    corrupted: bool = False
    restores: int | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        column = (
            ""
            if self.column is None
            else f'"{self.column}":'
            if NEEDS_QUOTES.search(self.column)
            else f"{self.column}:"
        )
        return f"{'~' if self.corrupted else ''}{column}{self.kind}"


@dataclass(frozen=True)
class Arrow:
    """A task: what is read and what is answered; symmetric for `<->`, a match of pairs."""

    sources: tuple[Port, ...]
    targets: tuple[Port, ...]
    symmetric: bool = False

    def __post_init__(self) -> None:
        # A target reconstructs the corrupted source of its kind and column.
        numbers = {(port.kind, port.column): i for i, port in enumerate(self.sources) if port.corrupted}
        targets = tuple(replace(port, restores=numbers.get((port.kind, port.column))) for port in self.targets)
        object.__setattr__(self, "targets", targets)

    def __str__(self) -> str:
        sides = (", ".join(map(str, side)) for side in (self.sources, self.targets) if side)
        return (" <-> " if self.symmetric else " -> ").join(sides)

    @property
    def corrupted(self) -> bool:
        """Whether a source is hidden in part, so that the arrow needs no labels for what it puts back."""
        return any(port.corrupted for port in self.sources)

    @property
    def body(self) -> Arrow:
        """What is read, none of it hidden, and nothing answered."""
        return Arrow(tuple(replace(port, corrupted=False) for port in self.sources), ())


def parse(text: str) -> Arrow:
    """The arrow that `text` writes; parse(str(arrow)) == arrow. Raises ArrowError saying where it goes wrong."""
    tokens = _tokens(text)
    arrows = [i for i, (kind, _) in enumerate(tokens) if kind == "arrow"]
    if len(arrows) > 1:
        raise ArrowError(f"{text!r} has {len(arrows)} arrows; a task has one, such as 'text -> label'")
    if not arrows:
        raise ArrowError(f"{text!r} has no arrow; write a task as 'sources -> targets', such as 'text -> label'")
    at = arrows[0]
    symmetric = tokens[at][1] == "<->"
    sources, targets = (
        _side(tokens[:at], text, "before the arrow of"),
        _side(tokens[at + 1 :], text, "behind the arrow of"),
    )
    for number, port in enumerate(targets, 1):
        if port.corrupted:
            raise ArrowError(
                f"port {number} behind the arrow of {text!r} has a '~'; only what is read can be hidden in part"
            )
    return Arrow(sources, targets, symmetric)


def parse_ports(text: str) -> tuple[Port, ...]:
    """One side of an arrow. Raises ArrowError."""
    return _side(_tokens(text), text, "in")


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            raise ArrowError(f"cannot read {text!r} from character {at + 1} on: {text[at:]!r}")
        kind = match.lastgroup or "name"
        value = match.group(kind)
        found.append((kind, value if kind == "quoted" else value.strip()))
        at = match.end()
    return found


def _side(tokens: list[tuple[str, str]], text: str, where: str) -> tuple[Port, ...]:
    groups: list[list[tuple[str, str]]] = [[]]
    for token in tokens:
        if token == ("sign", ","):
            groups.append([])
        else:
            groups[-1].append(token)
    return tuple(_port(group, f"port {i} {where} {text!r}") for i, group in enumerate(groups, 1))


def _port(tokens: list[tuple[str, str]], name: str) -> Port:
    corrupted = bool(tokens) and tokens[0] == ("sign", "~")
    shape = [value if kind == "sign" else "word" for kind, value in tokens[corrupted:]]
    words = [value for kind, value in tokens[corrupted:] if kind != "sign"]
    if shape not in (["word"], ["word", ":", "word"]):
        got = "".join(value for _, value in tokens) or "nothing"
        raise ArrowError(f"{name} is {got!r}; a port is [~][column:]kind, such as 'text', '~text' or 'review:text'")
    if not words[-1].isidentifier():
        raise ArrowError(
            f"{name}: {words[-1]!r} is no kind; a kind is one word, and a column stands before it as in 'review:text'"
        )
    return Port(words[-1], words[0] if len(words) == 2 else None, corrupted)


def require_kinds(arrow: Arrow, sources: Iterable[str], targets: Iterable[str]) -> None:
    """Raise ArrowError unless every port's kind is among those that can stand on its side."""
    allowed = {"read": list(sources), "answered": list(targets)}
    for verb, ports in (("read", arrow.sources), ("answered", arrow.targets)):
        other = allowed["answered" if verb == "read" else "read"]
        for port in ports:
            if port.kind in allowed[verb]:
                continue
            if port.kind in other:
                raise ArrowError(f"{port.kind!r} cannot be {verb}; what can be: {', '.join(allowed[verb])}")
            everything = sorted({*allowed["read"], *allowed["answered"]})
            hint = near(port.kind, everything)
            raise ArrowError(f"no kind {port.kind!r} here{hint}; there are: {', '.join(everything)}")


def bind(arrow: Arrow, columns: Sequence[str], fits: Callable[[str, str, Role], bool]) -> Arrow:
    """Give every port its column: the one it names, else the one with its kind's name, else the only one that can be it.

    In an arrow with `~`, the i-th target of a kind shares the column of the i-th source of that kind. Raises ArrowError
    that lists the columns when one is missing or could be several.
    """
    listed = _listed(columns)
    ports: list[tuple[Role, Port]] = [("source", p) for p in arrow.sources] + [("target", p) for p in arrow.targets]
    shared = _shared(arrow)
    free = [i for i in range(len(ports)) if i not in shared]
    found: dict[int, str] = {}
    for i in free:
        column = ports[i][1].column
        if column is not None and column not in columns:
            raise ArrowError(f"no column {column!r}{near(column, columns)}; the columns are: {listed}")
        if column is not None:
            found[i] = column
    for i in free:
        kind = ports[i][1].kind
        same = [j for j in free if ports[j][1].kind == kind and ports[j][1].column is None]
        if i not in found and kind in columns and kind not in found.values() and len(same) == 1:
            found[i] = kind
    while len(found) < len(free):
        candidates = {
            i: [c for c in columns if c not in found.values() and fits(ports[i][1].kind, c, ports[i][0])]
            for i in free
            if i not in found
        }
        sure = {i: names[0] for i, names in candidates.items() if len(names) == 1}
        if not sure or len(set(sure.values())) < len(sure):
            raise _unbound(ports, candidates, listed)
        found |= sure
    found |= {i: found[source] for i, source in shared.items()}
    bound = [replace(port, column=found[i]) for i, (_, port) in enumerate(ports)]
    return replace(arrow, sources=tuple(bound[: len(arrow.sources)]), targets=tuple(bound[len(arrow.sources) :]))


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(map(repr, columns)) or "none"
    mark = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    return shown if mark is None else f"{shown} (its cells seem to be parted by {mark!r}; .csv has commas, .tsv tabs)"


def _unbound(ports: list[tuple[Role, Port]], candidates: dict[int, list[str]], listed: str) -> ArrowError:
    i = min(candidates, key=lambda i: (len(candidates[i]) > 0, i))
    kind, names = ports[i][1].kind, candidates[i]
    if not names:
        return ArrowError(f"no column left can be {kind!r}; the columns are: {listed}. Name one, as in 'column:{kind}'")
    several = ", ".join(map(repr, names))
    alike = list(candidates.values()).count(names)
    if len(names) == 1 and alike > 1:
        return ArrowError(f"{alike} ports are left for the one column {several}; the columns are: {listed}")
    return ArrowError(
        f"{kind!r} could be the column {several}; say which, as in '{names[0]}:{kind}'. The columns are: {listed}"
    )


def _shared(arrow: Arrow) -> dict[int, int]:
    """Target ports (numbered behind the sources) that take the column of a source, in arrows with `~`."""
    if not arrow.corrupted:
        return {}
    shared = {}
    for i, port in enumerate(arrow.targets):
        nth = sum(before.kind == port.kind for before in arrow.targets[:i])
        same = [j for j, source in enumerate(arrow.sources) if source.kind == port.kind]
        if port.column is None and nth < len(same):
            shared[len(arrow.sources) + i] = same[nth]
    return shared
