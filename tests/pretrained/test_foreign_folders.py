"""Folders and names that are nearly a model: the error says what they are and what to do; only hf: names reach the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from mappings import small_mapping
from typer.testing import CliRunner

from mapsto.api import Model
from mapsto.cli.app import app
from mapsto.errors import CheckpointError
from mapsto.inference.predictor import NOT_FINITE
from mapsto.pretrained import huggingface, model_folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 1234567\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model: one of mapsto's without its manifest."""
    folder = tmp_path_factory.mktemp("plain")
    model_folder.save_mapping(small_mapping("text -> label")[0], folder, {})
    (folder / "mapsto.json").unlink()
    return folder


def put(folder: Path, **contents: str | bytes) -> None:
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def adapter(folder: Path, plain: Path) -> None:
    put(
        folder,
        adapter_config__json=json.dumps({"base_model_name_or_path": "user/base"}),
        adapter_model__safetensors=b"x",
    )


def adapter_with_config(folder: Path, plain: Path) -> None:
    adapter(folder, plain)
    shutil.copy(plain / "config.json", folder)


def trainer(folder: Path, plain: Path) -> None:
    for step in (50, 9, 100):
        shutil.copytree(plain, folder / f"checkpoint-{step}")


def pointer(folder: Path, plain: Path) -> None:
    shutil.copytree(plain, folder, dirs_exist_ok=True)
    put(folder, model__safetensors=POINTER)


def pictures(folder: Path, plain: Path) -> None:
    put(folder, a__jpg="", b__PNG="", c__webp="", readme__txt="")


def classes_of_pictures(folder: Path, plain: Path) -> None:
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        put(folder / name, a__jpg="")


def inner(folder: Path, plain: Path) -> None:
    shutil.copytree(plain, folder / "0_Transformer")


def quantised(folder: Path, plain: Path) -> None:
    shutil.copy(plain / "config.json", folder)
    put(folder, model__Q4__gguf=b"GGUF")


def onnx(folder: Path, plain: Path) -> None:
    shutil.copy(plain / "config.json", folder)
    put(folder, model__onnx=b"x")


def pickled(folder: Path, plain: Path) -> None:
    shutil.copy(plain / "config.json", folder)
    put(folder, pytorch_model__bin=b"PK")


def fasttext(folder: Path, plain: Path) -> None:
    put(folder, lid__bin=(793_712_314).to_bytes(4, "little") + b"x")


def keras(folder: Path, plain: Path) -> None:
    put(folder, config__json='{"module": "keras", "class_name": "Functional"}', model__keras="", metadata__json="{}")


def weights_alone(folder: Path, plain: Path) -> None:
    shutil.copy(plain / "model.safetensors", folder)


FOLDERS: list[tuple[Callable[[Path, Path], None], str]] = [
    (adapter, r"an adapter of user/base.*merge_and_unload"),
    (adapter_with_config, r"an adapter of user/base.*merge_and_unload"),
    (trainer, r"checkpoints of a Trainer.*checkpoint-100$"),
    (pointer, r"Git LFS.*git lfs pull"),
    (pictures, "a folder of pictures"),
    (classes_of_pictures, "folders of pictures"),
    (inner, r"the model is in a folder within.*0_Transformer"),
    (quantised, "GGUF"),
    (onnx, "ONNX"),
    (pickled, r"pytorch_model\.bin.*may run code"),
    (fasttext, "fastText"),
    (keras, "Keras"),
    (weights_alone, r"weights, but no config\.json"),
    (lambda folder, plain: put(folder, model_index__json="{}"), "diffusers"),
    (lambda folder, plain: put(folder, meta__json="{}", config__cfg=""), "spaCy"),
    (lambda folder, plain: put(folder, saved_model__pb=""), "TensorFlow"),
    (lambda folder, plain: put(folder, dataset_dict__json="{}"), "data set"),
    (lambda folder, plain: put(folder, a__csv="", b__parquet=""), "a folder of tables"),
    (lambda folder, plain: put(folder, model__zip=""), "an archive: unpack it"),
    (lambda folder, plain: None, "it is empty"),
    (lambda folder, plain: put(folder, notes__md=""), r"it has no config\.json"),
]


