"""Measure prediction and training beside another busy process, with each way in which threads may wait for one another.

Threads of a product wait at its end until all have done their part. By default GNU's OpenMP lets them spin, which on a core that
another process needs is lost time: the other thread waits for a turn of the operating system. GOMP_SPINCOUNT says how often a
thread looks before it sleeps; mapsto sets it to 1,000 where it is started beside busy processes. Each measurement is a process of
its own, since the setting is read once; all take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import DATA, record, spread, take_turns

SETTINGS: dict[str, dict[str, str]] = {
    "300,000 looks (GNU's default)": {"GOMP_SPINCOUNT": "300000"},
    "20,000 looks": {"GOMP_SPINCOUNT": "20000"},
    "1,000 looks": {"GOMP_SPINCOUNT": "1000"},
    "none": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LONE, ROWS, STEPS = 60, 256, 6


def measure(folder: Path) -> dict[str, float]:
    """Return the milliseconds of one text, of ROWS texts, and of a training step. folder: a fitted `text -> label`."""
    import mapsto
    from mapsto.data.table import read_table

    table = read_table(DATA / "sst2" / "dev.csv")
    texts = [str(text) for text in table.column("text")[:ROWS]]
    model = mapsto.load(folder, "cpu")

    def median(work: Callable[[], object], count: int) -> float:
        work()
        taken = []
        for _ in range(count):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return 1e3 * statistics.median(taken)

    lone, rows = median(lambda: model.predict(texts[:1]), LONE), median(lambda: model.predict(texts), 5)
    began = time.perf_counter()
    mapsto.pretrain("text", texts, steps=STEPS, batch=32, layers=6, width=384, vocabulary=2000, quiet=True)
    return {"one text": lone, f"{ROWS} texts": rows, "a training step": 1e3 * (time.perf_counter() - began) / STEPS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="folder of a fitted text -> label, MiniLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help="measure in this process and print JSON")
    parser.add_argument("--settings", default=";".join(SETTINGS))
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.model)))
        return
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}

    def run(name: str, is_beside: bool) -> float:
        """Measure one setting, alone or beside a process that is always busy; return its seconds."""
        began = time.perf_counter()
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_beside else None
        try:
            command = [sys.executable, __file__, str(options.model), "--child"]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, **SETTINGS[name]}
            )
        finally:
            if busy is not None:
                busy.kill()
                busy.wait()
        found.setdefault((name, is_beside), []).append(json.loads(done.stdout.splitlines()[-1]))
        return time.perf_counter() - began

    names = options.settings.split(";")
    ways = {
        f"{name} {is_beside}": (lambda name=name, is_beside=is_beside: run(name, is_beside))
        for name in names
        for is_beside in (False, True)
    }
    take_turns(ways, options.rounds)
    tasks = list(next(iter(found.values()))[0])
    lines = [
        "Milliseconds, two threads on two cores: alone → beside a process that is always busy (share of the speed alone).",
        "",
        f"| threads wait | {' | '.join(tasks)} |",
        f"|---|{'---|' * len(tasks)}",
    ]
    for name in names:
        cells = []
        for task in tasks:
            alone, beside = ([each[task] for each in found[name, is_beside]] for is_beside in (False, True))
            share = [100 * one / other for one, other in zip(alone, beside, strict=True)]
            cells.append(f"{spread(alone, 1)} → {spread(beside, 1)} ({spread(share)} %)")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    record("Beside a busy process (benchmarks/beside.py)", lines)


if __name__ == "__main__":
    main()
