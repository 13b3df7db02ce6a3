"""Checkpoints are whole or refused, and no error while one is saved harms the last good one."""

from __future__ import annotations

import errno
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mapsto
from mapsto import files
from mapsto.errors import CheckpointError, RunError
from mapsto.pretrained.model_folder import MANIFEST_FILE, MODEL_FILES, open_model_folder
from mapsto.training import checkpoint


def tensors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "model/weight": torch.randn(40, 30, generator=generator),
        "optimizer/weight/exp_avg": torch.randn(40, 30, generator=generator),
        "optimizer/step": torch.tensor(float(seed)),
        "best/half": torch.randn(7, generator=generator).bfloat16(),
    }


def write(run: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save_checkpoint(
            checkpoint.checkpoint_folder(run, step), tensors(step), {"step": step, "best": float("inf")}
        )


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_load_returns_the_saved_tensors_and_state(tmp_path: Path) -> None:
    write(tmp_path, 5)
    loaded, state = checkpoint.load_checkpoint(checkpoint.checkpoint_folder(tmp_path, 5))
    assert equal(loaded, tensors(5)) and state == {"step": 5, "best": float("inf")}
    assert all(loaded[name].dtype == tensor.dtype for name, tensor in tensors(5).items())


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3)
    checkpoint.prune_checkpoints(tmp_path, 3, keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000003", "step-00000002"]


def test_prune_deletes_damaged_checkpoints_that_a_run_went_back_from(tmp_path: Path) -> None:
    """A run that went back to an older checkpoint keeps that one and its new ones."""
    write(tmp_path, 2, 4, 6)
    for step in (4, 6):
        flip(checkpoint.checkpoint_folder(tmp_path, step) / checkpoint.TENSORS_FILE, random.Random(step))
    write(tmp_path, 3)
    checkpoint.prune_checkpoints(tmp_path, 3, keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000003", "step-00000002"]


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def zero(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([16, 512, 4096]))
    if not any(content[start:end]):
        content[start] ^= 0xFF
    else:
        content[start:end] = bytes(end - start)
    path.write_bytes(content)


def swap(path: Path, rng: random.Random) -> None:
    """Put the other checkpoint's file in its place."""
    other = next(p for p in path.parent.parent.iterdir() if p != path.parent and p.name.startswith("step-"))
    if (other / path.name).read_bytes() == path.read_bytes():
        flip(path, rng)
    else:
        shutil.copy(other / path.name, path)


def append(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def stray(path: Path, rng: random.Random) -> None:
    (path.parent / "extra.safetensors").write_bytes(b"x")


DAMAGES: list[Callable[[Path, random.Random], None]] = [flip, truncate, zero, swap, append, remove, stray]


def sweep(folder: Path, count: int) -> None:
    rng = random.Random(count)
    write(folder / "whole", 3, 7)
    for number in range(count):
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "whole", run)
        newest = checkpoint.checkpoint_folder(run, 7)
        path = newest / rng.choice([checkpoint.TENSORS_FILE, checkpoint.STATE_FILE, checkpoint.HASHES_FILE])
        damage = DAMAGES[number % len(DAMAGES)]
        damage(path, rng)
        with pytest.raises(CheckpointError) as refused:
            checkpoint.load_checkpoint(newest)
        culprit = newest if damage is not stray else newest / "extra.safetensors"
        assert str(culprit) in str(refused.value), (damage.__name__, path)
        messages: list[str] = []
        found = checkpoint.load_newest_checkpoint(run, messages.append)
        assert found is not None and found[0].name == "step-00000003" and equal(found[1], tensors(3))
        assert len(messages) == 1 and "older checkpoint" in messages[0]


def test_two_hundred_damages_none_accepted(tmp_path: Path) -> None:
    sweep(tmp_path, 200)


@pytest.mark.slow
def test_a_thousand_damages_none_accepted(tmp_path: Path) -> None:
    sweep(tmp_path, 1000)


def sweep_of_a_model(folder: Path, count: int) -> None:
    """Check that damage to any file that a finished run needs is found."""
    rng = random.Random(count)
    rows = [{"text": f"{i} river {'winter' if i % 2 else 'spring'}", "label": "ab"[i % 2]} for i in range(40)]
    mapsto.fit("text -> label", rows, folder / "whole", steps=1, layers=1, width=32, vocabulary=300, device="cpu")
    names = sorted({*MODEL_FILES, MANIFEST_FILE} & {path.name for path in (folder / "whole").iterdir()})
    assert len(names) >= 5
    ways = [flip, flip, truncate, zero, append, remove]
    for number in range(count):
        path = folder / "run" / names[number % len(names)]
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(folder / "whole", path.parent)
        damage = ways[number // len(names) % len(ways)]
        damage(path, rng)
        with pytest.raises(CheckpointError) as refused:
            open_model_folder(path.parent)
        culprit = path if (path.name, damage) != (MANIFEST_FILE, remove) else path.parent
        assert str(culprit) in str(refused.value), (damage.__name__, path)
    open_model_folder(folder / "whole")


def test_a_hundred_damages_of_a_model_none_accepted(tmp_path: Path) -> None:
    sweep_of_a_model(tmp_path, 100)


@pytest.mark.slow
def test_a_thousand_damages_of_a_model_none_accepted(tmp_path: Path) -> None:
    sweep_of_a_model(tmp_path, 1000)


@pytest.mark.parametrize("suffix", files.PICKLED)
@pytest.mark.parametrize("form", ["pickle", "numpy", "text"])
def test_formats_that_may_run_code_are_never_opened(
    form: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under the ending of a safe format."""
    path = tmp_path / f"model{suffix}"
    if form == "pickle":
        torch.save({"a": torch.zeros(2)}, path)
    elif form == "numpy":
        with path.open("wb") as stream:
            np.savez(stream, a=np.array([{}], object))
    else:
        path.write_text("text")

    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("the file was opened")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, opened)
    with pytest.raises(CheckpointError, match="never opens it; .* save_pretrained"):
        files.open_tensors(path)
    safe = path.with_suffix(".safetensors")
    path.rename(safe)
    with pytest.raises(CheckpointError, match="is a pickle under another name|is no whole safetensors file"):
        files.open_tensors(safe)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "rename", "open"])
def test_a_save_that_fails_leaves_the_last_checkpoint(
    number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, "injected")

    if call == "fsync":
        monkeypatch.setattr("os.fsync", fail)
    elif call == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(RunError, match="could not be written") as failed:
        write(tmp_path, 2)
    assert "what was saved before is unchanged" in str(failed.value) and failed.value.exit_status == 1
    monkeypatch.undo()
    found = checkpoint.load_newest_checkpoint(tmp_path, print)
    assert found is not None and equal(found[1], tensors(1))
    assert not list((tmp_path / "checkpoints").glob(".unfinished-*")), "nothing half-written stays"


def test_space_is_checked_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(RunError, match="1,000 are free"):
        write(tmp_path, 2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step-00000001"]


def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    files.write_atomic(path, b"old")

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "injected")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(RunError, match="disk is full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_verify_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    hashes = {"a.json": files.hash_file(tmp_path / "a.json")}
    files.verify(tmp_path, hashes)
    (tmp_path / "a.json").write_text("{ }")
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        files.verify(tmp_path, hashes)
    with pytest.raises(CheckpointError, match="is missing"):
        files.verify(tmp_path, {"b.json": "0"})
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "b.json").write_text("[]")
    files.verify(tmp_path, {"inner/b.json": files.hash_file(inner / "b.json")})
    with pytest.raises(CheckpointError, match=r"inner/b\.json is damaged"):
        files.verify(tmp_path, {"inner/b.json": "0"})
    for outside in ("../a.json", "sub/../../a.json", str(tmp_path / "a.json")):
        with pytest.raises(CheckpointError, match="is missing"):
            files.verify(inner, {outside: files.hash_file(tmp_path / "a.json")})


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_broken_json_is_an_error_with_the_file_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        files.read_json(tmp_path / "state.json")


def test_large_json_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_text(json.dumps({"a": "b" * 200}))
    with pytest.raises(CheckpointError, match="too large"):
        files.read_json(tmp_path / "big.json", 100)
