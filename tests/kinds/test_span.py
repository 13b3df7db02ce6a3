"""Spans that answer questions: read from what data sets have, found in windows of any length, scored as SQuAD's script does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import run

import mapsto
from mapsto.data.encoding import encode_to_answer
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import BadCell, DataError, UsageError
from mapsto.kinds.span import Extract, Span
from mapsto.kinds.text import TextSource
from mapsto.metrics.intervals import with_intervals
from mapsto.task.arrow import parse
from mapsto.task.source_capabilities import Mark
from mapsto.text import extracts
from mapsto.text.cells import CONTEXT, outline

ARROW = "question:text, passage:text -> answer:span"
SMALL: dict[str, Any] = {"layers": 2, "width": 64, "device": "cpu", "precision": "fp32"}
WORDS = [
    "the",
    "old",
    "river",
    "mill",
    "在",
    "城市",
    "runs",
    "past",
    "3.5",
    "tall,",
    "green",
    "hills",
    "北京",
    "it",
    "café",
]


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return questions on passages of random words: which word follows a code, or none if the code is not there."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        words = rng.choice(WORDS, 12).tolist()
        place, answer = int(rng.integers(12)), f"answer{rng.integers(90) + 10}"
        before = " ".join([f"{1000 * seed + number}", *words[:place], "code is", ""])
        passage = before + " ".join([answer, *words[place:]])
        has_none = number % 4 == 3
        rows.append(
            {
                "question": "what is the word?" if has_none else "what is the code?",
                "passage": passage,
                "answer": "[]" if has_none else {"text": [answer], "answer_start": [len(before)]},
            }
        )
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("span")
    return mapsto.fit(ARROW, make_rows(240), folder / "model", epochs=12, seed=1, **SMALL)


# Reading


@pytest.mark.parametrize(
    ("cell", "texts", "starts"),
    [
        ("ab", ("ab",), (None,)),
        ({"text": "ab", "answer_start": 3}, ("ab",), (3,)),
        ({"text": "ab", "start": 3}, ("ab",), (3,)),
        ({"text": ["ab", "ab", "c"], "answer_start": [3, 3, 5]}, ("ab", "c"), (3, 5)),
        ([{"text": "ab", "answer_start": 3}], ("ab",), (3,)),
        (["ab", "c"], ("ab", "c"), (None, None)),
        ('{"text": ["ab"], "answer_start": [3]}', ("ab",), (3,)),
        ({"text": np.array(["ab"], object), "answer_start": np.array([3])}, ("ab",), (3,)),
        ([], (), ()),
        ("[]", (), ()),
        ({"text": [], "answer_start": []}, (), ()),
        ("[1] and [2]", ("[1] and [2]",), (None,)),
        ("[" * 100_000, ("[" * 100_000,), (None,)),
        (1843, ("1843",), (None,)),
        (1843.0, ("1843",), (None,)),
        ({"text": " Ada ", "answer_start": 3.0}, ("Ada",), (4,)),
        ({"text": "Ada", "answer_start": float("nan")}, ("Ada",), (None,)),
    ],
)
def test_what_data_sets_have_is_read(cell: Any, texts: tuple[str, ...], starts: tuple[int | None, ...]) -> None:
    answer = Span.read(cell)
    assert (answer.texts, answer.starts) == (texts, starts) and Span.fits([cell, None])


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "no answer is given"),
        (" ", "no answer is given"),
        (True, "an answer is text"),
        ({"text": None}, "an answer is text"),
        ({"text": ["a"], "answer_start": 5}, "not as many places"),
        ({"text": ["a"], "answer_start": [{}]}, "whole number"),
        ({"text": "a", "answer_start": float("inf")}, "whole number"),
        ({"question": "a"}, "an answer is text"),
        ({"text": ["a"], "answer_start": []}, "not as many places"),
        ({"text": "a", "answer_start": "3"}, "whole number"),
        ({"text": "a", "answer_start": True}, "whole number"),
        ([""], "an answer is text"),
        ([None], "an answer is text"),
        ("a\0b", "the answer holds"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(cell: Any, reason: str) -> None:
    with pytest.raises(BadCell, match=reason):
        Span.read(cell)


def test_answers_are_found_in_their_passage() -> None:
    passage = "one two one two"
    assert Span.place(Extract(("two",), (None,)), passage).regions == [(4, 7)]
    assert Span.place(Extract(("two",), (11,)), passage).regions == [(12, 15)], "the nearest to a wrong place"
    assert Span.place(Extract((), ()), passage).regions == []
    with pytest.raises(BadCell, match="'six' is not in the passage"):
        Span.place(Extract(("six",), (2,)), passage)
    several = Span.place(Extract(("six", "one"), (2, 0)), passage)
    assert several.regions == [(0, 3)]


def test_wrong_places_and_missing_answers_are_named(tmp_path: Path) -> None:
    paragraphs = [
        {"context": "Ada wrote it in 1843.", "qas": [
            {"question": "Who?", "id": "1", "answers": [{"text": "Ada", "answer_start": 0}]},
            {"question": "When?", "id": "2", "answers": [{"text": "1843", "answer_start": 15}]},
            {"question": "Where?", "id": "3", "answers": [], "is_impossible": True},
            {"question": "What?", "id": "4", "answers": [
                {"text": "it", "answer_start": 10}, {"text": "that", "answer_start": 10}]},
            {"question": "Whose?", "id": "5", "answers": [{"text": "hers", "answer_start": 1}]},
        ]},
    ]  # fmt: skip
    path, out = tmp_path / "squad.json", tmp_path / "fixed.jsonl"
    path.write_text(json.dumps({"version": "x", "data": [{"title": "t", "paragraphs": paragraphs}]}), encoding="utf-8")
    table = read_table(path)
    assert table.columns == ("question", "passage", "answer", "id") and len(table) == 5
    rows = load_rows(parse(ARROW), table)
    assert [fault.row for fault in rows.faults] == [5] and "'hers' is not in the passage" in rows.faults[0].reason
    found = run("check", ARROW, str(path), "--repair", str(out))
    assert "'1843' at 15 → 16" in found.stdout and "'that'" in found.stdout and "'hers'" in found.stdout
    fixed = [json.loads(line)["answer"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert fixed[1] == [{"text": "1843", "answer_start": 16}] and fixed[3] == [{"text": "it", "answer_start": 10}]


def test_rows_without_any_answer_and_arrows_without_text_are_refused() -> None:
    with pytest.raises(DataError, match="no row has an answer"):
        mapsto.fit(ARROW, [{**row, "answer": []} for row in make_rows(8)], **SMALL)
    with pytest.raises(UsageError, match="the arrow reads no text"):
        mapsto.fit("image -> answer:span", [{"image": np.zeros((8, 8, 3), np.uint8), "answer": "a"}] * 4, **SMALL)


# Encoding, windows and composing


@given(seed=st.integers(0, 10**6), length=st.integers(24, 80))
@settings(max_examples=40, deadline=None)
def test_every_verbatim_answer_survives_any_window(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(4):
        words = [f"{word}{rng.integers(50)}" for word in rng.choice(WORDS, int(rng.integers(2, 80)))]
        first = int(rng.integers(len(words)))
        last = min(len(words), first + int(rng.integers(1, 4)))
        passage, start = " ".join(words), len(" ".join(words[:first])) + (first > 0)
        answer = " ".join(words[first:last])
        rows.append({"question": "which?", "passage": passage, "answer": {"text": [answer], "answer_start": [start]}})
    table = read_table(rows)
    loaded = load_rows(parse(ARROW), table)
    source, target = TextSource.new(table.column("passage"), 400), Span()
    target.learn(loaded.targets[0])
    encoded = encode_to_answer(loaded, {"text": source}, [target], length)
    windows: list[list[torch.Tensor]] = [[] for _ in rows]
    for pieces, row in zip(encoded.pieces, encoded.row_indices.tolist(), strict=True):
        assert sum(map(len, pieces)) <= length
        values = torch.from_numpy(target.encode(loaded.targets[0][row], pieces).values)
        windows[row] += target.split(values[:, :2] * 40, [pieces])
    output = target.pad([target.compose(parts) for parts in windows])
    for answer, row, parts in zip(target.decode(output), loaded.targets[0], windows, strict=True):
        if max(float(part[1:, 2].max()) for part in parts) < 40:
            continue  # the answer is longer than the overlap of windows, and whole in none
        start, end = answer["span"]
        assert start <= row.regions[0][0] and end >= row.regions[0][1], "a span holds whole tokens"
        assert row.passage[start:end].split() == row.texts[0].split()
        assert answer["probability"] > 0.99


def test_probabilities_of_windows_are_joined() -> None:
    """One window is sure of its answer, the other of none; then both doubt."""
    target = Span(has_none=True, longest=10)
    none = torch.tensor([[-1.0, -1, 8, 8], [0, 3, 0, 0], [4, 7, 0, 0]])
    sure = torch.tensor([[-1.0, -1, 0, 0], [8, 11, 9, 0], [12, 15, 0, 9]])
    (answer,) = target.decode(target.pad([target.compose([none, sure])]))
    assert answer["span"] == [8, 15] and answer["probability"] > 0.95 and answer["no_answer"] < 0.01
    (answer,) = target.decode(target.pad([target.compose([none, none])]))
    assert answer["span"] == [] and answer["no_answer"] == answer["probability"] > 0.95
    total = answer["no_answer"] + sum(span["probability"] for span in answer["best"])
    assert total == pytest.approx(1, abs=0.01)
    target.has_none = False
    (answer,) = target.decode(target.pad([target.compose([none, none])]))
    assert answer["span"] and answer["no_answer"] == 0
    target.longest = 3
    (answer,) = target.decode(target.pad([target.compose([none, sure])]))
    assert answer["span"][1] - answer["span"][0] <= 3


def test_tokens_of_one_character_count_once() -> None:
    """Of several tokens with one region the best counts, not the last."""
    same = torch.tensor([[-1.0, -1, 5, 5], [0, 1, 12, -9], [0, 1, -6, -9], [2, 5, -9, 12]])
    (answer,) = Span(True, 100).decode(Span().pad([Span(True, 100).compose([same])]))
    assert answer["span"] == [0, 5] and answer["probability"] > 0.99


def test_what_no_token_shows_may_lie_at_the_ends() -> None:
    passage = "It was\u200b Ada in London"
    rows = read_table([{"question": "who?", "passage": passage, "answer": "was\u200b"}])
    loaded, source, target = load_rows(parse(ARROW), rows), TextSource.new([passage], 300), Span()
    pieces = encode_to_answer(loaded, {"text": source}, [target], 60).pieces[0]
    assert target.encode(loaded.targets[0][0], pieces).values[0, 0] == 0, "it is learnt, and not as no answer"


def test_passages_that_show_nothing(model: Any) -> None:
    for question in ("who?", "who " * 400):
        (answer,) = model.predict([{"question": question, "passage": "\ufffd"}])
        assert answer["span"] == "" and answer["no_answer"] == 1
    (withheld,) = model.predict([{"question": "who?", "passage": "it is"}], min_confidence=1.0)
    assert withheld["span"] is None and withheld["start"] is None and withheld["best"] == []
    assert with_intervals(Span().metrics(torch.zeros(1, 1, 3), [Extract((), ())]))["exact"].value == 1


def test_the_loss_is_that_of_each_window() -> None:
    target = Span()
    torch.manual_seed(0)
    first, second = torch.randn(5, 2), torch.randn(3, 2)
    values = torch.zeros(8, 3)
    values[0, 2] = values[5, 2] = 1
    values[2, 0] = values[4, 1] = values[5, 0] = values[5, 1] = 1
    expected = sum(
        torch.nn.functional.cross_entropy(logits.T, torch.tensor(places), reduction="sum") / 2
        for logits, places in ((first, [2, 4]), (second, [0, 0]))
    )
    assert float(target.loss(torch.cat([first, second]), values)) == pytest.approx(256 * float(expected), rel=1e-5)


# Scores


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The Eiffel Tower!", ("eiffel tower",), 1, 1),
        ("Eiffel", ("the Eiffel Tower",), 0, 2 / 3),
        ("tower of Paris", ("Eiffel Tower", "Paris"), 0, 0.5),
        ("在北京大学", ("北京大学",), 0, 8 / 9),
        ("北京。", ("北京",), 1, 1),
        ("", (), 1, 1),
        ("Paris", (), 0, 0),
        ("", ("Paris",), 0, 0),
        ("5.3 Jahre", ("5,3 Jahre",), 1, 1),
    ],
)
def test_texts_are_compared_by_their_words(prediction: str, answers: tuple[str, ...], exact: float, f1: float) -> None:
    assert extracts.exact_match(prediction, answers) == exact
    assert extracts.f1(prediction, answers) == pytest.approx(f1)


def test_intervals_draw_passages() -> None:
    """Questions on one passage hang together, so four rows on two passages are two items."""
    passage = ["b c f", "d e g"]
    answers = [Span.place(Extract((text,), (None,)), passage[i // 2]) for i, text in enumerate("bcde")]
    output = torch.tensor([[[-1.0, -1, 0], [start, start + 1, 1]] for start in (0, 2, 0, 0)])
    scores = with_intervals(Span().metrics(output, answers))
    assert scores["exact"].value == 0.75 and scores["exact"].n == 2
    assert Span().per_item_metric(output, answers).tolist() == [1, 1, 1, 0] and scores["f1"].value == 0.75


def test_sentences_are_divided() -> None:
    text = "It costs 3.5. Is it so? 是的。好！\nlast"
    assert [text[start:end] for start, end in extracts.sentences(text)] == [
        "It costs 3.5.",
        "Is it so?",
        "是的。",
        "好！",
        "last",
    ]


def test_the_baseline_is_the_sentence_with_most_words_of_the_question() -> None:
    answer = Span().fit_baseline([], [[], []], 1)
    (found,) = Span().decode(answer([["Where was Ada born?"], ["She died. Ada was born in London. He was."]]))
    assert found["span"] == [10, 33]


# The whole way


def test_a_fit_learns_saves_and_answers(model: Any, tmp_path: Path) -> None:
    evaluation = model.evaluate(make_rows(60, 7))
    assert evaluation.scores["exact"].value > 0.8
    row = make_rows(1, 9)[0]
    answer = model.predict([{"question": row["question"], "passage": row["passage"]}])[0]
    assert answer["span"] == row["passage"][answer["start"] : answer["end"]] == row["answer"]["text"][0]
    assert answer["best"][0]["text"] == answer["span"] and 0 < answer["probability"] <= 1
    model.save(tmp_path / "again")
    again = mapsto.load(tmp_path / "again", device="cpu", precision="fp32")
    asked = [{"question": row["question"], "passage": row["passage"]} for row in make_rows(20, 3)]
    assert again.predict(asked) == model.predict(asked)


def test_a_long_passage_is_read_whole(model: Any) -> None:
    row = make_rows(1, 11)[0]
    long = " ".join(WORDS * 60)
    answer = model.predict([{"question": row["question"], "passage": f"{long} {row['passage']} {long}"}])[0]
    assert answer["start"] > len(long) and "answer" in answer["span"]


def test_the_command_line(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    table = tmp_path / "test.jsonl"
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in make_rows(30, 9)), encoding="utf-8")
    found = run("evaluate", str(tmp_path / "model"), str(table), "--out", str(tmp_path / "report.html"))
    assert found.returncode == 0, found.stderr
    assert "f1" in found.stdout and "exact" in found.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "true-label" in page
    predicted = run("predict", str(tmp_path / "model"), str(table), "--out", str(tmp_path / "answers.csv"))
    assert predicted.returncode == 0, predicted.stderr
    answers = read_table(tmp_path / "answers.csv")
    assert {"answer", "answer_start", "answer_end", "answer_probability", "answer_no_answer"} <= set(
        answers.columns
    ) and len(answers) == 30
    withheld = run("predict", str(tmp_path / "model"), str(table), "--json", "--min-confidence", "0.9999")
    assert withheld.returncode == 0 and '"span": null' in withheld.stdout
    explained = run("explain", str(tmp_path / "model"), str(table))
    assert explained.returncode == 0 and "answer" in explained.stdout, explained.stderr
    for command in (["check", ARROW, str(table)], ["trace", ARROW, str(table)], ["info", str(tmp_path / "model")]):
        assert run(*command).returncode == 0, command


def test_of_a_long_passage_what_is_near_the_outlines_is_shown() -> None:
    passage = "a" * 500 + "ANSWER" + "b" * 50 + "LABEL" + "c" * 500
    marks = [Mark(((500, 506),), "answer"), Mark(((556, 561),), "label", True)]
    shown = outline(passage, marks)
    assert "a" * CONTEXT in shown and "a" * (CONTEXT + 1) not in shown and "c" * (CONTEXT + 1) not in shown
    assert ">ANSWER<" in shown and "b" * 50 in shown and ">LABEL<" in shown and shown.count("…") == 2
    assert outline(passage, []) == passage
