"""The example kind of docs/adding-a-kind.md, one short file, can be read, answered, compared and explained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import mapsto
from mapsto import kinds

FILE = Path(__file__).parent / "examples" / "colour.py"
SHAPE = {"layers": 1, "width": 32, "heads": 1, "device": "cpu"}


def rows(count: int = 120, seed: int = 0) -> list[dict[str, object]]:
    """Return rows of random colours, their complements, their labels (warm if red exceeds blue), and texts."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, 3))
    text = ["#" + "".join(f"{level:02x}" for level in row) for row in levels]
    complement = ["#" + "".join(f"{255 - level:02x}" for level in row) for row in levels]
    labels = ["warm" if red > blue else "kühl" for red, _, blue in levels]
    words = [f"red {red // 64} green {green // 64} blue {blue // 64}" for red, green, blue in levels]
    columns = zip(text, complement, labels, words, strict=True)
    return [{"colour": a, "opposite": b, "label": label, "text": word} for a, b, label, word in columns]


def test_the_file_is_short_and_all_there_is() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 81
    assert "colour" in kinds.names("source") and "colour" in kinds.names("target")


def test_the_page_shows_the_file_line_by_line() -> None:
    pages = (Path(__file__).parents[1] / "docs" / f"adding-a-{part}.md" for part in ("kind", "target"))
    page = "".join(page.read_text(encoding="utf-8") for page in pages)
    code = FILE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```text\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4 and not [block for block in blocks if block not in code]
    assert sum(len(block.splitlines()) for block in blocks) > 45


def test_a_colour_is_read_and_explained(tmp_path: Path) -> None:
    fitted = mapsto.fit("colour -> label", rows(), tmp_path / "run", steps=60, rate=3e-3, **SHAPE)
    evaluation = fitted.evaluate(rows(60, seed=1))
    assert evaluation.scores["accuracy"].value > 0.8, evaluation.scores
    opened = mapsto.load(tmp_path / "run", device="cpu")
    assert opened.predict(["#ff0000", "#0000ff"]) == fitted.predict(["#ff0000", "#0000ff"])
    assert [answer["label"] for answer in opened.predict(["#ff0000", "#0000ff"])] == ["warm", "kühl"]
    assert "a colour is written as #rrggbb" in opened.predict(["red"])[0]["error"]
    (explanation,) = opened.explain("#ff0010").explanations
    weights = {part.text: part.weight for part in explanation.parts}
    assert list(weights) == ["red", "green", "blue"] and weights["red"] > abs(weights["green"])


def test_a_colour_is_answered_and_compared(tmp_path: Path) -> None:
    fitted = mapsto.fit("colour -> opposite:colour", rows(), steps=40, rate=3e-3, **SHAPE)
    answer = fitted.predict([{"colour": "#ff0000"}])[0]["colour"]
    assert kinds.target("colour").fits([answer])
    assert fitted.evaluate(rows(60, seed=1)).scores["closeness"].value > 0.75
    comparison = mapsto.compare(
        "text -> colour", rows(), tmp_path / "compare", labels=[16], seeds=2, methods=["full"], jobs=1, **SHAPE
    )
    assert comparison.record()["gain"] == "closeness" and (tmp_path / "compare" / "report.html").exists()
