"""An exported file answers like the model that it was made of, and a damaged, foreign or newer one is refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import reseal
from mappings import make_table, small_mapping
from safetensors.numpy import load, save

import mapsto
from mapsto.data.table import Table
from mapsto.errors import CheckpointError, DataError, RunError, UsageError
from mapsto.export.export import Export, ExportSettings, export_mapping
from mapsto.model.familiarity import Familiarity
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.container import TEXT_PREFIX, read_sealed, seal_model
from mapsto.pretrained.exported.interface import writes_answers
from mapsto.pretrained.exported.opening import PARITY_FILE

# Answers of the whole text, three ways, and answers at its words.
ARROW = "text -> label, number, tags"


@dataclass
class Exported:
    """A model, the file that it was exported to, and the table that it reads."""

    mapping: Mapping
    file: Path
    table: Table
    export: Export

    @property
    def model(self) -> mapsto.Model:
        return mapsto.Model(self.mapping, precision="fp32")


@pytest.fixture(params=["onnx", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    """An engine that computes the exported file; those that are not installed are skipped."""
    if request.param == "openvino" and find_spec("openvino") is None:
        pytest.skip("the extra [openvino] is not here")
    return str(request.param)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    mapping, _ = small_mapping(ARROW)
    mapping.eval()
    vectors = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    mapping.familiarity = Familiarity.of_rows(vectors, 0)
    file, table = tmp_path_factory.mktemp("export") / "中文 clf.onnx", make_table()
    return Exported(mapping, file, table, export_mapping(mapping, file, table))


def require_close(first: Any, second: Any) -> None:
    """Compare two answers, whose numbers may differ by rounding."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            require_close(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            require_close(*pair)
    elif isinstance(first, float):
        assert first == pytest.approx(second, abs=2e-4)
    elif isinstance(first, np.ndarray):  # the bytes of pixels
        np.testing.assert_allclose(first.astype(int), second.astype(int), atol=1)
    else:
        assert first == second


def test_it_answers_like_its_model(exported: Exported, engine: str) -> None:
    opened = mapsto.load(exported.file, engine=engine)
    expected, answers = exported.model.predict(exported.table), opened.predict(exported.table)
    assert expected[0].keys() >= {"label", "number", "tags", "familiar"}
    require_close(expected, answers)
    assert exported.export.parity.agreement.value == 1
    assert 0 < exported.export.parity.difference < 1e-4


@pytest.mark.parametrize("text", ["x", "", "今天天气真好！" * 3, "a much longer text about the winter " * 20])
def test_one_file_serves_a_lone_row_of_any_length(exported: Exported, text: str, engine: str) -> None:
    opened = mapsto.load(exported.file, engine=engine)
    require_close(exported.model.predict([text]), opened.predict([text]))


def test_it_embeds_and_evaluates(exported: Exported, engine: str) -> None:
    opened, texts = mapsto.load(exported.file, engine=engine), exported.table.column("text")[:5]
    np.testing.assert_allclose(exported.model.embed(texts), opened.embed(texts), atol=1e-5)
    np.testing.assert_allclose(exported.model.embed(texts, "first"), opened.embed(texts, "first"), atol=1e-5)
    expected, scores = (model.evaluate(exported.table).scores for model in (exported.model, opened))
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {name: score.value for name, score in expected.items()}, abs=1e-4
    )


def test_what_needs_weights_is_refused(exported: Exported, tmp_path: Path) -> None:
    opened = mapsto.load(exported.file)
    for use in (
        lambda: opened.explain("a text"),
        lambda: opened.save(tmp_path / "folder"),
        lambda: opened.export(tmp_path / "again.onnx", rows=exported.table),
        lambda: mapsto.fit("text -> label", exported.table, start=opened, steps=1),
        lambda: mapsto.load(exported.file, precision="bf16").predict(["x"]),
        lambda: mapsto.load(exported.file, device="cuda").predict(["x"]),
    ):
        with pytest.raises(UsageError, match=r"clf\.onnx"):
            use()


