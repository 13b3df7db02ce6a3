"""Functions for text values: check, read and excerpt the cells of a column, and show a text as HTML with highlighted parts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from mapsto.errors import BadCell
from mapsto.task.capabilities import FAINTEST_SHADE
from mapsto.text.characters import find_invalid_character


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
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise BadCell("the text is blank")
    if not isinstance(cell, str):
        raise BadCell(f"text was expected, not {type(cell).__name__}")
    if (problem := find_invalid_character(cell)) is not None:
        raise BadCell(f"the text holds {problem}")
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
