"""The commands as a person uses them, and what they say to a person's mistakes: never a traceback."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, run, sentences, write_corpus, write_labelled

import mapsto
from mapsto import cli
from mapsto.options import FOR_HIDING, NOT_FOR_HIDING, SET_BY_COMPARE, Options

COMMANDS = ("pretrain", "fit", "predict", "evaluate", "check", "trace", "info", "demo")
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Run a command in this process: (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mapsto", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return call


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a pretrained base and a fitted classifier."""
    folder = tmp_path_factory.mktemp("fitted")
    write_corpus(folder / "corpus.txt")
    write_labelled(folder / "train.csv")
    write_labelled(folder / "test.csv", 30, seed=5)
    assert (
        run(
            "pretrain", "text", str(folder / "corpus.txt"), "--out", str(folder / "base"), "--steps", "5", *TINY
        ).returncode
        == 0
    )
    fit = [
        "fit",
        "text -> label",
        str(folder / "train.csv"),
        "--start",
        str(folder / "base"),
        "--out",
        str(folder / "clf"),
    ]
    done = run(*fit, "--steps", "20", "--device", "cpu", "--quiet")
    assert done.returncode == 0, done.stderr
    return folder


def test_help_has_an_example_for_every_command(invoke: Invoke) -> None:
    status, out, _ = invoke("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)
    for command in COMMANDS:
        status, out, _ = invoke(command, "--help")
        assert status == 0 and f"Example: mapsto {command}" in " ".join(out.split())


# For each command, the options that it always refuses, which its help leaves out.
REFUSED = {"compare": (*SET_BY_COMPARE, *FOR_HIDING), "pretrain": NOT_FOR_HIDING, "fit": ()}
VALUES = {
    "method": "probe",
    "objective": "causal",
    "shape": "span",
    "words": "words.txt",
    "sizes": "8,4",
    "style": "a.png",
}


@pytest.mark.parametrize("command", REFUSED)
def test_help_lists_the_options_that_a_command_takes(command: str, invoke: Invoke, tmp_path: Path) -> None:
    _, out, _ = invoke("help", command, "--all")
    listed = {field.name for field in fields(Options) if re.search(rf"--{field.name.replace('_', '-')}(?![\w-])", out)}
    assert listed == {field.name for field in fields(Options)} - {*REFUSED[command]}
    data = write_labelled(tmp_path / "train.csv", 12)
    task = ["text" if command == "pretrain" else "text -> label", data, "--out", tmp_path / "run"]
    for name in REFUSED[command]:
        is_switch = isinstance(getattr(Options(), name), bool)
        # A style needs features, whose own check would come first.
        more = ["--features", tmp_path] if name == "style" else ["--style", "a.png"] if name == "features" else []
        setting = [
            f"--{name.replace('_', '-')}",
            *([] if is_switch else [VALUES.get(name, "2" if name != "hide" else "0.5")]),
        ]
        status, _, err = invoke(command, *task, *setting, *more, "--quiet")
        assert status == 2 and f"--{name.replace('_', '-')}" in err, (name, err)


def test_predict_writes_what_it_shows(fitted: Path, invoke: Invoke, tmp_path: Path) -> None:
    status, out, _ = invoke("predict", fitted / "clf", fitted / "test.csv", "--device", "cpu")
    assert status == 0
    shown = list(csv.DictReader(out.splitlines()))
    for name in ("answers.csv", "answers.jsonl", "answers.csv.gz", "answers.parquet"):
        assert (
            invoke("predict", fitted / "clf", fitted / "test.csv", "--out", tmp_path / name, "--device", "cpu")[0] == 0
        )
    written = list(csv.DictReader((tmp_path / "answers.csv").open(encoding="utf-8", newline="")))
    assert written == shown and len(written) == 30
    assert [row["text"] for row in written] == [
        row["text"] for row in csv.DictReader((fitted / "test.csv").open(encoding="utf-8"))
    ]
    assert set(written[0]) == {"text", "label", "predicted_label", "probability", "familiar"}
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["predicted_label"] for line in lines] == [row["predicted_label"] for row in written]
    assert gzip.decompress((tmp_path / "answers.csv.gz").read_bytes()) == (tmp_path / "answers.csv").read_bytes()


