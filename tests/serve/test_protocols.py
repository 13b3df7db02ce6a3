"""The forms of other services: generated text, chats, vectors, ranking and searching, payloads of hosts, pictures."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from runs import sentences
from services import Running, save_small, serving
from trainings import TINY_OPTIONS

import mapsto
from mapsto.demo.data import minilm

Image = pytest.importorskip("PIL.Image", reason="the extra [image] is not here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small models with random weights, with files below `shared`, and one file outside of it."""
    folder = tmp_path_factory.mktemp("models")
    save_small("text -> label", folder / "label")
    save_small("en:text -> de:text", folder / "write")
    pairs = [{"en": english, "de": german} for english, german in zip(sentences(24, 2), sentences(24, 3), strict=True)]
    mapsto.fit("en:text <-> de:text", pairs, out=folder / "match", steps=2, **TINY_OPTIONS)
    save_small("image -> label", folder / "see")
    save_small("text -> number", folder / "number")
    (folder / "shared").mkdir()
    (folder / "shared" / "a.png").write_bytes(picture())
    (folder / "secret.png").write_bytes(picture())
    (folder / "shared" / "link.png").symlink_to(folder / "secret.png")
    os.mkfifo(folder / "shared" / "pipe.png")
    (folder / "table.csv").write_text("en,de\ndog,Hund\ncat,Katze\n今天,heute\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    names = ["match", "label", "write", "see", "number"]
    with serving([folder / name for name in names], files=folder / "shared", among=folder / "table.csv") as running:
        yield running


def picture(shade: int = 90) -> bytes:
    stream = io.BytesIO()
    pixels = np.full((16, 16, 3), shade, np.uint8)
    pixels[::4] = 200
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def post(running: Running, path: str, body: Any, status: int = 200) -> Any:
    response = running.client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def load(folder: Path, name: str) -> mapsto.Model:
    return mapsto.load(folder / name, "cpu", "fp32")


def events(response: httpx.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_text_is_generated_whole_and_in_parts(running: Running, folder: Path) -> None:
    decoding = mapsto.Decoding(longest=6)
    expected = load(folder, "write")("A small dog.", decoding=decoding)
    body = {"model": "write", "row": {"en": "A small dog."}, "decoding": {"longest": 6}}
    whole = post(running, "/generate", body)["answer"]
    assert whole["text"] == expected["text"]
    parts = events(running.client.post("/generate", json={**body, "stream": True}))
    assert "".join(part["text"] for part in parts[:-1]) == parts[-1]["answer"]["text"] == expected["text"]
    assert parts[-1]["answer"]["ended"] == whole["ended"] and parts[-1]["model"] == "write"
    rows = {"model": "write", "rows": [{"en": "A small dog."}, {"en": None}], "decoding": {"longest": 6}}
    answers = post(running, "/predict", rows)["answers"]
    assert answers[0]["text"] == expected["text"] and "blank" in answers[1]["error"]
    for wrong, words in (({"row": {}}, "no such column"), ({}, "the body is"), ({"row": {"en": None}}, "blank")):
        for stream in (False, True):
            error = post(running, "/generate", {"model": "write", "stream": stream, **wrong}, 422)["error"]
            assert words in error
    assert (
        "cannot generate; it can" in post(running, "/generate", {"model": "label", "row": {"text": "x"}}, 422)["error"]
    )


def test_chats_are_answered_as_openai_does(running: Running, folder: Path) -> None:
    messages = [{"role": "user", "content": "winter 今天"}]
    expected = load(folder, "write")("winter 今天", decoding=mapsto.Decoding(longest=5))["text"]
    body = {"model": "write", "messages": messages, "max_tokens": 5}
    whole = post(running, "/v1/chat/completions", body)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert whole["choices"][0]["finish_reason"] in ("stop", "length") and whole["usage"]["prompt_tokens"] > 0
    parts = events(running.client.post("/v1/chat/completions", json={**body, "stream": True}))
    assert parts[-1] == "[DONE]" and parts[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts[:-1]) == expected
    drawn = [post(running, "/v1/chat/completions", {**body, "temperature": 1.5, "seed": 3}) for _ in range(2)]
    assert drawn[0]["choices"] == drawn[1]["choices"]
    for change, words in (
        ({"messages": []}, "at least one"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "nothing to answer"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown role"),
        ({"n": 2}, "'n'"),
        ({"stop": ["x"]}, "'stop'"),
        ({"temperature": "hot"}, "a number"),
        ({"model": "label"}, "cannot chat"),
    ):
        assert words in post(running, "/v1/chat/completions", {**body, **change}, 422)["error"]["message"]
    names = [entry["id"] for entry in running.client.get("/v1/models").json()["data"]]
    assert names[:2] == ["match", "label"]


def test_embeddings_have_openais_form(running: Running, folder: Path) -> None:
    texts = ["winter", "今天天气真好"]
    vectors = load(folder, "label").embed(texts)
    plain = post(running, "/v1/embeddings", {"model": "label", "input": texts})
    assert [entry["embedding"] for entry in plain["data"]] == pytest.approx(vectors, abs=1e-5)
    assert plain["usage"]["total_tokens"] > 4
    coded = post(running, "/v1/embeddings", {"model": "label", "input": texts[0], "encoding_format": "base64"})
    decoded = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    assert decoded == pytest.approx(vectors[0], abs=1e-5)
    short = post(running, "/v1/embeddings", {"model": "label", "input": texts, "dimensions": 8})["data"][1]["embedding"]
    assert short == pytest.approx(vectors[1, :8] / np.linalg.norm(vectors[1, :8]), abs=1e-5)
    for change in (
        {"input": [1, 2]},
        {"input": None},
        {"input": ["x", None]},
        {"dimensions": 999},
        {"encoding_format": "hex"},
    ):
        post(running, "/v1/embeddings", {"model": "label", "input": texts, **change}, 422)


def test_pairs_are_ranked_and_found(running: Running, folder: Path) -> None:
    model, documents = load(folder, "match"), ["Hund", "Katze", "heute", "ein Haus"]
    pairs = model.predict([{"en": "dog", "de": document} for document in documents])
    scores = [answer["match"] if "match" in answer else answer["score"] for answer in pairs]
    body = {"query": "dog", "documents": documents}
    for path in ("/rerank", "/v1/rerank"):
        results = post(running, path, body)["results"]
        assert [entry["index"] for entry in results] == np.argsort(-np.array(scores), kind="stable").tolist()
        for entry in results:
            assert entry["relevance_score"] == pytest.approx(scores[entry["index"]], abs=2e-4)
    best = post(running, "/rerank", {**body, "top_n": 1, "return_documents": True})["results"]
    assert len(best) == 1 and best[0]["document"]["text"] == documents[best[0]["index"]]
    answers = post(running, "/predict", {"rows": [{"en": "dog", "de": d} for d in documents]})["answers"]
    assert answers == pairs
    for side in ("en", "de"):
        assert len(post(running, "/embed", {"rows": [{side: "Hund"}]})["answers"][0]["vector"]) > 8
    (matches,) = post(running, "/find", {"query": "heute", "among": documents, "top": 2})["matches"]
    assert len(matches) == 2 and matches[0]["score"] >= matches[1]["score"]
    (found,) = post(running, "/find", {"queries": ["dog"], "top": 2})["matches"]
    (offline,) = model.find(["dog"], str(folder / "table.csv"), top=2)
    assert [match["de"] for match in found] == [match["de"] for match in offline]
    post(running, "/find", {"query": ""}, 422)
    post(running, "/find", {"query": "x", "top": 0}, 422)
    post(running, "/find", {"query": "x", "model": "label"}, 422)
    post(running, "/rerank", {"query": "x", "documents": []}, 422)


def test_prompts_of_sentence_encoders_are_used() -> None:
    with serving([f"lm={minilm()}"]) as running:
        texts = ["a red car", "ein rotes Auto"]
        results = post(running, "/rerank", {"query": "an automobile", "documents": texts})["results"]
        model = mapsto.load(minilm(), "cpu", "fp32")
        (offline,) = model.find(["an automobile"], texts, top=2)
        assert [e["relevance_score"] for e in results] == pytest.approx([m["score"] for m in offline], abs=1e-5)
        assert (
            running.client.get("/openapi.json").json()["paths"].keys() & {"/predict", "/generate", "/explain"} == set()
        )


def test_payloads_of_hosts_are_read(running: Running, folder: Path) -> None:
    expected = load(folder, "label")("winter")
    (classes,) = post(running, "/?model=label", {"inputs": ["winter"]})
    assert classes[0]["label"] == expected["label"] and sum(c["score"] for c in classes) == pytest.approx(1)
    assert post(running, "/?model=label", {"inputs": "winter"}) == classes
    assert post(running, "/?model=label", {"inputs": "winter", "parameters": {"top_k": 1}}) == classes[:1]
    text = post(running, "/?model=write", {"inputs": "dog", "parameters": {"max_new_tokens": 3, "temperature": 2}})
    assert set(text) == {"generated_text"}
    bodies = [
        (b'{"instances": [{"text": "winter"}]}', "application/json"),
        (b'{"inputs": "winter"}', "application/json"),
        (b'[{"text": "winter"}]', "application/json"),
        (b'{"dataframe_split": {"columns": ["text"], "data": [["winter"]]}}', "application/json"),
        (b"text,other\nwinter,5\n", "text/csv"),
    ]
    for body, kind in bodies:
        response = running.client.post("/invocations?model=label", content=body, headers={"Content-Type": kind})
        assert response.json()["predictions"][0]["label"] == expected["label"], response.text
    lines = running.client.post(
        "/invocations?model=label",
        content=b'{"text": "winter"}\n"summer"\n',
        headers={"Content-Type": "application/jsonlines"},
    )
    assert len(lines.text.splitlines()) == 2 and json.loads(lines.text.splitlines()[0])["label"] == expected["label"]
    assert running.client.get("/ping").status_code == 200
    wrong = running.client.post("/invocations?model=label", content=b"\xff", headers={"Content-Type": "text/csv"})
    assert wrong.status_code == 400
    frame = {"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}
    refused = running.client.post("/invocations?model=label", json=frame)
    assert refused.status_code == 422 and "no cell for each of the 1 columns" in refused.text


def test_the_open_inference_protocol_is_spoken(running: Running, folder: Path) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/label", "/v2/models/label/ready"):
        assert running.client.get(path).status_code == 200
    assert running.client.get("/v2/models/nix").status_code == 404
    tensor = {"name": "anything", "shape": [2], "datatype": "BYTES", "data": ["winter", "今天"]}
    expected = load(folder, "label").predict(["winter", "今天"])
    answer = post(running, "/v2/models/label/infer", {"id": "7", "inputs": [tensor]})
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert answer["id"] == "7" and outputs["label"]["data"] == [row["label"] for row in expected]
    assert outputs["probability"]["datatype"] == "FP64"
    assert outputs["probability"]["data"] == pytest.approx([row["probability"] for row in expected], abs=1e-5)
    assert json.loads(outputs["scores"]["data"][0]).keys() == expected[0]["scores"].keys()
    number = post(running, "/v2/models/number/infer", {"inputs": [{**tensor, "shape": [2, 1], "data": [["a"], ["b"]]}]})
    assert len(number["outputs"][0]["data"]) == 2
    for inputs in (
        [],
        [{"name": "x"}],
        [tensor, {**tensor, "name": "b", "data": ["x"]}],
        [{**tensor, "data": ["x", None]}],
    ):
        post(running, "/v2/models/label/infer", {"inputs": inputs}, 422)


def test_pictures_come_as_base64_in_forms_and_below_a_folder(running: Running, folder: Path) -> None:
    expected = load(folder, "see").predict([{"image": picture()}])[0]["probability"]
    coded = base64.b64encode(picture()).decode()
    cells = [coded, {"base64": coded}, f"data:image/png;base64,{coded}", "a.png", {"path": "a.png"}]
    for rows in ([{"image": cell} for cell in cells], cells):
        answers = post(running, "/predict", {"model": "see", "rows": rows})["answers"]
        assert [answer["probability"] for answer in answers] == pytest.approx([expected] * 5, abs=1e-5)
    form = running.client.post("/predict?model=see", data={"note": "winter"}, files={"image": ("a.png", picture())})
    assert form.status_code == 200 and len(form.json()["answers"]) == 1, form.text
    parts = post(running, "/explain", {"model": "see", "rows": [{"image": coded}]})["answers"][0]["parts"]
    assert len(parts) > 1
    wrong = [
        "http://example.org/a.png",
        "https://127.0.0.1:1/a.png",
        "file:///etc/passwd",
        "../secret.png",
        "/etc/passwd",
        str(folder / "secret.png"),
        "link.png",
        "pipe.png",
        "nix.png",
        "a.png\0",
        "",
        ".",
        {"base64": "!!"},
        {"path": "../secret.png"},
        {"path": ["a.png"]},
        base64.b64encode(b"no picture at all, but bytes").decode(),
        None,
        7,
        ["a.png"],
    ]
    rows = [{"image": cell} for cell in [*wrong, "a.png"]]
    answers = post(running, "/predict", {"model": "see", "rows": rows})["answers"]
    assert ["error" in answer for answer in answers] == [True] * len(wrong) + [False], answers
    assert str(folder / "shared") not in json.dumps(answers)
