"""However places are counted, the spans of words are found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run

from mapsto.kinds.tags import Span, Tags
from mapsto.text.tagging.span_offsets import WAYS, find_repairs

TEXTS = [
    "José Álvarez met 😀 Ada Lovelace in São\nPaulo, Brasil.",
    "Élodie 🎉 saw Łódź\nand the\nCafé Müller again",
    "Ada!",
]
NAMES = [["José Álvarez", "Ada Lovelace", "São\nPaulo", "Brasil"], ["Élodie", "Łódź", "Café Müller"], ["Ada"]]


def regions_of(text: str, names: list[str]) -> list[tuple[int, int]]:
    return [(text.index(name), text.index(name) + len(name)) for name in names]


def miscount(way: str, text: str, start: int, end: int) -> tuple[int, int]:
    """Count a region as tools do; the inverse of WAYS."""
    if way.startswith("in bytes"):
        return len(text[:start].encode()), len(text[:end].encode())
    if way.startswith("in UTF-16"):
        return len(text[:start].encode("utf-16-le")) // 2, len(text[:end].encode("utf-16-le")) // 2
    if "line end" in way:
        return start + text[:start].count("\n"), end + text[:end].count("\n")
    first, last = (1 if "from 1" in way else 0), (-1 if "last" in way else 0)
    return start + first, end + last + first


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_counting_is_recognised(way: str) -> None:
    texts, true = TEXTS * 3, [regions_of(*pair) for pair in zip(TEXTS, NAMES, strict=True)] * 3
    counted = [[miscount(way, text, *region) for region in regions] for text, regions in zip(texts, true, strict=True)]
    assert find_repairs(texts, counted) == (way, true)


def test_spans_that_fit_are_left_alone() -> None:
    true = [regions_of(*pair) for pair in zip(TEXTS, NAMES, strict=True)]
    assert find_repairs(TEXTS, true) == (None, true)
    chinese = ["我在北京工作", "他去上海了"]
    assert find_repairs(chinese, [[(2, 3)], [(2, 3)]]) == (None, [[(2, 3)], [(2, 3)]]), "where every place fits"


def test_parts_of_words_are_left_alone() -> None:
    """Korean names stand before particles; that most of them end inside of words is no mistake."""
    texts = [f"{number} 서울은 부산의 대전이" for number in range(20)]
    true = [[(text.index(name), text.index(name) + 2) for name in ("서울", "부산", "대전")] for text in texts]
    assert find_repairs(texts, true) == (None, true)


@pytest.mark.parametrize(
    ("region", "expected"),
    [((0, 4), (0, 3)), ((3, 7), (4, 7)), ((0, 2), (0, 3)), ((4, 6), (4, 7)), ((5, 8), (4, 7)), ((5, 6), (5, 6))],
)
def test_a_rare_misfit_is_moved_by_a_character(region: tuple[int, int], expected: tuple[int, int]) -> None:
    texts, regions = ["Ada met Karl"] * 30, [[(0, 3)]] * 29
    assert find_repairs(texts, [*regions, [region]]) == (None, [*regions, [expected]])


def test_places_that_no_way_explains_are_left_alone() -> None:
    texts = ["one two three four five six seven"] * 20
    counted = [[(1, 2), (3, 5)]] * 20
    assert find_repairs(texts, counted) == (None, counted)


def test_a_long_text_takes_no_longer_per_word() -> None:
    words = [f"word{number}" for number in range(20_000)]
    text = " ".join(words)
    ends = np.cumsum([len(word) + 1 for word in words])
    regions = [(int(end) - 1 - len(word), int(end) - 1) for word, end in zip(words, ends, strict=True)][::5]
    assert find_repairs([text], [regions]) == (None, [regions])


def test_check_names_them_and_repairs_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for text, names in list(zip(TEXTS, NAMES, strict=True)) * 4:
        tags = [[start, end - 1, "name"] for start, end in regions_of(text, names)]
        rows.append({"text": f"{text} {len(rows)}", "tags": tags})
    path, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    found = run("check", "text -> tags", str(path), "--repair", str(out))
    assert found.returncode == 0, found.stderr
    assert "places are counted with the last character included" in found.stdout
    assert "'José Álvare' → 'José Álvarez'" in found.stdout
    repaired = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for row, names in zip(repaired, NAMES * 4, strict=True):
        assert [row["text"][tag["start"] : tag["end"]] for tag in row["tags"]] == names
    assert "do not fit" not in run("check", "text -> tags", str(out)).stdout


def test_blanks_at_the_ends_are_trimmed() -> None:
    (found,) = Tags.find_repairs([(Span(0, 4, "a"), Span(8, 12, "b"))], ["Ada met Karl"])
    assert found.cell == [{"start": 0, "end": 3, "label": "a"}, {"start": 8, "end": 12, "label": "b"}]
    assert found.quoted == "'Ada ' → 'Ada'"