def test_predict_of_a_text_as_json(fitted: Path, invoke: Invoke) -> None:
    status, out, _ = invoke("predict", fitted / "clf", "--text", "winter is cold", "--text", "今天", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(answers) == 2
    assert set(answers[0]) == {"label", "probability", "scores", "familiar"} and set(answers[0]["scores"]) == {
        "cold",
        "warm",
    }
    assert sum(answers[0]["scores"].values()) == pytest.approx(1.0)


def test_evaluate_check_trace_and_info(fitted: Path, invoke: Invoke) -> None:
    status, out, _ = invoke("evaluate", fitted / "clf", fitted / "test.csv")
    assert (
        status == 0
        and "accuracy" in out
        and "best constant answer" in out
        and "n = 30" in out
        and "truth \\ answer" in out
    )
    status, out, _ = invoke("evaluate", fitted / "clf", fitted / "test.csv", "--json")
    assert set(json.loads(out)["scores"]) == {"accuracy", "macro_f1", "log_loss", "calibration_error"}
    status, out, _ = invoke("check", "text -> label", fitted / "train.csv", "--test", fitted / "test.csv")
    assert status == 0 and "0 errors" in out and "no row is longer" in out
    for arrow, extra in (("text -> label", []), ("~text -> text", ["--start", fitted / "base"])):
        status, out, _ = invoke("trace", arrow, fitted / "train.csv", "--row", 3, *extra)
        stages = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
        wanted = ["arrow", "cell", "tokens", "row", "mask", "embed", "stack", "read", "answer", "loss"]
        assert status == 0 and [stage for stage in dict.fromkeys(stages) if stage in wanted] == wanted
    status, out, _ = invoke("info", fitted / "clf")
    assert status == 0 and "cold, warm" in out and "parameters" in out
    status, out, _ = invoke("info", fitted / "clf", "--json")
    assert json.loads(out)["family"] == "modernbert"


# The wrong things a person does


def edit(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GOOD = "".join(f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(sentences(30)))
BAD_TABLES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.csv", b"", "is empty"),
    "header alone": ("a.csv", b"text,label\n", "has no rows"),
    "one class": (
        "a.csv",
        b"text,label\n" + b"".join(f"{t},a\n".encode() for t in sentences(9)),
        "two classes are needed",
    ),
    "blank cells": (
        "a.csv",
        f"text,label\n{GOOD},a\nsome text,\n".encode(),
        "row 32, column 'text': the text is blank",
    ),
    "blank alone": ("a.csv", b"text,label\n,a\n ,b\n", "row 3, column 'text': ' ': the text is blank"),
    "ragged": ("a.csv", f"text,label\n{GOOD}one,two,three\n".encode(), "row 32: 'one,two,three': this row has 3 cells"),
    "open quote": ("a.csv", f'text,label\n{GOOD}"open,a\nnext,b\n'.encode(), "row 32: '\"open,a': a quote is opened"),
    "undecodable": (
        "a.csv",
        b"text,label\ncaf\xe9,a\nb,b\n",
        "row 2: 'e9 2c 61 0a 62 2c 62 0a': these bytes, from byte 4",
    ),
    "NUL": ("a.csv", f"text,label\n{GOOD}a\0b,a\n".encode(), "holds a NUL character"),
    "twice": ("a.csv", b"text,text\na,b\n", "names 'text' more than once"),
    "broken json": ("a.jsonl", b'{"text": "a", "label": "b"}\n{"text": \n', "row 2: '{\"text\": ': this is no JSON"),
    "nested json": (
        "a.jsonl",
        b'{"text": "a", "label": "b"}\n{"text": ["a"], "label": "b"}\n',
        "row 2, column 'text': text was expected, not list",
    ),
    "no parquet": ("a.parquet", b"PAR1 but not really", "is no whole parquet file"),
    "no gzip": ("a.csv.gz", b"text,label\na,b\n", "is no whole gzip file"),
    "no format": ("a.docx", b"some words", "the name says no format"),
    "picture": ("a.txt", b"\x89PNG\r\n\x1a\n\x00\x00", "it is a picture"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.parametrize("command", ["fit", "check"])
def test_bad_tables_are_named_with_row_and_column(case: str, command: str, invoke: Invoke, tmp_path: Path) -> None:
    name, content, says = BAD_TABLES[case]
    data = edit(tmp_path / name, content)
    arrow = "text:text -> label:label" if name != "a.txt" else "~text -> text"
    extra = ["--out", tmp_path / "run", *TINY] if command == "fit" else []
    status, out, err = invoke(command, arrow, data, *extra)
    assert status == 1
    assert " ".join(says.split()) in " ".join((out + err).split())
    assert not (tmp_path / "run" / "run.json").exists(), "nothing was begun"


def test_check_reports_everything_at_once(invoke: Invoke, tmp_path: Path) -> None:
    train = edit(
        tmp_path / "train.csv",
        f"text,label\n{GOOD},a\nno label,\nthe same text here,a\nthe same text here,b\nanother,A \nsingle,c\nx,y,z\n",
    )
    first = GOOD.splitlines()[0]
    test = edit(tmp_path / "test.csv", f"text,label\n{first}\n{first.split(',')[0]} and,b\nnew text,never\n")
    status, out, _ = invoke("check", "text -> label", train, "--test", test)
    assert status == 1
    for part in (
        "row 32, column 'text': the text is blank",
        "row 33, column 'label': the label is blank",
        "row 35, column 'text': 'the same text here': contradicting labels: 'b' here, 'a' in",
        "labels that look alike: 'a' (17 rows), 'A ' (1 rows); if they are the same, fit with --fold-labels",
        "row 37, column 'label': 'c': the only row of its class",
        "row 38: 'x,y,z': this row has 3 cells, the header has 2",
        "test.csv, row 2, column 'text'",
        "is also in the training data",
        "almost the same text",
        "1 test rows have a label that training never sees",
    ):
        assert part in out, (part, out)
    found = json.loads(invoke("check", "text -> label", train, "--test", test, "--json")[1])
    assert {finding["row"] for finding in found["errors"]} >= {32, 33, 38, 2}


def test_check_says_what_many_rows_have_in_common_a_few_times(invoke: Invoke, tmp_path: Path) -> None:
    table = edit(tmp_path / "train.csv", f"text,label\n{GOOD}" + " ,a\n" * 1030 + "x,\n")
    status, out, said = invoke("check", "text -> label", table)
    assert status == 1 and out.count("the text is blank") == 21 and out.count("the label is blank") == 1
    assert "error: … and 1,010 more rows of column 'text' (--json lists them all): the text is blank" in out
    assert "1,031 errors, 0 warnings" in out and "error: 1,031 errors to fix" in said
    assert len(json.loads(invoke("check", "text -> label", table, "--json")[1])["errors"]) == 1031


def test_missing_things_are_named_with_what_is_near(fitted: Path, invoke: Invoke, tmp_path: Path) -> None:
    train, out = fitted / "train.csv", tmp_path / "run"
    for arguments, status, says in (
        (["fit", "txt:text -> label", train, "--out", out], 2, "no column 'txt' (did you mean 'text'?)"),
        (["fit", "text -> lable", train, "--out", out], 2, "no kind 'lable' here (did you mean 'label'?)"),
        (
            ["fit", "image -> sound", train, "--out", out],
            2,
            "no column left can be 'image'",
        ),
        (
            ["fit", "image -> sound_", train, "--out", out],
            2,
            "no kind 'sound_' here (did you mean 'sound'?)",
        ),
        (["fit", "text label", train, "--out", out], 2, "has no arrow"),
        (["fit", "text -> label", fitted / "trian.csv", "--out", out], 1, "did you mean 'train.csv'"),
        (["pretrain", "text", fitted / "corpsu.txt", "--out", out], 1, "did you mean 'corpus.txt'"),
        (["fit", "text -> label", train], 2, "--out"),
        (["fit", "text -> label", train, "--out", train], 2, "is a file; --out needs a folder"),
        (["fit", "text -> label", train, "--out", "/proc/nowhere/run", "--steps", 1], 1, "cannot be written"),
        (["fit", "text -> label", train, "--out", out, "--steps", "many"], 2, "--steps"),
        (["fit", "text -> label", train, "--out", out, "--start", fitted / "bas"], 1, "there is no folder"),
        (["fit", "text -> label", train, "--out", out, "--device", "tpu"], 2, "no device 'tpu'"),
        (["fit", "text -> label", train, "--out", out, "--precision", "int4"], 2, "--precision int4 is for generating"),
        (
            ["predict", fitted / "clf", train, "--precision", "int4"],
            2,
            "--precision int4 is for models that generate their answers",
        ),
        (["fit", "text -> label", train, "--out", out, "--device", "mps"], 2, "has no mps"),
        (["fit", "text -> label", train, "--out", out, "--encoding", "klingon"], 2, "no encoding 'klingon'"),
        (["predict", fitted / "clf"], 2, "give a table, or one or more --text"),
        (
            ["predict", fitted / "clf", fitted / "test.csv", "--out", tmp_path / "a.docx"],
            2,
            "csv, tsv, jsonl, parquet or xlsx",
        ),
        (["predict", tmp_path, fitted / "test.csv"], 1, "no model folder"),
        (["evaluate", fitted / "clf", fitted / "corpus.txt"], 2, "no column 'label'"),
        (["evaluate", fitted / "clf", fitted / "test.csv", "--bad-rows", "skipp"], 2, "did you mean 'skip'?"),
        (["predict", fitted / "clf", fitted / "test.csv", "--long", "windw"], 2, "did you mean 'window'?"),
        (["fit", "text -> label", train, "--out", out, "--length", 3], 2, "needs at least 4"),
        (["fit", "text -> label", train, "--out", out, "--heads", 3], 2, "does not split into 3 heads"),
        (["fit", "text -> label", train, "--out", out, "--width", 63], 2, "does not split"),
        (["fit", "text -> label", train, "--out", out, "--hold-out", 0.999], 2, "none to learn from"),
        (["fit", "text -> label", train, "--out", out, "--hide", 0.2], 2, "--hide would change nothing"),
        (["pretrain", "text", train, "--out", out, "--patience", 5], 2, "--patience would change nothing"),
        (["pretrain", "text", train, "--out", out, "--objective", "casual"], 2, "did you mean 'causal'?"),
        (["fit", "text -> label", train, "--out", out, "--method", "prob"], 2, "did you mean 'probe'?"),
        (
            ["pretrain", "text", train, "--out", out, "--start", fitted / "base", "--method", "probe"],
            2,
            "--method probe is for answers",
        ),
        (
            [
                "fit",
                "text -> label",
                train,
                "--out",
                out,
                "--start",
                fitted / "base",
                "--method",
                "probe",
                "--steps",
                3,
            ],
            2,
            "--steps would change nothing",
        ),
        (["trace", "text -> label", train, "--row", 0], 2, "the rows 1 to 120"),
        (["nonsense"], 2, "no such command"),
    ):
        found, said_out, said = invoke(*arguments)
        assert (found, says in " ".join((said_out + said).split())) == (status, True), (arguments, found, said)


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle", "tokenizer", "manifest", "record", "missing"])
def test_a_damaged_start_is_refused_by_name(damage: str, fitted: Path, invoke: Invoke, tmp_path: Path) -> None:
    start = Path(shutil.copytree(fitted / "base", tmp_path / "start"))
    weights = start / "model.safetensors"
    content = bytearray(weights.read_bytes())
    named = "model.safetensors"
    if damage == "flip":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(content[:-100])
    elif damage == "pickle":
        torch.save({"a": torch.zeros(3)}, weights)
    elif damage == "tokenizer":
        named = "tokenizer.json"
        (start / named).write_text((start / named).read_text(encoding="utf-8") + " ", encoding="utf-8")
    elif damage == "manifest":
        named = "mapsto.json"
        (start / named).write_text("{")
    elif damage == "record":
        named = "mapsto.json"
        (start / named).write_text((start / named).read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'))
    else:
        weights.unlink()
    status, _, said = invoke("fit", "text -> label", fitted / "train.csv", "--start", start, "--out", tmp_path / "run")
    assert status == 1 and named in said and not (tmp_path / "run" / "run.json").exists()


def test_a_text_of_five_megabytes_is_read_and_cut(invoke: Invoke, tmp_path: Path) -> None:
    edit(tmp_path / "a.csv", f"text,label\n{'river mill ' * 500_000},a\n{GOOD}")
    status, _, said = invoke(
        "fit", "text -> label", tmp_path / "a.csv", "--out", tmp_path / "run", "--steps", 1, *TINY[:-1]
    )
    assert status == 0 and "1 of 31 rows are longer than 512 tokens" in said and "cut off" in said


def test_a_bad_row_costs_one_answer(fitted: Path, invoke: Invoke, tmp_path: Path) -> None:
    texts = sentences(100, seed=8)
    good = edit(tmp_path / "good.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    broken: list[Any] = [*texts]
    broken[41] = 7
    bad = edit(tmp_path / "bad.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in broken))
    arguments = ["--json", "--device", "cpu", "--precision", "fp32"]
    expected = [json.loads(line) for line in invoke("predict", fitted / "clf", good, *arguments)[1].splitlines()]
    status, out, said = invoke("predict", fitted / "clf", bad, *arguments)
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and len(found) == 100 and "1 of 100 rows could not be answered" in said
    assert found[41] == {"error": "text: text was expected, not int"}
    for i in set(range(100)) - {41}:
        assert found[i]["label"] == expected[i]["label"]
        assert found[i]["probability"] == pytest.approx(expected[i]["probability"], abs=1e-5)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--out", "answers.csv"]])
def test_where_no_row_can_be_answered_the_status_says_so(
    arguments: list[str], fitted: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = edit(tmp_path / "bad.csv", 'text\n" "\n')
    status, out, said = invoke("predict", fitted / "clf", bad, *arguments)
    written = out or (tmp_path / "answers.csv").read_text(encoding="utf-8")
    assert status == 1 and "error: no row could be answered" in said.replace('{"error": "', "error: ")
    assert "the text is blank" in written, "and why stands with the row"


@pytest.mark.parametrize("name", ["bad.csv", "bad.jsonl"])
def test_a_row_that_cannot_be_read_at_all_keeps_its_place(
    name: str, fitted: Path, invoke: Invoke, tmp_path: Path
) -> None:
    texts = sentences(12, seed=8)
    lines = [json.dumps({"text": text}) if name.endswith("jsonl") else text for text in texts]
    lines[0], lines[4], lines[11] = '{"text": 1, [2]}', '{"text": ,"a', "a,b,c"
    path = edit(tmp_path / name, "\n".join([*(["text"] if name == "bad.csv" else []), *lines]) + "\n")
    bad = {0, 4, 11}
    expected = mapsto.load(fitted / "clf", "cpu", "fp32").predict(texts)
    arguments = ["predict", fitted / "clf", path, "--device", "cpu", "--precision", "fp32"]
    status, out, said = invoke(*arguments, "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and "3 of 12 rows could not be answered" in said
    for i in range(12):
        if i in bad:
            assert set(found[i]) == {"error"} and found[i]["error"].startswith(f"row {i + 1 + (name == 'bad.csv')}: ")
        else:
            assert found[i]["label"] == expected[i]["label"]
            assert found[i]["probability"] == pytest.approx(expected[i]["probability"], abs=1e-5)
    assert invoke(*arguments, "--out", tmp_path / "answers.csv", "--json")[0] == 0, "--json takes nothing from --out"
    rows = list(csv.DictReader((tmp_path / "answers.csv").open(encoding="utf-8")))
    assert [row["text"] for row in rows] == ["" if i in bad else text for i, text in enumerate(texts)]
    assert [bool(row["error"]) for row in rows] == [i in bad for i in range(12)]


def test_where_answers_go_is_looked_at_first(
    fitted: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_soon(*_: object) -> None:
        raise AssertionError("something slow was done before the place of its results was looked at")

    monkeypatch.setattr("mapsto.inference.predictor.Predictor.answer", too_soon)
    test = fitted / "test.csv"
    status, _, said = invoke("predict", fitted / "clf", test, "--out", tmp_path / "a.docx")
    assert status == 2 and "csv, tsv, jsonl, parquet or xlsx" in said
    for slow in (
        "mapsto.pretrained.model_folder.load_mapping",
        "mapsto.data.table.read_table",
        "mapsto.comparison.runs.plan",
    ):
        monkeypatch.setattr(slow, too_soon)
    taken, nowhere = edit(tmp_path / "taken", "x"), tmp_path / "nowhere"
    (tmp_path / "a.csv").mkdir()
    for arguments, says in (
        (["predict", "clf", test, "--out", nowhere / "a.csv"], "there is no folder"),
        (["predict", "clf", test, "--out", taken], "is a file"),
        (["predict", "clf", test, "--out", tmp_path / "a.csv"], "is a folder"),
        (["predict", "clf", test, "--draw", taken], "is a file"),
        (["predict", "clf", test, "--hide", 0.5, "--out", nowhere / "a.csv"], "there is no folder"),
        (["evaluate", "clf", test, "--out", nowhere / "a.html"], "a folder that exists"),
        (["explain", "clf", test, "--out", nowhere / "a.html"], "there is no folder"),
        (["suggest", "clf", test, "--out", test], "exists already"),
        (["compare", "text -> label", test, "--out", taken], "is a file"),
        (["compare", "text -> label", test, "--out", tmp_path], "holds other files"),
    ):
        status, _, said = invoke(*arguments)
        assert (status, says in said) == (2, True), (arguments, said)


def test_a_run_tells_its_steps_and_scores_as_json(fitted: Path, invoke: Invoke, tmp_path: Path) -> None:
    arguments = ["--test", fitted / "test.csv", "--steps", 3, *TINY[:-1], "--json"]
    status, _, said = invoke("fit", "text -> label", fitted / "train.csv", "--out", tmp_path / "run", *arguments)
    found = [json.loads(line) for line in said.splitlines()]
    assert status == 0 and [line["step"] for line in found if "step" in line] == [1, 2, 3]
    (scores,) = [line["scores"] for line in found if "scores" in line]
    assert scores["accuracy"]["n"] == 30 and scores["accuracy"]["low"] <= scores["accuracy"]["value"]


def test_ctrl_c_between_steps_is_said(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mapsto.api.load", stopped)
    assert invoke("info", tmp_path) == (130, "", "error: stopped by SIGINT\n")


def test_json_errors_are_json(invoke: Invoke, tmp_path: Path) -> None:
    status, _, said = invoke("evaluate", tmp_path / "nothing", tmp_path / "a.csv", "--json")
    assert status == 1 and "error" in json.loads(said.splitlines()[-1])


def test_check_names_every_answer_that_fit_would_refuse_as_too_long(invoke: Invoke, tmp_path: Path) -> None:
    rows = [{"q": f"问题 {n}", "t": "word " * (900 if n in (3, 8) else 4) + str(n)} for n in range(12)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    status, out, _ = invoke("check", "q:text -> t:text", data)
    lines = [line for line in out.splitlines() if "tokens, and the model writes at most" in line]
    assert status == 1 and ["row 4" in lines[0], "row 9" in lines[1], len(lines)] == [True, True, 2]
