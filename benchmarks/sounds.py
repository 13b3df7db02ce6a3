"""Measures how many seconds of sound are decoded, mixed and resampled to 16 kHz in a second on one core.

Real recordings: spoken digits (FSDD, WAV at 8 kHz) and a German voice (Kerstin, Ogg Vorbis at 22.05 kHz), the latter also encoded
as WAV, FLAC, MP3, Opus and M4A. Beside it stand the packages soundfile and soxr alone, without the checks of mapsto.
Run from the repository root: OMP_NUM_THREADS=1 python benchmarks/sounds.py
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import soundfile
import soxr
from common import DATA, record, seconds, spread, take_turns

from mapsto.audio import sound_io, sound_value
from mapsto.audio.decoding.mixing import Samples

FOLDER = DATA.parent / "audio"
RATE, NUM_CLIPS, ROUNDS = 16_000, 60, 5

# Format: container and encoding of soundfile.
ENCODINGS = {
    "WAV, 22.05 kHz": ("WAV", "PCM_16"),
    "FLAC, 22.05 kHz": ("FLAC", "PCM_16"),
    "MP3, 22.05 kHz": ("MP3", "MPEG_LAYER_III"),
}


def encode(samples: Samples, rate: int, container: str, encoding: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=encoding)
    return stream.getvalue()


def encode_m4a(samples: Samples, rate: int) -> bytes:
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="ipod") as file:
        track = file.add_stream("aac", rate=rate)
        track.layout = "mono"
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            file.mux(track.encode(frame))
        file.mux(track.encode())
    return stream.getvalue()


def read(contents: Sequence[bytes]) -> float:
    """Read cells and decode them at RATE; return their length in seconds."""
    return sum(len(sound_value.read_sound(content).decode(RATE)) for content in contents) / RATE


def read_plainly(contents: Sequence[bytes]) -> None:
    for content in contents:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
        soxr.resample(samples, rate, RATE)


def measure() -> list[str]:
    digits = [path.read_bytes() for path in sorted((FOLDER / "fsdd" / "recordings").glob("*.wav"))[: 10 * NUM_CLIPS]]
    voice = [path.read_bytes() for path in sorted((FOLDER / "kerstin" / "clips").rglob("*.ogg"))[:NUM_CLIPS]]
    decoded = [sound_io.decode_sound(None, content)[0] for content in voice]
    rate = sound_io.decode_sound(None, voice[0])[1].rate
    files = {"WAV, 8 kHz, clips of 0.4 s": digits, "Ogg Vorbis, 22.05 kHz": voice}
    for name, (container, encoding) in ENCODINGS.items():
        files[name] = [encode(samples, rate, container, encoding) for samples in decoded]
    at_48 = [soxr.resample(samples, rate, 48_000) for samples in decoded]
    files["Opus, 48 kHz"] = [encode(samples, 48_000, "OGG", "OPUS") for samples in at_48]
    files["M4A (AAC), 22.05 kHz"] = [encode_m4a(samples, rate) for samples in decoded]
    files["FLAC, 22.05 kHz, one file"] = [encode(np.concatenate(decoded), rate, "FLAC", "PCM_16")]
    lines = ["| files | mapsto, times real time | soundfile and soxr alone |", "|---|---|---|"]
    for name, contents in files.items():
        lines.append(f"| {name} | {compare(contents)} |")
    return lines


def compare(contents: Sequence[bytes]) -> str:
    """Return the seconds of sound a second of mapsto and of the packages alone, which read no M4A, as cells of a table."""
    length = read(contents)
    ways: dict[str, Callable[[], float]] = {"mapsto": lambda: length / seconds(lambda: read(contents))}
    try:
        read_plainly(contents[:1])
        ways["alone"] = lambda: length / seconds(lambda: read_plainly(contents))
    except soundfile.LibsndfileError:
        ways["alone"] = lambda: float("nan")
    speeds = take_turns(ways, ROUNDS)
    alone = spread(speeds["alone"]) if speeds["alone"][0] == speeds["alone"][0] else "–"
    return f"{spread(speeds['mapsto'])} | {alone}"


def main() -> None:
    record("Decoding sound (sounds.py)", measure())


if __name__ == "__main__":
    main()
