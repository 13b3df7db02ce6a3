"""A cache for values that are decoded when their cell is read, and needed once more, when they are encoded."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray

# The array of a decoded value: pixels or samples.
Decoded = NDArray[Any]


class DecodedCache:
    """A cache of decoded arrays by the digest of their encoded bytes. It hands out an array once and then forgets it.

    room: capacity in bytes; the attribute of this name is the number of free bytes.
    """

    def __init__(self, room: int) -> None:
        self.room, self.entries, self.lock = room, OrderedDict[str, Decoded](), threading.Lock()
        if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _unlock(reference()))

    def add(self, digest: str, decoded: Decoded) -> None:
        """Add an array, and drop the oldest ones until all that are left fit into the capacity."""
        with self.lock:
            self._remove(digest)
            self.entries[digest], self.room = decoded, self.room - decoded.nbytes
            while self.room < 0:
                self._remove(next(iter(self.entries)))

    def take(self, digest: str) -> Decoded | None:
        """Remove an array and return it; None if it is not in the cache."""
        with self.lock:
            return self._remove(digest)

    def _remove(self, digest: str) -> Decoded | None:
        """Remove an array and return it; None if it is not in the cache. The caller must hold the lock."""
        decoded = self.entries.pop(digest, None)
        self.room += 0 if decoded is None else decoded.nbytes
        return decoded


def _unlock(cache: DecodedCache | None) -> None:
    """Give a cache in a forked child a lock of its own: a thread of the parent that held the old one does not exist there."""
    if cache is not None:
        cache.lock = threading.Lock()
