"""Labelling over HTTP: two people, repeated and wrong requests, undoing, guesses, the learning curve, and files for `fit`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import sentences

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import save_small
from starlette.testclient import TestClient

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.errors import MapstoError
from mapsto.kinds.boxes import Boxes
from mapsto.serve.app import create_app, mount
from mapsto.serve.labelling.answer_file import AnswerFile
from mapsto.serve.labelling.curve import forecast
from mapsto.serve.labelling.exports import export
from mapsto.serve.labelling.learner import Learner
from mapsto.serve.labelling.pool import read_pool
from mapsto.serve.labelling.questions import Question
from mapsto.serve.labelling.routes import ROUTES
from mapsto.serve.labelling.service import LabelService
from mapsto.serve.labelling.session import Session
from mapsto.serve.settings import ServeSettings
from mapsto.task.arrow import parse

TEXTS = sentences(120, 3)
KEY = "0123456789abcdef-key"


class Labelling:
    """A session with its service, answered in this process. learner: stepped by the test, not by a thread."""

    def __init__(self, folder: Path, arrow: str = "text -> label", data: Any = None, **options: Any) -> None:
        table = read_table(data or [{"text": text} for text in TEXTS])
        self.path = folder / "labels.jsonl"
        pool = read_pool(parse(arrow), table, options.pop("names", []), lambda note: None)
        self.file = AnswerFile(self.path, pool.question.column)
        self.session = Session(pool, self.file, lease_seconds=options.pop("lease", 600.0))
        self.learner = Learner(self.session, options.pop("start", None), options.pop("every", 20))
        self.service = LabelService(ServeSettings(log="none", max_body=2**20, **options), self.session, self.learner)
        self.service.is_ready = True
        app, edge = create_app(self.service)
        mount(app, ROUTES)
        self.client = TestClient(edge, base_url="http://localhost")
        self.count = 0

    def post(self, route: str, person: str = "ann", status: int = 200, **content: Any) -> dict[str, Any]:
        response = self.client.post(f"/{route}", json={"page": f"page-{person}", "person": person, **content})
        assert response.status_code == status, response.text
        reply: dict[str, Any] = response.json()
        return reply

    def answer(
        self, row: dict[str, Any], answer: Any, person: str = "ann", id: str = "", **more: Any
    ) -> dict[str, Any]:
        self.count += 1
        return self.post("answer", person, key=row["key"], id=id or f"answer-{self.count:05}", answer=answer, **more)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def labelling(tmp_path: Path) -> Iterator[Labelling]:
    labelling = Labelling(tmp_path)
    yield labelling
    labelling.file.close()


def test_an_answer_is_written_once(labelling: Labelling) -> None:
    row = labelling.post("next")["row"]
    assert row["sources"][0]["content"] in TEXTS and labelling.post("next")["row"] == row
    reply = labelling.answer(row, "好", id="answer-same")
    assert labelling.answer(row, "好", id="answer-same")["row"] == reply["row"] != row
    assert reply["names"] == ["好"] and reply["counts"]["num_labelled"] == 1
    (record,) = labelling.records()
    assert record["label"] == "好" and record["labelling"]["by"] == "ann" and record["labelling"]["key"] == row["key"]
    labelling.post("answer", "bob", 409, key=row["key"], id="answer-other", answer="a")
    assert len(labelling.records()) == 1


def test_two_people_have_different_rows(labelling: Labelling) -> None:
    rows = {person: labelling.post("next", person)["row"] for person in ("ann", "bob", "eve")}
    seen = [row["key"] for row in rows.values()]
    for number in range(36):
        person = ("ann", "bob", "eve")[number % 3]
        rows[person] = labelling.answer(rows[person], "ab"[number % 2], person)["row"]
        seen.append(rows[person]["key"])
    assert len(set(seen)) == len(seen) == 39


def test_a_row_is_lent_for_a_time(tmp_path: Path) -> None:
    data = [{"text": "only row"}]
    labelling = Labelling(tmp_path, data=data, lease=0.0)
    row = labelling.post("next")["row"]
    assert labelling.post("next", "bob")["row"] == row
    labelling.answer(row, "a")
    labelling.post("answer", "bob", 409, key=row["key"], id="answer-late", answer="b")
    assert labelling.post("next", "bob")["row"] is None
    labelling.file.close()


def test_undo_skip_and_restart(labelling: Labelling, tmp_path: Path) -> None:
    first = labelling.post("next")["row"]
    reply = labelling.answer(first, "a")
    second, last = reply["row"], reply["last"]
    skipped = labelling.post("skip", key=second["key"], id="skip-0001")
    assert skipped["row"]["key"] not in (first["key"], second["key"]) and skipped["counts"]["num_skipped"] == 1
    back = labelling.post("undo", **skipped["last"])
    assert back["row"]["key"] == second["key"] and back["last"] == last
    for _ in range(2):  # sent again, it takes nothing else back
        back = labelling.post("undo", **last)
        assert back["row"]["key"] == first["key"] and back["last"] is None and not labelling.records()
    labelling.answer(first, "b")
    labelling.post("skip", key=second["key"], id="skip-0002")
    labelling.file.close()
    again = Labelling(tmp_path)
    again.count = 100  # ids are new for each answer
    reply = again.post("next")
    assert reply["counts"]["num_labelled"] == 1 and reply["counts"]["num_skipped"] == 1 and reply["names"] == ["b"]
    keys = [reply["row"]["key"]]
    while (row := again.answer({"key": keys[-1]}, "a")["row"]) is not None:
        keys.append(row["key"])
    # The skipped row comes last; none is asked twice.
    assert keys[-1] == second["key"] and len(set(keys)) == len(keys) == len(TEXTS) - 1
    again.file.close()


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        ({"person": " "}, 422, "name"),
        ({"page": "x"}, 422, "'page'"),
        ({"id": "x"}, 422, "'id'"),
        ({"key": "none"}, 404, "no such row"),
        ({"answer": ""}, 422, "blank"),
        ({"answer": ["a"]}, 422, "name of a label"),
        ({"answer": "x" * 101}, 422, "100 characters"),
        ({"answer": "x" * 2_000_000}, 413, "--max-body"),
    ],
)
def test_wrong_answers_are_refused(labelling: Labelling, content: dict[str, Any], status: int, words: str) -> None:
    row = labelling.post("next")["row"]
    body = {"page": "page-0001", "person": "ann", "key": row["key"], "id": "answer-0001", "answer": "a"}
    response = labelling.client.post("/answer", json=body | content)
    assert response.status_code == status and words in response.json()["error"] and not labelling.records()


def test_the_page_loads_nothing_from_elsewhere(labelling: Labelling) -> None:
    page = labelling.client.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"] and "://" not in page.text
    assert "<h1>text -&gt; label</h1>" in page.text and "style=" not in page.text
    for name in (
        "label.js",
        "requests.js",
        "elements.js",
        "choices.js",
        "spans.js",
        "rectangles.js",
        "curve.js",
        "label.css",
    ):
        part = labelling.client.get(f"/page/{name}")
        assert part.status_code == 200 and "://" not in part.text.replace("http://www.w3.org/2000/svg", "")
    assert labelling.client.get("/page/none.js").status_code == 404


def test_a_key_guards_every_route(tmp_path: Path) -> None:
    labelling = Labelling(tmp_path, key=KEY)
    for entry in ROUTES:
        path = entry.path.format(name="label.js", key="k", port="0")
        assert labelling.client.request(entry.method, path, json={}).status_code == 401, path
    assert labelling.client.get("/", auth=("ann", KEY)).status_code == 200
    labelling.file.close()


def test_a_form_of_another_site_is_refused(labelling: Labelling) -> None:
    body = json.dumps({"page": "page-0001", "person": "ann"})
    assert labelling.client.post("/next", content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    response = labelling.client.post("/next", content=body, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403


def label_all(labelling: Labelling, count: int) -> None:
    """Answer rows by whether they have the word "river"."""
    row = labelling.post("next")["row"]
    for _ in range(count):
        row = labelling.answer(row, "yes" if "river" in row["sources"][0]["content"] else "no")["row"]


def test_the_probe_learns_and_puts_rows_in_order(labelling: Labelling) -> None:
    learner, session = labelling.learner, labelling.session
    row = labelling.post("next")["row"]
    assert labelling.client.get(f"/guess/{row['key']}").status_code == 404
    learner._prepare()
    before = session.open_rows()
    label_all(labelling, 30)
    learner.step()
    assert learner.probe is not None and learner.probe.target.classes == ["no", "yes"]  # type: ignore[attr-defined]
    (point,) = labelling.client.get("/state").json()["learner"]["points"]
    # Without a start all rows come in random order, so all of them measure.
    assert point["num_labels"] == point["n"] == 30 and 0 <= point["low"] <= point["score"] <= point["high"] <= 1
    assert [row for row in before if row in session.open_rows()] == session.open_rows()
    label_all(labelling, 40)
    learner.step()
    assert [row for row in before if row in session.open_rows()] != session.open_rows()  # uncertain ones come first
    row = labelling.post("next")["row"]
    guess = labelling.client.get(f"/guess/{row['key']}").json()
    assert guess["answer"] in ("no", "yes") and 0.5 <= guess["confidence"] <= 1
    labelling.answer(row, "no", saw_guess=True)
    assert [record["labelling"]["saw_guess"] for record in labelling.records()].count(True) == 1


def test_random_rows_are_a_random_sample(labelling: Labelling) -> None:
    """Rows that were chosen count only once the random order has come to them."""
    session = labelling.session
    chosen = sorted(session.open_rows())
    session.set_order(chosen)
    label_all(labelling, 24)
    rows = session.random_rows()
    assert 24 // 4 <= len(rows) < 24
    assert rows == set(session._random_order[: len(rows)])


def test_a_start_orders_and_its_answers_are_guesses(tmp_path: Path) -> None:
    start = mapsto.load(save_small("text -> label", tmp_path / "clf"), "cpu", "fp32")
    labelling = Labelling(tmp_path, start=start)
    assert labelling.session.pool.question.names == {"a": None, "b": None}
    before = labelling.session.open_rows()
    labelling.learner._prepare()
    assert labelling.session.open_rows() != before
    row = labelling.post("next")["row"]
    guess = labelling.client.get(f"/guess/{row['key']}").json()
    expected = start(row["sources"][0]["content"])
    assert guess == {"answer": expected["label"], "confidence": pytest.approx(expected["probability"])}
    labelling.file.close()


def test_the_answers_go_into_fit_and_elsewhere(labelling: Labelling, tmp_path: Path) -> None:
    label_all(labelling, 40)
    table = read_table(labelling.path)
    model = mapsto.fit("text -> label", table, out=tmp_path / "run", method="linear", device="cpu")
    assert model.mapping.targets[0].classes == ["no", "yes"]  # type: ignore[attr-defined]
    labels = [record["label"] for record in labelling.records()]
    for name in ("labels.csv", "tasks.json"):
        export(tmp_path / name, labelling.file, labelling.session.pool.question)
        exported = read_table(tmp_path / name)
        assert exported.column("label") == labels and exported.columns == ("text", "label")
    assert labelling.client.get("/export/tasks.json").json()[0]["annotations"][0]["created_username"] == "ann"
    assert labelling.client.get("/export/labels.csv").text.startswith("text,label\n")


@pytest.mark.parametrize(
    ("arrow", "good", "bad"),
    [
        ("text -> labels", [["a", "b"], []], ["a", None]),
        (
            "text -> tags",
            [[{"start": 0, "end": 2, "label": "人"}], []],
            [[{"start": 0, "end": 9999, "label": "x"}], "x"],
        ),
        ("text -> answer:text", ["written by hand 写"], ["  ", ["x"], None]),
    ],
)
def test_other_answers(tmp_path: Path, arrow: str, good: list[Any], bad: list[Any]) -> None:
    labelling = Labelling(tmp_path, arrow)
    row = labelling.post("next")["row"]
    for answer in bad:
        labelling.post("answer", status=422, key=row["key"], id="answer-bad", answer=answer)
    for answer in good:
        row = labelling.answer(row, answer)["row"]
    column = labelling.session.pool.question.column
    assert [record[column] for record in labelling.records()] == good
    labelling.file.close()
    again = Labelling(tmp_path, arrow)
    assert again.post("next")["counts"]["num_labelled"] == len(good)
    again.file.close()


@pytest.mark.parametrize("arrow", ["text -> number", "text <-> text", "text -> label, number"])
def test_other_arrows_are_refused_in_a_line(arrow: str) -> None:
    data = [{"text": "a", "image": "a.png"}]
    with pytest.raises(MapstoError) as error:
        read_pool(parse(arrow), read_table(data), [], lambda note: None)
    assert "\n" not in str(error.value)


def test_pictures_are_shown(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    rng = np.random.Generator(np.random.Philox(0))
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(6):
        image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(pool / f"{number}.png")
    labelling = Labelling(tmp_path, "image -> label", data=pool)
    row = labelling.post("next")["row"]
    assert row["sources"][0]["medium"] == "image"
    picture = labelling.client.get(f"/media/{row['key']}/0")
    assert picture.headers["Content-Type"] == "image/png" and picture.content[:4] == b"\x89PNG"
    assert labelling.client.get(f"/media/{row['key']}/1").status_code == 404
    labelling.answer(row, "猫")
    assert labelling.records()[0]["image"] == f"pool/{row['sources'][0]['file']}"
    assert read_table(labelling.path).column("label") == ["猫"]
    labelling.file.close()


def make_pictures(folder: Path, turned: str = "") -> Path:
    """Write four random pictures of 40 × 30 pixels; `turned` is the name of one that EXIF turns by a quarter."""
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    rng = np.random.Generator(np.random.Philox(0))
    folder.mkdir()
    for name in ("0.png", "1.jpg", "2.tiff", "3.jpg"):
        exif = image.Exif()
        if name == turned:
            exif[274] = 6
        image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(folder / name, exif=exif)
    return folder


def test_boxes_are_drawn_on_the_pixels_that_are_read(tmp_path: Path) -> None:
    labelling = Labelling(tmp_path, "image -> boxes", data=make_pictures(tmp_path / "pool", "1.jpg"))
    image = pytest.importorskip("PIL.Image")
    row, sizes = labelling.post("next")["row"], {}
    while row is not None:
        (source,) = row["sources"]
        shown = labelling.client.get(f"/media/{row['key']}/0")
        picture = image.open(io.BytesIO(shown.content))
        # The bytes that the page shows have no EXIF left to turn them by, and are of a format that browsers show.
        sizes[source["file"]] = source["size"]
        assert list(picture.size) == source["size"] and shown.headers["Content-Type"] in ("image/png", "image/jpeg")
        assert picture.getexif().get(274, 1) == 1
        row = labelling.answer(row, [{"label": "猫", "box": [1, 2, *source["size"]]}])["row"]
    assert sizes == {"0.png": [40, 30], "1.jpg": [30, 40], "2.tiff": [40, 30], "3.jpg": [40, 30]}
    labelling.file.close()


def test_boxes_go_into_fit_and_elsewhere(tmp_path: Path) -> None:
    labelling = Labelling(tmp_path, "image -> boxes", data=make_pictures(tmp_path / "pool", "3.jpg"))
    row, answers = labelling.post("next")["row"], {}
    for bad in (
        None,
        "x",
        [{"label": "cat"}],
        [{"label": "cat", "box": [50, 0, 60, 9]}],
        [{"label": " ", "box": [0, 0, 9, 9]}],
    ):
        labelling.post("answer", status=422, key=row["key"], id="answer-bad", answer=bad)
    for number in range(4):
        boxes = [{"label": "cat", "box": [2, 3, 12, 20 + number]}, {"label": "狗", "box": [4, 0, 30, 9]}][: number % 3]
        answers[row["sources"][0]["file"]] = boxes
        row = labelling.answer(row, boxes)["row"]
    assert row is None and answers.keys() == {"0.png", "1.jpg", "2.tiff", "3.jpg"}
    question = labelling.session.pool.question
    for name in ("labels.csv", "_annotations.coco.json", "tasks.json"):
        export(tmp_path / name, labelling.file, question)
    for name in (
        "labels.jsonl",
        "labels.csv",
        "_annotations.coco.json",
    ):  # COCO's sizes are those of turned pictures, too
        rows = load_rows(parse("image -> boxes"), read_table(tmp_path / name))
        assert not rows.faults
        read = {Path(value.path).name: boxes for value, boxes in zip(rows.sources[0], rows.targets[0], strict=True)}
        assert read == {file: Boxes.read(boxes) for file, boxes in answers.items()}, name
    (result, *_), size = next(
        (task["annotations"][0]["result"], answer.record["labelling"]["size"])
        for task, answer in zip(
            json.loads((tmp_path / "tasks.json").read_text()), labelling.file.answers.values(), strict=True
        )
        if answer.cell
    )
    assert result["value"]["rectanglelabels"] == ["cat"] and result["value"]["x"] == 100 * 2 / size[0]
    assert labelling.client.get("/export/_annotations.coco.json").json()["categories"][0] == {"id": 1, "name": "cat"}
    with pytest.raises(MapstoError, match="is for boxes"):
        export(tmp_path / "a.coco.json", labelling.file, Question(parse("text -> label")))
    model = mapsto.fit(
        "image -> boxes", labelling.path, out=tmp_path / "run", steps=1, layers=1, width=16, device="cpu"
    )
    assert model.mapping.targets[0].classes == ["cat", "狗"]  # type: ignore[attr-defined]
    labelling.file.close()
    again = Labelling(tmp_path, "image -> boxes", data=tmp_path / "pool", start=model)
    assert again.post("next")["row"] is None and again.learner.can_guess
    last = again.post("next")["last"]
    row = again.post("undo", **last)["row"]
    assert row["answer"] == answers[row["sources"][0]["file"]]
    guess = again.client.get(f"/guess/{row['key']}").json()
    assert set(guess) == {"answer", "confidence"} and isinstance(guess["answer"], list)
    again.file.close()


def test_files_within_a_table_are_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")
    image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = [{"image": {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}}]
    with pytest.raises(MapstoError, match="unpack them"):
        read_pool(parse("image -> label"), read_table(data), [], lambda note: None)


def test_a_full_disk_confirms_nothing(labelling: Labelling, monkeypatch: pytest.MonkeyPatch) -> None:
    row = labelling.post("next")["row"]
    labelling.answer(row, "a")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mapsto.serve.labelling.answer_file.os.fsync", fail)
        row = labelling.post("next")["row"]
        reply = labelling.post("answer", status=503, key=row["key"], id="answer-full", answer="b")
        assert "the disk is full" in reply["error"]
    assert len(labelling.records()) == 1
    labelling.answer(row, "b", id="answer-full")
    assert [record["label"] for record in labelling.records()] == ["a", "b"]


def test_labelled_rows_and_copies_are_not_asked() -> None:
    notes: list[str] = []
    data = [
        {"text": "one", "label": "b"},
        {"text": "two"},
        {"text": "two"},
        {"text": None},
        {"text": "three", "label": "a"},
    ]
    pool = read_pool(parse("text -> label"), read_table(data), ["c"], notes.append)
    assert [pool.sources(index) for index in range(len(pool))] == [["two"]]
    assert list(pool.question.names) == ["c", "b", "a"] and len(notes) == 1
    with pytest.raises(MapstoError, match="no row to label"):
        read_pool(parse("text -> label"), read_table(data[:1]), [], notes.append)


def test_a_forecast_needs_a_curve() -> None:
    points = [
        {"num_labels": count, "score": 1 - 2 / count**0.5, "low": 0.0, "high": 1.0, "n": count}
        for count in (20, 40, 80)
    ]
    assert forecast(points) is None
    points.append({"num_labels": 400, "score": 0.9, "low": 0.87, "high": 0.93, "n": 400})
    result = forecast(points)
    assert (
        result is not None and result["num_labels"] == 800 and -0.05 < result["low"] <= result["gain"] <= result["high"]
    )
    assert result["low"] < 2 / 400**0.5 - 2 / 800**0.5 < result["high"]
