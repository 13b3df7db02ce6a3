"""Safe files: written atomically, with hashes that are verified before use. Tensors are safetensors, never pickle.

A file is written to a temporary file beside its target, fsynced and renamed. The size and header of a file of unknown
origin are checked before its contents are read into memory.
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

# The prefix of names of files and folders that are being written. Those that a crash leaves behind may be deleted.
TEMPORARY_PREFIX = ".unfinished-"

# The most bytes that are read into memory from a JSON file or a safetensors header of unknown origin.
MAX_JSON_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 100 * 2**20

# Bytes of disk space required in addition to the files that are about to be written, for folders and metadata.
SPARE_BYTES = 2**20

# Suffixes of formats that may contain a pickle, which can run code when it is opened.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".npy", ".h5", ".msgpack")

CONVERT = (
    "it may run code when opened, so mapsto never opens it; where you trust it, load it with transformers and "
    "save it again with save_pretrained(folder, safe_serialization=True)"
)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or all of the new one.

    Raises RunError when it cannot be written.
    """
    with replacing(path) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary stream to a temporary file that replaces `path` when the `with` block ends without an error.

    Raises RunError when the file cannot be written.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    try:
        with explaining_write_errors(path):
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # Renaming is atomic within a folder, and after fsync the content is on the disk before the name.
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError, which names the file, if a file of `folder` is missing or its SHA-256 differs.

    hashes: the expected SHA-256 by file name.
    """
    for name, expected in hashes.items():
        path = folder / name
        # A name from a manifest of unknown origin must not lead out of the folder.
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if hash_file(path) != expected:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")


def open_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name, after checks that make a file of unknown origin safe to open.

    Raises CheckpointError for a pickle, and for a file that is damaged or cannot be read.
    """
    if path.suffix in PICKLED:
        raise CheckpointError(f"{path}: {CONVERT}")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    # The first bytes of a zip archive (torch.save) or of a pickle of protocol 2 to 5. A safetensors file begins with the size of
    # its header, which may have the same bytes, and then the brace of the header.
    if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise CheckpointError(f"{path} is a pickle under another name; {CONVERT}")
    header_size = int.from_bytes(start[:8], "little")
    if len(start) < 8 or header_size > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(f"{path} is no whole safetensors file: its header says {header_size:,} bytes of {size:,}")
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no whole safetensors file: {error}") from error
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of at most MAX_JSON_BYTES.

    Raises CheckpointError for a file that is too large, cannot be read or holds no JSON object.
    """
    record = read_any_json(path)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return record


def read_any_json(path: Path) -> Any:
    """Return the JSON value, of any type, in a file of at most MAX_JSON_BYTES.

    Raises CheckpointError for a file that is too large, cannot be read or is no JSON.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES:,} bytes")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error


def seal(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON bytes with a further field "sha256", the SHA-256 of the record, for `read_sealed` to verify."""
    # Sorted keys, so that equal records have equal hashes.
    body = json.dumps(record, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(body.encode(errors="backslashreplace")).hexdigest()
    text = json.dumps({**record, "sha256": digest}, ensure_ascii=False, indent=1)
    return text.encode(errors="backslashreplace")  # a path may contain a lone surrogate, which UTF-8 cannot encode


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the record in a file that holds the bytes from `seal`, without the field "sha256".

    Raises CheckpointError if the file has changed since.
    """
    record = read_json(path)
    record.pop("sha256", None)
    if seal(record) != read_bytes(path):
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    return record


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise RunError if the disk of `folder` has less than `num_bytes` + SPARE_BYTES of free space."""
    free, needed = shutil.disk_usage(folder).free, num_bytes + SPARE_BYTES
    if free < needed:
        raise RunError(
            f"{folder}: {needed:,} bytes are needed, {free:,} are free on the disk; what was saved before is unchanged"
        )


@contextmanager
def explaining_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the `with` block, which writes the file `path`, into a RunError with the reason in words."""
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
    """Return the bytes of a file. Raises CheckpointError when it cannot be read."""
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
    """Wait until new and renamed files of a folder are recorded on the disk under their names (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
