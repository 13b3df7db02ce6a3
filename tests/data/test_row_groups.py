"""Rows of one speaker, dialogue or sentence are held out together, found by the names of columns where a kind asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import write_voices
from runs import sentences

from mapsto.data import sampling
from mapsto.data.grouping.row_groups import find_groups, find_independent_groups
from mapsto.data.rows import Rows, load_rows
from mapsto.data.split import check_data, split_indices, split_rows
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.options import Options
from mapsto.selection.folds import make_folds
from mapsto.task.arrow import parse
from mapsto.task.group_names import group_noun


def load(arrow: str, rows: list[dict[str, Any]]) -> Rows:
    """Return the rows of a table."""
    return load_rows(parse(arrow), read_table(rows))


def sides(rows: Rows, column: str, parts: tuple[Any, Any]) -> tuple[set[Any], set[Any]]:
    """Return the cells of a column in both parts of a split."""
    cells = rows.table.column(column)
    training, held_out = ({cells[row] for row in rows.indices[part].tolist()} for part in parts)
    return training, held_out


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the rows of eight voices with nine recordings each; every sentence is read by all of them."""
    return write_voices(tmp_path_factory.mktemp("voices"), range(8), 9, seconds=0.05)


@pytest.mark.parametrize(
    ("column", "noun"),
    [
        ("speaker", "speaker"), ("Speaker_ID", "speaker"), ("client_id", "speaker"), ("spk", "speaker"), ("说话人", "speaker"),
        ("speaker_a", "speaker"), ("speaker2", "speaker"), ("who", "speaker"), ("dialog", "dialogue"), ("DOG", "dialogue"),
        ("对话", "dialogue"), ("recording", "file"), ("session", "session"), ("Sentence", "sentence"), ("label", None),
        ("speakers", None), ("text", None), ("id", None), ("", None),
    ],
)  # fmt: skip
def test_columns_of_groups_are_known_by_name(column: str, noun: str | None) -> None:
    assert group_noun(column) == noun


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_speaker_is_on_one_side_and_one_line_says_so(voices: list[dict[str, Any]], seed: int) -> None:
    rows, lines = load("sound -> digit:label", voices), list[str]()
    parts = split_indices(rows, 0.25, seed, lines.append)
    training, held_out = sides(rows, "speaker", parts)
    assert len(parts[1]) == 18 and len(held_out) == 2 and not training & held_out
    # The sentences are read by all speakers, so both cannot be kept together.
    assert lines == [
        "note: rows with the same speaker (column 'speaker'), 8 groups, are held out together (--group none: at random); "
        "not held out together, since too few or too many would be: sentence (column 'sentence'), 9 groups"
    ]
    assert {rows.targets[0][row] for row in parts[1]} == {"0", "1", "2"}
    again = split_indices(rows, 0.25, seed)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))


def test_the_column_of_the_answer_keeps_nothing_together(voices: list[dict[str, Any]]) -> None:
    rows = load("sound -> speaker:label", [{name: row[name] for name in ("sound", "speaker")} for row in voices])
    training, held_out = sides(rows, "speaker", split_indices(rows, 0.25, 0))
    assert training == held_out


def test_repeated_sentences_are_on_one_side_also_in_the_column_of_the_answer(voices: list[dict[str, Any]]) -> None:
    texts = [f"{text} {'！?'[copy]}" for text in sentences(36) for copy in range(2)]
    rows = load(
        "sound -> text", [{"sound": row["sound"], "text": text} for row, text in zip(voices, texts, strict=True)]
    )
    parts, lines = split_indices(rows, 0.25, 0, (lines := []).append), lines
    training, held_out = ({rows.targets[0][row][:-2] for row in part} for part in parts)
    assert 16 <= len(parts[1]) <= 20 and not training & held_out
    assert "sentence (column 'text'), 36 groups" in lines[0]


def test_words_are_no_sentences(voices: list[dict[str, Any]]) -> None:
    words = [{"sound": row["sound"], "text": "零一二三"[n % 4]} for n, row in enumerate(voices)]
    rows = load("sound -> text", words)
    training, held_out = split_indices(rows, 0.25, 0)
    assert len({rows.targets[0][row] for row in training} & {rows.targets[0][row] for row in held_out}) >= 3


