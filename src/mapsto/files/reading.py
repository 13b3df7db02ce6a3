"""Read files of unknown origin: regular files alone, within limits, and nothing outside the folder that a link leads to.

Within `reading_folder` each file of a folder is read once: what is hashed is what is parsed, whatever is written meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.errors import CheckpointError

# The most bytes that are read into memory from a JSON file; from one that describes a model; from a file of any type.
MAX_JSON_BYTES = 64 * 2**20
MAX_CONFIG_BYTES = 16 * 2**20
MAX_FILE_BYTES = 2**40

CHUNK_BYTES = 2**20
KINDS_OF_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
Content = memoryview


@dataclass(frozen=True)
class _Reading:
    """A folder that is being read, and the content of each file read so far, by its path."""

    folder: Path
    contents: dict[Path, Content] = field(default_factory=dict)


_reading: ContextVar[_Reading | None] = ContextVar("reading", default=None)


@contextmanager
def reading_folder(folder: Path) -> Iterator[None]:
    """Read each file of `folder` once in the `with` block, whoever asks for it; links out of the folder are refused.

    The snapshots of the Hugging Face cache are links into the folder "blobs" beside them, which are followed.
    """
    token = _reading.set(_Reading(folder))
    try:
        yield
    finally:
        _reading.reset(token)


def open_regular(path: Path, max_bytes: int = MAX_FILE_BYTES) -> FileIO:
    """Open a regular file of at most `max_bytes` for reading, without waiting for the writer of a pipe.

    Raises CheckpointError for a device, a pipe, a socket or a folder, and for a larger file; OSError if it cannot be opened.
    """
    # A socket cannot be opened at all, so the type is looked at first; the opened file is looked at again.
    _require_regular(path, os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status.st_mode)
        if status.st_size > max_bytes:
            raise _too_large(path, status.st_size, max_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return FileIO(descriptor, "rb")


def _require_regular(path: Path, mode: int) -> None:
    """Raise CheckpointError if `mode`, of the file at `path`, is not that of a regular file."""
    if not stat.S_ISREG(mode):
        kind = KINDS_OF_FILES.get(stat.S_IFMT(mode), "something else")
        raise CheckpointError(f"{path} is {kind}, and only regular files are read")


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return the bytes of a regular file, a copy of those that are kept within `reading_folder`.

    Raises CheckpointError as `read_content`.
    """
    return bytes(read_content(path, max_bytes))


def read_content(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Content:
    """Return the bytes of a regular file as writable memory.

    Raises CheckpointError when it cannot be read, has more than `max_bytes`, or is a link out of the folder that is being read.
    """
    return _read(path, max_bytes, None)


def _read(path: Path, max_bytes: int, digest: Any) -> Content:
    """Return the bytes of a file as `read_bytes` does. digest: a hash object that is given the bytes too, or None."""
    reading = _reading.get()
    if reading is not None and reading.folder not in path.parents:
        reading = None
    if reading is not None and path in reading.contents:
        content = reading.contents[path]
        if len(content) > max_bytes:
            raise _too_large(path, len(content), max_bytes)
        if digest is not None:
            digest.update(content)
        return content
    try:
        if reading is not None:
            _require_within(path, reading.folder)
        with open_regular(path, max_bytes) as stream:
            content = _read_stream(stream, digest)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if reading is not None:
        reading.contents[path] = content
    return content


def _too_large(path: Path, size: int, max_bytes: int) -> CheckpointError:
    """Return the error for a file of `size` bytes where at most `max_bytes` are read."""
    return CheckpointError(f"{path} is too large: {size:,} bytes, and at most {max_bytes:,} are read")


def _read_stream(stream: FileIO, digest: Any) -> Content:
    """Return the bytes of an open file up to the size that it has now, hashed by `digest` while they are read."""
    # Memory that is not filled with zeros first, which would take as long as reading.
    content, position = np.empty(os.fstat(stream.fileno()).st_size, np.uint8).data, 0
    while count := stream.readinto(content[position : position + CHUNK_BYTES]):
        if digest is not None:
            digest.update(content[position : position + count])
        position += count
    return content[:position]


def _require_within(path: Path, folder: Path) -> None:
    """Raise CheckpointError if `path`, of a file in `folder`, leads out of the folder through a link."""
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    # A snapshot in the cache of huggingface_hub: models--NAME/snapshots/COMMIT, with links into models--NAME/blobs.
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if root not in target.parents and blobs not in target.parents:
        raise CheckpointError(f"{path} is a link out of the folder, to {target}: copy the file into the folder")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a regular file as hexadecimal digits."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise CheckpointError, which names the file, if a file of `folder` is missing or its SHA-256 differs.

    Within `reading_folder` the bytes that are hashed are kept for whoever reads the file later in the block.
    hashes: the expected SHA-256 by file name.
    """
    for name, expected in hashes.items():
        path = folder / name
        # A name from a manifest of unknown origin must not lead out of the folder.
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.exists():
            raise CheckpointError(f"{path} is missing")
        digest = hashlib.sha256()
        _read(path, MAX_FILE_BYTES, digest)
        if digest.hexdigest() != expected:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of at most `max_bytes`.

    Raises CheckpointError for a file that is too large, cannot be read or holds no JSON object.
    """
    record = read_any_json(path, max_bytes)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return record


def read_any_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the JSON value, of any type, in a file of at most `max_bytes`.

    Raises CheckpointError for a file that is too large, cannot be read or is no JSON.
    """
    return parse_json(path, read_bytes(path, max_bytes))


def parse_json(path: Path, content: bytes) -> Any:
    """Return the JSON value that is the content of the file `path`. Raises CheckpointError if it is none, or nested too deep."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise CheckpointError(f"{path} is no JSON that can be read: it is nested too deep") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error


def seal(record: Mapping[str, Any]) -> bytes:
    """Return a record as JSON bytes with a further field "sha256", the SHA-256 of the record, for `read_sealed` to verify."""
    # Sorted keys, so that equal records have equal hashes.
    body = json.dumps(record, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(body.encode(errors="backslashreplace")).hexdigest()
    text = json.dumps({**record, "sha256": digest}, ensure_ascii=False, indent=1)
    return text.encode(errors="backslashreplace")  # a path may contain a lone surrogate, which UTF-8 cannot encode


def read_sealed(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the record in a file that holds the bytes from `seal`, without the field "sha256".

    Raises CheckpointError if the file has changed since, or is larger than `max_bytes`.
    """
    content = read_bytes(path, max_bytes)
    record = parse_json(path, content)
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    record.pop("sha256", None)
    try:
        is_whole = seal(record) == content
    except RecursionError as error:
        raise CheckpointError(f"{path} is no JSON that can be read: it is nested too deep") from error
    if not is_whole:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    return record
