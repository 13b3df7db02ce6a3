"""Tests of `mapsto push` against a stub of the hub's HTTP interface: what is sent, to whom, and what is not."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from runs import write_labelled
from trainings import TINY_OPTIONS, RecordingProgress

import mapsto
from mapsto.errors import CheckpointError, RunError, UsageError


class Hub:
    """A stub of the hub: it makes models, and keeps the files of commits in `files`, for those who have the token."""

    def __init__(self) -> None:
        self.models: dict[str, bool] = {}  # whether each is private
        self.files: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                name = self.path.removeprefix("/api/models/").split("?")[0]
                if name in hub.models:
                    facts = {"id": name, "private": hub.models[name], "modelId": name, "tags": [], "siblings": []}
                    self.answer(200, facts)
                else:
                    self.answer(404, {"error": f"no {self.path}"})

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Authorization") != "Bearer hf_right":
                    self.answer(401, {"error": "Invalid username or password."})
                elif self.path == "/api/repos/create":
                    asked = json.loads(content)
                    name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                    exists = name in hub.models
                    # Versions of huggingface_hub say it in one of two ways.
                    hub.models.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
                    self.answer(409 if exists else 200, {"url": f"{hub.address}/{name}", "name": name})
                elif self.path.startswith("/api/validate-yaml"):
                    self.answer(200, {"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    names = [entry["path"] for entry in json.loads(content)["files"]]
                    modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                    self.answer(200, {"files": modes})
                else:
                    assert "/commit/" in self.path
                    for entry in map(json.loads, content.splitlines()):
                        if entry["key"] == "file":
                            hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    self.answer(200, {"commitUrl": f"{hub.address}/user/name/commit/{'0' * 40}", "commitOid": "0" * 40})

            def answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a report, a file of rejected rows and another file of the user."""
    folder = tmp_path_factory.mktemp("push")
    write_labelled(folder / "secret-project.csv")
    write_labelled(folder / "test.csv", 30, seed=5)
    options = {**TINY_OPTIONS, "layers": 1, "steps": 2}
    mapsto.fit("text -> label", folder / "secret-project.csv", folder / "clf", test=folder / "test.csv", **options)
    (folder / "clf" / "notes.txt").write_text("mine", encoding="utf-8")
    return folder / "clf"


def test_the_model_and_its_card_are_sent_and_nothing_else(run: Path, hub: Hub, tmp_path: Path) -> None:
    progress = RecordingProgress()
    assert mapsto.push(run, "user/name", progress=progress) == f"{hub.address}/user/name"
    assert hub.models == {"user/name": True}
    assert {"config.json", "model.safetensors", "tokenizer.json", "mapsto.json", "README.md"} <= set(hub.files)
    assert not set(hub.files) & {"notes.txt", "report.html", "metrics.jsonl", "run.json", "checkpoints"}
    assert not any(b"secret-project" in content for content in hub.files.values())
    sent, told, omitted = progress.lines
    assert sent.startswith("user/name (private) gets ") and all(name in sent for name in hub.files)
    assert "names of columns and classes" in told and "row_filters.safetensors" in told
    assert "notes.txt" in omitted and "report.html" in omitted and "metrics.jsonl" in omitted
    for name, content in hub.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    # What arrived is whole, and answers as the run does.
    assert mapsto.load(tmp_path)("winter 今天") == mapsto.load(run)("winter 今天")


def test_the_command_says_first_and_makes_public_only_what_is_named_so(run: Path, hub: Hub) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_right", "HF_HUB_OFFLINE": "0"}
    environment["TRANSFORMERS_OFFLINE"] = "0"
    command = [sys.executable, "-m", "mapsto", "push", str(run), "user/name"]
    dry = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, env=environment, check=True)
    assert "user/name (private) gets" in dry.stdout and not hub.models and not hub.files
    done = subprocess.run([*command, "--public"], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{hub.address}/user/name\n" and "(public: everyone may read it)" in done.stderr
    assert hub.models == {"user/name": False}
    hub.files.clear()
    with pytest.raises(UsageError, match="exists and is public: add --public"):
        mapsto.push(run, "user/name")
    assert not hub.files
    assert mapsto.load(run).push("user/other").endswith("/user/other") and "model.safetensors" in hub.files


def test_what_cannot_be_pushed(run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="named user/name, not 'name'"):
        mapsto.push(run, "name")
    with pytest.raises(CheckpointError, match="no-such-folder"):
        mapsto.push(tmp_path / "no-such-folder", "user/name")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="unfinished run"):
        mapsto.push(tmp_path / "unfinished", "user/name")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(RunError, match="wants a token that may write there; log in with: hf auth login$"):
        mapsto.push(run, "user/name")
    assert not hub.models and not hub.files
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="offline mode"):
        mapsto.push(run, "user/name")