def test_a_damaged_file_is_refused(exported: Exported, tmp_path: Path) -> None:
    content, copy = exported.file.read_bytes(), tmp_path / "copy.onnx"
    for place in (5, len(content) // 2, len(content) - 1):
        copy.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            mapsto.load(copy)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        copy.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="no file that `mapsto export` wrote, or is cut short"):
            mapsto.load(copy)


def test_a_newer_or_foreign_file_is_refused(exported: Exported, tmp_path: Path) -> None:
    newer = reseal(exported.file, tmp_path / "newer.onnx", format=2)
    with pytest.raises(CheckpointError, match=r"format 2; this version reads 1; update mapsto"):
        mapsto.load(newer)
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(seal_model(b"", {TEXT_PREFIX + "../escape": "x", "mapsto": '{"format": 1}'}))
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        mapsto.load(foreign)
    foreign.write_bytes(seal_model(b"\xff" * 40, {}))
    with pytest.raises(CheckpointError, match="no record of mapsto"):
        mapsto.load(foreign)


def test_parity_is_checked_again_on_another_processor(exported: Exported, tmp_path: Path) -> None:
    elsewhere = reseal(exported.file, tmp_path / "elsewhere.onnx", processor="another one")
    mapsto.load(elsewhere)
    tensors = load(read_sealed(exported.file)[2][PARITY_FILE])
    tensors["output:label"] = tensors["output:label"] + np.float32(2e-3)
    changed = reseal(exported.file, tmp_path / "changed.onnx", processor="another one", parity=save(tensors))
    with pytest.raises(CheckpointError, match="answers differently here: label"):
        mapsto.load(changed)
    here = reseal(exported.file, tmp_path / "here.onnx", parity=save(tensors))
    # On the processor that wrote it nothing is computed when it is opened in the same engine.
    mapsto.load(here)
    if find_spec("openvino") is not None:
        with pytest.raises(
            CheckpointError, match=r"answers differently here: label.*Here: .*openvino 2.*There: .*onnxruntime"
        ):
            mapsto.load(here, engine="openvino")


def test_a_graph_that_computes_something_else_is_not_written(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's weights change between tracing and the check."""

    def traced_before(reference: Mapping, examples: Any) -> Any:
        with torch.no_grad():
            reference.heads[0].bias += 1e-3
        return onnx.load(exported.file)

    monkeypatch.setattr("mapsto.export.export.trace", traced_before)
    out = tmp_path / "wrong.onnx"
    with pytest.raises(RunError, match="computes something else"):
        export_mapping(exported.mapping, out, exported.table)
    assert not out.exists()


def test_what_a_file_is_is_said(exported: Exported, tmp_path: Path) -> None:
    """A file that no export wrote is not replaced; a renamed file, and one that is not there, are named as such."""
    foreign = tmp_path / "mine.onnx"
    foreign.write_text("precious, and no model")
    with pytest.raises(UsageError, match="no export wrote it; name another"):
        export_mapping(exported.mapping, foreign, exported.table)
    assert foreign.read_text() == "precious, and no model"
    for folder, words in (
        (tmp_path / "nofolder" / "a.onnx", "there is no folder"),
        (tmp_path / "a.onnx", "it is a folder"),
    ):
        (tmp_path / "a.onnx").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match=words):
            export_mapping(exported.mapping, folder, exported.table)
    renamed = tmp_path / "clf.txt"
    shutil.copy(exported.file, renamed)
    with pytest.raises(CheckpointError, match=r"give it its ending \.onnx again"):
        mapsto.load(renamed)
    with pytest.raises(UsageError, match=r"with the ending \.onnx, and .*clf\.txt is none"):
        mapsto.load(renamed, engine="onnx")
    with pytest.raises(CheckpointError, match=r"there is no file .*missing\.onnx"):
        mapsto.load(tmp_path / "missing.onnx")
    (tmp_path / "clf.xml").touch()
    (tmp_path / "clf.bin").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"the weights of an exported model: name .*clf\.xml"):
        mapsto.load(tmp_path / "clf.bin")


