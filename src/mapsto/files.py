"""Safe files: written whole or not at all, hashed, and verified before use. Safetensors and JSON only, never pickle.

Writing: to a temporary file beside the target, fsync, rename. Reading a file of unknown origin: its size and header are checked
before its contents are taken into memory.
"""

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

# Files and folders that are being written begin so; what is left of them after a crash may be deleted.
TEMPORARY_PREFIX = ".unfinished-"

# Upper bounds of what is read into memory from a file of unknown origin.
MAX_JSON_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 100 * 2**20

# Left free on the disk beside what is about to be written, for folders and metadata.
SPARE_BYTES = 2**20

# Endings of formats that may hold a pickle, which can run code when it is opened.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy", ".h5", ".msgpack")

CONVERT = (
    "it may run code when opened, so mapsto never opens it; where you trust it, load it with transformers and "
    "save it again with save_pretrained(folder, safe_serialization=True)"
)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the new content or the old one, never a part. Raises RunError."""
    with replacing(path) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a stream to a temporary file that replaces `path` when the block ends without an error. Raises RunError."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        with explaining_write_errors(path):
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file, as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError naming the first file of `folder` that is missing or whose SHA-256 is not the given one."""
    for name, expected in hashes.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if hash_file(path) != expected:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file of any origin after checking its header. Raises CheckpointError."""
    if path.suffix in PICKLED:
        raise CheckpointError(f"{path}: {CONVERT}")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    # A zip archive (torch.save) or a bare pickle of protocol 2 to 5.
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(f"{path} is a pickle under another name; {CONVERT}")
    header_size = int.from_bytes(start, "little")
    if len(start) < 8 or header_size > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(f"{path} is no whole safetensors file: its header says {header_size:,} bytes of {size:,}")
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from error
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of bounded size. Raises CheckpointError."""
    record = read_any_json(path)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return record


def read_any_json(path: Path) -> Any:
    """Read any JSON value from a file of bounded size. Raises CheckpointError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error


def seal(record: Mapping[str, Any]) -> bytes:
    """Serialise a record as JSON that carries its own SHA-256; `read_sealed` reads and verifies it."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(body.encode(errors="backslashreplace")).hexdigest()
    text = json.dumps({**record, "sha256": digest}, ensure_ascii=False, indent=1)
    return text.encode(errors="backslashreplace")  # a lone surrogate in a path becomes its \\u escape


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a record that `seal` wrote. Raises CheckpointError when one bit of the file has changed."""
    record = read_json(path)
    record.pop("sha256", None)
    if seal(record) != read_bytes(path):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    return record


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise RunError when the disk of `folder` has fewer than `num_bytes` and SPARE_BYTES free."""
    free, needed = shutil.disk_usage(folder).free, num_bytes + SPARE_BYTES
    if free < needed:
        raise RunError(
            f"{folder}: {needed:,} bytes are needed, {free:,} are free on the disk; what was saved before is unchanged"
        )


@contextmanager
def explaining_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a RunError that gives the reason in words."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the quota is used up",
        errno.EROFS: "the disk is read-only",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0) or error.strerror or str(error)
        raise RunError(f"{path} could not be written: {reason}; what was saved before is unchanged") from error


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises CheckpointError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
