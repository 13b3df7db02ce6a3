"""The question that people answer for each row, derived from the capabilities of the arrow's target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from mapsto import kinds
from mapsto.errors import BadCell, UsageError
from mapsto.task.arrow import Arrow, Port
from mapsto.task.source_capabilities import Spatial
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Classes, Extracted, Free, Located, has_exclusive_classes
from mapsto.text.characters import canonical

# The controls of the page: one class, several classes, spans of a text or rectangles of a picture with classes, a text to write.
Control = Literal["one", "several", "spans", "rectangles", "write"]
# The type of an answer in Label Studio, by control.
STUDIO_TYPES: dict[Control, str] = {
    "one": "choices",
    "several": "choices",
    "spans": "labels",
    "rectangles": "rectanglelabels",
    "write": "textarea",
}
MAX_NAME_CHARACTERS = 100


class Question:
    """The question for each row: the control that answers it, and the class names to choose from.

    arrow: bound to the columns of the pool. names: class names that the user gives, in their order on the page.
    Raises UsageError for an arrow whose answers the page has no control for.
    """

    def __init__(self, arrow: Arrow, names: Sequence[str] = ()) -> None:
        if arrow.symmetric or arrow.corrupted or len(arrow.targets) != 1:
            raise UsageError(f"labelling asks one question about each row, as in 'text -> label', not {str(arrow)!r}")
        self.arrow, self.port = arrow, arrow.targets[0]
        (self.kind,) = kinds.answering(arrow)
        self.control = choose_control(self.kind)
        self.names: dict[str, None] = {}
        if names and not issubclass(self.kind, Classes):
            raise UsageError(f"--labels names classes, and the answers of {str(arrow)!r} have none")
        for name in names:
            if not name.strip() or len(name) > MAX_NAME_CHARACTERS:
                raise UsageError(f"--labels: a label has 1 to {MAX_NAME_CHARACTERS} characters, not {name!r}")
        self.add_names(canonical(name.strip()) for name in names)

    @property
    def column(self) -> str:
        """The column of the answers."""
        return column_of(self.port)

    def read(self, cell: Any) -> Any:
        """Return the value of an answer, as training reads it. Raises BadCell for an answer that is none."""
        if self.control == "write" and (not isinstance(cell, str) or not cell.strip()):
            raise BadCell("the answer is blank")
        if self.control in ("several", "spans", "rectangles") and not isinstance(cell, list):
            raise BadCell("the answer is a list")
        if self.control == "one" and not isinstance(cell, str):
            raise BadCell("the answer is the name of a label")
        value = self.kind.read(cell)
        if any(len(name) > MAX_NAME_CHARACTERS for name in self.names_in(value)):
            raise BadCell(f"a label has at most {MAX_NAME_CHARACTERS} characters")
        return value

    def check(self, cell: Any, sources: Sequence[Any]) -> Any:
        """Return the value of an answer to a row with these source values. Raises BadCell if it does not fit the row."""
        value = self.read(cell)
        kind = self.kind
        if issubclass(kind, Located) and (reason := kind.misplaced(value, sources[self.place_port])):
            raise BadCell(reason)
        return value

    @property
    def place_port(self) -> int:
        """The index of the source in which the answers of a located target lie."""
        assert issubclass(self.kind, Located)
        return [port.kind for port in self.arrow.sources].index(self.kind.lies_in)

    def names_in(self, value: Any) -> Sequence[str]:
        """Return the class names in the value of an answer; none for an answer without classes."""
        return self.kind().class_names(value) if issubclass(self.kind, Classes) else ()

    def add_names(self, names: Iterable[str]) -> None:
        """Add class names behind those that are there, so that no key of the page changes its meaning."""
        self.names |= dict.fromkeys(names)


def short_arrow(arrow: Arrow) -> str:
    """Return an arrow as text, without the names of columns that its kinds imply."""
    sources, targets = (
        tuple(replace(port, column=None) if port.column == port.kind else port for port in ports)
        for ports in (arrow.sources, arrow.targets)
    )
    return str(replace(arrow, sources=sources, targets=targets))


def column_of(port: Port) -> str:
    """Return the column that the answers of a target port are written to."""
    return port.column or port.kind


def choose_control(kind: type[Target]) -> Control:
    """Return the control for the answers of a kind. Raises UsageError, which lists the kinds that can be labelled."""
    control = _control_of(kind)
    if control is None:
        able = [name for name in kinds.names("target") if _is_able(name)]
        raise UsageError(f"{kind.kind!r} cannot be labelled on the page; what can be: {', '.join(able)}")
    return control


def _control_of(kind: type[Target]) -> Control | None:
    if issubclass(kind, Extracted):
        return "spans" if issubclass(kind, Classes) else None
    if issubclass(kind, Located):
        is_drawn = issubclass(kind, Classes) and issubclass(kinds.source(kind.lies_in), Spatial)
        return "rectangles" if is_drawn else None
    if issubclass(kind, Classes):
        return "one" if has_exclusive_classes(kind) else "several"
    return "write" if issubclass(kind, Free) else None


def _is_able(name: str) -> bool:
    return any(target.kind == name and _control_of(target) is not None for target in kinds.targets())
