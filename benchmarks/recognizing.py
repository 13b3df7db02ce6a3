"""Measures recognition from scratch by CTC: words of yesno (60 recordings), and English sentences (Amazon Queen).

For each: word and character error rates of the defaults on held-out rows, with the loss over the steps. Beside the English
sentences stands a published Whisper as it is (--start).
Run from the repository root:
    OMP_NUM_THREADS=1 python benchmarks/recognizing.py --queen queen_train.csv queen_test.csv --start tiny.en
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import jiwer
from common import DATA, ROOT, record

import mapsto
from mapsto.text.transcripts.aligned_text import normalise

YESNO = DATA.parent / "audio" / "yesno"
# Held-out recordings of yesno, and points of a curve.
NUM_HELD_OUT, NUM_POINTS = 12, 8
RATES = ("wer", "wer_normalised", "cer")


def read_yesno() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training and the held-out rows of yesno, in an order drawn once."""
    with (YESNO / "metadata.csv").open(encoding="utf-8") as file:
        rows = [
            {"sound": (YESNO / row["file_name"]).read_bytes(), "text": row["transcript"]}
            for row in csv.DictReader(file)
        ]
    random.Random(0).shuffle(rows)
    return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]


def read_table(path: Path, most: int | None) -> list[dict[str, Any]]:
    """Return the first `most` rows of a table with the columns sound (names of files beside it) and text."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:most]
    return [{"sound": (path.parent / row["sound"]).read_bytes(), "text": row["text"]} for row in rows]


def rates_of(model: mapsto.Model, rows: list[dict[str, Any]]) -> str:
    """Return the error rates of a model, each with its interval, as cells of a table."""
    scores = model.evaluate(rows, bad_rows="skip").scores
    return " | ".join(
        f"{100 * scores[name].value:.1f} % ({100 * scores[name].low:.1f}–{100 * scores[name].high:.1f})"
        for name in RATES
    )


def rates_by(model: mapsto.Model, rows: list[dict[str, Any]], decoding: mapsto.Decoding) -> str:
    """Return word and character error rates of transcripts that are searched for, over all rows, as cells of a table."""
    found = [str(answer["text"]) for answer in model.predict(rows, decoding=decoding)]
    said = [normalise(row["text"]) for row in rows]
    return f"{100 * jiwer.wer(said, found):.1f} % | | {100 * jiwer.cer(said, found):.1f} %"


def curve(folder: Path) -> str:
    """Return the training loss over the steps of a run, at NUM_POINTS steps."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [step for step in steps if "loss" in step and "step" in step]
    chosen = steps[:: max(1, len(steps) // NUM_POINTS)]
    return ", ".join(f"{step['loss']:.3f} at {step['step']}" for step in chosen)


def measure(name: str, training: list[Any], test: list[Any], options: dict[str, Any]) -> list[str]:
    """Return the lines of a fit: rows of the table, and the curve of its loss."""
    folder = ROOT.parent / "runs" / "benchmarks" / f"recognizing-{name}"
    began = time.monotonic()
    model = mapsto.fit("sound -> text", training, folder, overwrite=True, bad_rows="skip", **options)
    minutes = (time.monotonic() - began) / 60
    table = [f"| {name}, {len(training):,} rows, CTC from scratch, {minutes:.0f} min | {rates_of(model, test)} |"]
    searches = {
        "16 beams": mapsto.Decoding(beams=16),
        "the training texts as language model": mapsto.Decoding(language_model=[row["text"] for row in training]),
    }
    table += [f"| the same, {way} | {rates_by(model, test, decoding)} |" for way, decoding in searches.items()]
    return [*table, curve(folder)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queen", type=Path, nargs=2, help="tables of training and test rows")
    parser.add_argument("--start", help="a folder of Whisper, for the peer column")
    parser.add_argument(
        "--minutes", type=float, help="of the fit to the English sentences; by default its own number of steps"
    )
    parser.add_argument("--rows", type=int, help="of the English training sentences")
    arguments = parser.parse_args()
    table = ["| data | WER | WER, normalised | CER |", "|---|---|---|---|"]
    *rows, loss = measure("yesno", *read_yesno(), {})
    table, curves = [*table, *rows], [f"yesno, loss: {loss}."]
    if arguments.queen:
        training, test = read_table(arguments.queen[0], arguments.rows), read_table(arguments.queen[1], None)
        options = {} if arguments.minutes is None else {"minutes": arguments.minutes}
        *rows, loss = measure("queen", training, test, options)
        table, curves = [*table, *rows], [*curves, f"queen, loss: {loss}."]
        if arguments.start:
            table.append(f"| queen, {arguments.start} as it is | {rates_of(mapsto.load(arguments.start), test)} |")
    record("Recognition by CTC (recognizing.py)", [*table, "", *curves])


if __name__ == "__main__":
    main()
