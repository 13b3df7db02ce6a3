"""Measures speech from text: a voice is fitted for some minutes, and a recognizer reads back what it says of held-out sentences.

Beside it stand the recordings of these sentences as they are, and what Griffin–Lim makes of their own frames, which bounds what a
voice without a learnt vocoder can reach. Data: Kerstin (../shared/DATA.md: one German voice), with 100 sentences held out; or
tables with the columns `sound` and `text`. The recognizer is Whisper base or tiny.en (benchmarks/whisper.py).
Part `pairs`: the texts of 5 % of all recordings are exchanged for those of others that are about as long; how many of them, and
of the others, does `mapsto check` name?

    python benchmarks/speaking.py voice --recognizer runs/base --language de --minutes 60 --out runs/kerstin
    python benchmarks/speaking.py voice --recognizer runs/tiny.en --tables joe_train.csv joe_test.csv --out runs/joe
    python benchmarks/speaking.py pairs
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, record
from voices import Recognizer, read, samples

import mapsto
from mapsto.audio.log_mel import HOP, RATE, log_mel
from mapsto.audio.sound_value import read_sound
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.audio.synthesis.spoken_text import SpokenTextTarget
from mapsto.metrics.word_errors import error_counts, error_rate, split_normalised_words

KERSTIN = DATA.parent / "audio" / "kerstin"
NUM_HELD_OUT = 100
# Share of the recordings that get the text of another one, and draws of them.
EXCHANGED, DRAWS = 0.05, 3


def read_kerstin() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the training and the held-out rows of Kerstin, in an order drawn once; each names a file and its text."""
    lines = (KERSTIN / "metadata.csv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("|") for line in lines]
    rows = [{"sound": str(KERSTIN / "clips" / f"{name}.ogg"), "text": text} for name, text in pairs]
    random.Random(0).shuffle(rows)
    return rows[NUM_HELD_OUT:], rows[:NUM_HELD_OUT]


def compare_errors(recognizer: Recognizer, made: list[Any], true: list[Any], rows: list[dict[str, Any]]) -> str:
    """Return by how many points the word error rate of spoken texts is above that of recordings, sentence by sentence."""
    counts = [
        error_counts(
            [answer.get("text") or "" for answer in recognizer.answers(sounds)],
            [row["text"] for row in rows],
            split_normalised_words,
        )
        for sounds in (made, true)
    ]
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(rows), size=len(rows)) for _ in range(2000)]
    differences = [100 * (error_rate(counts[0][draw]) - error_rate(counts[1][draw])) for draw in draws]
    mean = 100 * (error_rate(counts[0]) - error_rate(counts[1]))
    low, high = np.quantile(differences, (0.025, 0.975))
    return f"spoken texts have {mean:+.1f} points of WER beside the recordings ({low:+.1f} to {high:+.1f})"


def measure_pairs(options: argparse.Namespace) -> list[str]:
    """Measure how many exchanged texts, and how many others, are named as those of other recordings."""
    training, held_out = map(read, options.tables) if options.tables else read_kerstin()
    rows = training + held_out
    sounds = [read_sound(row["sound"]) for row in rows]
    lines = [f"{len(rows):,} recordings, of which {100 * EXCHANGED:.0f} % have the text of another one"]
    for seed in range(DRAWS):
        chosen = random.Random(seed).sample(range(len(rows)), round(EXCHANGED * len(rows)))
        chosen.sort(key=lambda row: sounds[row].info.seconds)
        texts = [row["text"] for row in rows]
        for row, other in zip(chosen, chosen[1:] + chosen[:1], strict=True):
            texts[row] = rows[other]["text"]
        # Of those that a text does not fit into, `misplaced` says so.
        answers = [SpokenTextTarget.place(sound, text) for sound, text in zip(sounds, texts, strict=True)]
        is_readable = [not SpokenTextTarget.misplaced(answer, answer.text) for answer in answers]
        named = {
            fault.row
            for fault in SpokenTextTarget.find_misread(
                [answer if is_good else None for answer, is_good in zip(answers, is_readable, strict=True)]
            )
        } | {row for row, is_good in enumerate(is_readable) if not is_good}
        found, false = len(named & {*chosen}), len(named - {*chosen})
        lines.append(
            f"draw {seed}: named {found} of {len(chosen)}, and {false} of the other {len(rows) - len(chosen):,}"
        )
    return lines


def measure_voice(options: argparse.Namespace) -> list[str]:
    """Fit a voice, and measure the words that a recognizer reads in what it says."""
    training, held_out = map(read, options.tables) if options.tables else read_kerstin()
    if (options.out / "mapsto.json").exists():
        voice = mapsto.load(options.out)
    else:
        table = (
            options.tables[0]
            if options.tables
            else [{**row, "sound": Path(row["sound"]).read_bytes()} for row in training]
        )
        voice = mapsto.fit("text -> sound", table, out=options.out, minutes=options.minutes)
    recognizer, true = Recognizer(options), [samples(row) for row in held_out]
    began, used = time.perf_counter(), time.process_time()
    made = [answer["sound"][0] for answer in voice.predict([row["text"] for row in held_out])]
    seconds, used = time.perf_counter() - began, time.process_time() - used
    spoken = sum(map(len, made)) / RATE
    copies = [synthesise(log_mel(wave, -(-len(wave) // HOP)), len(wave)) for wave in true]
    return [
        f"{len(training):,} recordings, {options.minutes:g} minutes on {torch.get_num_threads()} threads",
        f"recordings as they are: {recognizer.rate(true, held_out)}",
        f"copies by Griffin–Lim: {recognizer.rate(copies, held_out)}",
        f"spoken from their texts: {recognizer.rate(made, held_out)}",
        compare_errors(recognizer, made, true, held_out),
        f"{spoken:.0f} s of speech in {seconds:.1f} s ({used:.1f} s of the processor)",
    ]


PARTS = {"voice": measure_voice, "pairs": measure_pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--recognizer", help="a recognizer of the language")
    parser.add_argument("--language")
    parser.add_argument("--tables", nargs=2, help="training and held-out rows; Kerstin without")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="folder of the voice")
    options = parser.parse_args()
    lines = PARTS[options.part](options)
    print("\n".join(lines))
    name = options.out.name if options.out else Path(options.tables[0]).stem if options.tables else "Kerstin"
    record(f"speaking.py {options.part} {name}", lines)


if __name__ == "__main__":
    main()
