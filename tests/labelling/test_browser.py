"""Labelling in a real browser: by keyboard alone, while the server is killed and the page loaded again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from runs import sentences

import mapsto

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


def point(page: Any, x: float, y: float) -> tuple[float, float]:
    """Return where a pixel of the picture, which is 400 × 300, is on the screen."""
    bounds = page.locator(".layer").bounding_box()
    return bounds["x"] + bounds["width"] * x / 400, bounds["y"] + bounds["height"] * y / 300


def drag(page: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
    page.mouse.move(*point(page, *start))
    page.mouse.down()
    page.mouse.move(*point(page, *end), steps=3)
    page.mouse.up()


def drag_with_a_finger(page: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
    session = page.context.new_cdp_session(page)
    for name, places in (("touchStart", [start]), ("touchMove", [end]), ("touchEnd", [])):
        points = [dict(zip("xy", point(page, *place), strict=True)) for place in places]
        session.send("Input.dispatchTouchEvent", {"type": name, "touchPoints": points})


def is_near(boxes: list[dict[str, Any]], expected: list[tuple[str, list[int]]]) -> bool:
    """Return whether boxes are the expected ones; a pixel of the screen may be two of the picture."""
    pairs = zip(boxes, expected, strict=True)
    return all(box["label"] == name and np.abs(np.array(box["box"]) - sides).max() <= 2 for box, (name, sides) in pairs)


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


@pytest.mark.parametrize(("width", "is_touched"), [(1280, False), (390, True)])
def test_boxes_by_pointer_and_by_keyboard(browser: Any, tmp_path: Path, width: int, is_touched: bool) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    (tmp_path / "pool").mkdir()
    exif = image.Exif()
    exif[274] = 6  # stored as 300 × 400, to be turned by a quarter
    for number in range(3):
        image.new("RGB", (300, 400), (50 * number, 90, 200)).save(tmp_path / f"pool/{number}.jpg", exif=exif)
    server = Server(tmp_path, "image -> boxes", "pool", "--out", "labels.jsonl", "--labels", "cat,dog")
    context = browser.new_context(viewport={"width": width, "height": 800}, has_touch=is_touched, is_mobile=is_touched)
    page, errors = context.new_page(), list[str]()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    try:
        server.wait()
        page.goto(f"http://127.0.0.1:{server.port}/")
        row = wait_for_row(page)
        draw = drag_with_a_finger if is_touched else drag
        draw(page, (20, 30), (100, 90))
        page.keyboard.press("1")
        page.keyboard.press("Escape")
        draw(page, (300, 250), (200, 150))  # from the lower right to the upper left
        page.keyboard.press("2")
        draw(page, (250, 200), (290, 180))  # the selected box is moved by 40, −20 …
        draw(page, (240, 130), (220, 110))  # … and its corner dragged
        expected = [("cat", [20, 30, 100, 90]), ("dog", [220, 110, 340, 230])]
        page.keyboard.press("Enter")
        second = wait_for_row(page, row)
        assert is_near(records(tmp_path)[0]["boxes"], expected), records(tmp_path)
        assert records(tmp_path)[0]["labelling"]["size"] == [400, 300]
        page.keyboard.press("u")
        wait_for_row(page, second)
        assert page.locator(".box").count() == 2 and not records(tmp_path)
        page.keyboard.press("p")
        page.keyboard.press("Delete")
        page.keyboard.press("Enter")
        second = wait_for_row(page, row)
        assert is_near(records(tmp_path)[0]["boxes"], expected[:1])
        # By keyboard alone: a box in the middle, moved and made wider by whole pixels, with a label that is new.
        for key in (
            "b",
            "f",
            "ArrowLeft",
            "ArrowUp",
            "ArrowUp",
            "Shift+ArrowRight",
            "Shift+ArrowUp",
            "ArrowRight",
            "u",
        ):
            page.keyboard.press(key)
        for key in ("/", "b", "i", "r", "d", "Enter"):
            page.keyboard.press(key)
        says = page.inner_text("#message")
        assert "Box 1 of 1, bird: left" in says and page.locator(".box").inner_text() == "bird"
        page.reload()  # what is not sent yet is there again
        assert wait_for_row(page) == second and page.locator(".box").inner_text() == "bird"
        page.keyboard.press("Space")
        assert "not saved" in page.inner_text("#message")
        page.keyboard.press("Enter")
        third = wait_for_row(page, second)
        (box,) = records(tmp_path)[1]["boxes"]
        left, top, right, bottom = box["box"]
        assert box["label"] == "bird" and f"left {left}, top {top}, {right - left} wide, {bottom - top} high" in says
        middle = np.array([left + 1, top + 2, right, bottom + 3]) if width == 1280 else None
        if middle is not None:  # a third of the picture, before the keys
            assert np.abs(middle - [400 / 3, 300 / 3, 800 / 3, 600 / 3]).max() <= 2
        for key in "+++":
            page.keyboard.press(key)
        draw(page, (185, 135), (215, 165))  # in the enlarged picture, whose middle stays in view
        sides = list(map(int, re.findall(r"\d+", page.inner_text("#message").partition(":")[2])))
        assert np.abs(np.array(sides) - [185, 135, 30, 30]).max() <= 2
        page.keyboard.press("Delete")
        page.keyboard.press("Enter")  # nothing is there: an answer too
        wait_for_row(page, third)
        assert records(tmp_path)[2]["boxes"] == [] and not errors
        assert page.evaluate("document.documentElement.scrollWidth") == width
    finally:
        context.close()
        server.kill()


def test_boxes_of_a_model_are_added_to_those_that_are_drawn(browser: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    (tmp_path / "pool").mkdir()
    image.new("RGB", (400, 300), (50, 90, 200)).save(tmp_path / "pool/0.png")
    rows = [{"image": str(tmp_path / "pool/0.png"), "boxes": [{"label": "cat", "box": [9, 9, 99, 99]}]}] * 4
    mapsto.fit("image -> boxes", rows, out=tmp_path / "start", steps=1, layers=1, width=16, device="cpu")
    server = Server(tmp_path, "image -> boxes", "pool", "--out", "labels.jsonl", "--start", "start", "--device", "cpu")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    # A model of one step is sure of no box, so that the page is given the answer of a better one.
    guess = [
        {"label": "cat", "box": box, "probability": 0.9} for box in ([21, 30, 100, 88], [200.0, 150.0, 300.4, 250.0])
    ]
    page.route("**/guess/*", lambda route: route.fulfill(json={"answer": guess, "confidence": 0.9}))
    try:
        server.wait()
        page.goto(f"http://127.0.0.1:{server.port}/")
        row = wait_for_row(page)
        assert page.locator(".choices button").inner_text().startswith("cat")
        drag(page, (20, 30), (100, 90))  # the only label needs no choice
        page.wait_for_function("() => !document.getElementById('show-guess').disabled")
        page.keyboard.press("g")
        page.wait_for_selector("#guess:has-text('1 box')")
        page.keyboard.press("Enter")
        wait_for_row(page, row)
        (record,) = records(tmp_path)
        assert is_near(record["boxes"], [("cat", [20, 30, 100, 90]), ("cat", [200, 150, 300, 250])])
        assert record["labelling"]["saw_guess"] and all(box.keys() == {"label", "box"} for box in record["boxes"])
    finally:
        context.close()
        server.kill()