def test_wrong_uses_are_refused(exported: Exported, tmp_path: Path) -> None:
    mapping = exported.mapping
    with pytest.raises(DataError, match="--rows"):
        export_mapping(mapping, tmp_path / "a.onnx")
    for name in ("a", "a.bin", "a.xml", "missing/a.onnx"):
        with pytest.raises(UsageError, match="out="):
            export_mapping(mapping, tmp_path / name, exported.table)
    with pytest.raises(UsageError, match="onnx, int8, openvino"):
        ExportSettings("tflite")
    with pytest.raises(UsageError, match="--agreement"):
        ExportSettings(agreement=99)
    generating, _ = small_mapping("en:text -> de:text")
    with pytest.raises(UsageError, match="token by token, which is exported in fp32 only"):
        export_mapping(generating, tmp_path / "a.onnx", exported.table, ExportSettings("int8"))
    generating, _ = small_mapping("en:text -> de:text, label")
    with pytest.raises(UsageError, match="writes one of several answers token by token"):
        export_mapping(generating, tmp_path / "a.onnx", exported.table)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_int8_is_measured_and_smoothing_changes_nothing(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smoothed weights compute the same, and what falls below --agreement is refused."""
    from mapsto.export.parity import make_examples
    from mapsto.export.quantization import SmoothedLinear, smooth
    from mapsto.pretrained.exported.interface import batch_inputs, compute_outputs
    from mapsto.sequence.packing import collate

    examples = make_examples(exported.mapping, exported.table)
    smoothed = smooth(exported.mapping, examples)
    names = [name for name, module in smoothed.named_modules() if isinstance(module, SmoothedLinear)]
    assert len(names) == 3 * exported.mapping.config.transformer.layers
    assert any(
        (module.inverse - 1).abs().max() > 0.1 for module in smoothed.modules() if isinstance(module, SmoothedLinear)
    )
    inputs = batch_inputs(smoothed, collate(examples[:5]))
    with torch.no_grad():
        first, second = (compute_outputs(mapping, inputs) for mapping in (exported.mapping, smoothed))
    torch.testing.assert_close(first["label"], second["label"], atol=1e-5, rtol=0)

    out = tmp_path / "int8.onnx"
    int8 = export_mapping(exported.mapping, out, exported.table, ExportSettings("int8", agreement=0.5))
    assert "down" in int8.higher_precision
    assert 1e-4 < int8.parity.difference < 0.5
    assert int8.parity.probability_change is not None
    assert int8.parity.probability_change > 0
    assert out.stat().st_size < 0.8 * exported.file.stat().st_size
    opened = mapsto.load(out)
    expected, answers = exported.model.predict(exported.table), opened.predict(exported.table)
    numbers = np.array([[answer["number"]["number"] for answer in side] for side in (expected, answers)])
    assert 0 < np.abs(numbers[0] - numbers[1]).max() < 0.3 * numbers[0].std() + 1

    def traced_before(reference: Mapping, examples: Any) -> Any:
        with torch.no_grad():
            reference.heads[0].weight.neg_()
        return onnx.load(out)

    monkeypatch.setattr("mapsto.export.export.trace_int8", traced_before)
    with pytest.raises(RunError, match=r"--agreement asks for 100 %; nothing was written. In fp32 stay"):
        export_mapping(exported.mapping, tmp_path / "b.onnx", exported.table, ExportSettings("int8", agreement=1.0))
    assert not (tmp_path / "b.onnx").exists()


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXTS = ["winter is long", "今天天气真好！", "a"]


def require_same_labels(exported: Exported, lines: str) -> None:
    """Compare the lines that an example program printed with the model's own answers."""
    answers = [json.loads(line) for line in lines.splitlines()]
    assert [answer["text"] for answer in answers] == TEXTS
    for answer, expected in zip(answers, exported.model.predict(TEXTS), strict=True):
        assert answer["label"] == expected["label"]["label"]
        assert answer["probability"] == pytest.approx(expected["label"]["probability"], abs=1e-5)


def test_the_example_answers_without_mapsto(exported: Exported) -> None:
    program = EXAMPLES / "exported_file.py"
    assert "import mapsto" not in program.read_text()
    done = subprocess.run([sys.executable, program, exported.file, *TEXTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    require_same_labels(exported, done.stdout)


@pytest.mark.slow
def test_the_example_in_javascript_answers_the_same(exported: Exported, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    shutil.copy(EXAMPLES / "exported_file.mjs", tmp_path)
    packages = ["onnxruntime-web@1.30", "@huggingface/tokenizers@0.2"]
    install = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"npm does not install onnxruntime-web: {installed.stderr[-200:]}")
    command = ["node", "exported_file.mjs", exported.file, *TEXTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    require_same_labels(exported, done.stdout)


@pytest.mark.slow
def test_a_model_of_pictures_is_served_whatever_their_shape(tmp_path: Path) -> None:
    """The made rows with which a service warms up have another shape than the graph reads."""
    pytest.importorskip("fastapi", reason="the extra [serve] is not here")
    from mapsto.serve.served_model import ServedModel

    mapping, table = small_mapping("image -> boxes")[0].eval(), make_table()
    table = table.select(range(0, len(table), 2))
    export_mapping(mapping, tmp_path / "boxes.onnx", table)
    model = ServedModel("boxes", mapsto.load(tmp_path / "boxes.onnx").mapping)
    model.warm_up()
    assert all("boxes" in answer for answer in model.predictor.answer(table))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arrow",
    [
        "text -> labels",
        "en:text, text:text -> answer:span",
        "en:text <-> de:text",
        "image -> label",
        "image -> boxes",
        "image -> clean:image",
        "video -> label",
        "sound -> label",
        "sound -> answer:text",
        "~text -> text",
    ],
)
def test_every_kind_is_exported(arrow: str, tmp_path: Path) -> None:
    table = make_table()
    # Pictures of one shape.
    table = table.select(range(0, len(table), 2)) if "image" in arrow else table
    if "<->" in arrow or "answer:text" in arrow:  # a fit chooses how vectors are compared, and how a text is answered
        size = None if "sound" in arrow else 300
        mapping = mapsto.fit(arrow, table, steps=1, layers=1, width=64, vocabulary=size, precision="fp32").mapping
        assert not writes_answers(mapping)
    else:
        mapping = small_mapping(arrow)[0].eval()
    exported = export_mapping(mapping, tmp_path / "a.onnx", table)
    assert exported.parity.difference < 1e-5
    model, opened = mapsto.Model(mapping, precision="fp32"), mapsto.load(tmp_path / "a.onnx")
    # With random weights the spans beside the best are nearly as good as each other.
    if "span" in arrow:
        assert exported.parity.agreement.value > 0.9
        return
    if arrow == "~text -> text":  # nothing is hidden in these rows, so vectors are compared
        assert exported.parity.agreement.value == 1
        np.testing.assert_allclose(model.embed(table), opened.embed(table), atol=1e-5)
        return
    require_close(model.predict(table), opened.predict(table))
    require_close(model.predict(table.select([2])), opened.predict(table.select([2])))


def test_what_no_graph_computes_is_refused(exported: Exported, tmp_path: Path) -> None:
    """Pictures of several shapes are named before anything is traced."""
    mapping, _ = small_mapping("image -> label")
    with pytest.raises(UsageError, match=r"pictures of one shape, and these have 2 shapes"):
        export_mapping(mapping.eval(), tmp_path / "a.onnx", exported.table)
