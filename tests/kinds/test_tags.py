"""Tags: spans in characters, read from what data sets have, predicted in windows of any length, scored as seqeval does."""

from __future__ import annotations

import json
from itertools import pairwise
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
from mapsto.kinds.tags import Span, Tags
from mapsto.kinds.text import TextSource
from mapsto.metrics import span_scores
from mapsto.metrics.intervals import with_interval
from mapsto.task.arrow import parse
from mapsto.task.target_capabilities import OVERLAP

SMALL: dict[str, Any] = {"layers": 2, "width": 64, "device": "cpu", "precision": "fp32"}
PLACES, PEOPLE = ["Paris", "New York", "北京", "São Paulo"], ["Ada", "Karl Marx", "李白"]


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return sentences with places and people in random order, each in its own surroundings, and their tags."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        text, tags = f"{1000 * seed + number}", []
        for _ in range(rng.integers(1, 5)):
            names, label, before = ((PLACES, "place", " in "), (PEOPLE, "人", " by "))[rng.integers(2)]
            name = names[rng.integers(len(names))]
            text += before
            tags.append({"start": len(text), "end": len(text) + len(name), "label": label})
            text += name + [" . ", " and then, ", "，"][rng.integers(3)]
        rows.append({"text": text, "tags": tags})
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tags")
    return mapsto.fit("text -> tags", make_rows(200), folder / "model", epochs=20, seed=1, **SMALL)


# Reading


@pytest.mark.parametrize(
    "cell",
    [
        [{"start": 2, "end": 5, "label": "A"}],
        [{"start_offset": 2, "end_offset": 5, "label": "A", "id": 7}],
        [{"start": 2, "end": 5, "entity_group": "A", "score": 0.9, "word": "x"}],
        [{"start": 2, "end": 5, "labels": ["A"]}],
        [[2, 5, "A"]],
        [(2, 5.0, "A"), (2, 5, "A")],
        {"entities": [[2, 5, "A"]]},
        '[{"start": 2, "end": 5, "label": "A"}]',
        np.array([[2, 5, "A"]], dtype=object),
    ],
)
def test_what_data_sets_have_is_read(cell: Any) -> None:
    assert Tags.read(cell) == (Span(2, 5, "A"),) and Tags.fits([cell, None])


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "no tags are given"),
        (7, "tags are a list"),
        ("no", "no list"),
        ([{"start": 2, "label": "A"}], "whole numbers"),
        ([[2, 2, "A"]], "holds no character"),
        ([[5, 2, "A"]], "holds no character"),
        ([[-1, 2, "A"]], "holds no character"),
        ([[2.5, 3, "A"]], "whole numbers"),
        ([["2", "3", "A"]], "whole numbers"),
        ([[2, 3, " "]], "no label"),
        ([[2, 3, None]], "no label"),
        ([[2, 3, "\ud800"]], "a label holds"),
        ([[2, 3]], 'a tag is {"start"'),
        ([0, 1, 2], 'a tag is {"start"'),
    ],
)
def test_what_is_no_tag_is_refused_with_the_reason(cell: Any, reason: str) -> None:
    with pytest.raises(BadCell, match=reason):
        Tags.read(cell)


def test_spans_outside_of_their_text_are_faults_of_their_row() -> None:
    rows = [{"text": "a b", "tags": [[0, 4, "A"]]}, {"text": "a  b", "tags": [[1, 3, "A"]]}, {"text": "ab", "tags": []}]
    found = load_rows(parse("text -> tags"), read_table(rows))
    assert len(found) == 1 and [fault.row for fault in found.faults] == [1, 2]
    assert "behind the end" in found.faults[0].reason and "only spaces" not in found.faults[0].reason
    with pytest.raises(DataError, match="2 bad cells"):
        mapsto.fit("text -> tags", rows, **SMALL)


