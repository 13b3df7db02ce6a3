"""Labelled spans of a text, and the cells in which data sets write them (spaCy, doccano, GLiNER, Label Studio, Hugging Face)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto.errors import BadCell, fault_of
from mapsto.task.printed_lists import parse_list
from mapsto.text.characters import find_invalid_character, to_integer

# Names by which data sets call the parts of a span.
SPAN_FORM = (
    'a tag is {"start": 0, "end": 5, "label": "name"}, with start and end in characters of the text; '
    "tags of words stand in a list beside a list of as many words"
)
STARTS, ENDS = ("start", "start_offset", "begin"), ("end", "end_offset")
LABELS = ("label", "entity_group", "entity", "type", "tag", "labels")


@dataclass(frozen=True, order=True)
class Span:
    """A labelled part of a text: its start, its end (behind its last character), both in characters, and its label.

    splits_word: whether it begins or ends inside of a word of the text, which `Tags.place` finds out.
    """

    start: int
    end: int
    label: str
    splits_word: bool = field(default=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.label} at {self.start}–{self.end}"


def read_list(cell: object) -> list[Any]:
    """Return one entry for each span in a cell. Raises BadCell if the cell holds no such list.

    cell: a list, a list as JSON or as Python prints it, or {"entities": list} (spaCy).
    """
    if (reason := fault_of(cell)) is not None:
        raise BadCell(reason)
    if isinstance(cell, str):
        try:
            cell = parse_list(cell)
        except ValueError as error:
            raise BadCell(f"the tags are no list: {error}; {SPAN_FORM}") from error
    if isinstance(cell, dict) and "entities" in cell:
        cell = cell["entities"]
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadCell(f"tags are a list, not {type(cell).__name__}")
    return list(cell)


def is_span(entry: object) -> bool:
    """Return whether an entry of a cell is a span."""
    try:
        read_span(entry)
    except BadCell:
        return False
    return True


def read_span(entry: object) -> Span:
    """Return the span that one entry of a cell describes. Raises BadCell."""
    if isinstance(entry, dict):
        start, end, label = (
            next((entry[name] for name in names if name in entry), None) for names in (STARTS, ENDS, LABELS)
        )
    elif isinstance(entry, list | tuple | np.ndarray) and len(entry) == 3:
        start, end, label = entry
    else:
        raise BadCell(SPAN_FORM)
    if isinstance(label, list | tuple | np.ndarray):  # Label Studio
        if len(label) != 1:
            raise BadCell(f"a tag has one label, not {len(label)}")
        label = label[0]
    try:
        start, end = (to_integer(side) for side in (start, end))
    except (TypeError, ValueError, OverflowError) as error:
        raise BadCell(f"start and end of a tag are whole numbers of characters, not {start!r} and {end!r}") from error
    if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
        raise BadCell("a tag has no label")
    if (problem := find_invalid_character(str(label))) is not None:
        raise BadCell(f"a label holds {problem}")
    if not 0 <= start < end:
        raise BadCell(f"a tag from {start} to {end} holds no character")
    return Span(start, end, str(label).strip())
