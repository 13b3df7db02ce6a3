"""Measures recognition of speech from Whisper: error rates before and after a fit, and speeds beside other libraries.

Data: clips with texts in two tables (`sound`, `text`), as for Debian's flight-of-the-amazon-queen (../shared/DATA.md), split by
dialogue. Parts:
- `fit`: word error rate of the start as it is, and after `--minutes` of a fit by the defaults.
- `clips`, `long`: seconds to transcribe 60 clips of the fitted model, and one long recording by the start, in turns with
  faster-whisper (int8, greedy) on the same weights, with the word error rate of both.
- `trainer`: clips a second of a fit, in turns with the loop of transformers' Trainer for Whisper, which pads to 30 seconds.

    python benchmarks/transcribing.py fit clips long trainer --start runs/tiny.en --train train.csv --test test.csv
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, ratio, record, seconds, spread, take_turns

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.kinds.sound import SoundSource
from mapsto.metrics.word_errors import error_counts, error_rate, split_normalised_words
from mapsto.progress import Progress

CLIPS, ROUNDS, PEER_CLIPS = 60, 3, 8
RUN = ROOT.parent / "runs" / "benchmarks" / "transcribing"


def read(path: str) -> list[dict[str, str]]:
    """Return the rows of a table of recordings."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rates(texts: list[str], rows: list[dict[str, str]]) -> str:
    """Return the word error rates of texts, as written and normalised, in percent."""
    truth = [row["text"] for row in rows]
    plain, normalised = (
        100 * error_rate(error_counts(texts, truth, split)) for split in (str.split, split_normalised_words)
    )
    return f"WER {plain:.1f} %, without case and punctuation {normalised:.1f} %"


def samples(row: dict[str, str]) -> Any:
    """Return the samples (n,) of a row's sound at 16 kHz."""
    return SoundSource.read(row["sound"]).decode(RATE)


def measure_fit(options: argparse.Namespace) -> list[str]:
    """Measure error rates on the test table before and after a fit."""
    test = read(options.test)

    def score(model: mapsto.Model) -> str:
        scores = model.evaluate(test).scores
        return ", ".join(f"{name} {scores[name].percent}" for name in ("wer", "wer_normalised", "cer"))

    lines = [f"{Path(options.start).name} as it is: {score(mapsto.load(options.start))}"]
    begin = time.perf_counter()
    fitted = mapsto.fit(
        "sound -> text", options.train, RUN, start=options.start, minutes=options.minutes, overwrite=True
    )
    took = (time.perf_counter() - begin) / 60
    return [*lines, f"fitted to {len(read(options.train)):,} rows in {took:.1f} minutes: {score(fitted)}"]


def faster_whisper(options: argparse.Namespace) -> Any:
    """Return faster-whisper's model of the start's weights in int8, converted once."""
    from ctranslate2.converters import TransformersConverter
    from faster_whisper import WhisperModel

    folder = RUN.parent / "transcribing-int8"
    if not folder.exists():
        TransformersConverter(options.start, copy_files=["tokenizer.json", "preprocessor_config.json"]).convert(
            str(folder), quantization="int8"
        )
    return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=torch.get_num_threads())


def measure_speed(options: argparse.Namespace, long: bool) -> list[str]:
    """Measure the seconds of transcribing clips, or one long recording, in turns with faster-whisper."""
    rows = read(options.test)[:CLIPS]
    if long:
        gap = np.zeros(RATE // 2, np.float32)
        sounds = [np.concatenate([part for row in rows for part in (samples(row), gap)])]
        truth = [{"text": " ".join(row["text"] for row in rows)}]
    else:
        sounds, truth = [samples(row) for row in rows], rows
    peer = faster_whisper(options)
    own = mapsto.load(options.start if long else RUN)
    texts: dict[str, list[str]] = {}

    def ours() -> None:
        answers = own.predict([{"sound": (sound, RATE)} for sound in sounds])
        texts["mapsto"] = [answer["text"] for answer in answers]

    def theirs() -> None:
        def one(sound: Any) -> str:
            segments, _ = peer.transcribe(sound, beam_size=1, language="en", condition_on_previous_text=False)
            return " ".join(segment.text.strip() for segment in segments)

        texts["faster-whisper"] = [one(sound) for sound in sounds]

    times = take_turns({"mapsto": lambda: seconds(ours), "faster-whisper": lambda: seconds(theirs)}, ROUNDS)
    total = sum(map(len, sounds)) / RATE
    lines = [
        f"{name}: {spread(values, 1)} s for {total:.0f} s of sound; {rates(texts[name], truth)}"
        for name, values in times.items()
    ]
    return [*lines, f"ratio {ratio(times['faster-whisper'], times['mapsto'])}"]


def measure_trainer(options: argparse.Namespace) -> list[str]:
    """Measure clips a second of training steps, in turns with the reference loop, which pads sounds to 30 seconds."""
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    from mapsto.text.tokenizer import Tokenizer

    rows = [row for row in read(options.train) if row["text"].strip()][: 32 * 4]
    model = WhisperForConditionalGeneration.from_pretrained(options.start)
    extractor, tokenizer = WhisperFeatureExtractor.from_pretrained(options.start), Tokenizer.open(Path(options.start))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-5)
    waves = [samples(row) for row in rows[:PEER_CLIPS]]
    labels = [torch.tensor([50362, *tokenizer.encode_literally([row["text"]])[0], 50256]) for row in rows[:PEER_CLIPS]]

    def theirs() -> float:
        begin = time.perf_counter()
        features = extractor(waves, sampling_rate=RATE, return_tensors="pt").input_features
        padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
        with torch.autocast("cpu", torch.bfloat16, options.bf16):
            model(input_features=features, labels=padded).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return PEER_CLIPS / (time.perf_counter() - begin)

    def ours() -> float:
        stamps: list[float] = []

        class Clock(Progress):
            def step(self, report: Any) -> None:
                stamps.append(time.perf_counter())

        mapsto.fit(
            "sound -> text",
            rows,
            None,
            start=options.start,
            steps=4,
            batch=32,
            progress=Clock(),
            method="full",
            hold_out=0.0,
        )
        # The first step warms up.
        return 32 * (len(stamps) - 1) / (stamps[-1] - stamps[0])

    speeds = take_turns({"mapsto": ours, "reference loop": theirs}, ROUNDS)
    lines = [f"{name}: {spread(values, 2)} clips/s" for name, values in speeds.items()]
    return [*lines, f"ratio {ratio(speeds['mapsto'], speeds['reference loop'])}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("fit", "clips", "long", "trainer"))
    parser.add_argument("--start", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument(
        "--bf16", action="store_true", help="the reference loop in bf16, as the fit of a CPU that has it"
    )
    options = parser.parse_args()
    for part in options.parts:
        lines = {
            "fit": measure_fit,
            "clips": lambda options: measure_speed(options, False),
            "long": lambda options: measure_speed(options, True),
            "trainer": measure_trainer,
        }[part](options)
        record(f"transcribing: {part}", lines)


if __name__ == "__main__":
    main()
