"""Serving one classifier: answers, limits, overload, deadlines, closed connections, keys and faults, against a real server."""

from __future__ import annotations

import json
import socket
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from runs import sentences

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import Running, save_small, serving, wait_for

import mapsto
from mapsto.errors import UsageError
from mapsto.serve import server
from mapsto.serve.jobs import Job, Ticket, take_slices
from mapsto.serve.settings import ServeSettings
from mapsto.task.arrow import parse

KEY = "0123456789abcdef-key"
TEXTS = [*sentences(30), "今天天气真好！房间很干净", "winter " * 90, "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small("text -> label", tmp_path_factory.mktemp("models") / "clf")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with serving([folder], max_body=50_000, max_rows=40, queue_tokens=200, origins=("https://example.org",)) as running:
        yield running


@contextmanager
def busy(running: Running) -> Iterator[None]:
    """Keep the engine from computing, as a long step would."""
    with running.service.engine._turns:
        yield


def post(running: Running, rows: Any, path: str = "/predict", **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return running.client.post(path, content=json.dumps({"rows": rows}), headers=names)


def assert_equal(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    assert answer.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_equal(answer[name], value)
        elif isinstance(value, float):
            assert answer[name] == pytest.approx(value, abs=1e-5)
        else:
            assert answer[name] == value


def test_answers_under_load_are_those_of_one_alone(running: Running, folder: Path) -> None:
    model = mapsto.load(folder, "cpu", "fp32")
    expected = model.predict(TEXTS)
    with ThreadPoolExecutor(16) as pool, busy(running):
        single = [pool.submit(post, running, [{"text": text}]) for text in TEXTS[:3]]
        several = pool.submit(post, running, [{"text": text} for text in TEXTS[:3]])
        wait_for(lambda: running.service.num_in_flight == 4)
    answers = [request.result().json()["answers"][0] for request in single]
    assert running.service.metrics.registry.get_sample_value("mapsto_step_rows_sum") >= 6
    for answer, alone in zip([*answers, *several.result().json()["answers"]], expected[:3] + expected[:3], strict=True):
        assert_equal(answer, alone)
    for text, alone in zip(TEXTS, expected, strict=True):
        assert_equal(post(running, [{"text": text}]).json()["answers"][0], alone)
    vectors = post(running, [{"text": text} for text in TEXTS[:4]], "/embed").json()["answers"]
    assert [answer["vector"] for answer in vectors] == pytest.approx(model.embed(TEXTS[:4]), abs=1e-5)


def test_a_bad_row_costs_its_own_answer(running: Running) -> None:
    rows = [{"text": "winter"}, {"txt": "winter"}, {"text": None}, {"text": 5.5}, {"text": "\ud800"}, {"text": "夏天"}]
    answers = post(running, rows).json()["answers"]
    assert ["error" in answer for answer in answers] == [False, True, True, True, True, False]
    assert "did you mean 'txt'" in answers[1]["error"] and "blank" in answers[2]["error"]
    alone = post(running, rows[1:2])
    assert alone.status_code == 422 and "no such column" in alone.json()["error"] and len(alone.json()["answers"]) == 1


def test_explanations_name_the_parts(running: Running) -> None:
    (answer,) = post(running, [{"text": "winter 天气"}], "/explain").json()["answers"]
    assert {"winter", "天"} <= {part["text"] for part in answer["parts"]} and answer["answer"]["label"] in "ab"


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"{nope", {}, 400, "no JSON"),
        (b"[" * 40_000, {}, 400, "nested"),
        (b"\xff\xfe", {}, 400, "no JSON"),
        (b'{"row": []}', {}, 422, "rows"),
        (b'{"rows": []}', {}, 422, "no rows"),
        (b'{"rows": 5}', {}, 422, "a list"),
        (b'{"rows": ["x"], "model": "clff"}', {}, 404, "did you mean 'clf'"),
        (b'{"rows": ["x"], "min_confidence": "high"}', {}, 422, "a number"),
        (
            b'{"rows": ["x"], "minconfidence": 0.9}',
            {},
            422,
            "no entry 'minconfidence' (did you mean 'min_confidence'?)",
        ),
        (b'{"rows": ["x"], "decoding": {"beam": 2}}', {}, 422, "did you mean 'beams'"),
        (b'{"rows": ["x"], "decoding": {"beams": 2}}', {}, 422, "settings of decoding"),
        (json.dumps({"rows": ["x"] * 41}).encode(), {}, 413, "--max-rows"),
        (b" " * 50_001, {}, 413, "--max-body"),
        (b"{}", {"Content-Type": "text/csv"}, 415, "application/json"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "compressed"),
        (b'{"rows": ["x"]}', {"X-Timeout": "soon"}, 400, "X-Timeout"),
        (b'{"rows": ["x"]}', {"Origin": "https://evil.example"}, 403, "--origins"),
        (b'{"rows": ["x"]}', {"Host": "evil.example"}, 421, "localhost"),
    ],
)
def test_wrong_requests_have_a_status_and_a_sentence(
    running: Running, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    response = running.client.post("/predict", content=body, headers=headers)
    assert response.status_code == status and words in response.json()["error"], response.text
    assert "Traceback" not in response.text and response.headers["X-Request-ID"]


def test_a_body_without_length_is_cut_off(running: Running) -> None:
    response = running.client.post("/predict", content=iter([b" " * 30_000] * 4))
    assert response.status_code == 413 and post(running, ["x"]).status_code == 200


def test_pages_of_named_origins_may_call(running: Running) -> None:
    preflight = running.client.options(
        "/predict", headers={"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert post(running, ["x"], Origin="https://example.org").status_code == 200


def test_a_full_queue_refuses_single_and_batch_requests(running: Running) -> None:
    long = [{"text": "winter " * 40}] * 3  # about 280 tokens, more than the queue of 200
    with ThreadPoolExecutor(2) as pool:
        with busy(running):
            admitted = pool.submit(post, running, long)
            wait_for(lambda: running.service.waiting_tokens >= 200)
            refused = [post(running, ["x"]), post(running, ["x"] * 20), post(running, ["x"], "/embed")]
        assert admitted.result().status_code == 200
    assert [response.status_code for response in refused] == [429] * 3
    assert all(int(response.headers["Retry-After"]) >= 1 for response in refused)
    assert post(running, ["x"]).status_code == 200 and running.service.waiting_tokens == 0


def test_a_late_request_is_dropped_before_it_runs(running: Running) -> None:
    tokens, late = running.count("tokens_total"), running.count("dropped_total", reason="late")
    with busy(running):
        response = post(running, ["winter"], X_Timeout="0.1")
        # The engine holds the first one already, the second waits.
        assert response.status_code == 504 and post(running, ["winter"], X_Timeout="0.1").status_code == 504
    assert post(running, ["winter"]).status_code == 200
    wait_for(lambda: running.service.waiting_tokens == 0)
    assert running.count("dropped_total", reason="late") == late + 2
    assert running.count("tokens_total") - tokens <= 2 * 8  # of the first and the last, "[CLS] winter …" each


def test_a_closed_connection_drops_its_request(running: Running) -> None:
    closed, tokens = running.count("dropped_total", reason="closed"), running.count("tokens_total")
    body = json.dumps({"rows": ["winter"] * 20}).encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with ThreadPoolExecutor(1) as pool, busy(running):
        first = pool.submit(post, running, ["x"])
        wait_for(lambda: running.service.num_in_flight == 1)
        time.sleep(0.05)  # the engine has taken it
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(head + body)
            wait_for(lambda: running.service.num_in_flight == 2)
        running.wait_until("dropped_total", closed + 1, reason="closed")
        assert running.service.num_in_flight == 1
    assert first.result().status_code == 200
    assert post(running, ["x"]).status_code == 200
    assert running.count("tokens_total") - tokens <= 2 * 8


def test_a_fault_says_nothing_and_costs_only_its_request(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    model = running.service.models.first.model
    assert model is not None
    prepare = model.predictor.prepare

    def fail(part: Any, bound: Any) -> Any:
        if "poison" in str(part.data):
            raise RuntimeError("a secret of the inside")
        return prepare(part, bound)

    monkeypatch.setattr(model.predictor, "prepare", fail)
    monkeypatch.setattr(model, "_answerers", {})
    monkeypatch.setattr(model.predictor, "with_settings", lambda *settings: model.predictor)
    with ThreadPoolExecutor(4) as pool:
        with busy(running):
            good = [pool.submit(post, running, ["winter"]) for _ in range(3)]
            bad = pool.submit(post, running, ["poison"])
            wait_for(lambda: running.service.num_in_flight == 4)
        assert [request.result().status_code for request in good] == [200] * 3
    response = bad.result()
    assert response.status_code == 500 and "secret" not in response.text and "Traceback" not in response.text
    assert response.headers["X-Request-ID"] in response.json()["error"]


def test_counters_are_those_of_the_clients(running: Running) -> None:
    def counted() -> dict[str, float]:
        return {
            status: running.count("requests_total", route="/predict", status=status) for status in ("200", "422", "429")
        }

    before, statuses = counted(), []
    with ThreadPoolExecutor(8) as pool:
        rows = [["winter"], [None], ["winter " * 60] * 2]
        statuses = [response.status_code for response in pool.map(lambda n: post(running, rows[n % 3]), range(150))]
    after = counted()
    assert sum(statuses.count(int(status)) for status in after) == 150
    for status, count in after.items():
        assert count - before[status] == statuses.count(int(status))


@pytest.mark.slow
def test_counters_are_those_of_the_clients_over_10_000_requests(folder: Path) -> None:
    with serving([folder], max_rows=40, queue_tokens=200) as running:
        rows = [["winter"], [None], ["winter " * 30] * 2, ["x"] * 41]
        with ThreadPoolExecutor(16) as pool:
            statuses = [
                response.status_code for response in pool.map(lambda n: post(running, rows[n % 4]), range(10_000))
            ]
        for status in (200, 413, 422, 429):
            count = running.count("requests_total", route="/predict", status=str(status))
            assert count == statuses.count(status) > 0 or status == 429
        assert running.service.waiting_tokens == running.service.num_in_flight == 0


def test_slow_clients_are_sent_away(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 30\r\nX-Timeout: 0.2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), 10) as connection:
        connection.sendall(head[:20])
        assert connection.recv(100) == b""  # closed, since the head does not end
    with socket.create_connection(("127.0.0.1", running.port), 10) as connection:
        connection.sendall(head + b'{"rows"')
        assert b" 408 " in connection.recv(1000)
    with socket.create_connection(("127.0.0.1", running.port), 10) as connection:
        connection.sendall(head.replace(b"30", b"1073741824"))
        assert b" 413 " in connection.recv(1000)
    assert post(running, ["x"]).status_code == 200


def test_a_large_request_does_not_hold_up_small_ones() -> None:
    def job(*costs: int, answerer: Any = "a") -> Job:
        return Job(answerer, parse("text -> label"), {}, list(costs), Ticket(None, sum(costs)))  # type: ignore[arg-type]

    large, small, other = job(*[10] * 50), job(10), job(10, answerer="b")
    waiting = deque([large, small, other])
    taken = [[(part.job, part.start, part.stop) for part in take_slices(waiting, 100)] for _ in range(3)]
    # Half for the large one, then all that wait, then what is left; the large one goes to the end of the queue.
    assert taken[0] == [(large, 0, 9), (small, 0, 1)] and taken[1] == [(other, 0, 1)] and taken[2] == [(large, 9, 19)]
    huge = job(1000, 10)
    assert [len(part) for part in take_slices(deque([huge]), 100)] == [1]
    large.ticket.is_dropped = True
    assert take_slices(waiting, 100) == [] and not waiting


def test_every_route_but_health_needs_the_key(folder: Path) -> None:
    with serving([folder], key=KEY) as running:
        routes = [route for route in running.process.app.routes if hasattr(route, "methods")]
        keyed = [route for route in routes if "health" not in getattr(route, "tags", [])]
        assert len(keyed) > 5 and len(routes) - len(keyed) >= 2
        for route in routes:
            path = route.path.replace("{name}", "clf")
            for method in route.methods - {"HEAD"}:
                status = running.client.request(method, path).status_code
                assert (status == 401) == (route in keyed), (method, path, status)
        attempts: list[tuple[dict[str, str], int]] = [
            ({"Authorization": f"Bearer {KEY}"}, 200),
            ({"Authorization": f"bearer {KEY}"}, 200),
            ({"X-API-Key": KEY}, 200),
            ({"Authorization": f"Bearer {KEY[:-1]}"}, 401),
            ({"Authorization": f"Bearer {KEY}x"}, 401),
            ({"Authorization": "Basic !!"}, 401),
            ({"Authorization": "Bearer \xe9"}, 401),
        ]
        for headers, status in attempts:
            assert (
                running.client.get(
                    "/models", headers=[(n, v.encode("latin-1")) for n, v in headers.items()]
                ).status_code
                == status
            )
        assert running.client.get("/models", auth=("anyone", KEY)).status_code == 200


def test_settings_that_are_not_safe_are_refused(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"host": "0.0.0.0"}, "needs a key"),
        ({"host": "::"}, "needs a key"),
        ({"host": ""}, "needs a key"),
        ({"host": "no.such.host.invalid"}, "no address"),
        ({"key": "short"}, "at least 16"),
        ({"key": "a key with spaces in it"}, "without spaces"),
        ({"port": 70_000}, "--port"),
        ({"timeout": 0}, "--timeout"),
        ({"files": tmp_path / "none"}, "no such folder"),
        ({"origins": ("example.org",)}, "https://example.org"),
    ]
    for settings, words in wrong:
        with pytest.raises(UsageError, match=words):
            ServeSettings(**settings)
    assert not ServeSettings(host="0.0.0.0", key=KEY).is_loopback
    with ServeSettings(port=0).bind() as taken:
        taken.listen()
        with pytest.raises(UsageError, match="--port names another"):
            ServeSettings(port=taken.getsockname()[1]).bind()