@pytest.mark.parametrize(("build", "message"), FOLDERS)
def test_the_error_says_what_a_folder_is(
    build: Callable[[Path, Path], None], message: str, plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    build(folder, plain)
    with pytest.raises(CheckpointError, match=message):
        model_folder.load_mapping(folder)


FILES = [
    ("model.safetensors", b"x", "name its folder"),
    ("config.json", b"{}", "name its folder"),
    ("model.gguf", b"GGUF", "GGUF"),
    ("model.bin", b"GGUF", "GGUF"),
    ("model.bin", b"PK", "may run code"),
    ("model.pt", POINTER.encode(), "git lfs pull"),
    ("model.onnx", b"x", "mapsto export"),
    ("model.tar.gz", b"x", "unpack"),
    ("cat.JPG", b"x", "a picture"),
    ("train.csv", b"x", "a table"),
    ("clip.mp4", b"x", "a video"),
    ("notes", b"x", "no model"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES)
def test_the_error_says_what_a_file_is(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"(is a file, and a model is a folder|no file that).*{message}"):
        model_folder.load_mapping(tmp_path / name)


def rename(plain: Path, folder: Path, change: Callable[[str], str]) -> Path:
    shutil.copytree(plain, folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(
        {change(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.mark.parametrize(
    "prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod.", "model.model.", "net.backbone."]
)
def test_a_prefix_of_all_names_is_taken_off_with_a_note(prefix: str, plain: Path, tmp_path: Path) -> None:
    original = huggingface.open_pretrained(str(plain))
    renamed = huggingface.open_pretrained(str(rename(plain, tmp_path / "renamed", lambda name: prefix + name)))
    assert not any("all weights were named" in note for note in original.notes)
    assert any(f"all weights were named {prefix}…" in note for note in renamed.notes)
    assert original.tensors.keys() == renamed.tensors.keys() and original.labels == renamed.labels
    assert all(torch.equal(tensor, renamed.tensors[name]) for name, tensor in original.tensors.items())


@pytest.mark.parametrize("mark", ["lora_A.default", "base_layer", "modules_to_save.default"])
def test_an_adapter_that_is_not_merged_is_named(mark: str, plain: Path, tmp_path: Path) -> None:
    folder = rename(plain, tmp_path / "unmerged", lambda name: name.removesuffix(".weight") + f".{mark}.weight")
    with pytest.raises(CheckpointError, match=r"not merged.*merge_and_unload"):
        model_folder.load_mapping(folder)


NAMES = [
    "runs/basee",
    "basee",
    "user/model",
    "bert-base-chinese",
    "./x",
    "../up",
    "/nowhere/at/all",
    "~/no-such-model",
    "runs/base/x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_without_hf_is_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the network was asked"))
    with pytest.raises(CheckpointError, match="there is no folder") as caught:
        model_folder.load_mapping(name)
    assert ("the nearest is runs/base" in str(caught.value)) == (name == "runs/basee")
    assert (f"named hf:{name}" in str(caught.value)) == (name[0] not in "./~" and name.count("/") < 2)


def test_a_name_with_hf_is_asked_of_the_hub(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def download(name: str, **settings: object) -> str:
        asked.append(name)
        return str(plain)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert model_folder.load_mapping("hf:user/name").sources and asked == ["user/name"]
    for name in ("hf:", "hf:../x", "hf:a/b/c", "hf:/etc", "hf:a b"):
        with pytest.raises(CheckpointError, match="names no model of the hub"):
            model_folder.load_mapping(name)
    assert asked == ["user/name"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_refused_by_name(
    number: float, dtype: torch.dtype, plain: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "copy"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    name = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2)[-1]
    tensors[name] = tensors[name].to(dtype)
    tensors[name][0, 0] = number
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}.* has 1 of .*not finite"):
        model_folder.load_mapping(folder)


def test_large_finite_weights_are_no_alarm(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "copy"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors = {name: torch.full_like(tensor, 3e38) for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    loaded = model_folder.load_mapping(folder)
    # What overflows in the forward pass is no answer, and never written.
    assert Model(loaded, "cpu", "fp32").predict(["good words"]) == [{"error": NOT_FINITE}]


def test_the_command_line_names_the_folder(tmp_path: Path) -> None:
    adapter(tmp_path, tmp_path)
    outcome = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert isinstance(outcome.exception, CheckpointError) and "merge_and_unload" in str(outcome.exception)
