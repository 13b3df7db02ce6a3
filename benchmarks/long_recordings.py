"""Measures the transcription of long recordings: peak memory, time, and whether words at cuts are lost or doubled.

A recording of each length is planted: clips with known texts (`--test`, a table of `sound` and `text`), one behind the other with
pauses of half a second. `mapsto predict` transcribes it in a process of its own, of which the peak memory is that of the
operating system, with its decoder's. Its word error rate stands beside that of the same clips transcribed one by one: lost or
doubled words would raise it.

    python benchmarks/long_recordings.py --start runs/tiny.en --test test.csv --minutes 30 180 --suffixes .wav .mp3
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, record

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.kinds.sound import SoundSource
from mapsto.metrics.word_errors import error_counts, error_rate, split_normalised_words

FOLDER = ROOT.parent / "runs" / "benchmarks" / "long_recordings"
PAUSE = 0.5


def read_clips(table: str, count: int) -> list[tuple[Any, str]]:
    """Return (samples at 16 kHz, text) of the first clips of a table."""
    with Path(table).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    return [(SoundSource.read(row["sound"]).decode(RATE), row["text"]) for row in rows]


def plant(clips: list[tuple[Any, str]], minutes: float, path: Path) -> str:
    """Write clips, over and over, as one recording of some minutes; return what is said in it."""
    import soundfile

    texts, num_samples, number = [], 0, 0
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while num_samples < 60 * minutes * RATE:
            samples, text = clips[number % len(clips)]
            part = np.concatenate([samples, np.zeros(int(PAUSE * RATE), np.float32)])
            file.write(part)
            texts.append(text)
            num_samples, number = num_samples + len(part), number + 1
    return " ".join(texts)


def transcribe(options: argparse.Namespace, path: Path) -> tuple[str, float, float, float]:
    """Return the text of a recording as `mapsto predict` writes it, its peak memory in MB, and its seconds by clock and core."""
    out = path.with_suffix(".jsonl")
    command = [
        sys.executable,
        "-m",
        "mapsto",
        "predict",
        options.start,
        str(path),
        "--out",
        str(out),
        *options.settings,
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command} failed"
    answer = json.loads(out.read_text(encoding="utf-8"))
    used = usage.ru_utime + usage.ru_stime
    return answer["text"], usage.ru_maxrss / 1024, time.perf_counter() - begin, used


def rate_of(text: str, truth: str) -> float:
    """Return the word error rate in percent, without case and punctuation."""
    return 100 * error_rate(error_counts([text], [truth], split_normalised_words))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--minutes", type=float, nargs="+", default=[30, 180])
    parser.add_argument("--suffixes", nargs="+", default=[".wav"])
    parser.add_argument("--settings", nargs=argparse.REMAINDER, default=[], help="further options of predict")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    clips = read_clips(options.test, options.clips)
    answers = mapsto.load(options.start).predict([{"sound": (samples, RATE)} for samples, _ in clips])
    alone = rate_of(" ".join(answer["text"] for answer in answers), " ".join(text for _, text in clips))
    lines = [f"{Path(options.start).name}, the clips one by one: WER {alone:.1f} %"]
    peaks = []
    for suffix in options.suffixes:
        for minutes in options.minutes:
            path = FOLDER / f"{minutes:g}{suffix}"
            truth = plant(clips, minutes, path)
            text, peak, seconds, used = transcribe(options, path)
            peaks.append(peak)
            lines.append(
                f"{minutes:g} minutes ({suffix}): peak {peak:,.0f} MB, {seconds:,.0f} s "
                f"({used:,.0f} s of cores, {used / 60 / minutes:.3f} of real time), WER {rate_of(text, truth):.1f} %"
            )
            print(lines[-1], flush=True)
            path.unlink()
    lines.append(f"the highest peak is {100 * (max(peaks) / min(peaks) - 1):.1f} % above the lowest")
    record("long_recordings", lines)


if __name__ == "__main__":
    main()
