"""Compare the time of reading and checking tables, and of opening models, with that of another checkout of this project.

    git worktree add ../before b0ee43d && python benchmarks/reading.py ../before

Both take turns, each measurement in a process of its own, which does the work once before it is timed. The seconds are those of
the CPU, since a machine may have other work.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
from common import ROOT, ratio, record, spread, take_turns

from mapsto.demo.data import minilm

ROWS = 100_000
WORDS = ("the", "old", "river", "mill", "season", "wise", "today", "今天", "天气", "真好", "服务", "房间", "干净")
# Code of each measurement; `path` is the file or folder.
WORK = {
    "csv": "from mapsto.data.table import read_table; read_table(path)",
    "jsonl": "from mapsto.data.table import read_table; read_table(path)",
    "parquet": "from mapsto.data.table import read_table; read_table(path)",
    "check of a csv": (
        "from mapsto.data.table import read_table; from mapsto.data.rows import bind_to, load_rows; "
        "from mapsto.data.checks import check_rows; from mapsto.task.arrow import parse; "
        "table = read_table(path); check_rows(load_rows(bind_to(parse('text -> label'), table), table))"
    ),
    "opening MiniLM": "from mapsto.pretrained.model_folder import load_mapping; load_mapping(path)",
}
TIMED = "import sys, time; path = sys.argv[1]\n{work}\nbegan = time.process_time()\n{work}\nprint(time.process_time() - began)"


def write_tables(folder: Path) -> dict[str, Path]:
    """Write the same random rows, with the columns text, label and score, in each format; return the files by measurement."""
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=15)), "label": rng.choice("abcdef"), "score": round(rng.random(), 3)}
        for _ in range(ROWS)
    ]
    paths = {name: folder / f"table.{name}" for name in ("csv", "jsonl", "parquet")}
    with paths["csv"].open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    paths["jsonl"].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), paths["parquet"])
    return {**paths, "check of a csv": paths["csv"], "opening MiniLM": Path(minilm())}


def cpu_seconds(checkout: Path, work: str, path: Path) -> float:
    """Return the seconds of the CPU that a measurement takes in a new process with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", TIMED.format(work=work), str(path)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines = [
        f"{ROWS:,} rows of three columns; seconds of the CPU, median (range) of {options.rounds} pairs.",
        "",
        "| work | before | now | now / before |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_tables(Path(folder))
        for name, work in WORK.items():
            ways: dict[str, Callable[[], float]] = {
                which: partial(cpu_seconds, checkout.resolve(), work, paths[name])
                for which, checkout in (("before", options.before), ("now", ROOT.parent))
            }
            seconds = take_turns(ways, options.rounds)
            columns = [
                spread(seconds["before"], 2),
                spread(seconds["now"], 2),
                ratio(seconds["now"], seconds["before"]),
            ]
            lines.append(f"| {name} | {' | '.join(columns)} |")
            print(lines[-1], flush=True)
    record("Reading, checking and opening (benchmarks/reading.py)", lines)


if __name__ == "__main__":
    main()
