"""The examples of serving past one machine: a deployment of Ray Serve, and a service of KServe."""

from __future__ import annotations

import json
import runpy
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import save_small

import mapsto

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_a_deployment_of_ray_serve_answers_as_the_model(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not here")
    serve = pytest.importorskip("ray.serve", reason="ray[serve] is not here")
    folder = save_small("text -> label", tmp_path / "clf")
    rows = [{"text": "winter 今天"}, {"text": None}, {"text": "summer"}]
    # Always a cluster of this test alone, also where another one runs on the machine.
    ray.init("local", num_cpus=2, include_dashboard=False)
    try:
        serve.start(http_options={"port": 18_767})
        serve.run(runpy.run_path(str(EXAMPLES / "ray_serve.py"))["build"](str(folder)))
        body = json.dumps({"rows": rows}).encode()
        with urllib.request.urlopen("http://127.0.0.1:18767/", body, timeout=60) as response:
            answers = json.load(response)["answers"]
    finally:
        serve.shutdown()
        ray.shutdown()
    expected = mapsto.load(folder).predict(rows)
    assert [answer.get("label") for answer in answers] == [answer.get("label") for answer in expected]
    assert answers[0]["probability"] == pytest.approx(expected[0]["probability"], abs=0.01) and "error" in answers[1]


def test_the_service_of_kserve_names_routes_and_options_that_there_are() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not here")
    from mapsto.cli.serve import serve
    from mapsto.serve.edge import HEALTH_PATHS

    service = yaml.safe_load((EXAMPLES / "kserve.yaml").read_text(encoding="utf-8"))
    (container,) = service["spec"]["predictor"]["containers"]
    assert {container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")} <= HEALTH_PATHS
    options = {argument[2:].replace("-", "_") for argument in container["args"] if argument.startswith("--")}
    assert options <= set(serve.__annotations__) and "MAPSTO_KEY" in {entry["name"] for entry in container["env"]}
