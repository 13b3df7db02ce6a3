"""Model folders made by others: irregular files, links, sizes, damage, and files that are replaced while they are read."""

from __future__ import annotations

import copy as copies
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from mappings import small_mapping

from mapsto import files
from mapsto.errors import CheckpointError, MapstoError
from mapsto.pretrained import manifest, model_folder

# Files of a saved model; mapsto reads all of them.
READ = ("mapsto.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model_folder.save_mapping(small_mapping("text -> label, number")[0], folder, {"seed": 0})
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def published(copy: Path) -> Path:
    """A copy without the manifest, as others publish models."""
    (copy / "mapsto.json").unlink()
    return copy


def irregular(path: Path, kind: str) -> None:
    """Put a file that is no regular file in the place of `path`."""
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(path.parent)  # the name of a socket is short
        socket.socket(socket.AF_UNIX).bind(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)


@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "folder", "/dev/zero", "/dev/null", "/nowhere", "/etc/passwd", "/proc/self/mem"]
)
@pytest.mark.parametrize("name", READ)
def test_only_regular_files_within_the_folder_are_read(
    copy: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    irregular(copy / name, kind)
    if name == "mapsto.json" and kind == "/nowhere":
        return  # a link to nothing is no manifest
    with pytest.raises(CheckpointError):
        model_folder.load_mapping(copy)
    if name != "mapsto.json":
        (copy / "mapsto.json").unlink()
        if name != "tokenizer_config.json" or kind != "/nowhere":
            with pytest.raises(CheckpointError):
                model_folder.load_mapping(copy)


def test_the_cache_of_the_hub_is_read_through_its_links(published: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(path for path in published.iterdir() if path.is_file()):
        shutil.move(path, blobs / f"{number:064x}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    assert model_folder.load_mapping(snapshot).sources
    assert model_folder.load_mapping(os.path.relpath(snapshot)).sources
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert model_folder.load_mapping(link).sources
    (blobs / "secret").symlink_to("/etc/passwd")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../blobs/secret")
    with pytest.raises(CheckpointError, match="out of the folder"):
        model_folder.load_mapping(snapshot)


def header(entries: dict[str, Any], content: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + content


def entry(shape: Any, first: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


@pytest.mark.parametrize(
    "content",
    [
        header({f"t{i}": entry([0], 0, 0) for i in range(110_000)}),
        header({"a": entry([4], 0, 8)}, bytes(8)),
        header({"a": entry([2], 0, 8)}, bytes(12)),
        header({"a": entry([2], 4, 12)}, bytes(12)),
        header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        header({"a": entry([-2], 0, 8)}, bytes(8)),
        header({"a": entry([2.0], 0, 8)}, bytes(8)),
        header({"a": entry([2**62, 4, 0.5], 0, 8)}, bytes(8)),
        header({"a": entry([2**70], 0, 8)}, bytes(8)),
        header({"a": entry([2], 0, 2**70)}, bytes(8)),
        header({"a": entry([2], "0", 8)}, bytes(8)),
        header({"a": entry([2], 0, 8, "F33")}, bytes(8)),
        header({"a": entry([2], 0, 8, ["F32"])}, bytes(8)),
        header({"a": entry(2, 0, 8)}, bytes(8)),
        header({"a": {"dtype": "F32"}}, bytes(8)),
        header({"a": [1]}, bytes(8)),
        header([1, 2]),  # type: ignore[arg-type]
        (10).to_bytes(8, "little") + b"[" * 10,
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (17 * 2**20).to_bytes(8, "little") + b" " * 17 * 2**20,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        b"GGUF" + bytes(100),
    ],
    ids=lambda content: f"{len(content)} bytes",
)
def test_hostile_tensors_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        files.open_tensors(tmp_path / "model.safetensors")


def test_tensors_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(3, 0),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "half": torch.randn(3, 2).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "double": torch.randn(2).double(),
        "bool": torch.tensor([True, False, True]),
        "long": torch.arange(3),
    }
    content = safetensors.torch.save(tensors, {"format": "pt"})
    size = int.from_bytes(content[:8], "little")
    # A header of another length, so that tensors begin at odd bytes.
    odd = (size + 1).to_bytes(8, "little") + content[8 : 8 + size] + b" " + content[8 + size :]
    for name, data in (("a.safetensors", content), ("b.safetensors", odd)):
        (tmp_path / name).write_bytes(data)
        opened = files.open_tensors(tmp_path / name)
        assert opened.keys() == tensors.keys()
        assert all(
            opened[key].dtype == tensor.dtype and torch.equal(opened[key], tensor) for key, tensor in tensors.items()
        )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b" " * (65 * 2**20),
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"a": 1',
    ],
    ids=["brackets", "objects", "large", "empty", "list", "bytes", "cut"],
)
def test_hostile_json_is_one_clear_error(published: Path, name: str, content: bytes) -> None:
    (published / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        model_folder.load_mapping(published)


def places(record: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every part of a record of JSON."""
    if place:
        yield place
    for key in record if isinstance(record, dict) else range(min(len(record), 2)) if isinstance(record, list) else ():
        yield from places(record[key], (*place, key))


def reseal(folder: Path, record: dict[str, Any]) -> None:
    (folder / "mapsto.json").write_bytes(files.seal(record))


def test_a_resealed_manifest_without_a_part_is_one_clear_error(copy: Path) -> None:
    """Whatever is taken out of the manifest, or put in its place, opening ends with an error of mapsto or with a model."""
    record = files.read_sealed(copy / "mapsto.json")
    refused = 0
    for place in places(record):
        for value in (..., None, [], {}, "x", -1, 1e400, True):
            changed = copies.deepcopy(record)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            if value is ...:
                del parent[place[-1]]
            else:
                parent[place[-1]] = value
            reseal(copy, changed)
            try:
                manifest.read_manifest(copy)
                if place[0] in ("arrow", "targets", "length", "provenance", "row_filters"):
                    model_folder.load_mapping(copy)
            except MapstoError as error:
                refused += 1
                assert "mapsto.json" in str(error) or place[0] in ("arrow", "targets", "files", "row_filters"), error
    assert refused > 100


@pytest.mark.parametrize("part", ["format", "arrow", "targets", "provenance", "scores", "files"])
def test_a_missing_part_of_the_manifest_is_named(copy: Path, part: str) -> None:
    record = files.read_sealed(copy / "mapsto.json")
    del record[part]
    reseal(copy, record)
    with pytest.raises(CheckpointError, match=part):
        model_folder.load_mapping(copy)


def flickering_loads(folder: Path, count: int) -> None:
    """Load a model `count` times while two models replace each other in its folder; each load is one of them."""
    mappings = [small_mapping("text -> label", seed=seed)[0] for seed in (1, 2)]
    for mapping in mappings:
        mapping.eval()
    model_folder.save_mapping(mappings[0], folder, {"seed": 1})
    stop = threading.Event()

    def save() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            model_folder.save_mapping(mappings[number % 2], folder, {"seed": 1 + number % 2})

    thread = threading.Thread(target=save)
    thread.start()
    try:
        for _ in range(count):
            loaded = dict(model_folder.load_mapping(folder).named_parameters())
            equal = [
                all(torch.equal(loaded[name], parameter) for name, parameter in mapping.named_parameters())
                for mapping in mappings
            ]
            assert sum(equal) == 1
    finally:
        stop.set()
        thread.join()


def test_a_folder_read_while_it_is_replaced_is_the_old_or_the_new_model(tmp_path: Path) -> None:
    flickering_loads(tmp_path / "model", 20)


@pytest.mark.slow
def test_a_thousand_loads_of_a_folder_that_is_replaced(tmp_path: Path) -> None:
    flickering_loads(tmp_path / "model", 1000)


def test_a_damaged_file_is_named_at_once(copy: Path) -> None:
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        model_folder.load_mapping(copy)
