"""Checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from mapsto.errors import CheckpointError
from mapsto.files import TEMPORARY, _read, _sync, _write, explaining, hash_file, read_sealed, require_space, sealed

STATE, TENSORS, MANIFEST = "state.json", "state.safetensors", "manifest.json"


FOLDER = "checkpoints"


STEP = re.compile(r"step-(\d{8})")


def place(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step`."""
    return run / FOLDER / f"step-{step:08d}"


def save(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and state as one checkpoint: in a temporary folder, hashed, fsynced, renamed. Raises RunError."""
    parent = folder.parent
    with explaining(folder):
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        require_space(parent, sum(t.numel() * t.element_size() for t in tensors.values()))
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
        try:
            plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
            _write(temporary / TENSORS, safetensors.torch.save(plain))
            _write(temporary / STATE, json.dumps(state).encode())
            manifest = {name: hash_file(temporary / name) for name in (TENSORS, STATE)}
            _write(temporary / MANIFEST, sealed({"files": manifest}))
            _sync(temporary)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            _sync(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def load(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and state of a checkpoint, every byte verified first. Raises CheckpointError naming the damaged file."""
    manifest = read_sealed(folder / MANIFEST)["files"]
    unexpected = sorted({p.name for p in folder.iterdir()} - {TENSORS, STATE, MANIFEST})
    if unexpected or set(manifest) != {TENSORS, STATE}:
        raise CheckpointError(f"{folder / (unexpected or [MANIFEST])[0]}: this file does not belong to a checkpoint")
    held = {}
    for name, expected in manifest.items():
        held[name] = _read(folder / name)
        if hashlib.sha256(held[name]).hexdigest() != expected:
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 is not the one it was saved with")
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(held[TENSORS])
    return tensors, json.loads(held[STATE])


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    if not (run / FOLDER).is_dir():
        return []
    return sorted((p for p in (run / FOLDER).iterdir() if STEP.fullmatch(p.name)), reverse=True)


def newest(run: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint of a run with its contents; says which ones were refused and why."""
    for path in steps(run):
        try:
            return (path, *load(path))
        except CheckpointError as error:
            say(f"{error}; looking for an older checkpoint")
    return None


def prune(run: Path, step: int, keep: int = 2) -> None:
    """Keep the `keep` newest checkpoints up to the one after `step`; later ones are those that a run which went back refused."""
    upto = [path for path in steps(run) if path <= place(run, step)]
    for path in set(steps(run)) - set(upto[:keep]):
        shutil.rmtree(path, ignore_errors=True)