def test_rows_without_any_tag_are_refused() -> None:
    with pytest.raises(DataError, match="no row has a tag"):
        mapsto.fit("text -> tags", [{"text": "a", "tags": []}, {"text": "b", "tags": "[]"}], **SMALL)
    with pytest.raises(UsageError, match="the arrow reads none"):
        mapsto.fit("image -> tags", [{"image": np.zeros((8, 8, 3), np.uint8), "tags": [[0, 1, "a"]]}] * 4, **SMALL)


def test_tags_lie_in_the_last_text(tmp_path: Path) -> None:
    rows = [{"title": "who and where", **row} for row in make_rows(40)]
    model = mapsto.fit("title:text, text:text -> tags", rows, steps=3, length=40, **SMALL)
    (answer,) = model.predict([{"title": "a title", "text": "by Ada " * 200}])
    text = "by Ada " * 200
    assert all(tag["text"] == text[tag["start"] : tag["end"]] for tag in answer["tags"])
    table = read_table([{"title": "t " * 90, "text": text, "tags": []}])
    rows_of_table = load_rows(parse("title:text, text:text -> tags"), table)
    pieces = encode_to_answer(rows_of_table, model.mapping.sources, model.mapping.targets, 40).pieces
    assert len(pieces) > 5 and all(len(title) == 20 and len(title) + len(text) <= 40 for title, text in pieces)


# Encoding, windows and composing


@given(seed=st.integers(0, 10**6), length=st.integers(8, 40))
@settings(max_examples=40, deadline=None)
def test_every_span_survives_any_window(seed: int, length: int) -> None:
    """Encoded in windows and composed of certain outputs, the answer is the true one, wherever the windows end."""
    rows = make_rows(6, seed)
    long = {"text": " ".join(row["text"] for row in rows), "tags": []}
    offset = 0
    for row in rows:
        long["tags"] += [{**tag, "start": tag["start"] + offset, "end": tag["end"] + offset} for tag in row["tags"]]  # type: ignore[operator]
        offset += len(row["text"]) + 1
    table = read_table([long, *rows])
    loaded = load_rows(parse("text -> tags"), table)
    source = TextSource.new(table.column("text"), 300)
    target = Tags()
    target.learn(loaded.targets[0])
    encoded = encode_to_answer(loaded, {"text": source}, [target], length)
    windows: list[list[torch.Tensor]] = [[] for _ in table.column("text")]
    for pieces, row in zip(encoded.pieces, encoded.row_indices.tolist(), strict=True):
        assert len(pieces[0]) <= length
        values = torch.from_numpy(target.encode(loaded.targets[0][row], pieces).values)
        output = torch.nn.functional.one_hot(values, len(target.classes)) * 30.0
        windows[row] += target.split(output, [pieces])
    assert len(windows[0]) > 1, "the long text must have windows"
    output = target.pad([target.compose(parts) for parts in windows])
    answers = [target.read(answer["tags"]) for answer in target.decode(output)]
    assert answers == loaded.targets[0]
    assert with_interval(*target.metrics(output, answers)["f1"]).value == 1


def test_windows_overlap_and_begin_at_words() -> None:
    text = " ".join(f"unbelievable{i}" for i in range(40))
    source = TextSource.new([text], 270)
    (piece,) = source.encode([text], 0, aligned=True)
    windows = source.windows(piece, 40, OVERLAP)
    assert piece.units is not None and all(len(window) <= 40 for window in windows)
    seen = set()
    for window, following in pairwise(windows):
        first, second = (set(part.units[part.units >= 0].tolist()) for part in (window, following))  # type: ignore[union-attr, index]
        assert first & second, "they overlap"
        start = int(following.units[following.units >= 0][0])  # type: ignore[index]
        own = int((following.units == start).sum())
        assert own == int((piece.units == start).sum()), "its first word is whole"
        seen |= first | second
    assert seen == set(piece.units[piece.units >= 0].tolist())


def test_a_span_that_begins_before_a_window_goes_on_in_it() -> None:
    text = " ".join(f"word{i}" for i in range(30))
    rows = read_table([{"text": text, "tags": [[0, len(text), "a"]]}])
    loaded, source, target = load_rows(parse("text -> tags"), rows), TextSource.new([text], 270), Tags()
    target.learn(loaded.targets[0])
    encoded = encode_to_answer(loaded, {"text": source}, [target], 20)
    firsts = [target.encode(loaded.targets[0][0], pieces).values[0] for pieces in encoded.pieces]
    assert [target.classes[index] for index in firsts] == ["B-a", *["I-a"] * (len(firsts) - 1)] and len(firsts) > 2


