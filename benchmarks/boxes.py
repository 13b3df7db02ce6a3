"""Score box models fitted on BCCD (blood cells; 292 training pictures, 72 test pictures) from DINOv2-small and random weights.

The folder of the starting model is written by benchmarks/dinov2.py (its docstring says where the weights are from). Minutes are
wall-clock minutes. tests/kinds/test_boxes.py checks that the scores equal those of faster-coco-eval.
`python benchmarks/boxes.py --start runs/benchmarks/dinov2-small`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import DATA, record, seconds

import mapsto
from mapsto.data.table import Table, read_table
from mapsto.device import keep_memory
from mapsto.progress import Lines

BCCD = DATA.parent / "image" / "bccd"


def parts() -> tuple[Table, Table]:
    """Return the training rows, without the two rows that have boxes of no area, and the test rows.

    The data set itself says which pictures are for testing.
    """
    table = read_table(BCCD)
    tested = set((BCCD / "ImageSets" / "Main" / "test.txt").read_text().split())
    whole = [all(box["box"][0] < box["box"][2] for box in cell) for cell in table.column("boxes")]
    chosen = [Path(name).stem in tested for name in table.column("image")]
    return (
        table.select(np.flatnonzero([not test and good for test, good in zip(chosen, whole, strict=True)])),
        table.select(np.flatnonzero([test and good for test, good in zip(chosen, whole, strict=True)])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--freeze", default="10", help="the lowest layers of the start that stay as they are")
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--augment", default="mirror")
    parser.add_argument("--ways", default="DINOv2-small,random weights")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/boxes"))
    given = parser.parse_args()
    keep_memory()
    train, test = parts()
    lines = [
        f"{len(train)} training pictures, {len(test)} test pictures, at most {given.size} pixels to a side, batches of "
        f"{given.batch}; the {given.freeze} lowest layers of a starting model are frozen.",
        "",
        "| start | minutes | steps | mAP | mAP50 | mAP75 |",
        "|---|---|---|---|---|---|",
    ]
    for way in given.ways.split(","):
        start = {"start": given.start, "freeze": given.freeze} if way.startswith("DINO") else {"like": given.start}
        run = given.out / way.replace(" ", "-")
        options = {"minutes": given.minutes, "size": given.size, "batch": given.batch, "augment": given.augment}
        took = seconds(
            lambda: mapsto.fit(
                "image -> boxes",
                train,
                run,
                **start,
                **options,
                rate=given.rate,
                hold_out=0,
                overwrite=True,
                progress=Lines(),
            )
        )
        found = mapsto.load(run).evaluate(test)
        shown = [found.scores[name].percent for name in ("map", "map50", "map75")]
        steps = sum(1 for _ in (run / "metrics.jsonl").open())
        lines.append(f"| {way} | {took / 60:.0f} | {steps:,} | {' | '.join(shown)} |")
        print(lines[-1], flush=True)
    record("Boxes: BCCD (benchmarks/boxes.py)", lines)


if __name__ == "__main__":
    main()
