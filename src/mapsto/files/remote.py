"""Fetch data that the user names by an address, such as s3://bucket/train.csv, to a cache on this machine (extra `remote`).

fsspec (https://filesystem-spec.readthedocs.io) speaks to each store with the credentials that its library finds. The cache has a
folder for each address and version: name, size and what the store says of the content (hash, ETag, time of change). A file that
has not changed is not fetched again; where a store says nothing of the content, it is fetched once in each process.
Only an address given as data is fetched. Addresses in the cells of a table never are (media/cells.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mapsto.errors import DataError, UsageError
from mapsto.files.writing import explaining_write_errors, require_space

# The stores that are asked, and the package beside fsspec that each needs.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp", "http": "aiohttp"}
# A path has one slash where an address has two, since Path("s3://bucket") is s3:/bucket.
ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+]*):/{1,2}(?P<rest>[^/].*)", re.DOTALL)
# What stores say of a file's content, by the names that they use.
VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "crc32c",
    "generation",
    "VersionId",
    "LastModified",
    "mtime",
    "updated",
    "blob_id",
)


@dataclass(frozen=True)
class Fetched:
    """Data that an address names, on this machine.

    path: the file or folder. summary: what was fetched, in words.
    """

    path: Path
    summary: str


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is an address of one of the stores that are asked, such as s3://bucket/train.csv."""
    match = ADDRESS.fullmatch(os.fspath(path))
    return match is not None and match["scheme"] in PACKAGES


def public_address(path: str | os.PathLike[str]) -> str:
    """Return an address without what may be secret in it: passwords, and the query with its tokens. Other paths are unchanged."""
    if not is_address(path):
        return os.fspath(path)
    parts = urlsplit(_address(path))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@cache
def fetch(path: Path) -> Fetched:
    """Fetch the file, the folder or the files of a pattern that an address names, unless the cache has them; once in a process.

    Raises UsageError if the store's library is not installed, DataError if the store does not give the data, and RunError if the
    disk has no space for it.
    """
    address, public = _address(path), public_address(path)
    scheme = address.split(":", 1)[0]
    try:
        import fsspec

        store, remote = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UsageError(
            f"{public}: {scheme}:// needs the packages fsspec and {PACKAGES[scheme]}: pip install 'mapsto[remote]'"
        ) from error
    try:
        infos = _list_files(store, remote, scheme)
        return _fetch_files(store, infos, public)
    except Exception as error:  # each store has errors of its own
        if isinstance(error, DataError | UsageError) or type(error).__module__.startswith("mapsto."):
            raise
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise DataError(
            f"{public} could not be fetched: {type(error).__name__}: {_hide(reason, address, public)}"
        ) from error


def _address(path: str | os.PathLike[str]) -> str:
    """Return the address that a path was made from, with both slashes again."""
    match = ADDRESS.fullmatch(os.fspath(path))
    assert match is not None
    return f"{match['scheme']}://{match['rest']}"


def _hide(text: str, address: str, public: str) -> str:
    """Return a message of a library with the address as it may be shown."""
    return text.replace(address, public)


def _list_files(store: Any, remote: str, scheme: str) -> dict[str, dict[str, Any]]:
    """Return what the store says of each file of an address, by the relative name that the file gets here.

    Raises DataError if there is no file, or if a name leads out of its folder.
    """
    if scheme in ("http", "https"):  # a server names no folders
        return {_last_name(remote): store.info(remote)}
    is_pattern = any(sign in remote for sign in "*?[")
    if is_pattern:
        entries = {name: info for name, info in store.glob(remote, detail=True).items() if info["type"] == "file"}
        root = remote[: re.search(r"[*?\[]", remote).start()].rpartition("/")[0]  # type: ignore[union-attr]
    elif store.isdir(remote):
        entries, root = store.find(remote, detail=True), remote.rstrip("/")
    else:
        return {_last_name(remote): store.info(remote)}
    names = {str(PurePosixPath(name).relative_to(root)): {**info, "name": name} for name, info in entries.items()}
    if unsafe := [name for name in names if ".." in Path(name).parts or Path(name).is_absolute()]:
        raise DataError(f"the store names a file outside of its folder: {unsafe[0]!r}")
    names = {name: info for name, info in names.items() if not any(part.startswith(".") for part in Path(name).parts)}
    if not names:
        raise DataError(f"{remote} holds no files")
    return names


def _last_name(remote: str) -> str:
    """Return the file name of an address, without the query."""
    name = unquote(urlsplit(remote).path.rstrip("/").rpartition("/")[2])
    if not name or "/" in name or name.startswith("."):
        raise DataError(f"{public_address(remote)} names no file")
    return name


def _fetch_files(store: Any, infos: dict[str, dict[str, Any]], public: str) -> Fetched:
    """Return the files of an address in the cache, fetched if they are not there in this version."""
    versions = {
        name: [info.get("size"), *(str(info[key]) for key in VERSION_KEYS if info.get(key) is not None)]
        for name, info in sorted(infos.items())
    }
    is_versioned = all(len(version) > 1 for version in versions.values())
    key = hashlib.sha256(json.dumps([public, versions]).encode()).hexdigest()[:16]
    folder = cache_folder() / key
    is_kept = is_versioned and folder.is_dir()
    if not is_kept:
        _download(store, infos, folder)
    files = [folder / name for name in infos]
    num_bytes = sum(file.stat().st_size for file in files)
    amount = f"{len(files):,} file{'' if len(files) == 1 else 's'}, {num_bytes:,} bytes"
    summary = f"{amount}, kept from an earlier run in {folder}" if is_kept else f"fetched {amount}, to {folder}"
    is_single = len(files) == 1 and "/" not in next(iter(infos)) and public.rstrip("/").endswith(files[0].name)
    return Fetched(files[0] if is_single else folder, summary)


def _download(store: Any, infos: dict[str, dict[str, Any]], folder: Path) -> None:
    """Fetch files to a folder, which appears under its name only when all of them are there."""
    with explaining_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_space(folder.parent, sum(info.get("size") or 0 for info in infos.values()))
        temporary = Path(tempfile.mkdtemp(prefix="fetching-", dir=folder.parent))
    try:
        for name, info in infos.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            store.get_file(info["name"], str(temporary / name))
        if folder.exists():  # another version of the same name, of a store that says nothing of the content
            shutil.rmtree(folder)
        with suppress(FileExistsError):  # another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cache_folder() -> Path:
    """Return the folder of fetched data: MAPSTO_CACHE, or mapsto in the user's folder of caches."""
    if place := os.environ.get("MAPSTO_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mapsto"
