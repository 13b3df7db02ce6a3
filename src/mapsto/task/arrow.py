"""The arrow notation of tasks, such as `text -> label`: parse it, check its kinds, choose a column of a table for each port.

Grammar: arrow = side ("->" | "<->") side;   side = port ("," port)*;   port = ["~"] [column ":"] kind

`query:text <-> passage:text` matches the two values of a row. Further ports of the second one's kind are hard negatives, which do
not belong to the query; a port of another kind is the score of the pair: `a:text <-> b:text, score:number`.
One column on both sides has values that mean the same, in a list, `set:text <-> set:text`, or in rows with the same label,
`text <-> text, topic:label`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mapsto.errors import UsageError, near

Role = Literal["source", "target"]

NEEDS_QUOTES = re.compile(r'[,:~"→↔⟶⟷]|->|^\s|\s$|^$')  # column names that must be quoted
# The kind of the answer of `<->`: whether two values belong together. It is not written, since the sign says it.
MATCH = "match"
# The kind of a port behind `<->` by which rows are grouped: values with the same label mean the same.
GROUP = "label"
# Signs that text processors and people write for an arrow.
SIGNS = {"→": "->", "⟶": "->", "↔": "<->", "⟷": "<->"}
TOKEN = re.compile(
    r'\s*(?:(?P<arrow><->|->|[→↔⟶⟷])|(?P<sign>[,:~])|"(?P<quoted>[^"]*)"|(?P<name>(?:(?!<->|->)[^,:~"→↔⟶⟷])+))'
)


class ArrowError(UsageError):
    """The error for an arrow that does not parse, or whose kinds or columns do not exist."""


@dataclass(frozen=True)
class Port:
    """One source or target of an arrow.

    kind: name of the kind of its values, such as "text".
    column: the table column that holds the values; None until `bind` chooses one.
    corrupted: True for a source written with `~`, part of which is hidden.
    restores: for a target that predicts the hidden part of a source, the index of that source among the sources; else None.
    Arrow sets it.
    aligned: for a target whose answers are read along the tokens of the source, and not generated. The notation does not say it:
    a fit chooses it (fitting/answer_way.py), and a saved model records it.
    """

    kind: str
    column: str | None = None
    corrupted: bool = False
    restores: int | None = field(default=None, compare=False, repr=False)
    aligned: bool = field(default=False, compare=False, repr=False)

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

    symmetric: True for `<->`, which learns to match the two values of a row. Then `sources` has the values on both sides: the
        query, what belongs to it, and hard negatives. The only target is the score of a pair, the group of a value (GROUP), or
        a port of the kind MATCH.
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
        sides = (self.sources, self.targets)
        if self.symmetric:
            sides = (self.sources[:1], (*self.sources[1:], *(port for port in self.targets if port.kind != MATCH)))
        return (" <-> " if self.symmetric else " -> ").join(", ".join(map(str, side)) for side in sides if side)

    @property
    def corrupted(self) -> bool:
        """Return whether a source is written with `~`, so that part of its values is hidden, as in pretraining."""
        return any(port.corrupted for port in self.sources)

    @property
    def is_prompted(self) -> bool:
        """Return whether the one source is a prompt, to which the answers are values of the same kind, such as `text -> text`."""
        kinds = {port.kind for port in (*self.sources, *self.targets)}
        return len(self.sources) == len(kinds) == 1 and bool(self.targets) and not (self.symmetric or self.corrupted)

    @property
    def is_grouped(self) -> bool:
        """Return whether both sides of `<->` are one column, whose values mean the same within a list or a group of rows."""
        if not self.symmetric:
            return False
        first, second = self.sources[:2]
        is_one_column = first == second and first.column is not None
        return is_one_column or any(port.kind == GROUP for port in self.targets)

    @property
    def is_scored(self) -> bool:
        """Return whether the pairs of a symmetric arrow have scores."""
        return self.symmetric and not self.is_grouped and any(port.kind != MATCH for port in self.targets)

    @property
    def keys(self) -> tuple[Port, ...]:
        """Return the sources by which rows are compared: without hard negatives, and of a grouped arrow a row's own value."""
        return self.sources if not self.symmetric else self.sources[:1] if self.is_grouped else self.sources[:2]

    @property
    def body(self) -> Arrow:
        """Return an arrow with the same sources, each without `~`, and without targets."""
        return Arrow(tuple(replace(port, corrupted=False) for port in self.sources), ())

    @property
    def pair(self) -> Arrow:
        """Return a symmetric arrow without its hard negatives, which only training reads."""
        return replace(self, sources=self.sources[:2])

    def align(self, ports: Iterable[int]) -> Arrow:
        """Return the arrow whose target ports with these indices, and no others, are read along the source."""
        aligned = set(ports)
        targets = (replace(port, aligned=index in aligned) for index, port in enumerate(self.targets))
        return replace(self, targets=tuple(targets))

    def side(self, place: int) -> Arrow:
        """Return an arrow with one source of a symmetric arrow, number `place`, and no targets."""
        return Arrow((self.sources[place],), ())


