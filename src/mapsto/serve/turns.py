"""Turns: a lock that threads get in the order in which they asked for it, so that none computes twice while another waits."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock for `with`, first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._is_taken = False
        self._gates: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            gate = threading.Lock()
            gate.acquire()
            self._gates.append(gate)
        gate.acquire()  # released by the thread whose turn ends

    def __exit__(self, *error: object) -> None:
        with self._guard:
            if self._gates:
                self._gates.popleft().release()
            else:
                self._is_taken = False
