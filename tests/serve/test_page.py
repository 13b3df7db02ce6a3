"""The page on which a person tries the models, in a real browser, and the parts that it is made of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import Running, save_small, serving

KEY = "0123456789abcdef-key"
HOSTILE = "<img src=x onerror=alert(1)> winter 今天"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    arrows = {"clf": "text -> label", "write": "en:text -> de:text", "see": "image -> label", "tag": "text -> tags"}
    with serving([save_small(arrow, folder / name) for name, arrow in arrows.items()], key=KEY) as running:
        running.client.auth = ("", KEY)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not here")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_the_page_has_a_strict_policy_and_loads_nothing_from_elsewhere(running: Running) -> None:
    page = running.client.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    parts = ["page.js", "answers.js", "code.js", "elements.js", "fields.js", "page.css"]
    texts = [page.text, running.client.get("/docs").text, *(running.client.get(f"/page/{name}").text for name in parts)]
    for text in texts:
        addresses = text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nothing loads
        assert "http://" not in addresses and "https://" not in addresses and "style=" not in addresses
    for name in ("page.html.j2", "..%2fapp.py", "nix.js"):
        assert running.client.get(f"/page/{name}").status_code == 404
    form = running.client.get("/page/models.json").json()
    assert form["has_key"] and [model["name"] for model in form["models"]] == ["clf", "write", "see", "tag"]
    assert ".png" in form["models"][2]["columns"][0]["suffixes"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_person_tries_the_models(running: Running, browser: Any, width: int, scheme: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        http_credentials={"username": "", "password": KEY, "origin": running.process.address},
    )
    page, problems, hosts = context.new_page(), [], set()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append("a dialog"))
    page.on("request", lambda request: hosts.add(request.url.partition("://")[2].partition("/")[0]))
    page.goto(running.process.address)
    page.get_by_label("text").fill(HOSTILE)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".bars li")
    expected = running.client.post("/predict", json={"rows": [HOSTILE]}).json()["answers"][0]
    assert page.inner_text(".main-answer") == expected["label"]
    assert f"{100 * expected['probability']:.1f} %" in page.inner_text(".bars")
    page.get_by_role("button", name="What decided?").click()
    page.wait_for_selector("#parts mark")
    assert page.inner_text("#parts .text") == HOSTILE and page.query_selector("main img") is None
    command = page.inner_text("#curl")
    assert running.process.address in command and "$MAPSTO_KEY" in command and "今天" in command
    page.select_option("#model", "write")
    page.get_by_label("en").fill("A dog.")
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#status:has-text('Answered')")
    page.select_option("#model", "see")
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#status:has-text('is empty')")
    page.get_by_label("image").set_input_files(tmp_path / "a.png")
    page.get_by_role("button", name="What decided?").click()
    page.wait_for_selector(".preview rect", state="attached")
    assert "-F 'image=@a.png'" in page.inner_text("#curl")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert not problems and hosts == {running.process.address.partition("://")[2]}, (problems, hosts)
    context.close()
