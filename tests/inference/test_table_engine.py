"""Answers for any number of rows: from file to file, in order, none lost, in memory that does not grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import TINY, memory_growth, run, sentences, write_labelled

import mapsto
from mapsto.api import Model
from mapsto.cli.predict import embed, predict
from mapsto.data import file_part
from mapsto.data.table import read_table, write_rows
from mapsto.errors import DataError, MapstoError, UsageError
from mapsto.evaluation.evaluate import evaluate
from mapsto.inference.forward import prefetch
from mapsto.inference.table_engine import AnsweredRows, answer_all, is_stopped
from mapsto.progress import Progress


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    done = run(
        "fit",
        "text -> label",
        str(write_labelled(folder / "train.csv")),
        "--out",
        str(folder / "clf"),
        "--steps",
        "5",
        *TINY,
    )
    assert done.returncode == 0, done.stderr
    return folder / "clf"


@pytest.fixture(scope="module")
def model(fitted: Path) -> Model:
    return mapsto.load(fitted, device="cpu", precision="fp32")


def command(model: Path, table: Path, out: Path | None, as_json: bool = False) -> None:
    predict(str(model), [table], out=out, device="cpu", precision="fp32", json=as_json, long="cut", overwrite=True)


@pytest.mark.parametrize("name", ["vectors.parquet", "vectors.jsonl", "vectors.csv"])
def test_a_vector_for_every_row(
    fitted: Path, model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    rows = write_numbered_rows(tmp_path / "table.parquet")
    out = tmp_path / name
    embed(str(fitted), [tmp_path / "table.parquet"], out=out, device="cpu", precision="fp32")
    assert "2 of 300 rows could not be answered" in capfd.readouterr().err
    table = read_table(out)
    texts = [row["text"] for row in rows]
    assert table.column("text") == texts and [i for i in range(300) if table.column("vector")[i] is None] == [41, 200]
    found = [vector for vector in table.column("vector") if vector is not None]
    read = np.array([json.loads(vector) if name.endswith(".csv") else vector for vector in found], np.float32)
    np.testing.assert_allclose(read, model.embed([texts[i] for i in range(300) if i not in (41, 200)]), atol=1e-6)
    assert table.column("error")[200] == "text: the text is blank"


def test_vectors_of_texts_that_are_too_long_are_counted(fitted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["short", " ".join(sentences(300))]
    embed(str(fitted), text=texts, pooling="mean", device="cpu", precision="fp32", json=True)
    said = capfd.readouterr()
    assert "1 rows are longer than the model takes and were cut" in said.err
    assert [len(json.loads(line)["vector"]) for line in said.out.splitlines()] == [64, 64]
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        embed(str(fitted), text=["short"], pooling="men", device="cpu", precision="fp32", json=True)


def write_numbered_rows(path: Path, count: int = 300) -> list[dict[str, Any]]:
    """Rows of which some cannot be read or answered, a column that comes late, and one of numbers and nothing."""
    rows: list[dict[str, Any]] = [
        {"text": text, "n": i if i > 150 else None} for i, text in enumerate(sentences(count))
    ]
    rows[41]["text"] = None
    rows[200]["text"] = " "
    if path.name == "a.jsonl":
        rows[222]["label"] = "late"
        path.write_text("\n".join([*map(json.dumps, rows), "broken"]), encoding="utf-8")
    else:
        write_rows(path, ["text", "n"], rows)
    return rows


@pytest.mark.parametrize("source", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
@pytest.mark.parametrize("target", ["out.csv", "out.jsonl", "out.parquet", "out.jsonl.gz"])
def test_streamed_answers_are_those_of_the_table_at_once(
    source: str, target: str, fitted: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_numbered_rows(tmp_path / source)
    expected = list(model.predictor.answer(read_table(tmp_path / source)))
    monkeypatch.setattr(file_part, "PART_ROWS", 16)
    command(fitted, tmp_path / source, tmp_path / target)
    found = read_table(tmp_path / target)
    late = source == "a.jsonl"
    assert len(found) == len(expected) == 300 + late
    name = "predicted_label" if late else "label"
    assert found.columns == ("text", "n", *(["label"] if late else []), name, "probability", "familiar", "error")
    if not late:
        assert found.column("text") == [row["text"] for row in rows]
    assert [answer.get("label") for answer in expected] == found.column(name)
    assert [answer.get("error") for answer in expected] == found.column("error")
    assert [row for row, error in enumerate(found.column("error")) if error] == [41, 200, *([300] if late else [])]
    for answer, probability in zip(expected, found.column("probability"), strict=True):
        assert answer.get("probability") == (
            None if probability is None else pytest.approx(float(probability), abs=6e-5)
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, target]), "nothing else is left"
    if source.endswith(("parquet", "jsonl")) and target.endswith("parquet"):
        assert str(pq.read_schema(tmp_path / target).field("n").type) == "int64"


def test_answers_on_the_screen_come_in_order(
    fitted: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_numbered_rows(tmp_path / "a.jsonl")
    expected = list(model.predictor.answer(read_table(tmp_path / "a.jsonl")))
    monkeypatch.setattr(file_part, "PART_ROWS", 16)
    command(fitted, tmp_path / "a.jsonl", None, as_json=True)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.get("label") for line in lines] == [answer.get("label") for answer in expected]
    assert "3 of 301 rows could not be answered" in err and "row 301" in err
    command(fitted, tmp_path / "a.jsonl", tmp_path / "out.jsonl", as_json=True)
    assert len(read_table(tmp_path / "out.jsonl")) == 301, "--out is written with --json too"


def test_what_was_there_stays_when_writing_or_reading_fails(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_labelled(tmp_path / "a.csv")
    out = tmp_path / "out.csv"
    out.write_text("before", encoding="utf-8")
    content = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "a.csv").write_bytes(content + b"na\xefve,warm\n")
    with pytest.raises(DataError, match="cannot be decoded"):
        command(fitted, tmp_path / "a.csv", out)
    (tmp_path / "a.csv").write_bytes(content)

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(MapstoError, match="disk is full"):
            command(fitted, tmp_path / "a.csv", out)
    assert out.read_text(encoding="utf-8") == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out.csv"]


def test_how_far_it_is_is_told_part_by_part(model: Model, tmp_path: Path) -> None:
    heard: list[tuple[str, int, int | None]] = []

    class Heard(Progress):
        def rows(self, what: str, done: int, total: int | None) -> None:
            heard.append((what, done, total))

    write_numbered_rows(tmp_path / "table.csv", 5000)
    list(answer_all(model.predictor, tmp_path / "table.csv", progress=Heard()))
    assert heard == [
        ("answered", 0, None),
        ("answered", 4096, None),
        ("answered", 5000, None),
        ("answered", 5000, 5000),
    ]
    heard.clear()
    rows = [{"text": text, "label": "warm"} for text in sentences(300)]
    evaluate(model.mapping, read_table(rows), model.predictor.device, progress=Heard())
    assert heard[-1] == ("scored", 300, 300) and 1 < len(heard) == len(set(heard))


def test_a_source_that_changes_meanwhile_is_said(model: Model, tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "a.csv")
    answered = AnsweredRows(model.predictor, path)
    assert answered.num_rows == 120 == len(list(answered)) == len(list(answered))
    with path.open("a", encoding="utf-8") as stream:
        stream.write("one more,warm\n")
    with pytest.raises(DataError, match="changed while it was read"):
        list(answered)


@pytest.mark.parametrize(
    "form", ["csv", *(pytest.param(form, marks=pytest.mark.slow) for form in ("jsonl", "parquet"))]
)
def test_memory_does_not_grow_with_the_rows(form: str, fitted: Path, tmp_path: Path) -> None:
    """30 MB of a column that is only carried along: held, it would take more than 100 MB."""
    found = []
    for count in (6_000, 60_000):
        rows = ({"text": "river mill", "more": f"{i} " + "carried along " * 36} for i in range(count))
        write_rows(tmp_path / f"{count}.csv", ["text", "more"], rows)
        out = tmp_path / f"out{count}.{form}"
        arguments = ("predict", str(fitted), str(tmp_path / f"{count}.csv"), "--out", str(out), "--device", "cpu")
        found.append(memory_growth(*arguments))
        assert len(read_table(out)) == count
    assert (tmp_path / "60000.csv").stat().st_size > 30e6
    assert found[1] < found[0] + 50, found


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 7])
def test_parts_are_made_one_ahead_and_in_order(count: int) -> None:
    made: list[list[int]] = []

    def make(part: list[int]) -> list[int]:
        made.append(part)
        return part

    used = 0
    for part in prefetch(range(count), 3, make):
        used += len(part)
        assert sum(map(len, made)) <= used + 3, "more than the next part was made"
    assert [item for part in made for item in part] == list(range(count)) and used == count


def test_a_fault_in_the_next_part_comes_when_that_is_asked_for() -> None:
    def make(part: list[int]) -> int:
        if 3 in part:
            raise DataError("three has gone")
        return sum(part)

    parts = prefetch(range(6), 3, make)
    assert next(parts) == 3
    with pytest.raises(DataError, match="three has gone"):
        next(parts)


def test_answers_that_were_stopped_are_told_from_finished_ones() -> None:
    stopped, finished = {"text": "{", "ended": "limit"}, {"text": "{}", "ended": "end"}
    assert is_stopped(stopped) and is_stopped({"a": finished, "b": stopped})
    assert (
        not is_stopped(finished)
        and not is_stopped({"error": "limit"})
        and not is_stopped({"a": finished, "label": "x"})
    )
