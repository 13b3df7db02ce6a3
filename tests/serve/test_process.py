"""The process of `mapsto serve`: wrong commands in one line, and its orderly end on SIGTERM."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from runs import ended, start
from services import save_small

from mapsto import cli


def get(address: str) -> int:
    try:
        with urllib.request.urlopen(address, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def post(address: str, rows: list[str]) -> int:
    body = json.dumps({"rows": rows}).encode()
    request = urllib.request.Request(f"{address}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert len(json.load(response)["answers"]) == len(rows)
        return int(response.status)


def ready_address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"ready on (\S+)", line):
            return match[1]
    raise AssertionError(ended(process))


def test_sigterm_answers_admitted_requests_and_refuses_new_ones(tmp_path: Path) -> None:
    folder = save_small("text -> label", tmp_path / "clf")
    process = start("serve", str(folder), "--port", "0", "--log", "none", "--timeout", "60")
    address = ready_address(process)
    assert get(f"{address}/health/ready") == 200
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(post, address, ["winter spring " * 200] * 900)
        time.sleep(0.3)
        assert not slow.done()
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        while get(f"{address}/health/ready") == 200:
            pass
        assert time.monotonic() - told < 0.2 and get(f"{address}/health/live") == 200
        with pytest.raises(urllib.error.HTTPError, match="503"):
            post(address, ["x"])
        assert slow.result() == 200
    done = ended(process)
    assert done.returncode == 0 and time.monotonic() - told < 30, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["{tmp}/nix"], "nix", 1),
        (["{tmp}"], "no model folder", 1),
        (["{tmp}", "--port", "{taken}"], "--port names another", 2),
        (["{tmp}", "--host", "0.0.0.0"], "needs a key", 2),
        (["{tmp}", "--key", "short"], "at least 16", 2),
        (["{tmp}", "--log", "xml"], "lines, json", 2),
        (["{tmp}", "--files", "{tmp}/nix"], "no such folder", 2),
    ],
)
def test_wrong_commands_end_with_one_line(
    arguments: list[str],
    words: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"tmp": str(tmp_path), "taken": str(taken.getsockname()[1])}
        words_given = [argument.format(**values) for argument in arguments]
        port = [] if "--port" in arguments else ["--port", "0"]
        monkeypatch.setattr(sys, "argv", ["mapsto", "serve", *words_given, *port])
        with pytest.raises(SystemExit) as end:
            cli.main()
    printed = capsys.readouterr().err
    assert end.value.code == status and words in printed and printed.startswith("error: "), printed
    assert "Traceback" not in printed
