"""The head of a start is kept where its classes include all labels, whatever their order; else it is said that it is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mapsto
from mapsto.progress import Progress

WORDS = {"a": "red", "b": "green", "c": "blue"}
SHAPE: dict[str, Any] = {"layers": 1, "width": 32, "heads": 2, "length": 16}
TAGGED = [{"text": f"in {city} {i}", "tags": [{"start": 3, "end": 3 + len(city), "label": label}]}
          for i in range(4) for label, city in (("LOC", "Rome"), ("PER", "Anna"))]  # fmt: skip


def rows_of(*labels: str, arrow: str) -> list[dict[str, Any]]:
    wrap = (lambda label: [label]) if arrow.endswith("labels") else (lambda label: label)
    column = arrow.rpartition(" ")[2]
    return [{"text": f"{WORDS.get(label, label)} {i}", column: wrap(label)} for i in range(6) for label in labels]


class Listener(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, *parts: Any, **options: Any) -> None:
        self.lines.append(" ".join(map(str, parts)))


@pytest.mark.parametrize("arrow", ["text -> label", "text -> labels"])
@pytest.mark.parametrize(
    ("labels", "kept"), [("ba", True), ("cba", True), ("ab", True), ("abd", False), ("AB", False)], ids=str
)
def test_a_head_is_kept_for_labels_among_its_own(arrow: str, labels: str, kept: bool, tmp_path: Path) -> None:
    start = mapsto.fit(arrow, rows_of("a", "b", "c", arrow=arrow), tmp_path / "start", method="full", steps=2, **SHAPE)
    progress = Listener()
    rows = rows_of(*labels, arrow=arrow)
    # Too small a rate to change a weight: what is saved is what the run began with.
    model = mapsto.fit(arrow, rows, start=tmp_path / "start", method="full", steps=1, rate=1e-12, progress=progress)
    classes, told = model.mapping.targets[0].classes, [line for line in progress.lines if "head of the start" in line]
    if kept:
        assert classes == ["a", "b", "c"] and not told
        torch.testing.assert_close(model.mapping.heads[0].weight, start.mapping.heads[0].weight, atol=1e-6, rtol=0)
    else:
        assert classes == sorted(labels)
        (line,) = told
        assert "'a', 'b', 'c'" in line and repr(sorted(set(labels) - set("abc"))[0]) in line


def test_the_head_of_a_tagger_is_kept(tmp_path: Path) -> None:
    mapsto.fit("text -> tags", TAGGED, tmp_path / "start", steps=2, **SHAPE)
    people = [row for row in TAGGED if row["tags"][0]["label"] == "PER"]
    progress = Listener()
    model = mapsto.fit("text -> tags", people, start=tmp_path / "start", steps=1, progress=progress)
    assert model.mapping.targets[0].classes == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert not [line for line in progress.lines if "head of the start" in line]
    others = [{**row, "tags": [{**row["tags"][0], "label": "ORG"}]} for row in people]
    model = mapsto.fit("text -> tags", others, start=tmp_path / "start", steps=1, progress=progress)
    assert model.mapping.targets[0].classes == ["O", "B-ORG", "I-ORG"]
    assert [line for line in progress.lines if "'LOC', 'PER'" in line and "'ORG'" in line]
