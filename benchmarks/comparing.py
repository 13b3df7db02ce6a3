"""Compare fits from a starting model with fits from random weights (`mapsto compare`).

The starting model is MiniLM for SST-2 and Banking77; for ChnSentiCorp and CIFAR-10 it is pretrained here.
`python benchmarks/comparing.py --help`. The reports are kept in the folder `--out`, and an interrupted run continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import DATA, record

import mapsto
from mapsto.comparison.analysis import format_labels_saved, format_points, format_score
from mapsto.data.table import read_table
from mapsto.demo.data import minilm
from mapsto.device import keep_memory
from mapsto.progress import Lines

LENGTH = 128
IMAGES = DATA.parent / "image"
TASKS = {
    "ChnSentiCorp": (DATA / "chnsenticorp", "csv", "text -> label", "16,64,256,all"),
    "SST-2": (DATA / "sst2", "csv", "text -> label", "16,64,256,all"),
    "Banking77": (DATA / "banking77", "csv", "text -> category:label", "16,64,256,all"),
    "CIFAR-10": (IMAGES / "cifar10", "parquet", "image -> label", "100,1000,all"),
}


def start_of(task: str, out: Path, minutes: float) -> str:
    """Return the folder of a task's starting model, which is pretrained for `minutes` unless it is MiniLM.

    Pretraining reads the task's training rows without labels; for ChnSentiCorp other reviews too.
    """
    if task in ("SST-2", "Banking77"):
        return str(minilm())
    base = out / "base"
    if not (base / "mapsto.json").exists() and task == "CIFAR-10":
        rows = [{"image": cell} for cell in read_table(IMAGES / "cifar10" / "train.parquet").column("image")]
        mapsto.pretrain("image", rows, base, minutes=minutes, objective="simclr", layers=4, width=192, progress=Lines())
    elif not (base / "mapsto.json").exists():
        reviews = (DATA / "reviews_zh" / "unlabeled.txt").read_text(encoding="utf-8").splitlines()
        texts = [*filter(str.strip, reviews), *read_table(DATA / "chnsenticorp" / "train.csv").column("text")]
        rows = [{"text": text} for text in texts]
        mapsto.pretrain("text", rows, base, minutes=minutes, layers=4, progress=Lines())
    return str(base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--labels", default=None, help="by default 16,64,256,all; of pictures 100,1000,all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10.0, help="pretraining of a start made here")
    parser.add_argument("--tested", type=int, default=None, help="rows of the test split, by default all")
    parser.add_argument("--jobs", type=int, default=1, help="fits at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/comparing"))
    given = parser.parse_args()
    keep_memory()
    for task in given.tasks.split(","):
        folder, ending, arrow, labels = TASKS[task]
        out = given.out / folder.name
        start = start_of(task, out, given.minutes)
        made = f"pretrained here in {given.minutes:g} minutes" if Path(start).parent == out else "MiniLM"
        test = read_table(folder / f"test.{ending}")
        asked: dict[str, Any] = {
            "labels": (given.labels or labels).split(","),
            "seeds": given.seeds,
            "jobs": given.jobs,
            "bad_rows": "skip",
        }
        if arrow.startswith("text"):
            asked["length"] = LENGTH
        found = mapsto.compare(
            arrow, folder / f"train.{ending}", out / "report",
            test=test.select(range(min(given.tested or len(test), len(test)))),
            starts=["scratch", start], progress=Lines(), **asked,
        )  # fmt: skip
        labels = sorted({point.num_labels for points in found.curves.values() for point in points})
        lines = [
            f"{found.metric} in % on {found.num_test_rows:,} test rows, {found.num_seeds} draws of labels; "
            "mean (95 % interval over both).",
            f"`{Path(start).name}` is {made}; `scratch` has its shape and random weights.",
            "",
            f"| model | {' | '.join(f'{count:,} labels' for count in labels)} |",
            "|---|" + "---|" * len(labels),
        ]
        for name, points in found.curves.items():
            at = {point.num_labels: format_score(point.score) for point in points}
            lines.append(f"| {name} | {' | '.join(at.get(count, '') for count in labels)} |")
        lines += ["", "| | labels | better by, points | labels saved |", "|---|---|---|---|"]
        for d in found.differences:
            gain = f"{format_points(d.points)} | {format_labels_saved(d)}"
            lines.append(f"| {d.candidate} against {d.reference} | {d.num_labels:,} | {gain} |")
        record(f"Starting models compared: {task} (benchmarks/comparing.py)", [*lines, "", *found.headline])


if __name__ == "__main__":
    main()
