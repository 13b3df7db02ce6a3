"""Arrays in files that are whole or made again, read where they lie: what does not fit in memory is mapped into it.

A folder of shards is `manifest.json`, which says what they were made from and the SHA-256 of each, and one safetensors
file a shard. Without a folder the arrays stay in memory, and everything else is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from mapsto import checkpoint
from mapsto.errors import CheckpointError, RunError, UsageError

FOLDER = "corpus"
MANIFEST = "manifest.json"
SHARD = "shard-"
DTYPES = {"BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I64": "<i8"}
Arrays = Mapping[str, NDArray[Any]]
# Why shards of other facts are left as they are.
UNFINISHED = (
    "{run} holds an unfinished run with other {facts}; run it as before, choose another --out, or add --overwrite"
)
ELSEWHERE = "this process has other {facts} than process 0; all must read the same"


class Shards:
    """The shards of one `key`, the plain facts they are a function of, in `run`/corpus.

    Those of another key are made anew, unless a run that was begun or another process needs them, as `needed` says: then
    UsageError names the facts that differ.
    """

    def __init__(
        self, run: Path | None, key: Mapping[str, Any], say: Callable[[str], None], needed: str | None = None
    ) -> None:
        self.folder = None if run is None else run / FOLDER
        self.key, self.say = dict(key), say
        self.facts: dict[str, Any] = {}
        self.count: int | None = None
        self.entries: dict[int, dict[str, Any]] = {}
        self._known: dict[int, str] = {}
        self._arrays: dict[int, Arrays] = {}
        if self.folder is not None:
            self._open(self.folder, needed)

    def _open(self, folder: Path, needed: str | None) -> None:
        record = self._recorded(folder)
        differing = [] if record is None else sorted(n for n in self.key if record["key"].get(n) != self.key[n])
        if differing and needed is not None:
            raise UsageError(needed.format(run=folder.parent, facts=", ".join(differing)))
        if record is None or differing:
            if differing:
                self.say(f"{folder} was made with other {', '.join(differing)}; it is made again")
            for path in folder.glob(f"{SHARD}*"):
                path.unlink()
            self._record()
            return
        self.facts, self.count = record["facts"], record["count"]
        for name, entry in record["shards"].items():
            number, path = int(name), self._path(int(name))
            self._known[number] = entry["sha256"]
            if path.is_file() and checkpoint.hash_file(path) == entry["sha256"]:
                self.entries[number], self._arrays[number] = entry, _mapped(path)
            else:
                self.say(f"{path} is damaged or missing; it is made again")

    def _recorded(self, folder: Path) -> dict[str, Any] | None:
        if not (folder / MANIFEST).exists():
            if folder.exists() and any(folder.iterdir()):
                raise UsageError(f"{folder} holds other files; choose another --out")
            return None
        try:
            return checkpoint.read_sealed(folder / MANIFEST)
        except CheckpointError as error:
            self.say(f"{error}; all of the corpus is read again")
            return None

    @property
    def whole(self) -> bool:
        """Whether no shard is missing."""
        return self.count is not None and self.entries.keys() >= set(range(self.count))

    def __contains__(self, number: int) -> bool:
        return number in self.entries

    def __getitem__(self, number: int) -> Arrays:
        return self._arrays[number]

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Keep more facts in the manifest, such as what was learnt from the corpus before its first shard."""
        self.facts |= facts
        self._record()

    def add(self, number: int, arrays: Arrays, counts: Mapping[str, int]) -> None:
        """Keep a shard. Raises RunError when one that is made again comes out as another one."""
        self.entries[number] = dict(counts)
        self._arrays[number] = arrays
        if self.folder is None:
            return
        content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        path = self._path(number)
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.require_space(self.folder, len(content))
        checkpoint.write_atomic(path, content)
        self.entries[number]["sha256"] = digest = checkpoint.hash_file(path)
        if self._known.get(number, digest) != digest:
            path.unlink()
            raise RunError(f"{path} was made again and is another one: the corpus changed while it was read")
        self._arrays[number] = _mapped(path)
        self._record()

    def finish(self, count: int) -> None:
        """All shards are there."""
        self.count = count
        assert self.whole
        self._record()

    def total(self, name: str) -> int:
        """The sum of a count over all shards."""
        return sum(int(entry[name]) for entry in self.entries.values())

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{SHARD}{number:06d}.safetensors"

    def _record(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = {str(number): self.entries[number] for number in sorted(self.entries)}
        record = {"key": self.key, "facts": self.facts, "count": self.count, "shards": shards}
        checkpoint.write_atomic(self.folder / MANIFEST, checkpoint.sealed(record))


def kept_in(run: Path) -> bool:
    """Whether there are shards in the folder of a run."""
    return (run / FOLDER / MANIFEST).is_file()


def joined(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Arrays end to end, each number in as few bytes as the largest one needs."""
    return {name: _small(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def _small(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.bool_ or not len(array):
        return array if array.dtype == np.bool_ else array.astype(np.uint8)
    return array.astype(np.min_scalar_type(int(array.max())))


def _mapped(path: Path) -> Arrays:
    """The arrays of a safetensors file, whose hash was compared, without reading them."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    content = np.asarray(np.memmap(path, np.uint8, "r"))  # a slice of a memmap object costs more
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + size + at for at in entry["data_offsets"])
            found[name] = content[start:end].view(DTYPES[entry["dtype"]])
    return found
