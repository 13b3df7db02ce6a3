"""Shards: files of arrays that are written atomically, checked by their hash and mapped into memory.

A folder of shards holds one safetensors file for each shard, and `manifest.json` with the SHA-256 of each shard and the facts
that determine the content of all. Without a folder the arrays stay in memory, with the same interface.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from mapsto import files
from mapsto.distributed import SINGLE_PROCESS, Ranks
from mapsto.errors import CheckpointError, RunError, UsageError

CORPUS_FOLDER = "corpus"
SHARDS_MANIFEST = "manifest.json"
SHARD = "shard-"
# The NumPy type of each type name in a safetensors file.
DTYPES = {"BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I64": "<i8"}
Arrays = Mapping[str, NDArray[Any]]
UNFINISHED = (
    "{run} holds an unfinished run with other {facts}; run it as before, choose another --out, or add --overwrite"
)


@dataclass(frozen=True)
class FoundShards:
    """The state of a folder of shards.

    record: the content of the folder's manifest; None if the folder has no intact manifest.
    damaged: numbers of the shards in the manifest that are missing or do not match their hash.
    """

    record: dict[str, Any] | None = None
    damaged: frozenset[int] = frozenset()


def inspect_shards(run: Path, ranks: Ranks, say: Callable[[str], None]) -> FoundShards:
    """Return the state of the shards in `run`/corpus, whose hashes the processes of a run check together.

    ranks: the processes, each of which checks its share of the shards. say: function that prints a line.
    Raises UsageError if the folder has files but no manifest.
    """
    # One process reads the manifest for all, so that they cannot disagree.
    record = ranks.broadcast_json(ranks.run_on_main(lambda: _recorded(run / CORPUS_FOLDER, say)))
    if record is None:
        return FoundShards()
    damaged = ranks.run_on_all(lambda: _damaged(run / CORPUS_FOLDER, record, ranks))
    counts = ranks.sum([number in damaged for number in range(_highest(record))])
    return FoundShards(record, frozenset(number for number, count in enumerate(counts) if count))


def _recorded(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the content of a folder's manifest; None if the manifest is missing or damaged.

    Raises UsageError if the folder has files but no manifest.
    """
    if not (folder / SHARDS_MANIFEST).exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds other files; choose another --out")
        return None
    try:
        return files.read_sealed(folder / SHARDS_MANIFEST)
    except CheckpointError as error:
        say(f"{error}; all of the corpus is read again")
        return None


def _highest(record: Mapping[str, Any]) -> int:
    """Return 1 + the highest shard number in a manifest, or 0 if it lists no shard. record: the manifest's content."""
    return 1 + max(map(int, record["shards"]), default=-1)


def _damaged(folder: Path, record: Mapping[str, Any], ranks: Ranks) -> set[int]:
    """Check this process's share of the shards in a manifest; return the numbers of those missing or damaged.

    record: the manifest's content. ranks: the processes that share the work.
    """
    numbers = ranks.own_share(sorted(map(int, record["shards"])))
    return {n for n in numbers if not _intact(_path(folder, n), record["shards"][str(n)]["sha256"])}


def _intact(path: Path, sha256: str) -> bool:
    """Return whether the file of a shard exists and has the expected SHA-256."""
    return path.is_file() and files.hash_file(path) == sha256


def _path(folder: Path, number: int) -> Path:
    """Return the path of shard `number` in a folder of shards."""
    return folder / f"{SHARD}{number:06d}.safetensors"


