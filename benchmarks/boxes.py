"""Boxes on BCCD (blood cells; 292 pictures to learn from, 72 to test on) from DINOv2-small, and from random weights.

The start's folder is what benchmarks/dinov2.py writes (its docstring says where the weights are from). Minutes are of the clock.
What is measured of a run that was stopped is kept in --out. The figures are computed by faster-coco-eval too.
`python benchmarks/boxes.py --start runs/benchmarks/dinov2-small`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import numpy as np
from common import DATA, record, seconds
from faster_coco_eval import COCO, COCOeval_faster

import mapsto
from mapsto import data
from mapsto.data import Table
from mapsto.device import keep_memory
from mapsto.kinds.boxes import Box, Boxes
from mapsto.progress import Lines

BCCD = DATA.parent / "image" / "bccd"


def parts() -> tuple[Table, Table]:
    """The rows to learn from, without the two whose boxes have no area, and those to test on; as the data set parts them."""
    table = data.read(BCCD)
    tested = set((BCCD / "ImageSets" / "Main" / "test.txt").read_text().split())
    whole = [all(box["box"][0] < box["box"][2] for box in cell) for cell in table.column("boxes")]
    chosen = [Path(name).stem in tested for name in table.column("image")]
    return (
        table.select(np.flatnonzero([not test and good for test, good in zip(chosen, whole, strict=True)])),
        table.select(np.flatnonzero([test and good for test, good in zip(chosen, whole, strict=True)])),
    )


def peer(truths: list[tuple[Box, ...]], said: list[list[tuple[str, list[float], float]]]) -> dict[str, float]:
    """What faster-coco-eval finds, from boxes said as (label, sides, score)."""
    names = sorted({box.label for truth in truths for box in truth})
    number = {name: at + 1 for at, name in enumerate(names)}
    boxes = [(at, box) for at, truth in enumerate(truths) for box in truth]
    with contextlib.redirect_stdout(io.StringIO()):
        held = COCO(
            {
                "info": {},
                "images": [{"id": at + 1} for at in range(len(truths))],
                "categories": [{"id": number[name], "name": name} for name in names],
                "annotations": [
                    {
                        "id": at + 1, "image_id": row + 1, "category_id": number[box.label], "iscrowd": int(box.crowd),
                        "bbox": [box.left, box.top, box.right - box.left, box.bottom - box.top],
                        "area": (box.right - box.left) * (box.bottom - box.top),
                    }
                    for at, (row, box) in enumerate(boxes)
                ],
            }
        )  # fmt: skip
        found = held.loadRes(
            [
                {
                    "image_id": row + 1, "category_id": number[label], "score": score,
                    "bbox": [sides[0], sides[1], sides[2] - sides[0], sides[3] - sides[1]],
                }
                for row, listed in enumerate(said)
                for label, sides, score in listed
            ]
        )  # fmt: skip
        judge = COCOeval_faster(held, found, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {"map": judge.stats[0], "map50": judge.stats[1], "map75": judge.stats[2], "recall": judge.stats[8]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--augment", default="mirror")
    parser.add_argument("--ways", default="DINOv2-small,random weights")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/boxes"))
    given = parser.parse_args()
    keep_memory()
    train, test = parts()
    lines = [
        f"{len(train)} pictures to learn from, {len(test)} to test on, at most {given.size} pixels to a side.",
        "",
        "| start | minutes | steps | mAP | mAP50 | mAP75 | largest distance from faster-coco-eval |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in given.ways.split(","):
        start = {"start": given.start} if way.startswith("DINO") else {"like": given.start}
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
        model = mapsto.load(run)
        found = model.evaluate(test)
        target = model.mapping.targets[0]
        assert isinstance(target, Boxes)
        (answers,) = found.answers
        said = [
            [
                (target.classes[kind], sides.tolist(), float(score))
                for score, kind, sides in zip(*target.ranked(one), strict=True)
            ]
            for one in answers.outputs
        ]
        theirs = peer(answers.truths, said)
        apart = max(abs(theirs[name] - found.scores[name].value) for name in theirs)
        shown = [found.scores[name].percent for name in ("map", "map50", "map75")]
        steps = sum(1 for _ in (run / "metrics.jsonl").open())
        lines.append(f"| {way} | {took / 60:.0f} | {steps:,} | {' | '.join(shown)} | {apart:.1g} |")
        print(lines[-1], flush=True)
    record("Boxes: BCCD (benchmarks/boxes.py)", lines)


if __name__ == "__main__":
    main()
