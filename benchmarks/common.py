"""What the benchmarks share: rounds that take turns, medians with their spread, and the page of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "RESULTS.md"
HEAD = "# Measured\n\nEach section is written by the script named in its title.\n"
DATA = ROOT.parents[1] / "shared" / "data" / "text"


def take_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each way's figure in every round; the ways take turns, so that a slow minute hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


class Kept:
    """What a long benchmark measured so far, so that a run that was stopped goes on: JSON in runs/benchmarks."""

    def __init__(self, name: str) -> None:
        self.path = ROOT.parent / "runs" / "benchmarks" / f"{name}.json"
        self.found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """What `work` gave under this key, in this run or in an earlier one."""
        if key not in self.found:
            self.put(key, work())
        return self.found[key]

    def put(self, key: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        self.found[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1), encoding="utf-8")
        part.replace(self.path)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median and range, for a table."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios within rounds, and their range."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)], 2)


def profiled(work: Callable[[], object], most: int = 8) -> str:
    """Where the time of `work` goes: the operations that take most of it, as a line of text."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        work()
    ops = sorted(found.key_averages(), key=lambda op: -op.self_cpu_time_total)
    total = sum(op.self_cpu_time_total for op in ops)
    shares = [f"{op.key} {100 * op.self_cpu_time_total / total:.0f} %" for op in ops[:most]]
    return f"Time by operation: {', '.join(shares)}."


def machine() -> str:
    """CPU, threads, versions and day."""
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
    """Print the results, and put them in place of what RESULTS.md has under this title."""
    body = "\n".join([f"## {title}", "", f"{machine()}", "", *lines, ""])
    print(body)
    page = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    head, _, rest = page.partition(f"## {title}\n")
    tail = rest[rest.index("\n## ") + 1 :] if "\n## " in rest else ""
    RESULTS.write_text(f"{head.rstrip()}\n\n{body}\n{tail}".rstrip() + "\n", encoding="utf-8")
