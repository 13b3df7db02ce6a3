"""Generated text from a file to a scored, explained and compared answer, on a small made language."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import DataError, UsageError
from mapsto.evaluation.error_analysis import analyse_errors
from mapsto.evaluation.evaluate import Evaluation, Predictions, _add_predictions
from mapsto.evaluation.report import Provenance, evaluation_page
from mapsto.metrics.intervals import with_intervals
from mapsto.task.arrow import parse
from mapsto.text.generated_text import GeneratedTextTarget

NUMBERS = {"one": "一", "two": "二", "three": "三", "four": "四", "five": "五"}
THINGS = {"dogs": "只狗", "houses": "座房子", "books": "本书", "cars": "辆车"}
COLOURS = {"red": "红色的", "small": "小", "old": "旧"}


def rows_of(seed: int, count: int) -> list[dict[str, str]]:
    """Return sentences such as "two small dogs" with their translations, all different."""
    rng = np.random.default_rng(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        lexicons = (NUMBERS, COLOURS, THINGS, THINGS)
        number, colour, thing, other = (list(words)[rng.integers(len(words))] for words in lexicons)
        measure, noun = THINGS[thing][0], THINGS[thing][1:]
        chinese = f"{NUMBERS[number]}{measure}{COLOURS[colour]}{noun}和{THINGS[other][1:]}"
        rows[f"{number} {colour} {thing} and {other}"] = chinese
    return [{"en": english, "zh": chinese} for english, chinese in rows.items()]


@pytest.fixture(scope="module", params=["encoder-decoder", "prefix"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, mapsto.Model]:
    folder = tmp_path_factory.mktemp("translation") / request.param
    fitted = mapsto.fit(
        "en:text -> zh:text", rows_of(0, 150), folder, test=rows_of(0, 190)[150:], architecture=request.param, layers=2, width=64,
        heads=2, vocabulary=300, steps=120, batch=32,
    )  # fmt: skip
    return folder, fitted


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mapsto", *arguments], capture_output=True, text=True, check=False)


def test_a_small_language_is_learnt_and_saved(model: tuple[Path, mapsto.Model]) -> None:
    folder, fitted = model
    test = rows_of(0, 190)[150:]
    evaluation = fitted.evaluate(test)
    assert evaluation.scores["bleu"].value > 25, evaluation.scores
    assert evaluation.scores["bleu"].low < evaluation.scores["bleu"].value <= 100
    assert any("tok:zh" in note for note in evaluation.notes)
    opened = mapsto.load(folder)
    assert opened.predict(test) == fitted.predict(test)
    answer = opened(test[0]["en"])
    assert set(answer) >= {"text", "probability", "log_probability", "ended"} and answer["ended"] == "end"
    assert "".join(opened.stream(test[0]["en"])) == answer["text"]
    samples = opened.predict(test[:2], decoding=mapsto.Decoding(samples=3))
    assert all(len(row["others"]) == 2 for row in samples)
    beams, greedy = (opened.predict(test[:2], decoding=decoding) for decoding in (mapsto.Decoding(beams=3), None))
    pairs = zip(beams, greedy, strict=True)
    assert all(best["log_probability"] >= likely["log_probability"] - 1e-4 for best, likely in pairs)


def test_a_true_answer_of_any_length_can_be_scored(model: tuple[Path, mapsto.Model]) -> None:
    """Only what is learnt must fit into the model."""
    rows = rows_of(0, 190)[150:160]
    evaluation = model[1].evaluate([*rows[:-1], {**rows[-1], "zh": "长 " * 900}])
    assert evaluation.num_rows == 10


def test_the_command_line(model: tuple[Path, mapsto.Model], tmp_path: Path) -> None:
    folder, _ = model
    table = tmp_path / "test.jsonl"
    test = rows_of(0, 190)[150:]
    table.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in test), encoding="utf-8")
    page = tmp_path / "page.html"
    evaluated = run("evaluate", str(folder), str(table), "--out", str(page))
    assert evaluated.returncode == 0 and "bleu" in evaluated.stdout and "Traceback" not in evaluated.stderr, (
        evaluated.stderr
    )
    shown = page.read_text(encoding="utf-8")
    # Words of the sources are coloured by what they did to the answer.
    assert "<mark" in shown and any(row["en"] in re.sub("<[^>]+>", "", shown) for row in test)
    assert "Worst answers" in shown and "Random answers" in shown
    assert "mean token probability" in shown and "answers with the lowest sentence_chrf" in evaluated.stdout
    streamed = run("predict", str(folder), "--text", test[0]["en"], "--stream")
    assert streamed.returncode == 0 and streamed.stdout.strip(), streamed.stderr
    short = run("predict", str(folder), "--text", test[0]["en"], "--longest", "1", "--json")
    assert json.loads(short.stdout)["ended"] == "limit", short.stderr
    answers, schema = tmp_path / "answers.txt", tmp_path / "schema.json"
    answers.write_text("是\n不是\n", encoding="utf-8")
    chosen = run("predict", str(folder), str(table), "--answers", str(answers), "--out", str(tmp_path / "out.jsonl"))
    assert chosen.returncode == 0, chosen.stderr
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(test) and {json.loads(line)["predicted_zh"] for line in lines} <= {"是", "不是"}
    schema.write_text('{"enum": ["红", "绿"]}', encoding="utf-8")
    chosen = run("predict", str(folder), "--text", test[0]["en"], "--schema", str(schema), "--beams", "2", "--json")
    assert json.loads(json.loads(chosen.stdout)["text"]) in ("红", "绿"), chosen.stderr
    schema.write_text('{"type": "strin"}', encoding="utf-8")
    refused = run("predict", str(folder), "--text", test[0]["en"], "--schema", str(schema))
    assert refused.returncode == 2 and "Invalid type: strin" in refused.stderr and "Traceback" not in refused.stderr
    for command in (
        ["check", "en:text -> zh:text", str(table)],
        ["trace", "en:text -> zh:text", str(table)],
        ["info", str(folder)],
    ):
        finished = run(*command)
        assert finished.returncode == 0, finished.stderr
    traced = run("trace", "en:text -> zh:text", str(table), "--start", str(folder)).stdout
    lines = traced.splitlines()
    # One line for each token of the answer and its end, and the decoder where there is one.
    assert sum(" likeliest " in line for line in lines) == int(traced.split(" tokens of the answer →")[0].split()[-1])
    assert " (end) " in traced and ("cross-attention" in traced) == (folder.name == "encoder-decoder")
    assert "tokens of its answer sees those" in traced and "nats" in lines[-1]
    assert "memory of decoding" in run("info", str(folder)).stdout


def predictions_of(texts: list[str], references: list[str], sources: list[str], unended: int = 0) -> Predictions:
    """Return predictions as if a model had generated `texts`, the first `unended` of them up to the limit."""
    arrow, table = (
        parse("en:text -> zh:text"),
        [{"en": source, "zh": reference} for source, reference in zip(sources, references, strict=True)],
    )
    rows, target = load_rows(arrow, read_table(table)), GeneratedTextTarget(longest=9)
    outputs = target.pack_values(texts)
    outputs[:unended, 2] = 0
    return Predictions(rows.arrow, target, rows, rows.targets[0], outputs)


def test_the_worst_answers_are_shown_with_what_differs() -> None:
    sources = ["I paid 887 coins", "two red dogs", "a cat", "9 old books"]
    texts = ["共845元", "两只旧狗", "一只猫", "9本旧书"]
    references = ["共887元", "两只红狗", "一只猫", "9本旧书"]
    predictions = predictions_of(texts, references, sources, unended=1)
    evaluation = Evaluation(4, {})
    _add_predictions(evaluation, predictions)
    assert "1 of 4 answers reached the limit of 9 tokens before they ended" in evaluation.notes
    analysis = analyse_errors(predictions)
    assert analysis is not None and analysis.mistakes_by == "sentence_chrf"
    # The right answers are no mistakes.
    assert sorted(case.index for case in analysis.mistakes) == [0, 1]
    assert [case.score for case in analysis.mistakes] == sorted(case.score for case in analysis.mistakes)
    page = evaluation_page(evaluation, [(predictions, analysis)], Provenance("How good?")).html()
    assert "共<del>845</del>元" in page and "共<ins>887</ins>元" in page and "两只<del>旧</del>狗" in page
    assert "ended by the limit · not in the source: 845" in page and page.count("ended by the limit") == 2
    assert "not in the source: 9" not in page


def test_long_answers_are_short_on_the_terminal() -> None:
    predictions = predictions_of(["很长" * 200, "短"], ["也很长" * 200, "短"], ["a", "b"])
    analysis = analyse_errors(predictions)
    assert analysis is not None
    lines = analysis.lines()
    assert lines[lines.index("answers with the lowest sentence_chrf:") + 1].startswith("  ")
    assert max(map(len, lines)) < 160


def test_a_comparison_has_a_baseline_without_a_network(tmp_path: Path) -> None:
    comparison = mapsto.compare(
        "en:text -> zh:text", rows_of(1, 80), tmp_path / "report", starts=["scratch"], labels=[32], seeds=1, layers=2, width=32,
        heads=1, vocabulary=300, epochs=1, jobs=1,
    )  # fmt: skip
    text = "\n".join(comparison.lines())
    assert "nearest training row" in text and "scratch" in text
    assert (tmp_path / "report" / "report.html").exists()


def test_what_cannot_be_learnt_is_named(tmp_path: Path) -> None:
    same = [{"en": f"a {i}", "zh": "同"} for i in range(20)]
    with pytest.raises(DataError, match="all 20 answers are '同'"):
        mapsto.fit("en:text -> zh:text", same, steps=1)
    long = [{"en": f"a {i}", "zh": "长 " * (700 if i == 3 else i + 1)} for i in range(20)]
    with pytest.raises(DataError, match=r"row 4, column 'zh': the answer has \d+ tokens"):
        mapsto.fit("en:text -> zh:text", long, steps=1, vocabulary=300)
    with pytest.raises(UsageError, match="architecture= is for new models that generate"):
        mapsto.fit("en:text -> zh:label", rows_of(0, 20), steps=1, architecture="prefix")


def test_pictures_get_captions(tmp_path: Path) -> None:
    """The vocabulary is made of the captions alone, and is saved beside what reads the pictures."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    pictures = {name: np.full((16, 16, 3), colour, np.uint8) for name, colour in colours.items()}
    rows = [{"image": picture, "text": f"a {name} picture"} for name, picture in pictures.items() for _ in range(8)]
    options: dict[str, Any] = {"steps": 60, "width": 64, "layers": 2, "heads": 2, "rate": 3e-3}
    fitted = mapsto.fit("image -> text", rows, tmp_path / "run", **options)
    expected = [f"a {name} picture" for name in colours]
    for model in (fitted, mapsto.load(tmp_path / "run")):
        assert [answer["text"] for answer in model.predict(rows[::8])] == expected


