"""Answers of many workers: the same as of one, in the same order, though a worker is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from runs import run, sentences

import mapsto
from mapsto import commands, engine_ray
from mapsto.errors import UsageError

SIZE: dict[str, Any] = {"layers": 1, "width": 64, "vocabulary": 300, "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "clf"
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(80)]
    mapsto.fit("text -> label", rows, folder, steps=20, **SIZE)
    return folder


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), path)
    return path


def predict(model: Path, data: Path, out: Path, engine: str) -> list[dict[str, Any]]:
    done = run("predict", str(model), str(data), "--out", str(out), "--engine", engine, "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert "wrote" in done.stderr and "rows to" in done.stderr
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(out).to_pylist()
    return rows


def require_equal(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert one[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value)


@pytest.mark.slow
def test_the_same_answers_in_the_same_order(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not here")
    texts = sentences(5000, seed=1)
    texts[7] = texts[4321] = ""
    write(tmp_path / "rows" / "a.parquet", texts[:3000])
    write(tmp_path / "rows" / "inner" / "b.parquet", texts[3000:])
    wanted = predict(model, tmp_path / "rows", tmp_path / "local.parquet", "local")
    found = predict(model, tmp_path / "rows", tmp_path / "ray.parquet", "ray")
    assert [row["text"] for row in wanted] == [text or None for text in texts]
    assert sum(row["error"] is not None for row in wanted) == 2
    require_equal(found, wanted)


DYING = """
import os, signal, sys
from mapsto import cli, engine_ray

flag = sys.argv.pop()

class Dying(engine_ray.Worker):
    def answer(self, batch):
        answered = super().answer(batch)
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return answered
        os.kill(os.getpid(), signal.SIGKILL)

engine_ray.Worker = Dying
cli.main()
"""


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not here")
    data = write(tmp_path / "rows.parquet", sentences(5000, seed=2))
    wanted = predict(model, data, tmp_path / "local.parquet", "local")
    out, flag = tmp_path / "ray.parquet", tmp_path / "killed"
    arguments = ["predict", str(model), str(data), "--out", str(out), "--engine", "ray", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, "-c", DYING, *arguments, str(flag)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert flag.exists(), "a worker was killed after it had answered and before it could say so"
    require_equal(pyarrow.parquet.read_table(out).to_pylist(), wanted)


@pytest.mark.slow
def test_faults_of_a_worker_are_one_message(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not here")
    data = write(tmp_path / "rows.parquet", ["word " * 2000])
    arguments = ["predict", str(model), str(data), "--out", str(tmp_path / "out.parquet"), "--engine", "ray"]
    done = run(*arguments, "--long", "error")
    assert done.returncode == 1 and done.stderr.startswith("error: 1 rows are longer than"), done.stderr
    assert not (tmp_path / "out.parquet").exists()
    again = run(*arguments)
    assert again.returncode == 0 and "1 rows are longer than the model takes and were cut" in again.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"engine": "rey"}, "did you mean 'ray'"),
        ({"out": None}, "--out"),
        ({"data": Path("new.csv")}, "reads parquet"),
        ({"data": Path("none.parquet")}, "there is no parquet file"),
    ],
)
def test_calls_that_cannot_be(change: dict[str, Any], says: str, model: Path, tmp_path: Path) -> None:
    given = {"data": tmp_path / "rows.parquet", "out": tmp_path / "out.parquet", "engine": "ray", **change}
    with pytest.raises(UsageError, match=says):
        commands.predict(
            str(model), given["data"], None, given["out"], "cpu", "fp32", None, False, "cut", given["engine"]
        )


def test_a_missing_extra_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    data = write(tmp_path / "rows.parquet", ["one"])
    with pytest.raises(UsageError, match=r"pip install 'mapsto\[ray\]'"):
        next(engine_ray.answers(str(model), data, "cpu", "fp32", "cut"))
