"""The models of a service: opened on demand, within a limit of memory, and opened again when their folder is replaced.

A new version is loaded, verified and warmed up beside the old one, and then takes its place. Requests keep the version with which
they began, so none sees half of a replacement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapsto.errors import MapstoError, RunError, UsageError, near
from mapsto.pretrained.exported.container import SUFFIX, exported_files, is_exported
from mapsto.pretrained.exported.ir_files import IR_SUFFIX
from mapsto.pretrained.location import HUB_PREFIX, find_folder
from mapsto.pretrained.model_folder import load_mapping, signature_of
from mapsto.serve.refusals import Refusal
from mapsto.serve.served_model import ServedModel
from mapsto.serve.settings import ServeSettings

# How often the folders are looked at, in seconds. A folder that changed must stay as it is for one more look.
SECONDS_BETWEEN_LOOKS = 1.0

logger = logging.getLogger("mapsto.serve")

Signature = dict[str, tuple[int, ...]]


@dataclass(eq=False)
class Entry:
    """A model of the service, in memory or not.

    place: its folder or hub name. model: None if it is not in memory. facts: its description, once it has been opened.
    signature: of the files that were opened. candidate: another signature that was seen at the last look.
    """

    name: str
    place: str
    model: ServedModel | None = None
    facts: dict[str, Any] | None = None
    signature: Signature | None = None
    candidate: Signature | None = None
    last_used: float = 0.0
    opening: asyncio.Task[ServedModel] | None = None
    num_opened: int = 0


def locate(place: str) -> Path:
    """Return the folder of a model, or its exported file. Raises CheckpointError if there is none."""
    return Path(place).expanduser() if is_exported(place) else find_folder(place)


def look_at(place: str) -> Signature:
    """Return the facts that change when a model is replaced; an empty dict if it is away."""
    path = Path(place).expanduser()
    if not path.is_file():
        return signature_of(path)
    statuses = {file.name: file.stat() for file in exported_files(path) if file.exists()}
    return {
        name: (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for name, status in statuses.items()
    }


def name_models(places: Sequence[str]) -> dict[str, str]:
    """Return {name: folder or hub name} for the arguments of `mapsto serve`: NAME=FOLDER, or a folder, whose last part names it.

    Raises UsageError for two models of one name, CheckpointError for a folder that does not exist.
    """
    folders: dict[str, str] = {}
    for argument in places:
        name, sign, place = argument.partition("=")
        if not sign or not name or "/" in name:
            place = argument
            name = (
                Path(place.removeprefix(HUB_PREFIX)).resolve().name.removesuffix(SUFFIX).removesuffix(IR_SUFFIX)
                or place
            )
        if name in folders:
            raise UsageError(f"two models have the name {name!r}; give one of them another: OTHER={place}")
        locate(place)
        folders[name] = place
    return folders


class Models:
    """The models by name. All methods run on the event loop; folders are read by a thread.

    places: folder or hub name of each model, by its name; the first one answers requests that name none.
    """

    def __init__(self, places: Mapping[str, str], settings: ServeSettings) -> None:
        self.entries = {name: Entry(name, place) for name, place in places.items()}
        self.settings = settings
        self._opener = ThreadPoolExecutor(1, "opener")

    @property
    def first(self) -> Entry:
        """The entry of the model that answers requests that name none."""
        return next(iter(self.entries.values()))

    @property
    def abilities(self) -> set[str]:
        """The operations that at least one model can do."""
        return {name for entry in self.entries.values() for name in (entry.facts or {}).get("operations", ())}

    async def open_all(self) -> None:
        """Open every model once, so that damage is known at the start; as many as fit stay in memory."""
        for entry in reversed(self.entries.values()):
            await self._open_once(entry)

    def entry(self, name: str | None) -> Entry:
        """Return the entry of a model. Raises Refusal if there is none of that name."""
        if name is None:
            return self.first
        if name not in self.entries:
            names = ", ".join(self.entries)
            raise Refusal(404, f"there is no model {name!r}{near(name, self.entries)}; there are: {names}")
        return self.entries[name]

    async def get(self, name: str | None) -> ServedModel:
        """Return a model, opened if it is not in memory. Raises Refusal if there is none, or if it cannot be opened."""
        entry = self.entry(name)
        entry.last_used = time.monotonic()
        if entry.model is not None:
            return entry.model
        try:
            return await asyncio.shield(self._open_once(entry))
        except MapstoError as error:
            logger.error("model %s: %s", entry.name, error)
            raise Refusal(503, f"the model {entry.name!r} cannot be opened: {error}") from error

    def _open_once(self, entry: Entry) -> asyncio.Task[ServedModel]:
        """Return the task that opens a model; requests that come meanwhile wait for the same one."""
        if entry.opening is None or entry.opening.done():
            entry.opening = asyncio.create_task(self._open(entry))
        return entry.opening

    async def _open(self, entry: Entry) -> ServedModel:
        """Open a model and put it in the place of its older version, if there is one."""
        if entry.facts is not None:
            self._make_room(entry, entry.facts["bytes"])
        loop = asyncio.get_running_loop()
        among = self.settings.among if entry is self.first else None
        signature, model = await loop.run_in_executor(
            self._opener, _load, entry.name, entry.place, self.settings, among
        )
        limit = self.settings.memory
        if limit is not None and model.num_bytes > limit:
            raise RunError(
                f"{entry.place} takes {model.num_bytes / 2**30:.2f} GB, more than --memory {limit / 2**30:.2f}"
            )
        self._make_room(entry, model.num_bytes)
        entry.model, entry.facts, entry.signature, entry.candidate = model, model.describe(), signature, None
        entry.last_used, entry.num_opened = time.monotonic(), entry.num_opened + 1
        return model

    def _make_room(self, entry: Entry, num_bytes: int) -> None:
        """Take the models out of memory that were not used for longest, until one of `num_bytes` fits."""
        if self.settings.memory is None:
            return
        idle = sorted((e for e in self.entries.values() if e is not entry and e.model), key=lambda e: e.last_used)
        total = num_bytes + sum(rival.model.num_bytes for rival in idle if rival.model)
        for rival in idle:
            if total <= self.settings.memory:
                return
            assert rival.model is not None
            total -= rival.model.num_bytes
            logger.info("model %s leaves the memory for %s", rival.name, entry.name)
            rival.model = None

    async def watch(self) -> None:
        """Look at the folders of the models in memory again and again, and open those that were replaced."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            for entry in list(self.entries.values()):
                if entry.model is None or entry.place.startswith(HUB_PREFIX):
                    continue
                try:
                    await self._look_at(entry)
                except OSError as error:  # looked at again next time
                    logger.error("model %s cannot be looked at: %s", entry.name, error)

    async def _look_at(self, entry: Entry) -> None:
        """Open a model again if its files have changed and are not being changed any more."""
        signature = await asyncio.to_thread(look_at, entry.place)
        if signature == entry.signature or not signature:
            return
        if signature != entry.candidate:
            entry.candidate = signature
            return
        try:
            await self._open_once(entry)
            logger.info("model %s was replaced; the new one answers from now on", entry.name)
        except Exception as error:
            # Not tried again before the folder changes once more.
            entry.signature = signature
            logger.error("model %s was replaced by one that cannot be opened; the old one stays: %s", entry.name, error)

    def close(self) -> None:
        """End the thread that opens models."""
        self._opener.shutdown(wait=False, cancel_futures=True)


def _load(name: str, place: str, settings: ServeSettings, among: Path | None) -> tuple[Signature, ServedModel]:
    """Return a model that was verified and has answered rows, and the signature of its files before they were read.

    among: the table in which it searches; None for none.
    """
    signature = look_at(str(locate(place)))
    model = ServedModel(name, load_mapping(place, settings.engine), settings.device, settings.precision)
    if is_exported(place):  # its weights are in the session
        model.num_bytes += sum(file.stat().st_size for file in exported_files(locate(place)))
    model.warm_up()
    if among is not None:
        model.index(among)
    return signature, model
