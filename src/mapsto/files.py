"""Files that are whole or refused: atomic, hashed, verified before use. Safetensors and JSON only, never pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from mapsto.errors import CheckpointError, RunError

TEMPORARY = ".unfinished-"


LARGEST_JSON = 64 * 2**20


LARGEST_HEADER = 100 * 2**20


SPARE_BYTES = 2**20


PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy", ".h5", ".msgpack")


CONVERT = (
    "it may run code when opened, so mapsto never opens it; where you trust it, load it with transformers and "
    "save it again with save_pretrained(folder, safe_serialization=True)"
)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before. Raises RunError."""
    with replacing(path) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream into a file that takes the place of `path` once all of it is written; until then what was there stays.

    Raises RunError.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with explaining(path):
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError naming the first file of `folder` that is missing or not what it was."""
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if hash_file(path) != expected:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file from anywhere; its header is checked first. Raises CheckpointError."""
    if path.suffix in PICKLED:
        raise CheckpointError(f"{path}: {CONVERT}")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(f"{path} is a pickle under another name; {CONVERT}")
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header > min(LARGEST_HEADER, size - 8):
        raise CheckpointError(f"{path} is no whole safetensors file: its header says {header:,} bytes of {size:,}")
    try:
        found: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from error
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises CheckpointError."""
    found = read_any_json(path)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def read_any_json(path: Path) -> Any:
    """What a JSON file of bounded size holds. Raises CheckpointError."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(f"{path} is larger than {LARGEST_JSON:,} bytes")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error


def sealed(record: Mapping[str, Any]) -> bytes:
    """A record as JSON that carries its own SHA-256; `read_sealed` takes it back."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(body.encode(errors="backslashreplace")).hexdigest()
    text = json.dumps({**record, "sha256": digest}, ensure_ascii=False, indent=1)
    return text.encode(errors="backslashreplace")  # half a character of a path becomes what JSON calls it


def read_sealed(path: Path) -> dict[str, Any]:
    """The record in a file that `sealed` made. Raises CheckpointError when one bit of it is not what it was."""
    record = read_json(path)
    record.pop("sha256", None)
    if sealed(record) != _read(path):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    return record


def require_space(folder: Path, wanted: int) -> None:
    """Raise RunError when the disk of `folder` has not `wanted` bytes and a little more free."""
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        raise RunError(
            f"{folder}: {wanted + SPARE_BYTES:,} bytes are needed, {free:,} are free on the disk; what was saved before stands"
        )


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Writing to `path`; raises RunError, which says why it could not be, in place of an OSError."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota is used up",
        errno.EROFS: "the disk is read-only",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0) or error.strerror or str(error)
        raise RunError(f"{path} could not be written: {reason}; what was saved before stands") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
