"""Tests of data at an address: fetched from fsspec's memory and from a local HTTP server, and nothing that was not asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from runs import write_labelled
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto import cli
from mapsto.data.table import read_table
from mapsto.errors import DataError, UsageError
from mapsto.files import remote

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Server:
    """A server of a folder on this machine that counts what it sends."""

    def __init__(self, folder: Path) -> None:
        sent = self.sent = list[str]()

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                sent.append(self.path)
                super().do_GET()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep what is fetched in a temporary folder, ask fsspec's memory too, and forget what other tests have fetched."""
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(remote.PACKAGES, "memory", "fsspec")
    remote.fetch.cache_clear()
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    server = Server(tmp_path / "served")
    yield server
    server.server.shutdown()
    server.server.server_close()


def put(name: str, content: str) -> None:
    fsspec.filesystem("memory").pipe_file(name, content.encode())


def test_a_file_a_folder_and_a_pattern_are_read_as_local_ones_are() -> None:
    put("/bucket/训练/part-1.csv", "text,label\n今天天气真好,好\n")
    put("/bucket/训练/part-2.csv", "text,label\n房间不干净,坏\n")
    put("/bucket/训练/notes.md", "none")
    put("/bucket/训练/.hidden.csv", "text,label\nx,y\n")
    one = read_table("memory://bucket/训练/part-1.csv")
    assert one.data == {"text": ["今天天气真好"], "label": ["好"]} and Path(one.origins[0][0]).name == "part-1.csv"
    assert "fetched 1 file, " in str(one.remarks[0]) and str(one.remarks[0]).startswith(
        "memory://bucket/训练/part-1.csv: "
    )
    for address in ("memory://bucket/训练", "memory://bucket/训练/part-*.csv", Path("memory://bucket/训练/")):
        assert read_table(address).data["label"] == ["好", "坏"]


def test_a_changed_file_is_fetched_again_and_an_unchanged_one_is_not(server: Server, tmp_path: Path) -> None:
    file = write_labelled(tmp_path / "served" / "train.csv", 20)
    address = f"{server.address}/train.csv"

    def read() -> int:
        remote.fetch.cache_clear()  # as another process begins
        return len(read_table(address))

    assert read() == 20 and server.sent
    num_sent = len(server.sent)
    assert len(read_table(address)) == 20 and len(server.sent) == num_sent
    write_labelled(file, 30)
    assert read() == 30


def test_a_fit_and_its_answers_from_an_address(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python and the command line, where a path loses one of its slashes; the report shows no secret of an address."""
    write_labelled(tmp_path / "served" / "train.csv")
    write_labelled(tmp_path / "served" / "test.csv", 20, seed=3)
    progress = RecordingProgress()
    train, test = (f"{server.address}/{name}.csv?token=hush" for name in ("train", "test"))
    mapsto.fit(
        "text -> label", train, tmp_path / "clf", test=test, progress=progress, steps=2, **{**TINY_OPTIONS, "layers": 1}
    )
    assert any(f"{server.address}/train.csv: fetched 1 file, " in line for line in progress.lines), progress.lines
    assert not any("hush" in line for line in progress.lines)
    for file in (tmp_path / "clf").rglob("*"):
        assert not file.is_file() or b"hush" not in file.read_bytes(), file
    monkeyed = ["mapsto", "predict", str(tmp_path / "clf"), f"{server.address}/test.csv"]
    sys.argv, argv = monkeyed, sys.argv
    try:
        cli.main()
    except SystemExit as stopped:
        assert not stopped.code
    finally:
        sys.argv = argv
    assert len(capsys.readouterr().out.splitlines()) == 21


def test_what_cannot_be_fetched_is_said_in_one_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"^http://127.0.0.1:\d+/none.csv could not be fetched: FileNotFoundError[^\n]*$"
    ) as gone:
        read_table(f"{server.address}/none.csv?token=hush")
    assert "hush" not in str(gone.value)
    with pytest.raises(DataError, match="names no file"):
        read_table(server.address + "/")
    with pytest.raises(DataError, match="could not be fetched"):
        read_table("memory://bucket/none.csv")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"s3:// needs the packages fsspec and s3fs: pip install .*\[remote\]"):
        read_table("s3://bucket/train.csv")


def test_addresses_in_cells_and_of_other_schemes_are_not_fetched(server: Server, tmp_path: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text(f"image,label\n{server.address}/a.png,a\n{server.address}/b.png,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="nothing is fetched from the network"):
        mapsto.fit("image -> label", table, steps=1)
    assert not server.sent
    with pytest.raises(DataError, match="there is no file"):
        read_table("ftp://127.0.0.1/train.csv")


def test_a_store_cannot_write_outside_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put("/bucket/a.csv", "text\nx\n")
    store = type(fsspec.filesystem("memory"))
    names = {"/bucket/../../evil.csv": {"name": "/bucket/../../evil.csv", "size": 6, "type": "file"}}
    monkeypatch.setattr(store, "find", lambda *given, **named: names)
    with pytest.raises(DataError, match="outside of its folder"):
        read_table("memory://bucket")
    assert not list(tmp_path.rglob("evil.csv"))