def test_words_without_a_class_are_not_learnt() -> None:
    """Parts of speech, where a published tagger has no class for words outside."""
    target = Tags(["NOUN", "VERB"])
    values = target._classes_of_words((Span(0, 3, "NOUN"),), np.array([[0, 3], [4, 7]]))
    output = torch.tensor([[9.0, 0.0], [0.0, 9.0]], requires_grad=True)
    target.loss(output, torch.from_numpy(values)).backward()
    assert values[0] == 0 and output.grad is not None and output.grad[1].abs().sum() == 0


def test_spans_inside_of_words_are_read_at_tokens() -> None:
    """Korean names stand in a word with a particle."""
    rng, rows = np.random.default_rng(0), []
    syllables = [chr(0xAC00 + 28 * int(place)) for place in rng.permutation(390)[:60]]
    for number in range(240):
        name = "".join(rng.choice(syllables, 2))
        particle = ["은", "의", "을", "에"][number % 4]
        text = f"{number} 어제 {name}{particle} 비"
        rows.append({"text": text, "tags": [[text.index(name), text.index(name) + 2, "place"]]})
    model = mapsto.fit("text -> tags", rows[:200], epochs=20, vocabulary=300, **SMALL)
    target = model.mapping.targets[0]
    assert isinstance(target, Tags) and target.unit == "token" and target.state()["unit"] == "token"
    # Some names are in one token with their particle.
    assert model.evaluate(rows[200:]).scores["f1"].value > 0.5, "as words none would be right"


def test_a_word_longer_than_a_window_is_answered_whole() -> None:
    target = Tags(["O", "B-a", "I-a"])
    parts = [torch.tensor([[0.0, start, start + 9, 1, 0, 30, 0]]) for start in (0, 7, 14)]
    (answer,) = target.decode(target.pad([target.compose(parts)]))
    assert [(tag["start"], tag["end"]) for tag in answer["tags"]] == [(0, 23)]


def test_a_text_without_words_has_no_tags(model: Any) -> None:
    answer = model.predict(["\ufffd", "in Paris"])[0]
    assert answer["tags"] == [] and answer["probability"] == 1.0
    assert model.explain(["Paris"], "occlusion").explanations


def test_many_sources_fit_into_few_tokens() -> None:
    rows = [{"a": "one two three four five", "b": "six seven eight nine", **row} for row in make_rows(8)]
    loaded = load_rows(parse("a:text, b:text, text:text -> tags"), read_table(rows))
    source, target = TextSource.new([row["text"] for row in rows], 270), Tags()
    target.learn(loaded.targets[0])
    for length in (12, 15, 16, 24):
        encoded = encode_to_answer(loaded, {"text": source}, [target], length)
        assert all(sum(map(len, pieces)) <= length for pieces in encoded.pieces)


def test_labels_beside_tags_are_scored_by_row(tmp_path: Path) -> None:
    rows = [{"text": "".join(part["text"] for part in make_rows(8, seed)), "tags": [[0, 4, "a"]], "label": "ab"[seed % 2]}
            for seed in range(40)]  # fmt: skip
    mapsto.fit("text -> label, tags", rows, tmp_path, steps=2, hold_out=0.3, length=32, **SMALL)
    scores = json.loads((tmp_path / "mapsto.json").read_text(encoding="utf-8"))["scores"]
    assert scores["held-out label: accuracy"]["n"] == scores["held-out tags: f1"]["n"] < 20


