"""Overlap with training rows: what counts as the same row, and how false alarms are told from overlap."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from runs import clip, sentences, write_clip

from mapsto.data.duplicates.overlap import Overlap, filter_rows, find_overlap
from mapsto.data.rows import Rows, load_rows
from mapsto.data.table import read_table
from mapsto.task.arrow import parse


def texts(values: list[str], label: str = "a") -> Rows:
    return load_rows(parse("text -> label"), read_table([{"text": value, "label": label} for value in values]))


def test_rows_are_the_same_by_their_sources_whatever_their_labels() -> None:
    values = [f"café  {text}" for text in sentences(40)]
    row_filter = filter_rows(texts(values[:30]), texts(values[30:]))
    assert row_filter.num_rows == 40 and row_filter.arrow == "text:text -> label:label"
    other = [unicodedata.normalize("NFD", f" {value.replace('  ', ' ')} ") for value in values[:25]]
    overlap = find_overlap([row_filter], texts([*other, *sentences(15, 1)], label="b"))
    assert (overlap.num_overlapping, overlap.num_rows) == (25, 40)
    assert overlap.data == overlap.checked == (str(row_filter),)
    assert "25 of 40 rows were trained on by this model or by a model that it started from" in overlap.warning
    assert "25 of 40 rows" in overlap.mark
    assert not find_overlap([row_filter], texts([value.upper() for value in values]))


def test_several_sources_are_the_same_together_only() -> None:
    def pairs(first: list[str], second: list[str]) -> Rows:
        rows = [{"q": a, "p": b, "label": "x"} for a, b in zip(first, second, strict=True)]
        return load_rows(parse("q:text, p:text -> label"), read_table(rows))

    first, second = sentences(30), sentences(30, 1)
    row_filter = filter_rows(pairs(first, second))
    assert find_overlap([row_filter], pairs(first, second)).num_overlapping == 30
    assert not find_overlap([row_filter], pairs(second, first))
    assert not find_overlap([row_filter], pairs(first, second[::-1]))
    moved = pairs(
        [f"{a} {b.split()[0]}" for a, b in zip(first, second, strict=True)], [b.split(" ", 1)[1] for b in second]
    )
    assert not find_overlap([row_filter], moved)


def test_pictures_are_the_same_by_content_and_not_by_name(tmp_path: Path) -> None:
    from PIL import Image

    def pictures(folder: str, seed: int) -> Rows:
        (tmp_path / folder).mkdir()
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(12):
            path = tmp_path / folder / f"{i}.png"
            Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(path)
            rows.append({"image": str(path), "label": "ab"[i % 2]})
        return load_rows(parse("image -> label"), read_table(rows))

    row_filter = filter_rows(pictures("train", 0))
    assert find_overlap([row_filter], pictures("copies", 0)).num_overlapping == 12
    assert not find_overlap([row_filter], pictures("others", 1))


def test_videos_are_the_same_by_content(tmp_path: Path) -> None:
    pytest.importorskip("av")

    def videos(folder: str, start: int) -> Rows:
        rows = []
        for i in range(3):
            pixels, label = clip(start + i)
            rows.append({"video": str(write_clip(tmp_path / folder / f"{i}.mp4", pixels)), "label": label})
        return load_rows(parse("video -> label"), read_table(rows))

    row_filter = filter_rows(videos("train", 0))
    assert find_overlap([row_filter], videos("copies", 0)).num_overlapping == 3
    assert not find_overlap([row_filter], videos("others", 10))


def test_every_training_row_is_counted_or_said_to_be_possible() -> None:
    """One row of 500 may be a false alarm, five are not; none is passed over."""
    row_filter = filter_rows(texts(sentences(300)))
    new = [f"new {text}" for text in sentences(500)]
    assert not row_filter.contains(new).any()
    one = find_overlap([row_filter], texts([*new[1:], sentences(1)[0]]))
    assert not one and one.mark == "" and (one.num_possible, one.data) == (1, (str(row_filter),))
    assert "1 of 500 rows may have been trained on" in one.warning and "false alarms" in one.warning
    five = find_overlap([row_filter], texts([*new[5:], *sentences(5)]))
    assert five and (five.num_overlapping, five.num_possible) == (5, 0)
    assert find_overlap([row_filter], texts(sentences(1))).num_overlapping == 1


def test_false_alarms_do_not_count_as_overlap() -> None:
    """Of 200 clean tables of 500 rows, held against ten filters, a quarter has a false alarm, and none counts as overlap."""
    filters = [filter_rows(texts(sentences(300, seed))) for seed in range(10)]
    overlaps = [
        find_overlap(filters, texts([f"table {seed} {text}" for text in sentences(500, 100 + seed)]))
        for seed in range(200)
    ]
    assert 25 < sum(overlap.num_possible > 0 for overlap in overlaps) < 100
    assert sum(map(bool, overlaps)) <= 1


def test_the_expected_false_alarms_are_subtracted() -> None:
    filters = [filter_rows(texts(sentences(300, seed))) for seed in range(10)]
    rows = texts([*sentences(30), *(f"new {text}" for text in sentences(40_000, 77))])
    (keys,) = rows.sources
    matches = int(np.any([row_filter.contains(keys) for row_filter in filters], axis=0).sum())
    assert matches > 40
    count = find_overlap(filters, rows).num_overlapping
    assert abs(count - 30) <= 15 and abs(count - 30) < matches - 30


def test_a_row_that_repeats_is_one_false_alarm_and_not_many() -> None:
    """A hundred copies of a false alarm are no evidence."""
    row_filter = filter_rows(texts(sentences(300)))
    others = [f"other {i}" for i in range(100_000)]
    false_alarm = others[int(np.argmax(row_filter.contains(others)))]
    assert row_filter.contains([false_alarm]).all()
    overlap = find_overlap([row_filter], texts([*[false_alarm] * 100, *others[:100]]))
    assert not overlap and overlap.num_possible >= 100


def test_without_filters_nothing_is_claimed() -> None:
    overlap = find_overlap([], texts(sentences(10)))
    assert overlap == Overlap(10) and not overlap and overlap.mark == "" and overlap.checked == ()
