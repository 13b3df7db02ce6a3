"""Answers of many processes: those of one, in the same order, though processes are killed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import memory_growth, run, sentences

import mapsto
from mapsto.cli.predict import predict
from mapsto.errors import UsageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray") / "clf"
    rows = [{"text": text, "label": "cold" if "winter" in text else "warm"} for text in sentences(80)]
    mapsto.fit("text -> label", rows, folder, steps=20, layers=1, width=64, vocabulary=300, device="cpu")
    return folder


@pytest.fixture(scope="module")
def needs_ray() -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not here")


def write(path: Path, texts: list[str]) -> Path:
    """A file of rows, of which those that hold half a character are bytes that are no text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = pa.array([text.encode("utf-8", "surrogateescape") for text in texts]).view(pa.string())
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": cells}), path)
    return path


def arguments(model: Path, data: Path, out: Path, engine: str, *more: str) -> list[str]:
    return ["predict", str(model), str(data), "--out", str(out), "--engine", engine, "--precision", "fp32", *more]


def said(err: str) -> list[str]:
    """What is said of the rows, and not how far they are, which depends on how fast they go."""
    return [line for line in err.splitlines() if not line.startswith("answered ")]


@pytest.mark.slow
def test_the_bytes_and_the_words_of_one_process(
    needs_ray: None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = sentences(5000, seed=1)
    texts[7] = texts[4321] = " "
    texts[3003] = "caf\udce9"
    texts[9] = "word " * 2000
    write(tmp_path / "rows" / "a.parquet", texts[:3000])
    write(tmp_path / "rows" / "inner" / "b.parquet", texts[3000:])
    found = run(*arguments(model, tmp_path / "rows", tmp_path / "many.parquet", "ray"))
    assert found.returncode == 0, found.stderr
    predict(str(model), [tmp_path / "rows"], out=tmp_path / "one.parquet", precision="fp32", long="cut")
    assert said(found.stderr) == said(capsys.readouterr().err.replace("one.parquet", "many.parquet"))
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    for note in ("1 rows are longer than", "3 of 5000 rows could not", "wrote 5000 rows to"):
        assert note in found.stderr
    rows = pq.read_table(tmp_path / "many.parquet").to_pylist()
    errors = {i: row["error"] for i, row in enumerate(rows) if row["error"]}
    assert errors.keys() == {7, 3003, 4321}
    assert "are no utf-8" in errors[3003]


def test_an_engine_that_is_not_there(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "rows.parquet", ["one"])

    def call(engine: str) -> None:
        predict(str(model), [data], out=tmp_path / "out.parquet", device="cpu", precision="fp32", engine=engine)

    with pytest.raises(UsageError, match=r"local, ray, onnx, openvino, not 'rey' \(did you mean 'ray'\?\)"):
        call("rey")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install .*\[ray\]"):
        call("ray")
    assert not (tmp_path / "out.parquet").exists(), "nothing falls back to this process without a word"


# Small parts, and a process that dies when it has answered one, the first `tries` times; a flag counts them.
DYING = """
import os, signal, sys
from pathlib import Path
from mapsto import cli
from mapsto.data import file_part
from mapsto.inference import ray_engine

flags, tries = Path(sys.argv.pop()), int(sys.argv.pop())
file_part.PART_ROWS = 256
answering = ray_engine.answer

def answer(made_of, part, bound):
    answered = answering(made_of, part, bound)
    flag = flags / str(part.origin(0)[1])
    if (flag.stat().st_size if flag.exists() else 0) < tries:
        with flag.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return answered

ray_engine.answer = answer
cli.main()
"""


def dying(tries: int, flags: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    flags.mkdir()
    command = [sys.executable, "-c", DYING, *words, str(tries), str(flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_killed_processes_cost_nothing(needs_ray: None, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", sentences(1500, seed=2))
    assert dying(0, tmp_path / "none", arguments(model, data, tmp_path / "one.parquet", "local")).returncode == 0
    done = dying(1, tmp_path / "flags", arguments(model, data, tmp_path / "many.parquet", "ray"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "flags").iterdir())) == 6, "each part lost the process that had answered it first"
    assert (tmp_path / "many.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.slow
def test_rows_that_kill_every_process_end_it(needs_ray: None, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", sentences(300))
    done = dying(9, tmp_path / "flags", arguments(model, data, tmp_path / "out.parquet", "ray"))
    assert done.returncode == 1, done.stderr
    assert f"error: {data}, rows 1 to 256: 4 processes died" in done.stderr and "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flags", "rows.parquet"]


@pytest.mark.slow
def test_faults_of_a_process_are_one_message(needs_ray: None, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", ["word " * 2000])
    for words in (["--long", "error"], ["--device", "cuda:7"], ["--precision", "fp3"]):
        said = [run(*arguments(model, data, tmp_path / "o.csv", engine, *words)) for engine in ("local", "ray")]
        assert said[0].returncode and said[0].stderr.startswith("error: ")
        assert (said[1].returncode, said[1].stderr) == (said[0].returncode, said[0].stderr)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of its own, of one machine with three cores and with a token made for it alone."""
    address = "127.0.0.1:6397"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    words = ["--head", "--port", "6397", "--num-cpus", "3", "--include-dashboard", "false", "--disable-usage-stats"]
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
    head = subprocess.Popen(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        time.sleep(8)
        assert head.poll() is None
        monkeypatch.setenv("RAY_ADDRESS", address)
        yield address
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait(30)


@pytest.mark.slow
def test_on_a_cluster(needs_ray: None, cluster: str, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.parquet", sentences(5000))
    wanted = run(*arguments(model, data, tmp_path / "one.csv", "local"))
    for _ in range(2):
        found = run(*arguments(model, data, tmp_path / "many.csv", "ray"))
        assert found.returncode == wanted.returncode == 0, found.stderr
        assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(needs_ray: None, model: Path, tmp_path: Path) -> None:
    """30 MB of a column that is only carried along; what the processes and Ray's store hold is not counted."""
    found = []
    for count in (6_000, 60_000):
        rows: dict[str, list[Any]] = {"text": ["river mill"] * count, "more": ["carried along " * 36] * count}
        pq.write_table(pa.table(rows), tmp_path / f"{count}.parquet", compression="none", use_dictionary=False)
        out = tmp_path / f"out{count}.parquet"
        found.append(memory_growth(*arguments(model, tmp_path / f"{count}.parquet", out, "ray")))
        assert pq.read_metadata(out).num_rows == count
    assert (tmp_path / "60000.parquet").stat().st_size > 30e6
    assert found[1] < found[0] + 50, found