def test_settings_that_contradict_each_other_are_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"beams": 0}, "beams= is a whole number from 1"),
        ({"beams": 2, "samples": 2}, "not both"),
        ({"temperature": 0.5}, "without samples="),
        ({"samples": 1, "top_p": 0.0}, "top_p= is a number above 0"),
        ({"samples": 2, "temperature": 0}, "temperature= is a number above 0 .greedy without"),
        ({"beams": "4"}, "beams= is a whole number from 1 on, not '4'"),
        ({"longest": 2.5}, "longest= is a whole number"),
        ({"longest": 0}, "longest= is a whole number"),
    ]
    for settings, message in refused:
        with pytest.raises(UsageError, match=message):
            mapsto.Decoding(**settings)


def test_outputs_hold_the_texts() -> None:
    target = GeneratedTextTarget()
    texts = ["今天 天气真好", "", "a 😀 b"]
    assert [answer["text"] for answer in target.decode(target.pack_values(texts))] == texts
    scores = with_intervals(
        target.metrics(target.pack_values(["ein Haus am See dort"] * 3), ["ein Haus am See dort"] * 3)
    )
    assert scores["bleu"].value == pytest.approx(100) and scores["exact_match"].value == 1
    shares = target.source_metrics(
        target.pack_values(["In 1990 came 7 men", "None in 1,000"]),
        ["In 1990", "None in 1000"],
        ["In 1990 men came", "1000 none"],
    )
    function, *arrays = shares["unsupported_numbers"]
    assert function(*arrays) == pytest.approx(1 / 3)
    assert parse("text -> text").targets[0].kind == "text"