def parse(text: str) -> Arrow:
    """Return the arrow that a text such as "text -> label" describes; the inverse of `str(arrow)`.

    Raises ArrowError if the text is not a valid arrow; the message gives the place of the error.
    """
    if not isinstance(text, str):  # as in scikit-learn's fit(X, y)
        raise ArrowError(f"the task comes first, as text such as 'text -> label', and not {type(text).__name__}")
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
    return _matching(sources, targets, text) if symmetric else Arrow(sources, targets)


def _matching(queries: tuple[Port, ...], others: tuple[Port, ...], text: str) -> Arrow:
    """Return the symmetric arrow with these ports on its sides. text: the arrow, for messages.

    Raises ArrowError for several queries, hidden parts, several scores, and hard negatives beside a score.
    """
    if len(queries) > 1:
        raise ArrowError(f"{text!r} has {len(queries)} ports before '<->'; there is one, such as 'query:text'")
    if queries[0].corrupted:
        raise ArrowError(f"{text!r} hides a part of what it matches; '~' is for arrows with '->'")
    matched = tuple(port for port in others if port.kind == others[0].kind)
    scores = tuple(port for port in others if port.kind != others[0].kind)
    if len(scores) > 1 or (scores and len(matched) > 1):
        raise ArrowError(
            f"{text!r} has behind '<->' {', '.join(map(str, others))}; there is one value to match, and beside it either "
            "values of its kind that do not match, or one score"
        )
    arrow = Arrow((*queries, *matched), scores or (Port(MATCH),), symmetric=True)
    if arrow.is_grouped:
        _require_one_column(arrow, text)
    return arrow


def _require_one_column(arrow: Arrow, text: str) -> None:
    """Raise ArrowError unless the sources of a grouped arrow can be one column. text: the arrow, for messages."""
    names = list(dict.fromkeys(port.column for port in arrow.sources if port.column is not None))
    if len(names) > 1 or len(arrow.sources) > 2 or len({port.kind for port in arrow.sources}) > 1:
        raise ArrowError(
            f"{text!r} groups values of one column that mean the same, as in 'text <-> text, topic:label' or "
            "'set:text <-> set:text'; the score of a pair is a number, as in 'a:text <-> b:text, score:number'"
        )
    if any(port.kind not in (MATCH, GROUP) for port in arrow.targets):
        raise ArrowError(f"{text!r} has a score, which is of two columns, and one column on both sides")


def parse_ports(text: str) -> tuple[Port, ...]:
    """Return the ports that a text such as "title:text, image" lists, without an arrow sign.

    Raises ArrowError if it is invalid.
    """
    return _side(_tokens(text), text, "in")


def _tokens(text: str) -> list[tuple[str, str]]:
    """Return the tokens of an arrow's text as pairs (type, text). Raises ArrowError for characters that are no token.

    The types are "arrow" (-> or <->), "sign" (comma, colon or ~), "quoted" (without the quotes) and "name".
    """
    tokens, position = [], 0
    while text[position:].strip():
        match = TOKEN.match(text, position)
        if match is None:
            raise ArrowError(f"cannot read {text!r} from character {position + 1} on: {text[position:]!r}")
        kind = match.lastgroup or "name"
        value = SIGNS.get(match.group(kind), match.group(kind)) if kind == "arrow" else match.group(kind)
        tokens.append((kind, value if kind == "quoted" else value.strip()))
        position = match.end()
    return tokens


def _side(tokens: list[tuple[str, str]], text: str, location: str) -> tuple[Port, ...]:
    """Return the ports on one side of an arrow sign from the tokens of that side. Raises ArrowError for an invalid port.

    text: the whole arrow. location: words for the side in error messages, such as "before the arrow of".
    """
    groups: list[list[tuple[str, str]]] = [[]]
    for token in tokens:
        if token == ("sign", ","):
            groups.append([])
        else:
            groups[-1].append(token)
    return tuple(_port(group, f"port {i} {location} {text!r}") for i, group in enumerate(groups, 1))


