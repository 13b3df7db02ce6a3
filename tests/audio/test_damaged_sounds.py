"""Damaged, foreign and hostile sound files are unreadable by name, with both lengths where two are known."""

import gzip
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

from mapsto.audio import sound_io
from mapsto.audio.sound_value import read_sound
from mapsto.errors import BadCell, UsageError
from mapsto.media import decoder_process
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_process import DecoderProcess

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")

FORMATS = [*recordings.SOUNDFILE, *recordings.PYAV]

# Formats that do not state how long a recording is, and formats whose index stands behind the samples.
SILENT_ON_LENGTH, INDEXED = {"aac", "amr", "vorbis", "opus", "ogg-flac"}, {"m4a", "mp4", "alac"}


def decode(content: bytes) -> tuple[sound_io.Samples, sound_io.SoundInfo]:
    return sound_io.decode_sound(None, content)


# Declared and decoded lengths


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(name: str, share: float) -> None:
    content = recordings.make(name, seconds=3)
    with pytest.raises(Unreadable, match="cut off|damaged") as error:
        decode(content[: int(share * len(content))])
    message = str(error.value)
    if name in SILENT_ON_LENGTH:
        assert re.search(r"[\d.]+ s (are there|could be decoded)|less than a page of sound is there", message), message
    elif name in INDEXED:
        assert re.search(r"[\d,]+ of [\d,]+ bytes .* its table of contents is missing", message), message
    else:
        present, declared = map(float, re.search(r"([\d.]+) of ([\d.]+) s", message).groups())  # type: ignore[union-attr]
        # FFmpeg corrects the length of an AVI file by the bytes that are there.
        assert (
            declared == pytest.approx(3, abs=1.3 if name == "avi" else 0.4)
            and 0.3 * share < present / declared < share + 0.15
        ), message


@pytest.mark.parametrize("name", sorted({*FORMATS} - recordings.READ_JOINED))
def test_joined_files_are_named_with_both_lengths(name: str) -> None:
    content = recordings.make(name)
    with pytest.raises(Unreadable, match="joined|declares less than") as error:
        decode(content + content)
    first, all_ = map(float, re.search(r"([\d.]+) of ([\d.]+) s", str(error.value)).groups())  # type: ignore[union-attr]
    assert first == pytest.approx(1, abs=0.1) and all_ == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_that_a_pipe_left_open_is_the_rest_of_the_file(size: int) -> None:
    """As ffmpeg, sox, arecord and GStreamer write into a pipe."""
    values = np.arange(5000)[:, None]
    for fields in ({"data": size}, {"data": size, "size": size}, {"size": size}):
        samples, info = decode(recordings.wav(values, **fields))
        assert (np.rint(samples * 32768) == values[:, 0]).all() and info.seconds == 5000 / recordings.RATE


def test_silence_from_a_pipe_is_silence() -> None:
    _, info = decode(recordings.wav(np.zeros((500, 1)), data=0))
    assert info.seconds == 500 / recordings.RATE and info.remarks == ("it is silent",)
    # Chunks behind a length of 0 are no samples.
    with pytest.raises(Unreadable, match="it holds no samples"):
        decode(recordings.wav(np.zeros((0, 1))) + struct.pack("<4sI", b"LIST", 4) + b"INFO")


def test_other_open_lengths_are_the_rest_of_the_file() -> None:
    sound = recordings.make("au")
    for size in (0, 0xFFFFFFFF):
        opened = sound[:8] + struct.pack(">I", size) + sound[12:]
        assert (decode(opened)[0] == decode(sound)[0]).all()
    sound = recordings.make("aiff")
    place = sound.index(b"COMM") + 10
    opened = sound[:place] + bytes(4) + sound[place + 4 :]
    assert (decode(opened)[0] == decode(sound)[0]).all()
    # FLAC from a pipe states no number of samples.
    sound = bytearray(recordings.make("flac"))
    sound[21] &= 0xF0
    sound[22:26] = bytes(4)
    assert decode(bytes(sound))[1].seconds == 1


