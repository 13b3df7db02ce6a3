"""Helpers of the benchmarks: measuring methods in turns, medians with their range, and the page of results."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "RESULTS.md"
HEAD = "# Measured\n\nEach section is written by the script named in its title.\n"
DATA = ROOT.parents[1] / "shared" / "data" / "text"


def take_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return the results of each method, by its name, one for each round.

    ways: functions that measure a method. They are called in turns, so that a slow minute of the machine hits all of them.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


class OwnProcess:
    """A method that runs in a process of its own, where no threads or memory of other engines slow it, as a user would run it.

    make: a function of a module that builds the method, from picklable `settings`; it is called in the process, once.
    """

    def __init__(self, make: Callable[..., Callable[[], Any]], *settings: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.calls, other = context.Pipe()
        context.Process(target=_answer_calls, args=(other, make, settings), daemon=True).start()
        other.close()
        self.calls.recv()

    def __call__(self) -> Any:
        """Call the method in its process, and return its result. Raises EOFError where the process has failed."""
        self.calls.send(None)
        return self.calls.recv()


def _answer_calls(calls: Connection, make: Callable[..., Callable[[], Any]], settings: Sequence[object]) -> None:
    """Build a method, and send its result for each call that is received."""
    method = make(*settings)
    calls.send(None)
    while True:
        calls.recv()
        calls.send(method())


class Kept:
    """Results of a long benchmark, kept in a JSON file in runs/benchmarks so that an interrupted run can continue.

    name: name of the file.
    """

    def __init__(self, name: str) -> None:
        self.path = ROOT.parent / "runs" / "benchmarks" / f"{name}.json"
        self.found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """Return the result kept under this key. If there is none yet, call `work` and keep its result."""
        if key not in self.found:
            self.put(key, work())
        return self.found[key]

    def put(self, key: str, value: Any) -> None:
        """Write a value, which must be plain JSON, to the file under this key."""
        self.found[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        part.replace(self.path)


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call of `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return "median (minimum–maximum)" as text for a table."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median and range of the ratios ours / theirs within each round, as text for a table."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)], 2)


def profiled(work: Callable[[], object], most: int = 8) -> str:
    """Return a line of text with the `most` operations that take the most time of a call of `work`, with their shares."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        work()
    ops = sorted(found.key_averages(), key=lambda op: -op.self_cpu_time_total)
    total = sum(op.self_cpu_time_total for op in ops)
    shares = [f"{op.key} {100 * op.self_cpu_time_total / total:.0f} %" for op in ops[:most]]
    return f"Time by operation: {', '.join(shares)}."


def machine() -> str:
    """Return a line of text with date, CPU, threads and versions of packages."""
    name = platform.processor() or "unknown CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        name = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() else ""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "mapsto"))
    return f"{date.today()}, {name}{amx}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; {versions}"


def record(title: str, lines: Sequence[str]) -> None:
    """Print the results, and write them to RESULTS.md in place of the section with this title.

    lines: lines of Markdown.
    """
    body = "\n".join([f"## {title}", "", f"{machine()}", "", *lines, ""])
    print(body)
    page = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    head, _, rest = page.partition(f"## {title}\n")
    tail = rest[rest.index("\n## ") + 1 :] if "\n## " in rest else ""
    RESULTS.write_text(f"{head.rstrip()}\n\n{body}\n{tail}".rstrip() + "\n", encoding="utf-8")
