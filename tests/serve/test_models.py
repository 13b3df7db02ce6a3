"""Several models in one process: opened on demand, within a limit of memory, and opened again when their folder is replaced."""

from __future__ import annotations

import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not here")

from services import save_small, serving, wait_for

import mapsto
from mapsto.errors import CheckpointError, RunError, UsageError
from mapsto.serve import models as served_models
from mapsto.serve.models import name_models

TEXT = "winter spring 房间"


def answer(running: object, name: str | None = None) -> float:
    body = {"rows": [TEXT]} | ({} if name is None else {"model": name})
    response = running.client.post("/predict", json=body)  # type: ignore[attr-defined]
    assert response.status_code == 200, response.text
    assert response.json()["model"] == (name or "one")
    return float(response.json()["answers"][0]["probability"])


def expected(folder: Path) -> float:
    return float(mapsto.load(folder, "cpu", "fp32")(TEXT)["probability"])


def test_models_take_turns_in_memory(tmp_path: Path) -> None:
    one, two = (save_small("text -> label", tmp_path / name, seed) for seed, name in enumerate(("one", "two")))
    with serving([one]) as running:
        assert running.service.models.first.model is not None
        size = running.service.models.first.model.num_bytes
    with serving([one, f"zwei={two}"], memory=int(1.5 * size)) as running:
        for name, folder in (("zwei", two), ("one", one), ("zwei", two)):
            assert answer(running, name) == pytest.approx(expected(folder), abs=1e-5)
            held = {entry["name"]: entry["in_memory"] for entry in running.client.get("/models").json()["models"]}
            assert held == {"one": name == "one", "zwei": name == "zwei"}
        assert answer(running) == pytest.approx(expected(one), abs=1e-5)
    with pytest.raises(RunError, match="more than --memory"), serving([one], memory=size // 2):
        pass


def test_a_replaced_folder_is_opened_again_while_requests_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_models, "SECONDS_BETWEEN_LOOKS", 0.05)
    folder = save_small("text -> label", tmp_path / "one")
    newer = save_small("text -> label", tmp_path / "new", seed=1)
    before, after = expected(folder), expected(newer)
    assert before != pytest.approx(after, abs=1e-3)
    with serving([folder]) as running:
        entry, answers = running.service.models.first, []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                answers.append(answer(running))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: len(answers) > 3)
        shutil.rmtree(folder)
        shutil.copytree(newer, folder)
        wait_for(lambda: entry.num_opened == 2)
        wait_for(lambda: answers and answers[-1] == pytest.approx(after, abs=1e-5))
        # A damaged one is not taken.
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[:-8] + bytes(8))
        count = len(answers)
        wait_for(lambda: entry.signature == served_models.signature_of(folder) and len(answers) > count + 3)
        stop.set()
        thread.join()
        assert entry.num_opened == 2
    either = [value == pytest.approx(before, abs=1e-5) or value == pytest.approx(after, abs=1e-5) for value in answers]
    assert (
        all(either) and answers[0] == pytest.approx(before, abs=1e-5) and answers[-1] == pytest.approx(after, abs=1e-5)
    )


def test_models_are_named_by_their_folders(tmp_path: Path) -> None:
    for name in ("a/clf", "b/clf"):
        (tmp_path / name).mkdir(parents=True)
    first, second = str(tmp_path / "a/clf"), str(tmp_path / "b/clf")
    assert name_models([first, f"other={second}"]) == {"clf": first, "other": second}
    with pytest.raises(UsageError, match="OTHER="):
        name_models([first, second])
    with pytest.raises(CheckpointError, match="nix"):
        name_models([str(tmp_path / "nix")])
    with pytest.raises(CheckpointError), serving([first]):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("to", "engine"), [("onnx", "local"), ("onnx", "openvino"), ("openvino", "local")])
def test_an_exported_file_is_served_as_its_folder(to: str, engine: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [export] is not here")
    if "openvino" in (to, engine) and find_spec("openvino") is None:
        pytest.skip("the extra [openvino] is not here")
    file = tmp_path / ("one.xml" if to == "openvino" else "one.onnx")
    folder = save_small("text -> label", tmp_path / "clf")
    model = mapsto.load(folder, "cpu", "fp32")
    model.export(file, to, rows=[{"text": TEXT}, {"text": "summer"}])
    with serving([file], engine=engine) as running:
        assert answer(running) == pytest.approx(expected(folder), abs=1e-4)
        (facts,) = running.client.get("/models").json()["models"]
        assert "predict" in facts["operations"] and "explain" not in facts["operations"]
        vector = running.client.post("/embed", json={"rows": [TEXT]}).json()["answers"][0]["vector"]
        assert vector == pytest.approx(model.embed([TEXT])[0], abs=1e-4)
