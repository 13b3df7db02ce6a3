"""Functions for text values: check, read and excerpt the cells of a column, and show a text as HTML with highlighted parts."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from mapsto.errors import BadCell
from mapsto.task.source_capabilities import FAINTEST_SHADE, Mark
from mapsto.text.characters import find_invalid_character, has_visible

# Characters that are shown before and behind an outlined region of a long text.
CONTEXT = 60

# Numbers with a decimal comma, or with marks that group the digits.
GROUPED = re.compile(r"[-+]?\d{1,40}(?:[ ,.]\d{1,40}){1,20}")


def whole_as_int(cell: Any) -> Any:
    """Return a float or a decimal without a fraction as an int, so that 3.0 is named as 3; any other cell unchanged."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, Decimal) and cell.is_finite():
        # As exact as a data base has it, and 2.50 is the same as 2.5.
        return int(cell) if cell == cell.to_integral_value() else f"{cell.normalize():f}"
    return cell


def as_name(cell: Any) -> Any:
    """Return a cell that is the name of a class as text or a whole number: 3.0 is 3, and a boolean as JSON writes it."""
    # A DataFrame holds whole numbers in a column with missing cells as floats.
    return str(bool(cell)).lower() if isinstance(cell, bool | np.bool_) else whole_as_int(cell)


def decimal_point_hint(text: str) -> str:
    """Return advice, to follow "this is no number", on a text such as 3,5 or 1.234,50 or 1,234.50; "" for any other text."""
    match = GROUPED.fullmatch(text.strip())
    if match is None:
        return ""
    digits = text.strip()
    # The last mark is that of the fraction, unless it groups thousands: 1,234,567 and 1,234.5.
    last = max(digits.rfind(","), digits.rfind("."))
    groups_only = len({mark for mark in digits if mark in ",."}) == 1 and digits.count(digits[last]) > 1
    integer_part = digits if groups_only else digits[:last]
    point = "".join(mark for mark in integer_part if mark not in ",. ") + (
        "" if groups_only else f".{digits[last + 1 :]}"
    )
    return f": write it with a decimal point and without other marks, as {point}"


def samples() -> list[str]:
    """Return four cells: a short English text, a Chinese one, one in both languages, and a long one."""
    return [
        "A plain sentence.",
        "今天天气真好！",
        "Mixed 中文 and English, with 3 numbers and 1,000 more.",
        "a " * 40 + "end",
    ]


def fits(values: Sequence[object]) -> bool:
    """Return whether all cells of a column are strings; cells that are None are ignored."""
    cells = [value for value in values if value is not None]
    return bool(cells) and all(isinstance(cell, str) for cell in cells)


def read(cell: object) -> str:
    """Return the text in a cell, unchanged. Raises BadCell if it is blank, not a string, or has invalid characters."""
    if cell is None:
        raise BadCell("the text is blank")
    if not isinstance(cell, str):
        raise BadCell(f"text was expected, not {type(cell).__name__}")
    if (problem := find_invalid_character(cell)) is not None:
        raise BadCell(f"the text holds {problem}")
    if not has_visible(cell):
        detail = ": it holds nothing but characters that cannot be seen" if cell.strip() else ""
        raise BadCell(f"the text is blank{detail}")
    return cell


def excerpt(value: str, region: Any) -> str:
    """Return the part of the text in a region. region: ((start, end),), in characters."""
    ((start, end),) = region
    return value[int(start) : int(end)]


def highlight(value: str, regions: Sequence[Any], shades: Sequence[float]) -> str:
    """Return the text as HTML with the regions shaded by their scores.

    regions: ((start, end),) of each region, in characters; sorted and without overlap.
    shades: one number for each region, from −1 (speaks against the answer) to 1 (speaks for it); near 0 it is not shaded.
    """
    parts, position = [], 0
    for ((start, end),), shade in zip(regions, shades, strict=True):
        parts.append(html.escape(value[position : int(start)]))
        side, text = "against" if shade < 0 else "for", html.escape(value[int(start) : int(end)])
        is_faint = abs(shade) < FAINTEST_SHADE
        parts.append(text if is_faint else f'<mark class="{side}" style="--shade:{abs(shade):.2f}">{text}</mark>')
        position = int(end)
    return "".join([*parts, html.escape(value[position:])])


def outline(value: str, marks: Sequence[Mark]) -> str:
    """Return the text as HTML with each mark's region underlined and followed by its name: dashed for true labels, solid else.

    Regions may overlap. The text is divided at all their ends, and each part is underlined for the regions that hold it.
    Of a long part without regions, what is far from them is left out (…).
    """
    regions = [(int(mark.region[0][0]), int(mark.region[0][1]), mark) for mark in marks]
    edges = sorted({0, len(value), *(edge for start, end, _ in regions for edge in (start, end) if edge <= len(value))})
    beginning, ending = defaultdict(list), defaultdict(list)
    for start, end, mark in regions:
        beginning[start].append(mark)
        ending[end].append(mark)
    parts: list[str] = []
    marks_here: list[Mark] = []
    for begin, end in pairwise(edges):
        marks_here = [mark for mark in marks_here if mark not in ending[begin]] + beginning[begin]
        text = value[begin:end]
        if not marks_here and regions:
            text = _near_regions(text, follows=begin > 0, precedes=end < len(value))
        text = html.escape(text)
        classes = sorted({_outline_class(mark) for mark in marks_here})
        names = html.escape(", ".join(dict.fromkeys(mark.text for mark in marks_here)))
        parts.append(f'<span class="{" ".join(classes)}" title="{names}">{text}</span>' if marks_here else text)
        parts += [f'<sub class="{_outline_class(mark)}-name">{html.escape(mark.text)}</sub>' for mark in ending[end]]
    return "".join(parts)


def _near_regions(text: str, follows: bool, precedes: bool) -> str:
    """Return a part of a text without regions, with only about CONTEXT characters beside each region if it is long.

    follows: whether a region stands before it. precedes: whether one stands behind it.
    """
    if len(text) <= 2 * CONTEXT:
        return text
    return f"{text[:CONTEXT] if follows else ''} … {text[-CONTEXT:] if precedes else ''}"


def _outline_class(mark: Mark) -> str:
    """Return the name in the page's style sheet of a mark of a true label or of a prediction."""
    return "true-label" if mark.from_label else "prediction"
