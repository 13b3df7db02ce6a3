"""Labelling in a real browser: by keyboard alone, while the server is killed and the page loaded again."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from runs import sentences

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
pytest.importorskip("fastapi", reason="the extra [serve] is not here")

CHROMIUM = next((path for path in ("/usr/lib/chromium/chromium", "/usr/bin/chromium") if os.path.exists(path)), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
# The figures, 500 labels and 20 kills, take ten minutes: LABELS=500 KILLS=20 pytest -m slow …
NUM_LABELS, NUM_KILLS = int(os.environ.get("LABELS", "120")), int(os.environ.get("KILLS", "4"))
MILLISECONDS = 120_000


class Server:
    """`mapsto label` in a process of its own, on one port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder, self.arguments = folder, arguments
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mapsto", "label", *self.arguments, "--port", str(self.port)]
        self.process = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.hosts = set()
    page.errors = []
    page.on("request", lambda request: page.hosts.add(request.url.split("/")[2]))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    context.close()


def wait_for_row(page: Any, other_than: str = "") -> str:
    """Wait until the page shows another row and takes keys; return its key."""
    page.wait_for_function(
        "old => document.body.dataset.busy === 'no' && document.body.dataset.row !== old", arg=other_than
    )
    return str(page.evaluate("document.body.dataset.row"))


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]


def test_kills_and_reloads_lose_and_double_nothing(page: Any, tmp_path: Path) -> None:
    texts = sentences(NUM_LABELS + 30, 9)
    (tmp_path / "pool.csv").write_text("\n".join(["text", *texts]) + "\n", encoding="utf-8")
    server = Server(
        tmp_path, "text -> label", "pool.csv", "--out", "labels.jsonl", "--labels", "even,odd", "--every", "25"
    )
    try:
        server.wait()
        rng = random.Random(0)
        kills = set(rng.sample(range(1, NUM_LABELS), NUM_KILLS))
        reloads = set(rng.sample(range(1, NUM_LABELS), max(NUM_KILLS, 20)))
        given: dict[str, str] = {}
        milliseconds = []
        page.goto(f"http://127.0.0.1:{server.port}/")
        row = wait_for_row(page)
        for number in range(NUM_LABELS):
            text = page.inner_text("#row .content")
            name = "even" if int(text.split()[0]) % 2 == 0 else "odd"
            given[text] = name
            if number in kills and number % 2:
                server.kill()  # the answer finds no server
            start = time.perf_counter()
            page.keyboard.press("1" if name == "even" else "2")
            if number in kills:
                if not number % 2:
                    server.kill()  # the answer is on its way, in whatever state
                if number % 3 == 0:
                    page.wait_for_timeout(300)
                server.start()
                server.wait()
            elif number in reloads:
                page.reload()
            row = wait_for_row(page, row)
            milliseconds.append(1000 * (time.perf_counter() - start))
        answers = records(tmp_path)
        assert {record["text"]: record["label"] for record in answers} == given
        assert len(answers) == len({record["labelling"]["id"] for record in answers}) == NUM_LABELS
        assert page.hosts == {f"127.0.0.1:{server.port}"} and not page.errors
        print(f"next row in {sorted(milliseconds)[len(milliseconds) // 2]:.0f} ms (median)")
    finally:
        server.kill()


def test_keys_of_every_control(page: Any, tmp_path: Path) -> None:
    (tmp_path / "pool.csv").write_text("text\n😀 Anna lives in 北京 today\n", encoding="utf-8")
    server = Server(tmp_path, "text -> tags", "pool.csv", "--out", "labels.jsonl", "--labels", "person,place")
    try:
        server.wait()
        page.goto(f"http://127.0.0.1:{server.port}/")
        row = wait_for_row(page)
        for key in ("ArrowRight", "1", "ArrowLeft", "ArrowLeft", "2"):  # the first word, and the one before the last
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        wait_for_row(page, row)
        (record,) = records(tmp_path)
        parts = [(record["text"][span["start"] : span["end"]], span["label"]) for span in record["tags"]]
        assert parts == [("Anna", "person"), ("北京", "place")]
        page.keyboard.press("u")
        wait_for_row(page)
        assert page.locator("mark").count() == 2 and not records(tmp_path)
    finally:
        server.kill()
