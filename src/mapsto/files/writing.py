"""Write files and folders so that a reader sees the old content or all of the new one, also beside another writer.

Content is written under a temporary name of its own, fsynced and renamed. Each temporary file is locked while it is
written, so that of two writers of one file the first to finish knows of the second, whose content will replace its own.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from mapsto.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no fcntl; there writers do not know of each other
    fcntl = None  # type: ignore[assignment]

# The prefix of names of files and folders that are being written. Those that a crash leaves behind may be deleted.
TEMPORARY_PREFIX = ".unfinished-"

# Bytes of disk space required in addition to the files that are about to be written, for folders and metadata.
SPARE_BYTES = 2**20

# The temporary files by which this context has announced that it writes; see `announcing`.
_announced: ContextVar[frozenset[Path]] = ContextVar("announced", default=frozenset())


def is_temporary(name: str) -> bool:
    """Return whether a file or folder of this name is, or was, being written."""
    return name.startswith(TEMPORARY_PREFIX)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or all of the new one.

    Raises RunError when it cannot be written, or when another writer of the same file is not finished yet.
    """
    with replacing(path) as stream:
        stream.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary stream to a temporary file that replaces `path` when the `with` block ends without an error.

    Of several writers of one file the last to finish wins. Each other one writes its whole file too, and then raises RunError.
    Raises RunError also when the file cannot be written.
    """
    temporary, stream = _open_temporary(path)
    try:
        with explaining_write_errors(path):
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            with locked_folder(path.parent):
                # Renaming is atomic within a folder, and after fsync the content is on the disk before the name.
                stream.close()
                temporary.replace(path)
                rivals = [rival for rival in _temporaries(path) if rival not in _announced.get()]
                has_rival = any(map(_is_being_written, rivals))
            sync_folder(path.parent)
    finally:
        with suppress(OSError):
            stream.close()
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    if has_rival:
        raise RunError(
            f"{path} is also being written by another process or thread: what was written now is whole, but will be replaced; "
            "name another file, or run one after the other"
        )


@contextmanager
def announcing(path: Path | None) -> Iterator[None]:
    """Announce to other writers that `path` is written in the `with` block, from its beginning on; nothing for None.

    For commands that compute for long before they write: who writes the same file meanwhile is told.
    Raises RunError when the file cannot be written.
    """
    if path is None:
        yield
        return
    temporary, stream = _open_temporary(path)
    token = _announced.set(_announced.get() | {temporary})
    try:
        with stream:
            yield
    finally:
        _announced.reset(token)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new temporary file for `path`, open and locked, after deleting those that a crash left behind.

    Raises RunError when it cannot be written.
    """
    with explaining_write_errors(path), locked_folder(path.parent):
        _remove_leftovers(path)
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
        stream = temporary.open("xb")
        _lock(stream.fileno())
    return temporary, stream


@contextmanager
def replacing_files(folder: Path, last: str) -> Iterator[Path]:
    """Yield an empty temporary folder, whose files replace those of the same names in `folder` when the block ends.

    They are moved at once, under the lock of the folder, so that a reader who meets files of both waits a moment and reads again.
    last: the file that is moved last; a folder that has it is complete.
    Raises RunError when they cannot be written.
    """
    with explaining_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f"{TEMPORARY_PREFIX}save-{secrets.token_hex(4)}"
        staging.mkdir()
    try:
        yield staging
        names = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
        with explaining_write_errors(folder), locked_folder(folder):
            for name in sorted(names, key=lambda name: str(name) == last):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (staging / name).replace(folder / name)
            sync_folder(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which writers take for the moment in which they rename files; wait for other holders.

    Nothing is locked where the folder does not exist, or the file system knows no locks.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder of outputs, which is made if there is none, during the `with` block.

    Raises RunError if another process or thread writes to it, or it cannot be written.
    """
    path = folder / f"{TEMPORARY_PREFIX}lock"
    with explaining_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_lock_file(path)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who ends deletes its lock file, and the next one makes and locks another.
                is_locked = os.path.samestat(os.fstat(descriptor), path.stat())
            except (BlockingIOError, FileNotFoundError):
                is_locked = False
            except OSError:
                is_locked = True  # the file system knows no locks
            if not is_locked:
                raise RunError(f"another process or thread is writing to {folder}; name another folder, or wait for it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def open_lock_file(path: Path) -> int:
    """Return the descriptor of a lock file, made if there is none; its content is never changed, and no link is followed.

    Raises OSError if the path is a link, or no regular file.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return _require_regular(os.open(path, flags, 0o666), path)


def open_for_appending(path: Path) -> FileIO:
    """Open a file, unbuffered, to append to it; no link is followed. Raises OSError if it is a link, or no regular file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return FileIO(_require_regular(os.open(path, flags, 0o666), path), "ab")


def _require_regular(descriptor: int, path: Path) -> int:
    """Return the descriptor if it is of a regular file; close it and raise OSError for a device, a pipe or a folder."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def _lock(descriptor: int) -> None:
    """Lock an open file until it is closed, where the file system knows locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _temporaries(path: Path) -> list[Path]:
    """Return the temporary files of all writers of `path`."""
    start = f"{TEMPORARY_PREFIX}{path.name}-"
    with suppress(OSError):
        names = [name for name in os.listdir(path.parent) if name.startswith(start)]
        return [path.with_name(name) for name in names if len(name) == len(start) + 8]
    return []


def _is_being_written(temporary: Path) -> bool:
    """Return whether a writer has this temporary file open; False where files cannot be locked."""
    if fcntl is None:
        return False
    try:
        with temporary.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _remove_leftovers(path: Path) -> None:
    """Delete the temporary files of writers of `path` that a crash ended. The folder must be locked."""
    for temporary in _temporaries(path) if fcntl is not None else ():
        with suppress(OSError), temporary.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()


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
        errno.ELOOP: "it is a symbolic link, and what it leads to is never changed",
    }
    try:
        yield
    except OSError as error:
        reason = reasons.get(error.errno or 0) or error.strerror or str(error)
        raise RunError(f"{path} could not be written: {reason}; what was saved before is unchanged") from error


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
