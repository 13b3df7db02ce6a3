"""The arrow notation of tasks, such as `text -> label`: parse it, check its kinds, bind its ports to columns.

side ("->" | "<->") side;   side = port ("," port)*;   port = ["~"] [column ":"] kind
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mapsto.errors import UsageError, near

Role = Literal["source", "target"]

NEEDS_QUOTES = re.compile(r'[,:~"]|->|^\s|\s$|^$')  # column names that must be quoted
TOKEN = re.compile(r'\s*(?:(?P<arrow><->|->)|(?P<sign>[,:~])|"(?P<quoted>[^"]*)"|(?P<name>(?:(?!<->|->)[^,:~"])+))')


class ArrowError(UsageError):
    """The error for an arrow that does not parse, or whose kinds or columns do not exist."""


@dataclass(frozen=True)
class Port:
    """One source or target of an arrow.

    kind: name of the kind of its values, such as "text".
    column: the table column that holds the values; None until the arrow is bound to a table.
    corrupted: True for a source behind `~`, part of which is hidden.
    restores: for a target that fills in a hidden source, the index of that source; set by Arrow.
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
    """A task: source ports, whose values are read, and target ports, whose values are predicted.

    symmetric: True for `<->`, which matches pairs of values.
    """

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
        """Return whether part of a source is hidden (`~`), as in pretraining."""
        return any(port.corrupted for port in self.sources)

    @property
    def body(self) -> Arrow:
        """Return the arrow of the same sources, none of them hidden (`~`), and without targets."""
        return Arrow(tuple(replace(port, corrupted=False) for port in self.sources), ())


def parse(text: str) -> Arrow:
    """Return the arrow that a text such as "text -> label" describes; the inverse of `str(arrow)`.

    Raises ArrowError, which says where the text is wrong.
    """
    tokens = _tokens(text)
    arrows = [i for i, (kind, _) in enumerate(tokens) if kind == "arrow"]
    if len(arrows) > 1:
        raise ArrowError(f"{text!r} has {len(arrows)} arrows; a task has one, such as 'text -> label'")
    if not arrows:
        raise ArrowError(f"{text!r} has no arrow; write a task as 'sources -> targets', such as 'text -> label'")
    middle = arrows[0]
    symmetric = tokens[middle][1] == "<->"
    sources, targets = (
        _side(tokens[:middle], text, "before the arrow of"),
        _side(tokens[middle + 1 :], text, "behind the arrow of"),
    )
    for number, port in enumerate(targets, 1):
        if port.corrupted:
            raise ArrowError(
                f"port {number} behind the arrow of {text!r} has a '~'; only what is read can be hidden in part"
            )
    return Arrow(sources, targets, symmetric)