def test_a_word_is_classified_where_most_around_it_is_seen() -> None:
    target = Tags(["O", "B-a", "I-a"])
    sure_o, sure_a = [30.0, 0.0, 0.0], [0.0, 30.0, 0.0]
    near_edge = torch.tensor([[5.0, 10, 12, 1, *sure_o]])
    in_the_middle = torch.tensor([[5.0, 10, 12, 9, *sure_a]])
    for order in ([near_edge, in_the_middle], [in_the_middle, near_edge]):
        (answer,) = target.decode(target.pad([target.compose(order)]))
        assert [(tag["start"], tag["end"], tag["label"]) for tag in answer["tags"]] == [(10, 12, "a")]


def test_confidence_is_the_probability_of_the_span() -> None:
    target = Tags(["O", "B-a", "I-a"])
    probabilities = torch.tensor([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.6, 0.1, 0.3]])
    places = torch.tensor([[0.0, 0, 1, 5], [1, 2, 3, 5], [2, 4, 5, 5]])
    (answer,) = target.decode(target.pad([target.compose([torch.cat([places, probabilities.log()], 1)])]))
    (span,) = answer["tags"]
    assert (span["start"], span["end"]) == (0, 3)
    assert span["probability"] == pytest.approx(0.8 * 0.7 * (1 - 0.3)) == answer["probability"]
    nothing = torch.cat([places[:1], torch.tensor([[0.9, 0.05, 0.05]]).log()], 1)
    (answer,) = target.decode(target.pad([target.compose([nothing])]))
    assert answer["tags"] == [] and answer["probability"] == pytest.approx(0.9)


def test_overlapping_spans_are_noted_and_the_longest_is_learnt() -> None:
    rows = read_table([{"text": "New York City", "tags": [[0, 8, "a"], [0, 13, "b"], [9, 13, "a"]]}])
    loaded = load_rows(parse("text -> tags"), rows)
    target = Tags()
    target.learn(loaded.targets[0])
    assert "1 rows have spans that overlap" in target.notes(loaded.targets[0])[0]
    source = TextSource.new(rows.column("text"), 270)
    pieces = encode_to_answer(loaded, {"text": source}, [target], 64).pieces[0]
    names = [target.classes[index] for index in target.encode(loaded.targets[0][0], pieces).values]
    assert names == ["B-b", "I-b", "I-b"]


# Scores


def test_scores_equal_those_of_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not here")
    from seqeval.scheme import IOB2

    rng = np.random.default_rng(0)
    sentences = [[["O", "B-a", "I-a", "B-b", "I-b"][i] for i in rng.integers(0, 5, 12)] for _ in range(60)]
    changed = [
        [tag if rng.random() < 0.8 else ["O", "B-a", "I-a"][rng.integers(3)] for tag in tags] for tags in sentences
    ]

    def spans(tags: list[str]) -> set[Any]:
        found, start = set(), None
        for index, tag in enumerate([*tags, "O"]):
            if start is not None and tag != f"I-{start[1]}":
                found.add((start[0], index, start[1]))
                start = None
            if tag.startswith("B-"):
                start = (index, tag[2:])
        return found

    counts = span_scores.count([spans(tags) for tags in changed], [spans(tags) for tags in sentences])
    for name in ("f1", "precision", "recall"):
        expected = getattr(seqeval, f"{name}_score")(sentences, changed, mode="strict", scheme=IOB2)
        assert getattr(span_scores, name)(*counts) == pytest.approx(expected)


def test_rows_without_spans_have_scores() -> None:
    counts = span_scores.count([set(), set(), {1}], [set(), {1}, set()])
    assert span_scores.jaccard(*counts).tolist() == [1, 0, 0]
    assert span_scores.f1(*counts) == span_scores.precision(*counts) == 0


# The whole way


def test_a_fit_learns_saves_and_answers(model: Any, tmp_path: Path) -> None:
    evaluation = model.evaluate(make_rows(60, 7))
    assert evaluation.scores["f1"].value > 0.9
    answer = model("a walk in Paris and then, a book by 李白.")
    assert [(tag["text"], tag["label"]) for tag in answer["tags"]] == [("Paris", "place"), ("李白", "人")]
    assert all(0 < tag["probability"] <= 1 for tag in answer["tags"]) and 0 < answer["probability"] <= 1
    model.save(tmp_path / "again")
    again = mapsto.load(tmp_path / "again", device="cpu", precision="fp32")
    rows = [row["text"] for row in make_rows(20, 3)]
    assert again.predict(rows) == model.predict(rows)