class CorpusShards:
    """The shards of a corpus, by number: files in `run`/corpus, or arrays in memory if `run` is None.

    key: the facts that determine the content of the shards. Shards on disk with another key are deleted, so that they must be
        written again; but if training has begun, UsageError names the facts that differ.
    say: function that prints a line.
    is_begun: whether training in the folder `run` has begun with the shards on disk.
    on_disk: the result of `inspect_shards`; None to inspect the folder here.
    """

    def __init__(
        self,
        run: Path | None,
        key: Mapping[str, Any],
        say: Callable[[str], None],
        is_begun: bool = False,
        on_disk: FoundShards | None = None,
    ) -> None:
        self.folder = None if run is None else run / CORPUS_FOLDER
        self.key, self.say = dict(key), say
        self.facts: dict[str, Any] = {}
        self.count: int | None = None
        self.entries: dict[int, dict[str, Any]] = {}
        self._recorded_hashes: dict[int, str] = {}
        self._first_record: Mapping[str, Any] = {"facts": {}, "count": None}
        self._arrays: dict[int, Arrays] = {}
        if run is not None:
            self._open(run / CORPUS_FOLDER, on_disk or inspect_shards(run, SINGLE_PROCESS, say), is_begun)

    @classmethod
    def opened(cls, run: Path, ranks: Ranks) -> CorpusShards:
        """Return the complete shards of a folder for reading, after the process of rank 0 has written them.

        run: the folder above `corpus`. ranks: the processes, each of which checks its share of the shards.
        Raises CheckpointError if a shard is damaged or missing.
        """
        record = files.read_sealed(run / CORPUS_FOLDER / SHARDS_MANIFEST)
        for number in _damaged(run / CORPUS_FOLDER, record, ranks):
            path = _path(run / CORPUS_FOLDER, number)
            raise CheckpointError(f"{path} is damaged or missing; the same command makes it again")
        # With the key of the manifest itself no fact differs, so no shard is deleted.
        shards = cls(run, record["key"], lambda text: None, on_disk=FoundShards(record))
        assert shards.whole
        return shards

    def _open(self, folder: Path, on_disk: FoundShards, is_begun: bool) -> None:
        """Use the shards on disk if the key in their manifest equals `self.key`, else delete them.

        folder: the folder of shards. on_disk: the result of `inspect_shards`. is_begun: whether training has begun with them.
        Raises UsageError if the keys differ and training has begun.
        """
        record = on_disk.record
        differing = [] if record is None else sorted(n for n in self.key if record["key"].get(n) != self.key[n])
        if differing and is_begun:
            raise UsageError(UNFINISHED.format(run=folder.parent, facts=", ".join(differing)))
        if record is not None and not differing:
            self._take(folder, record, on_disk.damaged)
            return
        if differing:
            self.say(f"{folder} was made with other {', '.join(differing)}; it is made again")
        for path in folder.glob(f"{SHARD}*"):
            path.unlink()
        self._record()

    def _take(self, folder: Path, record: Mapping[str, Any], damaged: Collection[int]) -> None:
        """Map the intact shards of a manifest into memory; a damaged shard counts as missing.

        record: the manifest's content. damaged: numbers of the damaged shards.
        """
        self._first_record = record
        self.facts, self.count = record["facts"], record["count"]
        for name, entry in record["shards"].items():
            number, path = int(name), _path(folder, int(name))
            self._recorded_hashes[number] = entry["sha256"]
            if number in damaged:
                self.say(f"{path} is damaged or missing; it is made again")
            else:
                self.entries[number], self._arrays[number] = entry, _mapped(path)

    @property
    def whole(self) -> bool:
        """Return whether all shards are present: their number is known, and none is missing."""
        return self.count is not None and self.entries.keys() >= set(range(self.count))

    def __contains__(self, number: int) -> bool:
        return number in self.entries

    def __getitem__(self, number: int) -> Arrays:
        return self._arrays[number]

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Store facts in the manifest for a later run, such as the fingerprint of the source that encodes the corpus."""
        if facts.items() <= self.facts.items():
            return
        self.facts = {**self.facts, **facts}
        self._record()

    def add(self, number: int, arrays: Arrays, counts: Mapping[str, int]) -> None:
        """Add shard `number`: write its file and the manifest, or keep the arrays in memory if there is no folder.

        counts: counts by name for the manifest, such as the shard's number of rows; `total` sums them over the shards.
        Raises RunError if the shard was written before with other content, which means that the corpus has changed.
        """
        self.entries[number] = dict(counts)
        self._arrays[number] = arrays
        if self.folder is None:
            return
        # safetensors would write the memory of an array that is not contiguous in the wrong order.
        content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        path = _path(self.folder, number)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.require_space(self.folder, len(content))
        files.write_atomic(path, content)
        self.entries[number]["sha256"] = digest = files.hash_file(path)
        if self._recorded_hashes.get(number, digest) != digest:
            path.unlink()
            raise RunError(f"{path} was made again and is another one: the corpus changed while it was read")
        self._arrays[number] = _mapped(path)
        self._record()

    def finish(self, count: int) -> None:
        """Write to the manifest that the corpus has `count` shards. All of them must have been added."""
        self.count = count
        assert self.whole
        self._record()

    def forget(self) -> None:
        """Delete the shards added since the folder was opened, because the corpus has changed while it was read."""
        for number in self.entries.keys() - self._recorded_hashes.keys():
            del self.entries[number], self._arrays[number]
            if self.folder is not None:
                _path(self.folder, number).unlink()
        self.facts, self.count = self._first_record["facts"], self._first_record["count"]
        self._record()

    def total(self, name: str) -> int:
        """Return the sum over all shards of the count `name` that `add` received, such as "rows"."""
        return sum(int(entry[name]) for entry in self.entries.values())

    def _record(self) -> None:
        """Write the manifest; do nothing if the shards are in memory."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = {str(number): self.entries[number] for number in sorted(self.entries)}
        record = {"key": self.key, "facts": self.facts, "count": self.count, "shards": shards}
        files.write_atomic(self.folder / SHARDS_MANIFEST, files.seal(record))


def concatenate(parts: Sequence[Arrays]) -> dict[str, NDArray[Any]]:
    """Return for each name the arrays of all parts concatenated into one.

    Integer arrays get the smallest unsigned type that holds their numbers; Boolean arrays keep their type.
    """
    return {name: _small(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def _small(array: NDArray[Any]) -> NDArray[Any]:
    """Return an integer array in the smallest unsigned type that holds its numbers; return a Boolean array unchanged."""
    if array.dtype == np.bool_ or not len(array):
        return array if array.dtype == np.bool_ else array.astype(np.uint8)
    return array.astype(np.min_scalar_type(int(array.max())))


def _mapped(path: Path) -> Arrays:
    """Map a safetensors file into memory; return its arrays by name, read-only.

    The file's hash must have been checked, since its header is trusted here.
    """
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    # np.memmap would keep each file open. Most systems allow a process 1,024 open files, enough for 16 GB of text only.
    try:
        content = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        raise RunError(f"{path} cannot be mapped into memory: {error}") from error
    content.flags.writeable = False
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            # Offsets count from the end of the header, which follows 8 bytes that hold its size.
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            arrays[name] = content[start:end].view(DTYPES[entry["dtype"]])
    return arrays
