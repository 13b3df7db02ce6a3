"""Measures sounds as answers: copies by Griffin–Lim, voice conversion without training, and noise removal.

Data: tables of recordings with texts (`sound`, `text`), one a voice, as the two Czech voices of Debian's fillets-ng-data-cs
(../shared/DATA.md); the recognizer is Whisper base (benchmarks/whisper.py). Likeness of speakers is the cosine of the vectors of
resemblyzer 0.1.4, whose weights are read from its wheel (`pip download --no-deps resemblyzer==0.1.4 -d wheels`). Parts:
- `copy`: word error rate of recordings, and of what Griffin–Lim makes of their own frames in 8 and in 32 rounds.
- `convert`: word error rate and likeness of recordings before and after `--like`, by layers of the model.

    python benchmarks/voices.py copy convert --model runs/base --recognizer runs/base --language cs \\
        --source voice_m.csv --voice voice_v.csv --own more_m.csv --speakers wheels/Resemblyzer-0.1.4-py3-none-any.whl
"""

from __future__ import annotations

import argparse
import csv
import io
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import record
from torch import Tensor, nn

import mapsto
from mapsto.audio.log_mel import HOP, RATE, WINDOW, band_filters, log_mel
from mapsto.audio.sound_value import read_sound
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.inference.voice_conversion import VoiceConverter
from mapsto.metrics.word_errors import error_counts, error_rate, split_normalised_words

# The vectors of resemblyzer: bands, width, frames of a part, and the loudness to which recordings are brought.
SPEAKER_BANDS, SPEAKER_WIDTH, PART_FRAMES, LOUDNESS = 40, 256, 160, 10 ** (-30 / 20)


def read(path: str) -> list[dict[str, str]]:
    """Return the rows of a table of recordings."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def samples(row: dict[str, str]) -> Any:
    """Return the samples (n,) of a row's sound at 16 kHz."""
    return read_sound(row["sound"]).decode(RATE)