def test_a_long_text_is_read_whole(model: Any) -> None:
    parts = [row["text"] for row in make_rows(200, 5)]
    text = "".join(parts)
    (answer,) = model.predict([text])
    assert max(tag["end"] for tag in answer["tags"]) > 0.95 * len(text)
    alone = sum(len(answer["tags"]) for answer in model.predict(parts))
    assert len(answer["tags"]) == pytest.approx(alone, rel=0.1)


def test_lists_of_words_are_answered(model: Any) -> None:
    words, text = ["a", "walk", "in", "Paris", "and", "then"], "a walk in Paris and then"
    assert model.predict([{"text": words}]) == model.predict([{"text": text}]) == model.predict([text])


def test_answers_do_not_depend_on_other_rows(model: Any) -> None:
    """But for the rounding of sums, which differs between shapes of products."""
    rows = [row["text"] for row in make_rows(12, 11)]
    for together, alone in zip(model.predict(rows), map(model, rows), strict=True):
        assert len(together["tags"]) == len(alone["tags"])
        for one, other in zip(together["tags"], alone["tags"], strict=True):
            assert one.pop("probability") == pytest.approx(other.pop("probability"), abs=1e-6)
            assert one == other


def test_answers_below_a_confidence_are_withheld(model: Any) -> None:
    answers = model.predict([row["text"] for row in make_rows(12, 11)], min_confidence=1.0)
    assert all(answer["tags"] is None for answer in answers)