def test_pretraining_of_ones_own_goes_on_to_write(tmp_path: Path) -> None:
    """Its vocabulary keeps case, and it is trained as new weights are."""
    texts = [{"text": row[side].capitalize()} for row in rows_of(2, 60) for side in ("en", "zh")]
    base = mapsto.pretrain(
        "text", texts, tmp_path / "base", objective="hybrid", steps=3, layers=2, width=32, heads=1, vocabulary=300
    )
    tokenizer = base.mapping.sources["text"].tokenizer  # type: ignore[attr-defined]
    for row in texts:
        assert tokenizer.decode(tokenizer.encode_ids([row["text"]])[0]) == row["text"]
    fitted = mapsto.fit("en:text -> zh:text", rows_of(2, 40), tmp_path / "fitted", start=tmp_path / "base", epochs=1)
    assert fitted.mapping.config.answer_decoder is None
    manifest = json.loads((tmp_path / "fitted" / "mapsto.json").read_text(encoding="utf-8"))
    assert manifest["provenance"]["optimizer"] == "muon"
    plan = json.loads((tmp_path / "fitted" / "run.json").read_text(encoding="utf-8"))["plan"]
    assert plan["rate"] == 5e-3 and plan["batch"] == 40


def test_names_of_special_tokens_in_answers_are_text() -> None:
    """Also in a copy of the model, as prediction makes one."""
    rows = [{"en": f"row {i}", "zh": f"use the [SEP] token and [CLS], number {i}"} for i in range(30)]
    fitted = mapsto.fit("en:text -> zh:text", rows, steps=1, layers=2, width=32, heads=1, vocabulary=300)
    target = copy.deepcopy(fitted.mapping).targets[0]
    assert isinstance(target, GeneratedTextTarget)
    answer = target.encode(rows[0]["zh"], ())
    assert target.ends[0] not in answer.values[:-1]
    assert target.to_value(answer.values[:-1].tolist()) == rows[0]["zh"]
