"""The confidence of tags and of answers in a passage is set on held-out rows, where there are any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import sentences

import mapsto


@pytest.mark.parametrize("arrow", ["text -> tags", "question:text, text -> answer:span"])
@pytest.mark.parametrize("hold_out", [0.4, 0.0])
def test_held_out_rows_set_the_confidence(arrow: str, hold_out: float, tmp_path: Path) -> None:
    rows = [
        {
            "text": text,
            "question": "which ?",
            "tags": [[0, len(text.split()[0]), "first"]],
            "answer": text.split()[1],
        }
        for text in sentences(300)
    ]
    mapsto.fit(arrow, rows, tmp_path / "model", layers=1, width=64, vocabulary=300, steps=2, hold_out=hold_out)
    provenance = json.loads((tmp_path / "model" / "mapsto.json").read_text())["provenance"]
    (temperature,) = provenance.get("temperatures", [None])
    if hold_out:
        assert temperature > 0 and temperature != 1
    else:
        assert temperature is None
