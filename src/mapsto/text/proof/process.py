"""Prove a tokenizer in a child process of limited time and memory (`child.py`). A child costs about 0.2 s and 20 MB."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mapsto.errors import shorten
from mapsto.text.proof import structure

SECONDS = 10
MEMORY = 2**30  # bytes of address space

# SHA-256 of the tokenizers that were proven in this process.
_proven: set[str] = set()


def require_usable(parts: Mapping[str, Any]) -> None:
    """Raise ValueError, with the reason, unless a tokenizer can be opened and used within SECONDS and MEMORY.

    Ordinary tokenizers are known by their parts (`structure.is_ordinary`); others are proven in a child process.
    parts: the content of a tokenizer.json.
    """
    if structure.is_ordinary(parts):
        return
    times = structure.growth(parts)
    if times > structure.MOST_GROWTH:
        raise ValueError(f"its replacements make a text up to {times:,.0f} times longer")
    if find_spec("resource") is None:
        raise ValueError("it has unusual parts, which can be proven only where the memory of a process can be limited")
    content = json.dumps(parts).encode()
    digest = hashlib.sha256(content).hexdigest()
    if digest not in _proven:
        _prove(content, structure.samples(parts))
        _proven.add(digest)


def _prove(content: bytes, samples: list[str]) -> None:
    """Raise ValueError unless a child process can open the tokenizer and encode the samples. content: of a tokenizer.json."""
    request = json.dumps({"memory": MEMORY, "seconds": SECONDS, "samples": samples}).encode()
    # One thread: each thread takes address space for its stack.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }
    try:
        outcome = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("child.py"))],  # -P: import nothing from its folder
            input=request + b"\n" + content,
            capture_output=True,
            timeout=SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"opening and using it takes more than {SECONDS} s") from error
    try:
        reason = json.loads(outcome.stdout)["reason"]
    except ValueError as error:  # the child was ended by a limit, or crashed
        raise ValueError(
            f"opening and using it takes more than {SECONDS} s or {MEMORY // 2**20:,} MB, or crashes"
        ) from error
    if reason is not None:
        raise ValueError(shorten(reason, 200))
