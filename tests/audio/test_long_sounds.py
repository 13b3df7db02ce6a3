"""Long recordings are read in blocks and windows: the same samples as all at once, each once, and no more than are needed."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recordings

from mapsto.audio import sound_io
from mapsto.audio.decoding import limits
from mapsto.audio.decoding.containers import extent
from mapsto.audio.decoding.containers.extent import FileContent, find_matches
from mapsto.audio.decoding.containers.ogg import FLAC_HEADER, FLAC_HEADER_BYTES
from mapsto.audio.frame_embedding import HEADER
from mapsto.audio.log_mel import FLOOR, HOP, OFFSET, RATE
from mapsto.audio.sound_value import read_sound
from mapsto.audio.windows import split_windows
from mapsto.errors import DataError
from mapsto.kinds.sound import SoundSource
from mapsto.media.cells import Unreadable

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")


def mixed(first: float, second: float) -> bytes:
    """Return a recording of two channels, the tone times two factors, as FLAC."""
    channels = recordings.tone(seconds=0.5) * np.array([first, second], np.float32)
    return recordings.by_soundfile(channels, recordings.RATE, "FLAC", "PCM_16")


CONTENTS = {
    **{name: recordings.make(name) for name in ("wav-16", "mp3", "opus", "m4a")},
    "a silent channel": mixed(1, 0),
    "channels that cancel": mixed(0.5, -0.5),
    "three channels": recordings.by_soundfile(recordings.tone(channels=3), recordings.RATE, "WAV", "PCM_16"),
    "joined": recordings.make("flac") + recordings.make("flac", seconds=0.3),
    "joined at two rates": recordings.make("mp3") + recordings.make("mp3", seconds=0.5, rate=44_100, channels=2),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_a_recording_in_blocks_has_the_same_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, facts = sound_io.check_sound(None, CONTENTS[name])
    assert whole is not None and not facts.parts
    monkeypatch.setattr(limits, "MAX_HELD", 4000)
    samples, info = sound_io.check_sound(None, CONTENTS[name])
    assert samples is None and info.parts
    assert (info.rate, info.channels, info.decoder, info.remarks) == (
        facts.rate, facts.channels, facts.decoder, facts.remarks,
    )  # fmt: skip
    assert info.seconds == pytest.approx(facts.seconds, abs=1e-3)
    assert np.array_equal(np.concatenate(list(sound_io.read_blocks(None, CONTENTS[name], info))), whole)


def test_a_long_recording_is_resampled_as_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    content = recordings.make("wav-16", rate=44_100, seconds=2)
    whole, _ = sound_io.check_sound(None, content)
    monkeypatch.setattr(limits, "MAX_HELD", 4000)
    sound, resampled = read_sound(content), sound_io.resample(whole, 44_100, RATE)
    assert np.array_equal(sound.decode(RATE), resampled) and np.array_equal(sound.decode(RATE, 0.1), resampled[:1600])
    # Of a few samples one is left.
    few = [np.ones(1, np.float32)]
    assert np.concatenate(list(sound_io.resample_blocks(few, 44_100, RATE))).tolist() == [1.0]


def test_a_recording_that_changes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HELD", 4000)
    for name in ("wav-16", "mp3"):
        path = tmp_path / name
        path.write_bytes(recordings.make(name))
        sound = read_sound(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataError, match="changed while it was read"):
            sound.decode(RATE)
        path.unlink()
        with pytest.raises(DataError, match="changed while it was read"):
            sound.decode(RATE)


def test_a_decoder_that_hangs_between_blocks_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import itertools, time; from mapsto.media import decoder_worker\n"
        "def blocks():\n yield memoryview(b'1234'); time.sleep(60); yield memoryview(b'5')\n"
        "decoder_worker.serve(lambda stream, request: ({}, blocks()), 'sound')"
    )
    process = sound_io.DecoderProcess(program, "sound", "")
    process.limit = 3.0
    blocks = process.read_blocks(None, b"", {})
    assert next(blocks) == b"1234"
    with pytest.raises(Unreadable, match="decoding the sound took more than 3 s and was stopped"):
        next(blocks)


def test_the_bytes_of_a_file_are_found_as_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extent, "READ_BYTES", 64)
    rng = np.random.default_rng(0)
    content = bytearray(rng.integers(0, 3, 1000, np.uint8).tobytes())
    for place in (0, 60, 130, 990):
        content[place : place + 8] = b"fLaC\0\0\0\x22"
    file = FileContent(io.BytesIO(content))
    assert len(file) == 1000 and file[999] == content[999] and file[5:5] == b"" and file[990:2000] == content[990:]
    for start, stop in itertools.product((0, 1, 61, 500, 995), (None, 0, 70, 1000, 5000)):
        assert file[start:stop] == content[start:stop]
        for part in (b"\1", b"\1\2\1", b"fLaC", b"none"):
            assert file.find(part, start, stop) == content.find(part, start, 1000 if stop is None else stop)
    assert list(find_matches(file, FLAC_HEADER, FLAC_HEADER_BYTES, 1)) == [60, 130, 990]


# Windows

TOKEN = 2 * HOP


def speech(seconds: float) -> np.ndarray:
    """Return noise at 16 kHz with a pause in each second and a half."""
    rng, times = np.random.default_rng(0), np.arange(round(seconds * RATE)) / RATE
    return (0.1 * rng.standard_normal(len(times)) * (times % 1.5 < 1.2)).astype(np.float32)


def loudness(samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples, (0, -len(samples) % TOKEN)).reshape(-1, TOKEN)
    return np.log10(np.maximum(1e-8, np.abs(padded).max(1))).astype(np.float32)


def test_windows_have_each_sample_once_and_end_in_pauses() -> None:
    samples = speech(20.1)
    windows = list(split_windows([samples], TOKEN, 200, loudness))
    assert np.array_equal(np.concatenate([window.samples for window in windows]), samples)
    assert [window.begin * TOKEN for window in windows] == np.cumsum(
        [0] + [len(w.samples) for w in windows[:-1]]
    ).tolist()
    assert [window.is_last for window in windows] == [False] * (len(windows) - 1) + [True]
    assert all(100 * TOKEN <= len(window.samples) <= 200 * TOKEN for window in windows[:-1])
    assert all((len(window.samples) + window.begin * TOKEN) / RATE % 1.5 > 1.2 for window in windows[:-1])
    # They do not depend on the blocks.
    for size in (999, 7777, 50_000):
        blocks = [samples[start : start + size] for start in range(0, len(samples), size)]
        assert all(
            np.array_equal(one.samples, other.samples) and one.loudest == other.loudest
            for one, other in zip(windows, split_windows(blocks, TOKEN, 200, loudness), strict=True)
        )


def test_a_window_is_there_as_soon_as_its_samples_are() -> None:
    read = []

    def blocks() -> Iterator[np.ndarray]:
        samples = speech(30)
        for start in range(0, len(samples), RATE):
            read.append(start)
            yield samples[start : start + RATE]

    windows = split_windows(blocks(), TOKEN, 200, loudness)
    next(windows)
    assert len(read) <= 6, "a window of four seconds needs no more"
    assert len(list(windows)) > 5 and len(read) == 30


@pytest.mark.parametrize("window", [None, 200])
def test_windows_of_a_long_sound_are_those_of_its_frames(window: int | None) -> None:
    """The windows of a recording that is not held differ from those of its whole piece at their edges alone."""
    source = SoundSource(2, [0.0] * 80, [1.0] * 80, window, silence=20)
    value = read_sound((speech(14.99), RATE))
    (whole,) = source.encode([value], 0, aligned=True)
    streamed, cut = list(source.read_windows(value, 200, aligned=True)), source.windows(whole, 200)
    assert len(streamed) == len(cut) > 3
    for one, other in zip(streamed, cut, strict=True):
        assert one.tokens.shape == other.tokens.shape or one is streamed[-1]
        inner = slice(4, 100)
        # The floor of a window is set by the sound up to its end, that of the whole by all of it.
        floor = whole.tokens.max() - FLOOR / OFFSET
        frames = [np.maximum(piece.tokens[inner, HEADER:], floor) for piece in (one, other)]
        assert np.abs(frames[0] - frames[1]).max() < 1e-5
        assert np.array_equal(one.positions[inner], other.positions[inner])
        assert (
            one.units is not None and other.units is not None and np.array_equal(one.units[inner], other.units[inner])
        )
        assert one.alignment is not None and other.alignment is not None
        assert np.allclose(one.alignment.regions[inner], other.alignment.regions[inner])
    assert source.is_longer(value, 200) and not source.is_longer(value, 750)
