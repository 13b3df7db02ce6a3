"""A split keeps equal and similar rows on one side, is the same at every call, and says where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runs import sentences

from mapsto.data import split
from mapsto.data.rows import load_rows
from mapsto.data.split import split_indices
from mapsto.data.table import read_table
from mapsto.task.arrow import parse

ARROWS = [
    "text -> answer:text",
    "text -> topic:label",
    "text <-> answer:text",
    "text <-> text, topic:label",
    "text -> n:number",
]


def similar_rows(count: int = 60, copies: int = 3) -> list[dict[str, Any]]:
    """Return texts that are each followed by copies with another number at their end; `family` tells them apart."""
    return [
        {
            "text": f"{text} 第 {copy} 号",
            "answer": f"答 {text[::-1]} {copy}",
            "topic": f"t{family % 4}",
            "n": family,
            "family": family,
        }
        for family, text in enumerate(sentences(count))
        for copy in range(copies)
    ]


@pytest.mark.parametrize("arrow", ARROWS)
@pytest.mark.parametrize("seed", [0, 1])
def test_near_duplicates_are_on_one_side(arrow: str, seed: int) -> None:
    rows = load_rows(parse(arrow), read_table(similar_rows()))
    parts = split_indices(rows, 0.4, seed)
    family = rows.table.column("family")
    training, held_out = ({family[row] for row in rows.indices[part].tolist()} for part in parts)
    assert training and held_out and not training & held_out
    assert len(parts[0]) + len(parts[1]) == len(rows)
    again = split_indices(rows, 0.4, seed)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True)), "a resumed run splits in the same way"


def test_short_texts_are_similar_to_none_and_only_equal_ones_stay_together() -> None:
    rows = load_rows(
        parse("text -> label"), read_table([{"text": f"天气 {n // 2}", "label": "ab"[n % 2]} for n in range(80)])
    )
    training, held_out = split_indices(rows, 0.25, 0)
    texts = [{rows.sources[0][row] for row in part} for part in (training, held_out)]
    assert len(held_out) >= 10 and not texts[0] & texts[1]


def test_where_all_rows_are_similar_the_split_says_so() -> None:
    rows = load_rows(parse("text -> n:number"), read_table(similar_rows(1, 50)))
    lines: list[str] = []
    _, held_out = split_indices(rows, 0.2, 0, lines.append)
    assert len(held_out) == 10
    assert lines == ["note: 50 of 50 rows are similar; rows are held out although similar ones are trained on"]


def test_more_rows_than_are_compared_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "MAX_COMPARED", 100)
    rows = load_rows(parse("text -> n:number"), read_table(similar_rows()))
    lines: list[str] = []
    split_indices(rows, 0.2, 0, lines.append)
    assert lines == ["note: 180 rows, more than 100: equal rows are held out together, similar ones are not"]