def test_the_command_line(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    lines = []
    for row in make_rows(30, 9):
        words = row["text"].split()
        lines += [f"{word}\tO" for word in words] + [""]
    lines[0] = lines[0].replace("\tO", "\tB-place")
    (tmp_path / "test.conll").write_text("\n".join(lines), encoding="utf-8")
    rows = [{"text": row["text"], "tags": json.dumps(row["tags"], ensure_ascii=False)} for row in make_rows(30, 9)]
    table = tmp_path / "test.jsonl"
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    found = run("evaluate", str(tmp_path / "model"), str(table), "--out", str(tmp_path / "report.html"))
    assert found.returncode == 0, found.stderr
    assert "f1" in found.stdout and "Traceback" not in found.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'class="prediction"' in page or "true-label" in page
    predicted = run("predict", str(tmp_path / "model"), "--text", "a walk in Paris and then", "--json")
    assert json.loads(predicted.stdout)["tags"][0]["text"] == "Paris", predicted.stderr
    out = tmp_path / "answers.jsonl"
    predicted = run("predict", str(tmp_path / "model"), str(tmp_path / "test.conll"), "--out", str(out))
    assert predicted.returncode == 0 and len(out.read_text(encoding="utf-8").splitlines()) == 30, predicted.stderr
    assert "predicted_tags" in json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    for command in (
        ["check", "text -> tags", str(table)],
        ["trace", "text -> tags", str(table)],
        ["info", str(tmp_path / "model")],
    ):
        assert run(*command).returncode == 0, command
    explained = run("explain", str(tmp_path / "model"), "a walk in Paris and then", "--sample", str(table))
    assert explained.returncode == 0 and "Paris (place)" in explained.stdout, explained.stderr


@pytest.mark.parametrize("method", ["relevance", "gradient", "integrated", "occlusion"])
def test_the_most_probable_span_is_explained(model: Any, method: str) -> None:
    """By the words around it: after "in" stands a place, after "by" a person."""
    explanations = model.explain(["7 in Paris . by Ada and then"], method)
    (explanation,) = explanations.explanations
    assert explanation.summary in ("Paris (place)", "Ada (人)")
    weights = {part.text: part.weight for part in explanation.parts}
    assert set(weights) >= {"in", "Paris", "by", "Ada"} and any(weights.values())
    assert explanation.answer["tags"][0]["text"] == "Paris"


def test_a_baseline_gives_each_word_its_commonest_tag() -> None:
    texts = ["Ada met Ada in Paris", "Paris Hilton met 李白", "in Paris"]
    spans = [[(0, 3, "人"), (8, 11, "人"), (15, 20, "place")], [(0, 12, "人"), (17, 19, "人")], [(3, 8, "place")]]
    answers = [tuple(Span(*span) for span in row) for row in spans]
    target = Tags()
    target.learn(answers)
    answer = target.fit_baseline(answers, [texts], 0)
    output = answer([["met Ada, then Paris", "李白", "", "unknown words"]])
    found = [[(tag["start"], tag["end"], tag["label"]) for tag in row["tags"]] for row in target.decode(output)]
    assert found == [[(4, 7, "人"), (14, 19, "place")], [(0, 2, "人")], [], []]


def test_held_out_rows_are_scored_by_row(tmp_path: Path) -> None:
    """In windows, which are several examples of a row."""
    rows = [{"text": " ".join(row["text"] for row in make_rows(8, seed)), "tags": []} for seed in range(40)]
    for seed, row in enumerate(rows):
        offset, tags = 0, []
        for part in make_rows(8, seed):
            tags += [{**tag, "start": tag["start"] + offset, "end": tag["end"] + offset} for tag in part["tags"]]
            offset += len(part["text"]) + 1
        row["tags"] = tags
    folder = tmp_path / "model"
    mapsto.fit("text -> tags", rows, folder, steps=20, hold_out=0.3, length=32, **SMALL)
    scores = json.loads((folder / "mapsto.json").read_text(encoding="utf-8"))["scores"]
    assert 5 < scores["held-out f1"]["n"] < 20


def test_hyperparameters_are_searched(tmp_path: Path) -> None:
    model = mapsto.fit("text -> tags", make_rows(40), tmp_path, search=2, epochs=1, layers=1, width=32, device="cpu")
    assert model("in Paris")["tags"] is not None and (tmp_path / "search.json").exists()


def test_labels_of_the_test_and_of_another_case_are_named(tmp_path: Path) -> None:
    for name, label in (("train", "LOC"), ("test", "ORG")):
        rows = [{"text": "in Bonn", "tags": [[3, 7, label]]}, {"text": "Paris", "tags": [[0, 5, "loc"]]}]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = run("check", "text -> tags", str(tmp_path / "train.jsonl"), "--test", str(tmp_path / "test.jsonl"))
    assert "'LOC' (1), 'loc' (1)" in found.stdout and "ORG" in found.stdout and "no training row has" in found.stdout
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": "a", "tags": []}\n{"text": "b", "tags": [[0, 1, "x"]]}\n'.replace('[[0, 1, "x"]]', "[]"))
    assert "no row has a tag" in run("check", "text:text -> tags:tags", str(empty)).stdout


def test_compare_has_a_baseline_without_a_network(tmp_path: Path) -> None:
    options: dict[str, Any] = {"starts": ["scratch"], "labels": [16], "seeds": 2, "epochs": 1, **SMALL}
    found = mapsto.compare("text -> tags", make_rows(60), test=make_rows(30, 5), out=tmp_path, **options)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert "the commonest tag of each word" in text and "found" in text and found is not None


def test_the_calibration_error_is_that_of_predicted_spans() -> None:
    target = Tags(["O", "B-x", "I-x"])
    # Two rows: one right span at 0.9 and one wrong at 0.7, and a row without any.
    output = target.pad(
        [
            torch.tensor([[-1.0, -1, -1, 0.8], [0, 3, 0, 0.9], [4, 6, 0, 0.7]]),
            torch.tensor([[-1.0, -1, -1, 0.6]]),
        ]
    )
    metric, *arrays = target.metrics(output, [(Span(0, 3, "x"),), (Span(0, 3, "x"),)])["calibration_error"]
    assert metric(*arrays) == pytest.approx((0.1 + 0.7) / 2)
    assert metric(*(array[1:] for array in arrays)) == 0, "without a predicted span nothing is claimed"