def _port(tokens: list[tuple[str, str]], name: str) -> Port:
    """Return the port that these tokens describe. Raises ArrowError if they are no port.

    name: words for the port in the message, such as "port 1 before the arrow of 'text -> label'".
    """
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
    """Raise ArrowError if a source port has a kind not in `sources`, or a target port has a kind not in `targets`.

    sources, targets: names of all kinds that can be read, and of all kinds that can be predicted.
    """
    allowed = {"read": list(sources), "answered": list(targets)}
    written = [port for port in arrow.targets if port.kind != MATCH]
    for verb, ports in (("read", arrow.sources), ("answered", written)):
        opposite = allowed["answered" if verb == "read" else "read"]
        for port in ports:
            if port.kind in allowed[verb]:
                continue
            if port.kind in opposite:
                raise ArrowError(f"{port.kind!r} cannot be {verb}; what can be: {', '.join(allowed[verb])}")
            everything = sorted({*allowed["read"], *allowed["answered"]})
            hint = near(port.kind, everything)
            raise ArrowError(f"no kind {port.kind!r} here{hint}; there are: {', '.join(everything)}")


def bind(
    arrow: Arrow,
    columns: Sequence[str],
    fits: Callable[[str, str, Role], bool],
    advise: Callable[[str], str] = lambda kind: "",
    is_fixed: bool = False,
) -> Arrow:
    """Return a copy of the arrow in which every port has a column.

    A port gets the column that it names; else the one with the name of its kind, if no other port wants it; else the only free
    column that fits. In an arrow with `~`, the i-th target of a kind gets the column of the i-th source of that kind.
    fits: function (kind, column, "source" or "target") that returns whether a port of this kind can use the column.
    advise: function (kind) that returns what to do where no column fits a port of this kind, or "".
    is_fixed: whether the arrow is that of a model, in which the user names no columns.
    Raises ArrowError, listing the columns, if a named column is missing, or if a port has no column or several to choose from.
    """
    column_list = _list_columns(columns)
    ports: list[tuple[Role, Port]] = [("source", p) for p in arrow.sources] + [("target", p) for p in arrow.targets]
    shared = _shared(arrow)
    free = [i for i, (_, port) in enumerate(ports) if i not in shared and port.kind != MATCH]
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
            raise _unbound(ports, candidates, column_list, advise, is_fixed)
        bound_columns |= unique
    bound_columns |= {i: bound_columns[source] for i, source in shared.items()}
    bound = [replace(port, column=bound_columns.get(i)) for i, (_, port) in enumerate(ports)]
    return replace(arrow, sources=tuple(bound[: len(arrow.sources)]), targets=tuple(bound[len(arrow.sources) :]))


def _list_columns(columns: Sequence[str]) -> str:
    """Return the column names for a message.

    For a single name with a separator in it, add a hint that the file uses this separator.
    """
    listing = ", ".join(map(repr, columns)) or "none"
    # A single column whose name has a separator hints at a file with another separator than its suffix says.
    mark = next((mark for mark in ";\t|" if len(columns) == 1 and mark in columns[0]), None)
    return (
        listing
        if mark is None
        else f"{listing} (its cells seem to be separated by {mark!r}; .csv has commas, .tsv tabs)"
    )


def _unbound(
    ports: list[tuple[Role, Port]],
    candidates: dict[int, list[str]],
    column_list: str,
    advise: Callable[[str], str],
    is_fixed: bool,
) -> ArrowError:
    """Return the error to raise for ports that have no column, or several to choose from. It describes one of these ports.

    ports: (role, port) for all ports. candidates: {index of a port without column: the free columns that fit it}.
    column_list: all columns in words, for the message. advise, is_fixed: as of `bind`.
    """
    # Report a port without any candidate first: it is the clearest error.
    i = min(candidates, key=lambda i: (len(candidates[i]) > 0, i))
    kind, names = ports[i][1].kind, candidates[i]
    if not names:
        advice = advise(kind) or f"Name one, as in 'column:{kind}'"
        return ArrowError(f"no column left can be {kind!r}; the columns are: {column_list}. {advice}")
    several = ", ".join(map(repr, names))
    alike = list(candidates.values()).count(names)
    if len(names) == 1 and alike > 1:
        return ArrowError(f"{alike} ports are left for the one column {several}; the columns are: {column_list}")
    remedy = f"give the one to read the name {kind!r}" if is_fixed else f"say which, as in '{names[0]}:{kind}'"
    return ArrowError(f"{kind!r} could be the column {several}; {remedy}. The columns are: {column_list}")


def _shared(arrow: Arrow) -> dict[int, int]:
    """Return {index of a target port: index of the source port whose column it gets}; empty for an arrow without `~`.

    The i-th target of a kind belongs to the i-th source of that kind. Targets that name a column are left out.
    Indices count all sources first, then the targets.
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
