"""Measure the seconds of `import mapsto` and `mapsto --help`, compared with bare Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import record, seconds, spread, take_turns

ROUNDS = 9


def command(*arguments: str) -> object:
    """Return a function that runs a command and returns its seconds."""
    return lambda: seconds(lambda: subprocess.run(arguments, capture_output=True, check=True))


def main() -> None:
    mapsto = str(Path(sys.executable).parent / "mapsto")
    ways = {
        "bare Python": command(sys.executable, "-c", "pass"),
        "import mapsto": command(sys.executable, "-c", "import mapsto"),
        "mapsto --help": command(mapsto, "--help"),
    }
    found = take_turns(ways, ROUNDS)  # type: ignore[arg-type]
    bare = found["bare Python"]
    lines = ["| command | seconds, median (range) | more than bare Python |", "|---|---|---|"]
    for name, values in found.items():
        beyond = [one - other for one, other in zip(values, bare, strict=True)]
        lines.append(f"| {name} | {spread(values, 3)} | {spread(beyond, 3)} |")
    record("Start-up (benchmarks/startup.py)", lines)


if __name__ == "__main__":
    main()