def test_speakers_of_both_sides_of_pairs_are_linked(voices: list[dict[str, Any]]) -> None:
    rows = [
        {
            "a": voices[n]["sound"],
            "b": voices[n + 9]["sound"],
            "speaker_a": n % 12,
            "speaker_b": n % 12 + 1,
            "score": n % 2,
        }
        for n in range(60)
    ]
    (groups,) = find_groups(load("a:sound <-> b:sound, score:number", rows))
    assert groups.columns == ("speaker_a", "speaker_b") and groups.count == 1


def test_blank_cells_are_groups_of_their_own(voices: list[dict[str, Any]]) -> None:
    rows = [{**row, "speaker": None if n % 2 else "s"} for n, row in enumerate(voices[:10])]
    (groups, _) = find_groups(load("sound -> digit:label", rows))
    assert groups.count == 6


def test_tables_of_texts_are_grouped_only_by_name() -> None:
    table = [{"text": text, "label": "ab"[n % 2], "speaker": n // 6} for n, text in enumerate(sentences(60))]
    rows = load("text -> label", table)
    assert not find_groups(rows) and find_independent_groups(rows) is None
    training, held_out = sides(rows, "speaker", split_indices(rows, 0.3, 0, group="speaker"))
    assert len(held_out) == 3 and not training & held_out
    assert set.intersection(*sides(rows, "speaker", split_indices(rows, 0.3, 0)))


def test_group_names_columns_or_none(voices: list[dict[str, Any]]) -> None:
    rows, lines = load("sound -> digit:label", voices), list[str]()
    training, held_out = sides(rows, "sentence", split_indices(rows, 0.3, 0, lines.append, "sentence"))
    assert not training & held_out and "speaker" not in lines[0]
    assert set.intersection(*sides(rows, "speaker", split_indices(rows, 0.3, 0, lines.append, "none")))
    assert len(lines) == 1
    with pytest.raises(UsageError, match="no column 'speeker'.*did you mean 'speaker'"):
        split_indices(rows, 0.3, 0, group="speeker")
    # A smaller share than a speaker has is held out as one speaker, since it was asked for.
    assert len(split_indices(rows, 0.02, 0, group="speaker")[1]) == 9
    one = load("sound -> digit:label", voices[:9])
    with pytest.raises(UsageError, match="all rows are in one group"):
        split_rows(one, Options(hold_out=0.2, group="speaker"))


def test_too_few_speakers_are_on_both_sides_and_it_is_said(voices: list[dict[str, Any]]) -> None:
    rows, lines = load("sound -> digit:label", voices[:18]), list[str]()
    parts = split_indices(rows, 0.2, 0, lines.append)
    assert (
        len(parts[1]) in (3, 4)
        and "since too few or too many would be: speaker (column 'speaker'), 2 groups" in lines[0]
    )


def test_folds_keep_speakers_together(voices: list[dict[str, Any]]) -> None:
    folds = make_folds(load("sound -> digit:label", voices), 0.25, 4, 0)
    scored = [set(held_out.column("speaker")) for _, held_out in folds]
    assert len(folds) == 4 and sum(map(len, scored)) == 8 == len(set.union(*scored))
    for (training, _), speakers in zip(folds, scored, strict=True):
        assert not speakers & set(training.column("speaker"))


def test_speakers_of_the_test_that_were_trained_on_are_counted(voices: list[dict[str, Any]]) -> None:
    rows, test, lines = load("sound -> digit:label", voices[:30]), read_table(voices[30:45]), list[str]()
    check_data(rows, test, Options(), lines.append)
    # 30 rows are three voices and three recordings of the fourth.
    assert (
        sum("6 of 15 test rows have a speaker of the training rows (column 'speaker')" in line for line in lines) == 1
    )
    check_data(rows, test, Options(group="none"), (quiet := list[str]()).append)
    assert not any("have a speaker" in line for line in quiet)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), min_size=2, max_size=80),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
@settings(deadline=None)
def test_grouped_split_never_divides_a_group(rows: list[tuple[int, int]], share: float, seed: int) -> None:
    groups, strata = zip(*rows, strict=True)
    training, held_out = sampling.grouped_split(len(rows), groups, strata, share, seed)
    assert sorted([*training, *held_out]) == list(range(len(rows)))
    parts = [{groups[row] for row in part} for part in (training, held_out)]
    assert not parts[0] & parts[1] and (len(set(groups)) == 1 or len(held_out))
    smallest = min(groups.count(group) for group in set(groups))
    assert len(held_out) <= max(share * len(rows) + 0.5, smallest)
