"""`predict --stream` prints what is said in a recording while it grows, or comes through a pipe."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

from recordings import by_soundfile
from transcribers import MULTILINGUAL, clips, make_transcriber
from typer.testing import CliRunner

from mapsto import cli
from mapsto.audio import live
from mapsto.audio.live import LiveSound
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_value import read_sound
from mapsto.errors import DataError, UsageError

TALK = np.resize(np.concatenate(clips()), 12 * RATE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live") / "model"
    make_transcriber(folder, MULTILINGUAL)
    return folder


def run(*arguments: object, content: bytes | None = None) -> Any:
    return CliRunner().invoke(cli.app.app, [*map(str, arguments), "--device", "cpu"], input=content)


def pcm(samples: np.ndarray) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


class Slow(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a pipe."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__()
        self.content, self.size = content, size

    def read(self, size: int = -1) -> bytes:
        part, self.content = self.content[: self.size], self.content[self.size :]
        return part


@pytest.mark.parametrize("size", [1001, 100_000])
@pytest.mark.parametrize("encoding", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_pipe_gives_the_samples_of_a_file(size: int, encoding: str) -> None:
    for channels, rate in ((1, 16_000), (2, 44_100)):
        samples = 0.5 * np.random.default_rng(0).standard_normal((30_000, channels)).clip(-1, 1).astype(np.float32)
        content = by_soundfile(samples, rate, "WAV", encoding)
        expected = read_sound(content).decode(RATE)
        # A length that was not known when the header was written; and bytes of a tag behind the samples.
        place = content.index(b"data") + 4
        unknown = content[:place] + struct.pack("<I", 0xFFFFFFFF) + content[place + 4 :]
        for stream in (content + b"LIST" + bytes(40), unknown):
            read = np.concatenate(list(LiveSound(Slow(stream, size), "a pipe").blocks(RATE)))
            assert np.array_equal(read, expected)
    raw = np.concatenate(list(LiveSound(Slow(pcm(samples[:, 0]) + b"\1", size), "a pipe", 16_000).blocks(RATE)))
    assert np.abs(raw - samples[:, 0]).max() < 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"RIFF", "it ended within its header"),
        (
            b"fLaC" + bytes(100),
            "it is no WAV, which begins with RIFF; .* need --raw, other formats become WAV by `ffmpeg",
        ),
        (
            by_soundfile(np.zeros((9000, 1)), RATE, "WAV", "MS_ADPCM"),
            "its samples are compressed, which is not read while they come",
        ),
    ],
)
def test_what_is_no_wav_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"a pipe: {message}"):
        list(LiveSound(Slow(content, 50), "a pipe").blocks(RATE))


def test_a_file_that_grows_is_followed_until_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GROWTH_SECONDS", 0.3)
    content, path = by_soundfile(TALK[:, None], RATE, "WAV", "PCM_16"), tmp_path / "a.wav"
    path.write_bytes(content[:30])

    def record() -> None:
        for start in range(30, len(content), 100_000):
            time.sleep(0.05)
            with path.open("ab") as file:
                file.write(content[start : start + 100_000])

    recorder = threading.Thread(target=record)
    recorder.start()
    sound = LiveSound.open(path)
    assert isinstance(sound, LiveSound)
    assert np.array_equal(np.concatenate(list(sound.blocks(RATE))), read_sound(content).decode(RATE))
    recorder.join()


def test_a_pipe_is_transcribed_window_by_window(model: Path, tmp_path: Path) -> None:
    content = by_soundfile(TALK[:, None], RATE, "WAV", "PCM_16")
    (tmp_path / "talk.wav").write_bytes(content)
    (tmp_path / "talk.csv").write_text("sound\ntalk.wav\n")
    whole = run("predict", model, tmp_path / "talk.wav", "--times", "--json").stdout
    piped = run("predict", model, "-", "--stream", content=content)
    lines = piped.stdout.splitlines()
    assert len(lines) > 5
    from_raw = run("predict", model, "-", "--stream", "--raw", RATE, content=pcm(TALK)).stdout.splitlines()
    assert len(from_raw) == len(lines)
    for data in ("talk.wav", "talk.csv"):
        assert "".join(run("predict", model, tmp_path / data, "--stream").stdout.split()) == "".join(
            "".join(lines).split()
        )
    # Times are those of the whole recording.
    timed = run("predict", model, "-", "--stream", "--times", "--out", tmp_path / "talk.vtt", content=content)
    assert f"wrote {tmp_path / 'talk.vtt'}" in timed.stderr
    phrases = json.loads(whole)["phrases"]
    assert timed.stdout.split() == " ".join(phrase["text"] for phrase in phrases).split()
    assert (tmp_path / "talk.vtt").read_text().count("-->") == len(phrases)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "for recordings that are read while they are made: add --stream"),
        (["-", "--stream", "--json"], "leave --out, --json and --draw out"),
        (["-", "--stream", "--out", "a.parquet"], "writes what is said to .txt, .srt or .vtt, not a.parquet"),
        (["-", "--stream", "--raw", "0"], "--raw is a rate in Hz"),
        (["talk.csv", "--raw", "16000", "--stream"], "add --stream"),
    ],
)
def test_wrong_uses_are_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talk.csv").write_text("sound\n")
    result = run("predict", model, *arguments, content=b"RIFF")
    assert isinstance(result.exception, UsageError) and message in result.exception.args[0]


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_ctrl_c_ends_a_growing_file_with_what_was_heard(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.wav", tmp_path / "a.txt"
    content = by_soundfile(TALK[: 9 * RATE, None], RATE, "WAV", "PCM_16")
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + struct.pack("<I", 0xFFFFFFFF) + content[place + 4 :])
    command = [sys.executable, "-m", "mapsto", "predict", str(model), str(path), "--stream", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out.exists() and len(out.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, notes = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped by Ctrl-C; what was heard until then is transcribed" in notes
    assert printed == out.read_text() and len(printed.splitlines()) >= 4