class Recognizer:
    """A recognizer of speech, by which what is made is read back."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.model = mapsto.load(options.recognizer)
        self.decoding = mapsto.Decoding(language=options.language) if options.language else None

    def answers(self, sounds: Sequence[Any]) -> list[dict[str, Any]]:
        """Return what is said in sounds (n,) at 16 kHz."""
        return self.model.predict([{"sound": (sound, RATE)} for sound in sounds], decoding=self.decoding)

    def rate(self, sounds: Sequence[Any], rows: Sequence[dict[str, str]]) -> str:
        """Return the word error rate of sounds (n,) at 16 kHz against the texts of rows, without case and punctuation."""
        answers = self.answers(sounds)
        counts = error_counts(
            [answer.get("text") or "" for answer in answers], [row["text"] for row in rows], split_normalised_words
        )
        rng = np.random.default_rng(0)
        resampled = [error_rate(counts[rng.integers(len(counts), size=len(counts))]) for _ in range(500)]
        low, high = np.quantile(resampled, (0.025, 0.975))
        return f"WER {100 * error_rate(counts):.1f} % ({100 * low:.1f}–{100 * high:.1f}, n = {len(counts)})"


class SpeakerVectors(nn.Module):
    """The encoder of speakers of resemblyzer (GE2E, Wan et al. 2018), with its weights from its wheel."""

    def __init__(self, wheel: str) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SPEAKER_BANDS, SPEAKER_WIDTH, 3, batch_first=True)
        self.linear = nn.Linear(SPEAKER_WIDTH, SPEAKER_WIDTH)
        content = zipfile.ZipFile(wheel).read("resemblyzer/pretrained.pt")
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model_state"]
        self.load_state_dict({name: weights[name] for name in self.state_dict()})

    @torch.inference_mode()
    def vector(self, wave: Any) -> Tensor:
        """Return the vector (d,) of a recording: the mean of those of its parts of 1.6 seconds."""
        scaled = torch.from_numpy(wave) * (LOUDNESS / max(float(np.sqrt((wave**2).mean())), 1e-6))
        spectrum = torch.stft(scaled, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs() ** 2
        bands = (band_filters(SPEAKER_BANDS) @ spectrum).T
        bands = F.pad(bands, (0, 0, 0, max(0, PART_FRAMES - len(bands))))
        parts = bands.unfold(0, PART_FRAMES, PART_FRAMES // 2).transpose(1, 2)
        _, (hidden, _) = self.lstm(parts)
        return F.normalize(F.normalize(F.relu(self.linear(hidden[-1])), dim=-1).mean(0), dim=-1)

    def centre(self, waves: Sequence[Any]) -> Tensor:
        """Return the mean vector (d,) of recordings of a speaker, of unit length."""
        return F.normalize(torch.stack([self.vector(wave) for wave in waves]).mean(0), dim=-1)


def measure_copy(options: argparse.Namespace) -> list[str]:
    """Measure what a recognizer reads in recordings, and in what Griffin–Lim makes of their own frames."""
    recognizer, rows = Recognizer(options), read(options.source)
    waves = [samples(row) for row in rows]
    lines = [f"recordings as they are: {recognizer.rate(waves, rows)}"]
    for rounds in (8, 32):
        begin = time.process_time()
        copies = [synthesise(log_mel(wave, -(-len(wave) // HOP)), len(wave), rounds) for wave in waves]
        share = (time.process_time() - begin) / sum(map(len, waves)) * RATE
        lines.append(
            f"copies by {rounds} rounds ({100 * share:.0f} % of their duration): {recognizer.rate(copies, rows)}"
        )
    return lines


def measure_conversion(options: argparse.Namespace) -> list[str]:
    """Measure words and likeness before and after conversion to another voice, by the layer that is compared."""
    recognizer, speakers = Recognizer(options), SpeakerVectors(options.speakers)
    rows, mapping = read(options.source), mapsto.load(options.model).mapping
    waves = [samples(row) for row in rows]
    wanted, own = (speakers.centre([samples(row) for row in read(path)]) for path in (options.voice, options.own))

    def likeness(sounds: Sequence[Any]) -> str:
        vectors = torch.stack([speakers.vector(sound) for sound in sounds])
        to_wanted, to_own = vectors @ wanted, vectors @ own
        share = float((to_wanted > to_own).double().mean())
        return (
            f"cosine {float(to_wanted.mean()):.2f} to the wanted voice, {float(to_own.mean()):.2f} to the source's; "
            f"nearer to the wanted one: {100 * share:.0f} %"
        )

    lines = [f"recordings as they are: {recognizer.rate(waves, rows)}; {likeness(waves)}"]
    for layer in options.layers or [None]:
        converter = VoiceConverter(mapping, options.voice, layer=layer)
        made = [converter.convert(read_sound(row["sound"]))[0] for row in rows]
        lines.append(
            f"layer {converter.layer} of {Path(options.model).name}, {converter.seconds / 60:.1f} minutes of the voice: "
            f"{recognizer.rate(made, rows)}; {likeness(made)}"
        )
    return lines


PARTS = {"copy": measure_copy, "convert": measure_conversion}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--model", help="a model of sounds, by whose layers voices are converted")
    parser.add_argument("--recognizer", help="a recognizer of the language")
    parser.add_argument("--language")
    parser.add_argument("--source", help="recordings that are copied or converted")
    parser.add_argument("--voice", help="recordings of the wanted voice")
    parser.add_argument("--own", help="other recordings of the source's voice")
    parser.add_argument("--speakers", help="the wheel of resemblyzer")
    parser.add_argument("--layers", type=int, nargs="*")
    options = parser.parse_args()
    for part in options.parts:
        lines = PARTS[part](options)
        print("\n".join(lines))
        record(f"voices.py {part}", lines)


if __name__ == "__main__":
    main()
