"""An exported model that writes its answers token by token writes what its folder writes, by two graphs in one file."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported_files import reseal
from mappings import make_table, small_mapping
from safetensors.numpy import load, save

import mapsto
from mapsto.data.table import read_table
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.export.export import ExportSettings, export_mapping
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.container import read_sealed
from mapsto.pretrained.exported.opening import PARITY_FILE
from mapsto.task.generation import Decoding

ARROW = "en:text -> de:text"


def decoder_only() -> Mapping:
    """Return a small model whose answers lie behind their sources in one stack, with fewer heads of keys than of queries."""
    settings: dict[str, Any] = {"layers": 2, "width": 64, "heads": 2, "vocabulary": 300, "architecture": "prefix"}
    return mapsto.fit(ARROW, make_table(), steps=1, precision="fp32", hold_out=0.0, **settings).mapping


MAKERS = {"encoder-decoder": lambda: small_mapping(ARROW)[0].eval(), "prefix": decoder_only}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[mapsto.Model, Path]:
    """A model in fp32, and the file that it was exported to."""
    mapping = MAKERS[request.param]()
    file = tmp_path_factory.mktemp(request.param) / "written.onnx"
    parity = export_mapping(mapping, file, make_table(8)).parity
    assert parity.agreement.value == 1
    assert 0 < parity.difference < 1e-5
    return mapsto.Model(mapping, precision="fp32"), file


def require_same_answers(expected: Any, answers: Any) -> None:
    """Compare the texts of answers, and their probabilities, which may differ by rounding."""
    assert len(expected) == len(answers) > 0
    for one, other in zip(expected, answers, strict=True):
        assert (one["text"], one["ended"]) == (other["text"], other["ended"])
        assert one["log_probability"] == pytest.approx(other["log_probability"], abs=1e-3)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("settings", [{}, {"beams": 3}, {"samples": 2, "seed": 5}, {"answers": ("a b", "a c", "x")}])
def test_it_writes_what_its_model_writes(
    pair: tuple[mapsto.Model, Path], engine: str, settings: dict[str, Any]
) -> None:
    """Greedy, by beams that share a source, sampled, and from a list; sources of very different lengths, and a lone one."""
    if engine == "openvino" and find_spec("openvino") is None:
        pytest.skip("the extra [openvino] is not here")
    model, file = pair
    opened, decoding = mapsto.load(file, engine=engine), Decoding(longest=6, **settings)
    texts = ["x", "今天天气真好！", "a much longer text about the winter " * 5, "winter"]
    require_same_answers(model.predict(texts, decoding=decoding), opened.predict(texts, decoding=decoding))
    require_same_answers(model.predict(texts[:1], decoding=decoding), opened.predict(texts[:1], decoding=decoding))


def test_it_streams_embeds_and_evaluates(pair: tuple[mapsto.Model, Path]) -> None:
    model, file = pair
    opened, table = mapsto.load(file), make_table(4)
    decoding = Decoding(longest=6)
    first, second = ("".join(each.stream("winter is long", decoding=decoding)) for each in (model, opened))
    assert first == second
    np.testing.assert_allclose(model.embed(["winter"]), opened.embed(["winter"]), atol=1e-5)
    expected, scores = (each.evaluate(table).scores for each in (model, opened))
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {name: score.value for name, score in expected.items()}, abs=1e-3
    )


def test_its_weights_are_there_once(pair: tuple[mapsto.Model, Path]) -> None:
    """Both graphs read the same weights; a decoder-only model would else be twice as large."""
    model, file = pair
    graph = onnx.load(file).graph
    assert [node.op_type for node in graph.node] == ["If"]
    names = [weight.name for weight in graph.initializer]
    assert len(set(names)) == len(names)
    num_weights = sum(parameter.numel() for parameter in model.mapping.parameters())
    assert sum(int(np.prod(weight.dims)) for weight in graph.initializer) < 1.1 * num_weights


def test_steps_are_checked_again_on_another_processor(pair: tuple[mapsto.Model, Path], tmp_path: Path) -> None:
    _, file = pair
    tensors = load(read_sealed(file)[2][PARITY_FILE])
    assert not any(name.startswith("output:") and "values" in name for name in tensors)
    mapsto.load(reseal(file, tmp_path / "elsewhere.onnx", processor="another one"))
    tensors["output:text of a step"] = tensors["output:text of a step"] + np.float32(2e-3)
    changed = reseal(file, tmp_path / "changed.onnx", processor="another one", parity=save(tensors))
    with pytest.raises(CheckpointError, match="answers differently here: text of a step"):
        mapsto.load(changed)


def test_wrong_uses_are_refused(pair: tuple[mapsto.Model, Path], tmp_path: Path) -> None:
    model, file = pair
    with pytest.raises(UsageError, match="token by token, which is exported in fp32 only"):
        export_mapping(model.mapping, tmp_path / "a.onnx", make_table(), ExportSettings("int8"))
    with pytest.raises(DataError, match=r"none of the rows.*the first: .*row 1"):
        export_mapping(model.mapping, tmp_path / "a.onnx", read_table([{"en": None}]))
    with pytest.raises(UsageError, match=r"written\.onnx computes in its own precision, not in int4"):
        mapsto.load(file, precision="int4").predict(["x"])
    assert not list(tmp_path.iterdir())


def test_the_example_writes_without_mapsto(tmp_path: Path) -> None:
    """The encoder–decoder's file in plain onnxruntime."""
    mapping = MAKERS["encoder-decoder"]()
    file = tmp_path / "written.onnx"
    export_mapping(mapping, file, make_table(4))
    program = Path(__file__).resolve().parents[2] / "examples" / "exported_writer.py"
    assert "import mapsto" not in program.read_text()
    texts = ["winter is long", "今天天气真好！"]
    done = subprocess.run([sys.executable, program, file, *texts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = [json.loads(line)["answer"] for line in done.stdout.splitlines()]
    assert written == [answer["text"] for answer in mapsto.Model(mapping, precision="fp32").predict(texts)]


@pytest.mark.slow
def test_a_recognizer_is_exported(tmp_path: Path) -> None:
    """Whisper, whose answers open with several tokens, and whose encoder reads sounds by convolutions."""
    pytest.importorskip("soundfile", reason="the extra [sound] is not here")
    pytest.importorskip("transformers", reason="transformers makes the random model")
    from transcribers import ENGLISH_ONLY, make_moonshine, make_transcriber

    make_transcriber(tmp_path / "whisper", ENGLISH_ONLY)
    model, table = mapsto.load(tmp_path / "whisper", precision="fp32"), make_table(6)
    assert model.export(tmp_path / "a.onnx", rows=table).parity.difference < 1e-4
    decoding, opened = Decoding(longest=6), mapsto.load(tmp_path / "a.onnx")
    require_same_answers(model.predict(table, decoding=decoding), opened.predict(table, decoding=decoding))
    with pytest.raises(UsageError, match="to say when each word is said, use the folder"):
        opened.predict(table, decoding=Decoding(times=True, words=True))
    # Another recognizer reads the samples themselves.
    make_moonshine(tmp_path / "moonshine")
    with pytest.raises(UsageError, match="one recording after another"):
        mapsto.load(tmp_path / "moonshine").export(tmp_path / "b.onnx", rows=table)
