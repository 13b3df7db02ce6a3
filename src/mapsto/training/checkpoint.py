"""Checkpoints of a training run: all tensors and the training state, so that a killed run resumes bit for bit.

A checkpoint is a folder `checkpoints/step-…` of three files: tensors as safetensors, state as JSON, and a manifest with
the SHA-256 of both. It is written to a temporary folder, fsynced and renamed, so that a reader finds all of it or
nothing. Loading verifies every hash. A damaged checkpoint is skipped, and the newest undamaged one is loaded.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from mapsto.errors import CheckpointError
from mapsto.files import (
    TEMPORARY_PREFIX,
    explaining_write_errors,
    hash_file,
    open_tensors,
    read_json,
    read_sealed,
    reading_folder,
    require_space,
    seal,
    sync_folder,
    verify,
    write_synced,
)

CHECKPOINTS_FOLDER = "checkpoints"
STATE_FILE, TENSORS_FILE, HASHES_FILE = "state.json", "state.safetensors", "manifest.json"
STEP_FOLDER = re.compile(r"step-(\d{8})")

Tensors = dict[str, torch.Tensor]
State = dict[str, Any]


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint that the run in folder `run` writes after step `step`."""
    return run / CHECKPOINTS_FOLDER / f"step-{step:08d}"


def save_checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: after a kill at any moment, `folder` holds all of it or does not exist.

    state: the state of the training run, such as its step, as JSON-serialisable values.
    Raises RunError when it cannot be written, for example because the disk is full.
    """
    parent = folder.parent
    with explaining_write_errors(folder):
        parent.mkdir(parents=True, exist_ok=True)
        # Temporary folders of a run that was killed while it saved a checkpoint.
        for leftover in parent.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        require_space(parent, sum(t.numel() * t.element_size() for t in tensors.values()))
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
        try:
            # safetensors refuses tensors that share memory, as a view does with its base.
            copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
            write_synced(temporary / TENSORS_FILE, safetensors.torch.save(copies))
            write_synced(temporary / STATE_FILE, json.dumps(state).encode())
            hashes = {name: hash_file(temporary / name) for name in (TENSORS_FILE, STATE_FILE)}
            write_synced(temporary / HASHES_FILE, seal({"files": hashes}))
            # Synced before the rename, so that a power failure cannot leave the final name without the files.
            sync_folder(temporary)
            # A damaged checkpoint of the same step, which the run skipped when it resumed.
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            sync_folder(parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def load_checkpoint(folder: Path) -> tuple[Tensors, State]:
    """Return (tensors by name, state) of a checkpoint after verifying the SHA-256 of both files.

    Raises CheckpointError, which names the damaged file.
    """
    # Each file is read once, and the same bytes are hashed and parsed: the file cannot change in between.
    with reading_folder(folder):
        hashes = read_sealed(folder / HASHES_FILE).get("files")
        unexpected = sorted({p.name for p in folder.iterdir()} - {TENSORS_FILE, STATE_FILE, HASHES_FILE})
        if unexpected or not isinstance(hashes, dict) or set(hashes) != {TENSORS_FILE, STATE_FILE}:
            raise CheckpointError(
                f"{folder / (unexpected or [HASHES_FILE])[0]}: this file does not belong to a checkpoint"
            )
        verify(folder, hashes)
        # Copies, as training goes on in these tensors, and a matrix product may depend on the alignment of memory.
        tensors = {name: tensor.clone() for name, tensor in open_tensors(folder / TENSORS_FILE).items()}
        return tensors, read_json(folder / STATE_FILE)


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, newest first, damaged ones included."""
    folder = run / CHECKPOINTS_FOLDER
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)), reverse=True)


def load_newest_checkpoint(run: Path, say: Callable[[str], None]) -> tuple[Path, Tensors, State] | None:
    """Return (folder, tensors by name, state) of a run's newest undamaged checkpoint; None when there is none.

    say: prints a message about each damaged checkpoint that is skipped.
    """
    for path in list_checkpoints(run):
        try:
            return (path, *load_checkpoint(path))
        except CheckpointError as error:
            say(f"{error}; looking for an older checkpoint")
    return None


def prune_checkpoints(run: Path, step: int, keep: int = 2) -> None:
    """Delete all checkpoints of a run but the `keep` newest ones among those up to step `step`.

    Checkpoints of later steps are deleted too: they are damaged ones, which the run skipped when it resumed.
    """
    valid = [path for path in list_checkpoints(run) if path <= checkpoint_folder(run, step)]
    for path in set(list_checkpoints(run)) - set(valid[:keep]):
        shutil.rmtree(path, ignore_errors=True)