def parse_ports(text: str) -> tuple[Port, ...]:
    """Return the ports of one side of an arrow, such as "title:text, image". Raises ArrowError."""
    return _side(_tokens(text), text, "in")


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return (kind, text) for each token of an arrow; kinds are "arrow", "sign", "quoted" and "name". Raises ArrowError."""
    tokens, position = [], 0
    while text[position:].strip():
        match = TOKEN.match(text, position)
        if match is None:
            raise ArrowError(f"cannot read {text!r} from character {position + 1} on: {text[position:]!r}")
        kind = match.lastgroup or "name"
        value = match.group(kind)
        tokens.append((kind, value if kind == "quoted" else value.strip()))
        position = match.end()
    return tokens


def _side(tokens: list[tuple[str, str]], text: str, location: str) -> tuple[Port, ...]:
    """Return the ports of one side of an arrow from its tokens. Raises ArrowError.

    text: the whole arrow. location: words for the side in messages, such as "before the arrow of".
    """
    groups: list[list[tuple[str, str]]] = [[]]
    for token in tokens:
        if token == ("sign", ","):
            groups.append([])
        else:
            groups[-1].append(token)
    return tuple(_port(group, f"port {i} {location} {text!r}") for i, group in enumerate(groups, 1))


def _port(tokens: list[tuple[str, str]], name: str) -> Port:
    """Return the port that consists of these tokens. Raises ArrowError, whose message calls the port `name`."""
    corrupted = bool(tokens) and tokens[0] == ("sign", "~")
    shape = [value if kind == "sign" else "word" for kind, value in tokens[corrupted:]]
    words = [value for kind, value in tokens[corrupted:] if kind != "sign"]
    if shape not in (["word"], ["word", ":", "word"]):
        text = "".join(value for _, value in tokens) or "nothing"
        raise ArrowError(f"{name} is {text!r}; a port is [~][column:]kind, such as 'text', '~text' or 'review:text'")
    if not words[-1].isidentifier():
        raise ArrowError(
            f"{name}: {words[-1]!r} is no kind; a kind is one word, and a column stands before it as in 'review:text'"
        )
    return Port(words[-1], words[0] if len(words) == 2 else None, corrupted)


def require_kinds(arrow: Arrow, sources: Iterable[str], targets: Iterable[str]) -> None:
    """Raise ArrowError if a kind that cannot be read is among the sources, or one that cannot be predicted among the targets.

    sources, targets: names of the kinds that can be read, and of those that can be predicted.
    """
    allowed = {"read": list(sources), "answered": list(targets)}
    for verb, ports in (("read", arrow.sources), ("answered", arrow.targets)):
        opposite = allowed["answered" if verb == "read" else "read"]
        for port in ports:
            if port.kind in allowed[verb]:
                continue
            if port.kind in opposite:
                raise ArrowError(f"{port.kind!r} cannot be {verb}; what can be: {', '.join(allowed[verb])}")
            everything = sorted({*allowed["read"], *allowed["answered"]})
            hint = near(port.kind, everything)
            raise ArrowError(f"no kind {port.kind!r} here{hint}; there are: {', '.join(everything)}")


def bind(arrow: Arrow, columns: Sequence[str], fits: Callable[[str, str, Role], bool]) -> Arrow:
    """Return the arrow with a column for every port.

    A port takes the column that it names, else the column with the name of its kind, else the only column that fits. In an
    arrow with `~`, the i-th target of a kind shares the column of the i-th source of that kind.

    fits: function of (kind, column, role) that says whether such a port can read the column.
    Raises ArrowError, which lists the columns, if no column or several columns are left for a port.
    """
    column_list = _list_columns(columns)
    ports: list[tuple[Role, Port]] = [("source", p) for p in arrow.sources] + [("target", p) for p in arrow.targets]
    shared = _shared(arrow)
    free = [i for i in range(len(ports)) if i not in shared]
    bound_columns: dict[int, str] = {}
    for i in free:
        # Named columns first, so that no other port takes them.
        column = ports[i][1].column
        if column is not None and column not in columns:
            raise ArrowError(f"no column {column!r}{near(column, columns)}; the columns are: {column_list}")
        if column is not None:
            bound_columns[i] = column
    for i in free:
        kind = ports[i][1].kind
        ports_of_kind = [j for j in free if ports[j][1].kind == kind and ports[j][1].column is None]
        if (
            i not in bound_columns
            and kind in columns
            and kind not in bound_columns.values()
            and len(ports_of_kind) == 1
        ):
            bound_columns[i] = kind
    # Each round may take a column that also fits another port, and so leave that port a single candidate.
    while len(bound_columns) < len(free):
        candidates = {
            i: [c for c in columns if c not in bound_columns.values() and fits(ports[i][1].kind, c, ports[i][0])]
            for i in free
            if i not in bound_columns
        }
        unique = {i: names[0] for i, names in candidates.items() if len(names) == 1}
        if not unique or len(set(unique.values())) < len(unique):
            raise _unbound(ports, candidates, column_list)
        bound_columns |= unique
    bound_columns |= {i: bound_columns[source] for i, source in shared.items()}
    bound = [replace(port, column=bound_columns[i]) for i, (_, port) in enumerate(ports)]
    return replace(arrow, sources=tuple(bound[: len(arrow.sources)]), targets=tuple(bound[len(arrow.sources) :]))


def _list_columns(columns: Sequence[str]) -> str:
    """Return the names of the columns for a message, with a hint if the file's cells seem to have another separator."""
    listing = ", ".join(map(repr, columns)) or "none"
    # A single column whose name has a separator hints at a file with another separator than its suffix says.
    mark = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    return (
        listing
        if mark is None
        else f"{listing} (its cells seem to be separated by {mark!r}; .csv has commas, .tsv tabs)"
    )


def _unbound(ports: list[tuple[Role, Port]], candidates: dict[int, list[str]], column_list: str) -> ArrowError:
    """Return the error for ports to which no column can be assigned.

    candidates: by index of the port, the columns that the port could read. column_list: all columns in words.
    """
    # Report a port without any candidate first: it is the clearest error.
    i = min(candidates, key=lambda i: (len(candidates[i]) > 0, i))
    kind, names = ports[i][1].kind, candidates[i]
    if not names:
        return ArrowError(
            f"no column left can be {kind!r}; the columns are: {column_list}. Name one, as in 'column:{kind}'"
        )
    several = ", ".join(map(repr, names))
    alike = list(candidates.values()).count(names)
    if len(names) == 1 and alike > 1:
        return ArrowError(f"{alike} ports are left for the one column {several}; the columns are: {column_list}")
    return ArrowError(
        f"{kind!r} could be the column {several}; say which, as in '{names[0]}:{kind}'. The columns are: {column_list}"
    )


def _shared(arrow: Arrow) -> dict[int, int]:
    """Return {port index: source index} of the targets that fill in a source and so share its column, in an arrow with `~`.

    Port indices count all sources first, then the targets.
    """
    if not arrow.corrupted:
        return {}
    shared = {}
    for i, port in enumerate(arrow.targets):
        nth = sum(earlier.kind == port.kind for earlier in arrow.targets[:i])
        sources_of_kind = [j for j, source in enumerate(arrow.sources) if source.kind == port.kind]
        if port.column is None and nth < len(sources_of_kind):
            shared[len(arrow.sources) + i] = sources_of_kind[nth]
    return shared
