"""Answers as cells of a table: columns named by the answer, and probabilities with the digits that they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mapsto.task.arrow import Arrow, Port

# Digits of a probability behind the point; a model's probabilities are seldom right to one in a hundred.
DIGITS = 4
SCORES = "scores"


@dataclass(frozen=True)
class CellStyle:
    """Say how answers become cells.

    nested: whether lists stay lists, for file formats that have lists; otherwise they become JSON text.
    scores: whether the probability of every class is written too, each to a column of its own.
    """

    nested: bool = False
    scores: bool = False


def answer_cells(answer: Mapping[str, Any], arrow: Arrow, style: CellStyle) -> dict[str, Any]:
    """Return an answer as cells by column.

    An answer of the column Category is written to `Category`, and its probability to `Category_probability`; several answers of
    an arrow have columns of their own. The answer of a column with the name of its kind, such as label, has `probability`.
    """
    cells: dict[str, Any] = {}
    # An embedding of a model is no answer of its arrow.
    if len(arrow.targets) == 1 and arrow.targets[0].kind in answer:
        parts = {name: value for name, value in answer.items() if name not in ("familiar", "error")}
        cells |= _name_parts(parts, arrow.targets[0], style)
        return cells | {name: answer[name] for name in ("familiar", "error") if name in answer}
    ports = {port.column or port.kind: port for port in arrow.targets}
    for name, value in answer.items():
        if name in ports and isinstance(value, Mapping):
            cells |= _name_parts(value, ports[name], style, name)
        else:
            cells[name] = value if style.nested else _to_cell(value)
    return cells


def _name_parts(parts: Mapping[str, Any], port: Port, style: CellStyle, name: str | None = None) -> dict[str, Any]:
    """Return the parts of one answer, such as class and probability, as cells by column. name: that of the answer."""
    column = name or port.column or port.kind
    prefix = "" if column == port.kind else f"{column}_"
    cells: dict[str, Any] = {}
    for part, value in parts.items():
        if part == SCORES:
            if style.scores:
                cells |= {f"{prefix}probability_{key}": round(share, DIGITS) for key, share in value.items()}
            continue
        rounded = round(value, DIGITS) if part == "probability" and isinstance(value, float) else value
        cells[column if part == port.kind else f"{prefix}{part}"] = rounded if style.nested else _to_cell(rounded)
    return cells


def _to_cell(value: Any) -> Any:
    """Return a value as a cell of a flat table; lists and dicts become JSON text."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
