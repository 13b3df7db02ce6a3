"""A model exported for OpenVINO answers like the model that it was made of; files that do not belong together are refused."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from mappings import make_table, small_mapping

import mapsto
from mapsto.cli.evaluate import evaluate
from mapsto.cli.export import export
from mapsto.cli.predict import predict
from mapsto.data.table import Table
from mapsto.errors import CheckpointError, UsageError
from mapsto.export.export import Export, ExportSettings, export_mapping
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.container import read_sealed
from mapsto.pretrained.exported.ir_files import seal_ir
from mapsto.pretrained.exported.openvino_session import import_openvino

HAS_OPENVINO = find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="the extra [openvino] is not here")
SETTINGS = ExportSettings("openvino")
# One process makes the file that most of these tests read.
pytestmark = pytest.mark.xdist_group("openvino")


@dataclass
class Exported:
    """A model, the .xml file that it was exported to, and the table that it reads."""

    mapping: Mapping
    file: Path
    table: Table
    export: Export


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    if not HAS_OPENVINO:
        pytest.skip("the extra [openvino] is not here")
    mapping = small_mapping("text -> label, tags")[0].eval()
    file, table = tmp_path_factory.mktemp("openvino") / "中文 clf.xml", make_table()
    return Exported(mapping, file, table, export_mapping(mapping, file, table, SETTINGS))


def test_it_answers_like_its_model(exported: Exported) -> None:
    """In fp32, though OpenVINO computes in bf16 by default where the processor has it."""
    assert exported.export.parity.agreement.value == 1
    assert 0 < exported.export.parity.difference < 1e-5
    assert exported.export.lines()[-1].startswith(f"wrote {exported.file} and {exported.file.with_suffix('.bin')}, ")
    model, opened = mapsto.Model(exported.mapping, precision="fp32"), mapsto.load(exported.file)
    for text in ("x", "今天天气真好！" * 3, "a much longer text about the winter " * 20):
        expected, answer = (which(text) for which in (model, opened))
        assert answer["label"]["scores"] == pytest.approx(expected["label"]["scores"], abs=1e-5)
        assert [span["text"] for span in answer["tags"]["tags"]] == [span["text"] for span in expected["tags"]["tags"]]


def test_threads_that_ask_at_the_same_time_get_their_own_answers(exported: Exported) -> None:
    opened = mapsto.load(exported.file)
    texts = [f"winter is {'long ' * length}" for length in range(1, 17)]
    expected = [opened(text)["label"]["probability"] for text in texts]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(opened, texts))
    assert [answer["label"]["probability"] for answer in answers] == pytest.approx(expected, abs=1e-6)


def test_openvino_reads_all_that_answering_needs_without_mapsto(exported: Exported) -> None:
    model = import_openvino().Core().read_model(exported.file)
    entries = json.loads(model.get_rt_info("mapsto").astype(str))
    assert {"mapsto", "file:tokenizer.json", "file:mapsto.json"} <= entries.keys()
    assert {"label", "tags", "hidden_states"} <= {output.any_name for output in model.outputs}
    assert json.loads(entries["file:mapsto.json"])["targets"][0]["state"]["classes"] == ["a", "b"]


@needs_openvino
def test_openvino_reports_its_use_to_no_server() -> None:
    import_openvino()
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("telemetry_stub")  # type: ignore[attr-defined]
    assert sys.modules.get("openvino_telemetry", "is not hidden from others") is not None


def test_files_that_are_damaged_or_of_two_exports_are_refused(exported: Exported, tmp_path: Path) -> None:
    content, weights = (path.read_bytes() for path in (exported.file, exported.file.with_suffix(".bin")))
    copy = tmp_path / "copy.xml"
    copy.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"copy\.xml has its weights in copy\.bin, which is not beside it"):
        mapsto.load(copy)
    copy.with_suffix(".bin").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"copy\.bin is damaged, or is of another export than copy\.xml"):
        mapsto.load(copy)
    copy.with_suffix(".bin").write_bytes(weights)
    mapsto.load(copy)
    for place in (5, len(content) // 2, len(content) - 40):
        copy.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            mapsto.load(copy)
    for length in (0, 10, len(content) - 1):
        copy.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="no file that `mapsto export` wrote, or is cut short"):
            mapsto.load(copy)
    for xml in (b"<net />", b'<net><rt_info><mapsto value="1" /></rt_info></net>'):
        copy.write_bytes(seal_ir(xml, weights, {}))
        with pytest.raises(CheckpointError, match="no record of mapsto"):
            mapsto.load(copy)


def test_wrong_uses_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'engine="onnx" does not open .*clf\.xml, which is for OpenVINO alone'):
        mapsto.load(exported.file, engine="onnx")
    for use in (
        lambda: mapsto.load(tmp_path, engine="openvino"),
        lambda: evaluate(str(tmp_path), [tmp_path / "rows.csv"], engine="openvino"),
        lambda: predict(str(tmp_path), text=["x"], engine="openvino"),
    ):
        with pytest.raises(UsageError, match=r"takes a file that `mapsto export` wrote"):
            use()
    with pytest.raises(UsageError, match=r"local, onnx, openvino, not 'opnvino' \(did you mean 'openvino'\?\)"):
        mapsto.load(exported.file, engine="opnvino")
    (tmp_path / "pytorch.bin").write_bytes(b"weights of another model")
    with pytest.raises(UsageError, match=r"pytorch\.bin is there without pytorch\.xml, so no export wrote it"):
        export_mapping(exported.mapping, tmp_path / "pytorch.xml", exported.table, SETTINGS)
    with pytest.raises(UsageError, match=r"an exported model has the ending \.xml"):
        export(str(tmp_path), tmp_path / "a.onnx", to="openvino")
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch.bin"]


def test_without_the_package_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match=r"needs the package openvino: pip install .*\[openvino\]"):
        import_openvino()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arrow",
    [
        "text -> labels",
        "en:text, text:text -> answer:span",
        "en:text <-> de:text",
        "image -> label",
        "video -> label",
        "sound -> label",
    ],
)
def test_every_kind_is_exported(arrow: str, tmp_path: Path) -> None:
    if not HAS_OPENVINO:
        pytest.skip("the extra [openvino] is not here")
    table = make_table()
    table = table.select(range(0, len(table), 2)) if "image" in arrow else table  # pictures of one shape
    if "<->" in arrow:  # a fit chooses how vectors are pooled and compared
        mapping = mapsto.fit(arrow, table, steps=1, layers=1, width=64, vocabulary=300, precision="fp32").mapping
    else:
        mapping = small_mapping(arrow)[0].eval()
    exported = export_mapping(mapping, tmp_path / "a.xml", table, SETTINGS)
    assert exported.parity.difference < 1e-5
    assert exported.parity.agreement.value > 0.9
    assert "error" not in mapsto.load(tmp_path / "a.xml").predict(table.select([2]))[0]


@pytest.mark.slow
def test_an_int8_file_answers_in_openvino_within_what_int8_changed(exported: Exported, tmp_path: Path) -> None:
    file = tmp_path / "int8.onnx"
    export_mapping(exported.mapping, file, exported.table, ExportSettings("int8", agreement=0.5))
    answers = [mapsto.load(file, engine=engine).predict(exported.table) for engine in ("onnx", "openvino")]
    for first, second in zip(*answers, strict=True):
        assert second["label"]["scores"] == pytest.approx(first["label"]["scores"], abs=1e-2)


@pytest.mark.slow
def test_a_second_export_replaces_both_files(exported: Exported, tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    for path in (exported.file, exported.file.with_suffix(".bin")):
        shutil.copy(path, file.with_suffix(path.suffix))
    export_mapping(small_mapping("text -> label")[0].eval(), file, exported.table, SETTINGS)
    assert read_sealed(file)[1]["outputs"] != read_sealed(exported.file)[1]["outputs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    assert mapsto.load(file)("winter").keys() >= {"label", "probability"}
