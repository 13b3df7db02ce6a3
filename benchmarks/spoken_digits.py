"""Measures spoken digits (FSDD) with one speaker left out: what a user gets who sets nothing but the starting model.

Each speaker in turn is the test, 500 recordings; the 2,500 of the five others are for training. Methods: the linear baseline of
`compare`, a fit from scratch, a fit from Whisper tiny.en (a folder by benchmarks/whisper.py), and with FEW labels a class a fit
from scratch and one from `mapsto pretrain sound` on the 2,500 recordings without labels. Results are kept in
runs/benchmarks/spoken_digits.json, so that an interrupted run continues. Run from the repository root:

    OMP_NUM_THREADS=1 python benchmarks/spoken_digits.py --start runs/tiny.en --speakers theo,nicolas
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import DATA, ROOT, Kept, record

import mapsto

FOLDER = DATA.parent / "audio" / "fsdd"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
# Labels a class of the part with few labels, and the minutes of pretraining.
FEW, MINUTES = (5, 10), 10.0
BASES = ROOT.parent / "runs" / "benchmarks" / "spoken_digits"

Row = dict[str, Any]


def read_rows() -> list[Row]:
    """Return the recordings as rows with `sound` (the bytes of the file), `label` and `speaker`."""
    with (FOLDER / "metadata.csv").open(encoding="utf-8") as file:
        return [
            {
                "sound": (FOLDER / row["file_name"]).read_bytes(),
                "label": row["transcript"],
                "speaker": row["speaker"],
            }
            for row in csv.DictReader(file)
        ]


def draw(rows: list[Row], each: int) -> list[Row]:
    """Return `each` random rows of each class."""
    shuffled = random.Random(0).sample(rows, len(rows))
    return [row for label in sorted({row["label"] for row in rows}) for row in _of(shuffled, label)[:each]]


def _of(rows: list[Row], label: str) -> list[Row]:
    return [row for row in rows if row["label"] == label]


def without_speaker(rows: list[Row]) -> list[Row]:
    return [{"sound": row["sound"], "label": row["label"]} for row in rows]


def score(train: list[Row], test: list[Row], **options: Any) -> dict[str, float]:
    """Return the accuracy in % with its 95 % interval, and the seconds of the processor, of a fit that sets only `options`."""
    began = time.process_time()
    model = mapsto.fit("sound -> label", without_speaker(train), **options)
    seconds = time.process_time() - began
    accuracy = model.evaluate(without_speaker(test)).scores["accuracy"]
    return {
        "accuracy": 100 * accuracy.value,
        "low": 100 * accuracy.low,
        "high": 100 * accuracy.high,
        "seconds": seconds,
    }


def pretrain(speaker: str, train: list[Row]) -> Path:
    """Return the folder of a model pretrained on recordings without labels; it is made at the first call."""
    folder = BASES / speaker
    if not (folder / "mapsto.json").exists():
        mapsto.pretrain("sound", [{"sound": row["sound"]} for row in train], folder, minutes=MINUTES)
    return folder


def methods(speaker: str, rows: list[Row], start: str | None) -> dict[str, Callable[[], dict[str, float]]]:
    """Return the methods by their names, each a function that measures it on the recordings of a speaker left out."""
    test = [row for row in rows if row["speaker"] == speaker]
    train = [row for row in rows if row["speaker"] != speaker]
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "bands of frequency, linear": lambda: score(train, test, method="linear"),
        "from scratch": lambda: score(train, test),
    }
    if start is not None:
        ways["from Whisper tiny.en"] = lambda: score(train, test, start=start)
    for few in FEW:
        ways[f"{few} labels a class, from scratch"] = lambda few=few: score(draw(train, few), test, method="full")
        ways[f"{few} labels a class, pretrained here"] = lambda few=few: score(
            draw(train, few), test, start=pretrain(speaker, train), method="full"
        )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", help="folder of Whisper tiny.en; without it that method is left out")
    parser.add_argument("--speakers", default=",".join(SPEAKERS))
    arguments = parser.parse_args()
    speakers, rows, kept = arguments.speakers.split(","), read_rows(), Kept("spoken_digits")
    found: dict[str, list[dict[str, float]]] = {}
    for speaker in speakers:
        for name, way in methods(speaker, rows, arguments.start).items():
            found.setdefault(name, []).append(kept.once(f"{speaker}, {name}", way))
            print(speaker, name, found[name][-1], flush=True)
    lines = [
        f"One speaker left out, {', '.join(speakers)} in turn; the test has 500 recordings of each. Accuracy in %: mean, and for "
        f"each speaker with its 95 % interval; seconds of the processor, median. Pretraining: {MINUTES:g} minutes, no labels.",
        "",
        "| method | mean | by speaker | seconds |",
        "|---|---|---|---|",
    ]
    for name, scores in found.items():
        each = " · ".join(f"{one['accuracy']:.1f} ({one['low']:.1f}–{one['high']:.1f})" for one in scores)
        mean, median = (
            statistics.fmean(one["accuracy"] for one in scores),
            statistics.median(one["seconds"] for one in scores),
        )
        lines.append(f"| {name} | {mean:.1f} | {each} | {median:.0f} |")
    record("Spoken digits of new speakers (spoken_digits.py)", lines)


if __name__ == "__main__":
    main()
