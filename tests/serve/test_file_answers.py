"""Answers that are files: pictures and recordings in JSON, spoken texts in OpenAI's form, and both on the page."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")
pytest.importorskip("soundfile", reason="the extra [sound] is not here")

from services import Running, save_small, serving, wait_for

import mapsto
from mapsto.audio.sound_value import Sound

Image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    arrows = {
        "say": "word:text -> spoken:sound",
        "both": "word:text -> label, spoken:sound",
        "paint": "image:image -> clean:image",
        "label": "text -> label",
    }
    for name, arrow in arrows.items():
        save_small(arrow, folder / name)
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with serving([folder / name for name in ("say", "both", "paint", "label")]) as running:
        yield running


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(stream, "png")
    return stream.getvalue()


def samples_of(content: bytes) -> Any:
    sound = Sound.from_file(None, content)
    return sound.decode(sound.info.rate)


def test_recordings_and_pictures_are_answers_in_base64(running: Running, folder: Path) -> None:
    """They are those of the model itself, whether the arrow has one answer or several; a bad row costs one place."""
    rows = [{"word": "man"}, {"word": None}, {"word": "spring"}]
    body = running.client.post("/predict", json={"model": "say", "rows": rows}).json()
    first, fault, last = body["answers"]
    assert "word" in fault["error"]
    model = mapsto.load(folder / "say", "cpu", "fp32")
    for answer, row in ((first, rows[0]), (last, rows[2])):
        assert answer["sound"]["type"] == "audio/wav"
        made = samples_of(base64.b64decode(answer["sound"]["base64"]))
        assert np.abs(made - model(row["word"])["sound"][0]).max() < 1e-3
    (both,) = running.client.post("/predict", json={"model": "both", "rows": rows[:1]}).json()["answers"]
    assert both["spoken"]["sound"]["type"] == "audio/wav" and both["label"]["label"] in ("a", "b")
    sent = {"image": {"base64": base64.b64encode(picture()).decode()}}
    (painted,) = running.client.post("/predict", json={"model": "paint", "rows": [sent]}).json()["answers"]
    assert painted["image"]["type"] == "image/png"
    assert Image.open(io.BytesIO(base64.b64decode(painted["image"]["base64"]))).size == (16, 12)


@pytest.mark.parametrize(
    ("form", "media"),
    [(None, "audio/wav"), ("flac", "audio/flac"), ("mp3", "audio/mpeg"), ("opus", "audio/ogg")],
)
def test_texts_are_spoken_as_openai_does(running: Running, folder: Path, form: str | None, media: str) -> None:
    wanted = {} if form is None else {"response_format": form}
    response = running.client.post("/v1/audio/speech", json={"model": "say", "input": "winter", "voice": "x", **wanted})
    assert response.status_code == 200 and response.headers["content-type"] == media
    true, _ = mapsto.load(folder / "say", "cpu", "fp32")("winter")["sound"]
    sound = Sound.from_file(None, response.content)
    assert sound.info.seconds == pytest.approx(len(true) / 16_000, abs=0.1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"input": ""}, "the text to speak"),
        ({"input": "a", "response_format": "aac"}, "wav, flac, mp3, opus"),
        ({"input": "a", "stream_format": "sse"}, "sent as a whole"),
        ({"input": "a", "instructions": "softly"}, "there is no entry 'instructions'"),
        ({"input": "zzz"}, "no letter of this text"),
        ({"input": "a", "speed": 2.0}, "'speed' is 1"),
        ({"input": "a", "model": "label"}, "cannot speak"),
        ({"input": " "}, "blank"),
    ],
)
def test_what_cannot_be_spoken_is_refused(running: Running, body: dict[str, Any], reason: str) -> None:
    response = running.client.post("/v1/audio/speech", json={"model": "say", **body})
    assert response.status_code == 422 and reason in response.json()["error"]["message"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_plays_and_shows_them(running: Running, width: int, scheme: str, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not here")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not here")
    (tmp_path / "a.png").write_bytes(picture())
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(running.process.address)
        page.get_by_label("word").fill("winter")
        page.get_by_role("button", name="Answer").click()
        page.wait_for_selector("audio[aria-label=sound]")
        wait_for(lambda: page.evaluate("document.querySelector('audio').duration > 0"))
        page.select_option("#model", "paint")
        page.get_by_label("image").set_input_files(tmp_path / "a.png")
        page.get_by_role("button", name="Answer").click()
        wait_for(lambda: page.evaluate("document.querySelector('img.made')?.naturalWidth == 16"))
        assert page.evaluate("document.documentElement.scrollWidth") == width and not problems, problems
        browser.close()
