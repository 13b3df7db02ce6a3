"""One column of texts that mean the same, in lists or in rows with one label: pairs, negatives, splits, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matching import OPTIONS, fit_pairs
from runs import sentences

import mapsto
from mapsto.data.checks import check_rows
from mapsto.data.rows import link_rows, load_rows
from mapsto.data.split import split_indices
from mapsto.data.table import read_table
from mapsto.errors import MapstoError
from mapsto.evaluation.matching import rank_without_model, relevance
from mapsto.fitting.prepare import PreparedRun, prepare
from mapsto.fitting.request import FitRequest
from mapsto.options import Options
from mapsto.task.arrow import ArrowError, parse
from mapsto.training.objectives.matching import Matching

BY_LABEL, BY_LIST = "text <-> text, topic:label", "set:text <-> set:text"


def labelled(count: int = 40, groups: int = 8) -> list[dict[str, Any]]:
    return [{"text": text, "topic": f"话题 {number % groups}"} for number, text in enumerate(sentences(count))]


def listed(count: int = 40, groups: int = 8) -> list[dict[str, Any]]:
    return [{"set": sentences(count)[number::groups]} for number in range(groups)]


def prepared(arrow: str, rows: list[dict[str, Any]], **options: Any) -> PreparedRun:
    return prepare(FitRequest(parse(arrow), rows, options=Options(**{**OPTIONS, **options})))


@pytest.mark.parametrize(("arrow", "rows"), [(BY_LABEL, labelled()), (BY_LIST, listed()), ("text <-> text", listed())])
def test_a_text_is_compared_with_texts_of_its_group_which_are_never_negatives(
    arrow: str, rows: list[dict[str, Any]]
) -> None:
    run = prepared(arrow, rows)
    assert len(run.examples) == 40
    assert run.examples.answers is not None
    texts = run.examples.answers.rows
    group_of = dict(zip(texts.sources[0], texts.targets[0], strict=True))
    text_of = {
        tuple(pieces[0].tokens.tolist()): text
        for pieces, text in zip(run.examples.pieces, texts.sources[0], strict=True)
    }
    partners: dict[int, set[str]] = {}
    for row in range(40):
        for step in range(48):
            examples = [run.examples.example(row, step, 0.0, view) for view in (0, 1)]
            text, partner = (text_of[tuple(example.pieces[0].tokens.tolist())] for example in examples)
            assert text == texts.sources[0][row] != partner
            assert group_of[text] == group_of[partner]
            partners.setdefault(row, set()).add(partner)
    assert all(len(drawn) == 4 for drawn in partners.values()), "each of the four other texts, in some step"
    groups = np.array([group_of[text] for text in texts.sources[0]])
    left_out = Matching(run.mapping, run.examples).find_left_out(np.arange(40))
    expected = groups[:, None] == groups
    np.fill_diagonal(expected, False)
    assert np.array_equal(left_out, expected)


def test_partners_depend_on_the_step_alone() -> None:
    first, second = (prepared(BY_LABEL, labelled()).examples for _ in range(2))
    for row, step in ((3, 7), (0, 0), (39, 2)):
        second.example(row + 1 if row < 39 else 0, step + 1, 0.0, 1)
        pieces = [examples.example(row, step, 0.0, 1).pieces[0].tokens for examples in (first, second)]
        assert np.array_equal(*pieces)


def test_a_text_in_two_groups_joins_them_for_negatives_and_splits() -> None:
    rows = [{"set": ["a b", "c d"]}, {"set": ["C  d", "e f"]}, {"set": ["g h", "i j", "I J"]}]
    loaded = load_rows(parse(BY_LIST), read_table(rows))
    numbers = link_rows(loaded).tolist()
    assert loaded.sources[0] == ["a b", "c d", "C  d", "e f", "g h", "i j"]
    assert len(set(numbers[:4])) == len(set(numbers[4:])) == 1 and numbers[0] != numbers[4]


@pytest.mark.parametrize("seed", range(3))
def test_a_group_is_on_one_side_of_a_split(seed: int) -> None:
    for arrow, rows in ((BY_LABEL, labelled()), (BY_LIST, listed())):
        loaded = load_rows(parse(arrow), read_table(rows))
        sides = [{loaded.targets[0][row] for row in part} for part in split_indices(loaded, 0.3, seed)]
        assert all(sides) and not sides[0] & sides[1]


def test_scores_search_the_other_texts() -> None:
    rows = load_rows(
        parse(BY_LIST), read_table([{"set": ["red fox", "red dog", "red cat"]}, {"set": ["我 爱", "我 想"]}])
    )
    # The candidates are numbered as the partners: dog, cat, fox, …
    assert [numbers.tolist() for numbers in relevance(rows).right] == [[0, 1], [1, 2], [0, 2], [3], [4]]
    _, ranks, _ = rank_without_model(rows)
    assert [numbers.tolist() for numbers in ranks] == [[1, 2], [1, 2], [1, 2], [1], [1]], "a text does not find itself"


def test_a_model_of_one_column_scores_two(tmp_path: Path) -> None:
    model = fit_pairs(BY_LABEL, labelled(), hold_out=0.3, out=tmp_path / "run")
    scores = model.evaluate(labelled()).scores
    assert set(scores) == {f"text→text {name}" for name in ("recall@1", "recall@10", "mrr", "ndcg@10")}
    opened = mapsto.load(tmp_path / "run")
    assert str(opened.mapping.arrow) == "text:text <-> text:text, topic:label"
    score = opened("今天天气", "a mill")["score"]
    assert opened.predict([{"a": "今天天气", "b": "a mill"}])[0]["score"] == pytest.approx(score, abs=1e-6)
    assert opened.find("mill", sentences(5), top=1)[0]["index"] in range(5)
    with pytest.raises(ArrowError, match="pairs to score are a table with two columns of text, and 1 can be read"):
        opened.predict([{"text": "alone"}])


def test_lists_come_from_files(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(listed()), tmp_path / "sets.parquet")
    assert load_rows(parse("text <-> text"), read_table(tmp_path / "sets.parquet")).sources[0] == [
        text for row in listed() for text in row["set"]
    ]


def test_what_has_no_partner_is_named() -> None:
    rows = [*labelled(16), {"text": "alone", "topic": "x"}, {"text": sentences(1)[0].upper(), "topic": "话题 0"}]
    report = check_rows(load_rows(parse(BY_LABEL), read_table(rows)))
    assert [finding.row for finding in report.warnings if "no other text of its group" in finding.reason] == [17, 18]
    faults = load_rows(
        parse(BY_LIST), read_table([*listed(), {"set": ["a", "A "]}, {"set": ["b", " "]}, {"set": "c"}])
    ).faults
    assert [str(fault) for fault in faults] == [
        "data, row 9, column 'set': \"['a', 'A ']\": a list of texts that mean the same has two different ones",
        "data, row 10, column 'set': item 2 of the list: the text is blank",
        "data, row 11, column 'set': 'c': a list of texts that mean the same was expected, not str",
    ]


@pytest.mark.parametrize(
    "arrow", ["a:text <-> b:text, topic:label", "a:text <-> a:text, s:number", "a:text <-> a:text, b:text"]
)
def test_other_groupings_are_refused(arrow: str) -> None:
    with pytest.raises(MapstoError, match=r"text <-> text, topic:label|one column on both sides"):
        parse(arrow)


@pytest.mark.parametrize("text", [BY_LABEL, BY_LIST, "a:text <-> a:text, topic:label"])
def test_arrows_of_groups_are_written_as_they_are_read(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(text).is_grouped and not parse(text).is_scored