def test_a_wrong_length_is_a_finding_with_both() -> None:
    values = np.zeros((recordings.RATE, 1))
    with pytest.raises(Unreadable, match=r"cut off: 1\.00 of 2\.00 s"):
        decode(recordings.wav(values, data=4 * recordings.RATE))
    with pytest.raises(Unreadable, match=r"less than the file holds: 0\.50 of 1\.00 s"):
        decode(recordings.wav(values + 3, data=recordings.RATE))
    # A few bytes are the sort of error that writers make.
    assert decode(recordings.wav(values, data=2 * recordings.RATE + 36))[1].seconds == 1
    sound = bytearray(recordings.make("nist"))
    place = sound.index(b"sample_count -i 16000")
    sound[place + 16 : place + 21] = b"32000"
    with pytest.raises(Unreadable, match=r"cut off: 1\.00 of 2\.00 s"):
        decode(bytes(sound))


def test_frames_of_mp3_are_counted() -> None:
    sound = recordings.make("mp3", seconds=4)
    with pytest.raises(Unreadable, match=r"cut off: \d\.\d+ of 4\.\d+ s"):
        decode(sound[: len(sound) * 2 // 3])
    # Without the frame that states their number, what is there is all there is.
    place = sound.index(b"Xing") if b"Xing" in sound else sound.index(b"Info")
    blank = sound[:place] + bytes(4) + sound[place + 4 :]
    assert decode(blank)[1].seconds == pytest.approx(4, abs=0.2)
    _, info = decode(blank[:-20])
    assert info.remarks == ("its last frame is incomplete, so it may be cut off",)


def test_missing_pages_of_ogg_are_named() -> None:
    sound = recordings.by_pyav(recordings.tone(48_000, 5), 48_000, "ogg", "libopus")
    pages = sound.split(b"OggS")[1:]
    assert len(pages) > 4

    def joined(parts: Any) -> bytes:
        return b"".join(b"OggS" + page for page in parts)

    with pytest.raises(Unreadable, match="page 3 is missing"):
        decode(joined([*pages[:3], *pages[4:]]))
    samples, info = decode(joined(pages[:-1]))
    assert info.remarks == ("its last page is not marked as the last, so it may be cut off",)
    assert 3 < len(samples) / 48_000 < 5


# What is no sound


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        (b'\xef\xbb\xbf\n<html lang="de">', "an HTML page"),
        (b'<?xml version="1.0"?><Error/>', "XML, HTML or JSON"),
        (b'{"error": "no such file"}', "XML, HTML or JSON"),
        (b"a list of words\nand no sound\n", "no sound but text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0", "a PNG picture"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (gzip.compress(b"words", mtime=0), "a gzip archive"),
        (b"MThd\0\0\0\x06\0\x01", "MIDI"),
        (b"#EXTM3U\n#EXTINF:1,\na.wav\n", "a playlist"),
        (b"ffconcat version 1.0\nfile a.wav\n", "no sound but text"),
        (b"\0" * 5000, "no sound of a known format"),
        (np.random.default_rng(0).bytes(20_000), "no sound of a known format"),
        (b"RIFF\0\0\0\0WAVE", "no header that describes"),
        (b"RIFF\x10\0\0\0AVI LIST", "no sound|no sound of a known format|cut off"),
        (b"OggS", "cut off"),
        (b"fLaC", "cut off"),
        (b"", "blank"),
    ],
)
def test_what_is_no_sound_is_named(content: bytes, message: str) -> None:
    with pytest.raises(BadCell, match=message):
        read_sound(content)


def test_samples_without_a_header_are_no_sound() -> None:
    pcm = (recordings.tone() * 32767).astype("<i2").tobytes()
    with pytest.raises(BadCell, match="no sound of a known format"):
        read_sound(pcm)


def test_a_codec_that_is_not_known_is_one_bad_cell() -> None:
    for name, old, new in (
        ("alac", b"alac", b"zzzz"),
        ("mka", b"A_PCM/INT/LIT", b"A_ZZZ/INT/LIT"),
        ("avi", b"\x55\0\x01\0", b"\x99\x99\x01\0"),
    ):
        content = recordings.make(name)
        assert old in content
        with pytest.raises(BadCell):
            read_sound(content.replace(old, new))
    with pytest.raises(BadCell):
        read_sound(recordings.wav(np.zeros((100, 1)), tag=0x9999))


def test_pipes_devices_folders_and_addresses_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    for cell, message in (
        (str(tmp_path / "pipe.wav"), "this is no file"),
        (str(tmp_path / "zero.wav"), "this is no file"),
        (str(tmp_path), "this is no file"),
        (str(tmp_path / "empty.wav"), "the file is empty"),
        (str(tmp_path / "loop.wav"), "symbolic links|cannot be read"),
        (str(tmp_path / "none.wav"), "No such file"),
        ("https://example.org/a.wav", "nothing is fetched"),
        ("a\0.wav", "NUL"),
        ({"bytes": None, "path": None}, "blank"),
        (3, "not int"),
    ):
        with pytest.raises(BadCell, match=message):
            read_sound(cell)


# A decoder that dies


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    """A decoding process of the test's own."""
    child = DecoderProcess(sound_io.DECODER.program, "sound", sound_io.INSTALL_SOUND, "soundfile")
    monkeypatch.setattr(sound_io, "DECODER", child)
    monkeypatch.setattr(sound_io, "SECONDS_A_MEBIBYTE", 0.0)
    yield child
    child.close()


@pytest.mark.parametrize("end", ["killed", "hangs"])
def test_a_decoder_that_dies_costs_one_sound(end: str, fresh: DecoderProcess) -> None:
    content = recordings.make("flac")
    assert read_sound(content).info.seconds == 1 and fresh.process is not None
    first = fresh.process.pid
    os.kill(first, signal.SIGSTOP)
    if end == "killed":
        threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
    else:
        fresh.limit = 0.2
    begun = time.monotonic()
    with pytest.raises(BadCell, match="SIGKILL" if end == "killed" else "the sound took more than .* was stopped"):
        read_sound(content)
    assert time.monotonic() - begun < 20
    fresh.limit = 60.0
    assert read_sound(content).info.seconds == 1 and fresh.process.pid != first


@pytest.mark.parametrize(
    "answer", ["'x'", "'{\"samples\": 9}'", '\'{"samples": 99999999999, "rate": 8000, "channels": 1}\'', "'{}'"]
)
def test_an_answer_that_is_none_is_not_believed(answer: str, fresh: DecoderProcess) -> None:
    fresh.program = f"input(); print({answer})"
    with pytest.raises(Unreadable, match="broke off over this sound"):
        decode(recordings.make("flac"))


def test_without_the_package_it_is_named(fresh: DecoderProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_process, "is_missing", lambda package: True)
    with pytest.raises(UsageError, match=r"pip install .*\[sound\]"):
        decode(recordings.make("flac"))


# Mutations


def fuzz(count: int, seed: int) -> int:
    """Read `count` sounds of all formats with some bytes changed, cut off or moved; return how many are still sounds.

    Most changes are near the start, where headers are. Some files are joined from two, or have the name of another format's.
    """
    rng, num_sounds = np.random.default_rng(seed), 0
    files = [recordings.make(name, seconds=0.3) for name in FORMATS]
    for number in range(count):
        content = files[number % len(files)]
        edited = bytearray(content + files[int(rng.integers(len(files)))] if rng.random() < 0.1 else content)
        if rng.random() < 0.25:
            edited = edited[: int(len(edited) * rng.random())]
        for _ in range(rng.integers(1, 6)):
            place = int(len(edited) * rng.random() ** rng.integers(1, 4))
            # A byte is changed more often than bytes are added or lost, which shifts all that follow.
            width = int(rng.integers(1, 4))
            values = rng.bytes(width) if rng.random() < 0.7 else bytes([int(rng.choice([0, 127, 128, 255]))]) * width
            edited[place : place + (width if rng.random() < 0.7 else int(rng.integers(4)))] = values
        begun = time.monotonic()
        try:
            sound = read_sound(bytes(edited))
            samples = sound.decode(16_000)
        except BadCell as error:
            assert "broke off" not in str(error) and "was stopped" not in str(error), (number, error)
            assert str(error) and len(str(error)) < 600
        else:
            assert samples.ndim == 1 and np.isfinite(samples).all() and 0 < sound.info.seconds < 24 * 3600
            num_sounds += 1
        assert time.monotonic() - begun < 20, number
    return num_sounds


def peak_memory(process: Any) -> int:
    """Return the most bytes of memory that a process has held; 0 where the system does not tell."""
    path = Path(f"/proc/{process.pid}/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return 1024 * int(match[1]) if match else 0


def test_mutated_sounds_raise_nothing_but_bad_cells(fresh: DecoderProcess) -> None:
    assert 0 < fuzz(1000, 23) < 1000
    assert peak_memory(fresh.process) < 2**29


@pytest.mark.slow
def test_50_000_mutated_sounds_raise_nothing_but_bad_cells(fresh: DecoderProcess) -> None:
    assert 0 < fuzz(50_000, 24) < 50_000
    assert peak_memory(fresh.process) < 2**30
