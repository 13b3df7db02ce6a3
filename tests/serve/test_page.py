"""The page on which a person tries the models, in a real browser, and the parts that it is made of."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import sentences

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import Running, save_small, serving

import mapsto
from mapsto.errors import UsageError
from mapsto.evaluation.training_file import read_training_rows
from mapsto.pretrained.model_folder import load_mapping
from mapsto.serve.examples import find_examples
from mapsto.serve.served_model import ServedModel
from mapsto.serve.settings import ServeSettings
from mapsto.task.arrow import parse

KEY = "0123456789abcdef-key"
# A camera with a moving picture, and a microphone with a beep each second.
FAKE_DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
HOSTILE = "<img src=x onerror=alert(1)> winter 今天"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    arrows = {"clf": "text -> label", "write": "en:text -> de:text", "see": "image -> label", "tag": "text -> tags"}
    arrows["hear"] = "sound -> label"
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
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", *FAKE_DEVICES])
        yield browser
        browser.close()


def test_the_page_has_a_strict_policy_and_loads_nothing_from_elsewhere(running: Running) -> None:
    page = running.client.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    parts = ["page.js", "answers.js", "code.js", "elements.js", "fields.js", "page.css"]
    parts += ["examples.js", "capture.js", "recorder.js"]
    texts = [page.text, running.client.get("/docs").text, *(running.client.get(f"/page/{name}").text for name in parts)]
    for text in texts:
        addresses = text.replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nothing loads
        assert "http://" not in addresses and "https://" not in addresses and "style=" not in addresses
    for name in ("page.html.j2", "..%2fapp.py", "nix.js"):
        assert running.client.get(f"/page/{name}").status_code == 404
    form = running.client.get("/page/models.json").json()
    assert form["has_key"] and [model["name"] for model in form["models"]] == ["clf", "write", "see", "tag", "hear"]
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


def write_table(path: Path, texts: list[str]) -> Path:
    lines = [f"{text},{'even' if int(text.split()[0]) % 2 == 0 else 'odd'}" for text in texts]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


def test_examples_are_test_rows_or_held_out_rows_and_never_training_rows(tmp_path: Path) -> None:
    texts = sentences(150, 5)
    train, test = write_table(tmp_path / "train.csv", texts[:120]), write_table(tmp_path / "test.csv", texts[120:])
    mapsto.fit("text -> label", train, out=tmp_path / "run", test=test, method="linear", hold_out=0.2, device="cpu")

    def offered() -> tuple[str, dict[str, str]]:
        content = find_examples(ServedModel("run", load_mapping(tmp_path / "run"), "cpu", "fp32"), 8).describe()
        assert all(row["files"] == {} for row in content["examples"])
        return content["origin"], {row["texts"]["text"]: row["answers"]["label"] for row in content["examples"]}

    origin, rows = offered()
    assert origin == "test" and len(rows) == 8 and set(rows) <= set(texts[120:])
    assert all((label == "even") == (int(text.split()[0]) % 2 == 0) for text, label in rows.items())
    with serving([tmp_path / "run"]) as running:
        content = running.client.get("/page/examples/run").json()
        assert content["origin"] == "test" and [*rows][:6] == [row["texts"]["text"] for row in content["examples"]]
        assert running.client.get("/page/examples/run/0/0").status_code == 404  # a text is no file
        assert running.client.get("/page/examples/other").status_code == 404
    write_table(test, texts[110:])  # a test file that was changed since may hold training rows
    origin, rows = offered()
    record = load_mapping(tmp_path / "run").fit_record
    assert record is not None and record.to_provenance(tmp_path)["test_file"] == "test.csv"
    training = read_training_rows(parse("text -> label"), record).sources[0]
    assert origin == "held out" and len(rows) == 8 and not set(rows) & set(training) and set(rows) <= set(texts[:120])
    write_table(train, texts[:119])
    assert offered() == ("", {})
    with pytest.raises(UsageError, match="--examples"):
        ServeSettings(examples=-1)
    # The rows are the user's data: other machines see none, unless the user says so.
    assert ServeSettings().num_examples == 6 and ServeSettings(host="0.0.0.0", key=KEY).num_examples == 0


def open_page(browser: Any, running: Running, width: int, scheme: str, **options: Any) -> tuple[Any, list[str]]:
    """Open the page of a service; return it and the list of what goes wrong on it."""
    credentials = {"username": "", "password": KEY, "origin": running.process.address}
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, http_credentials=credentials, **options
    )
    page, problems = context.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(running.process.address)
    return page, problems


@pytest.mark.slow
def test_examples_fill_the_form(browser: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    lines, rng = ["image,label"], np.random.Generator(np.random.Philox(0))
    for number in range(40):
        image.fromarray(rng.integers(0, 255, (16, 24, 3), np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]}")
    (tmp_path / "train.csv").write_text("\n".join(lines[:21]) + "\n")
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *lines[21:]]) + "\n")
    options = {"out": tmp_path / "run", "test": tmp_path / "test.csv", "method": "linear", "device": "cpu"}
    mapsto.fit("image -> label", tmp_path / "train.csv", **options)
    with serving([tmp_path / "run"], key=KEY) as running:
        page, problems = open_page(browser, running, 390, "light")
        button = page.locator(".examples button").nth(1)
        number = int(button.locator("img").get_attribute("alt").removesuffix(".png"))
        button.click()
        page.wait_for_selector("#status:has-text('is in the form')")
        assert number >= 20 and f"label “{'ab'[number % 2]}”" in page.inner_text("#truth")
        assert f"@{number}.png" in page.inner_text("#curl")
        page.get_by_role("button", name="Answer").click()
        page.wait_for_selector("#status:has-text('Answered')")
        row = {"image": {"base64": base64.b64encode((tmp_path / f"{number}.png").read_bytes()).decode()}}
        expected = running.client.post("/predict", json={"rows": [row]}, auth=("", KEY)).json()["answers"][0]
        assert page.inner_text(".main-answer") == expected["label"] and page.inner_text("#truth")
        page.get_by_label("image").set_input_files(tmp_path / "0.png")  # no test row: its answer is not known
        assert page.inner_text("#truth") == "" and not problems, problems
        assert running.client.get("/page/examples/run/0/1", auth=("", KEY)).status_code == 404
        assert running.client.get("/page/examples/run/0/0").status_code == 401
        page.context.close()


@pytest.mark.slow
def test_a_telephone_takes_the_photo_itself(running: Running, browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="the extra [image] is not here").new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    page, problems = open_page(browser, running, 390, "light", has_touch=True, is_mobile=True)
    page.select_option("#model", "see")
    assert page.locator("input[capture]").get_attribute("accept") == "image/*"
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Take a photo").tap()
    chooser.value.set_files(tmp_path / "a.jpg")
    page.wait_for_selector(".preview img")
    page.get_by_role("button", name="Answer").tap()
    page.wait_for_selector("#status:has-text('Answered')")
    assert not problems, problems
    page.context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_camera_and_microphone(running: Running, browser: Any, width: int, scheme: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="the extra [sound] is not here")
    page, problems = open_page(browser, running, width, scheme)
    page.select_option("#model", "see")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the photo").click()
    page.wait_for_selector(".preview img")
    assert "-F 'image=@photo.jpg'" in page.inner_text("#curl")
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#status:has-text('Answered')")
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Close the camera").wait_for()
    page.select_option("#model", "hear")  # another model switches the camera off
    page.get_by_role("button", name="Record").click()
    page.wait_for_selector("button:has-text('Stop (2 s)')")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#status:has-text('were recorded')")
    content = page.evaluate(
        "document.querySelector('#field-0').files[0].arrayBuffer().then((b) => [...new Uint8Array(b)])"
    )
    samples, rate = soundfile.read(io.BytesIO(bytes(content)))
    assert samples.ndim == 1 and 1.5 < len(samples) / rate < 4 and np.abs(samples).max() > 0.05
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#status:has-text('Answered')")
    assert page.evaluate("document.documentElement.scrollWidth") == width and not problems, problems
    page.context.close()
