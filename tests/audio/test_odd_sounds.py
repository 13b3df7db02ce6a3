"""Sound files that other programs write in their own way, or that other libraries fail over, are read or named.

The numbers are those of issues of the projects in which a kind of trouble was reported.
"""

import base64
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

from mapsto.audio import sound_io
from mapsto.audio.sound_value import read_sound
from mapsto.errors import BadCell
from mapsto.media.cells import Unreadable
from mapsto.media.decoder_process import DecoderProcess

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
av = pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")

RAMP = np.arange(8000)[:, None] - 4000
RNG = np.random.default_rng(0)
# The header of a frame of MP3 without what follows it, and a whole frame of zeros.
FALSE_SYNC, FALSE_FRAME = b"\xff\xfb\x90\x00" + RNG.bytes(20), b"\xff\xfb\x90\x00" + bytes(413)


def decode(content: bytes) -> tuple[sound_io.Samples, sound_io.SoundInfo]:
    return sound_io.decode_sound(None, content)


def chunk(name: bytes, content: bytes, pad: bool = True) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content + bytes(len(content) % 2 if pad else 0)


def tag(content: bytes, size: int | None = None) -> bytes:
    """Return a tag ID3v2 with its size in four bytes of seven bits."""
    size = len(content) if size is None else size
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + content


# WAV


def wav_with(form: bytes, before: bytes = b"", behind: bytes = b"") -> bytes:
    """Return a WAV file with this content of the chunk `fmt `, and chunks before and behind its samples."""
    body = chunk(b"fmt ", form) + before + chunk(b"data", RAMP.astype("<i2").tobytes()) + behind
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


PLAIN = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
# The rest of the header of an extensible file; wavefile 37: one that is longer than it should be; NAudio 604: 18 bytes.
GUID = b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
EXTENSIBLE = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16_000, 32_000, 2, 16, 40, 16, 4) + GUID + bytes(18)


@pytest.mark.parametrize(
    "content",
    [
        wav_with(PLAIN + b"\0\0"),
        wav_with(EXTENSIBLE),
        wav_with(PLAIN, before=chunk(b"bext", b"abc", pad=False)),
        wav_with(PLAIN, before=chunk(b"LIST", b"INFOIART" + bytes(8)) * 20),
        wav_with(PLAIN, behind=chunk(b"id3 ", b"ID3" + bytes(99))),
        wav_with(PLAIN, behind=b"TAG" + bytes(125)),
        wav_with(PLAIN, behind=tag(bytes(300))),
        wav_with(PLAIN, before=chunk(b"fmt ", PLAIN)),
        wav_with(PLAIN)[:4] + b"\xff\xff\xff\xff" + wav_with(PLAIN)[8:],
        wav_with(PLAIN)[:4] + bytes(4) + wav_with(PLAIN)[8:],
    ],
    ids=range(10),
)
def test_headers_of_wav_are_read_as_they_are(content: bytes) -> None:
    samples, info = decode(content)
    assert (np.rint(samples * 32768) == RAMP[:, 0]).all() and not info.remarks


def test_an_incomplete_last_sample_is_left_out() -> None:
    """Pure Data 1786: its reader never ended over a file with an odd size."""
    stereo = recordings.wav(np.concatenate([RAMP, RAMP], 1), data=4 * 8000 - 3)[:-3]
    samples, _ = decode(stereo)
    assert (np.rint(samples * 32768) == RAMP[:-1, 0]).all()


def test_samples_in_a_second_part_are_not_lost() -> None:
    with pytest.raises(Unreadable, match=r"less than the file holds: 0\.50 of 1\.00 s .* in a second part"):
        decode(wav_with(PLAIN, behind=chunk(b"data", RAMP.astype("<i2").tobytes())))


def test_a_rate_of_1_hz_fills_no_memory() -> None:
    """WavCaps 23: a file of 1 Hz, resampled to 16 kHz, had 200 hours and killed the training."""
    with pytest.raises(Unreadable, match="its rate is 1 Hz"):
        decode(recordings.wav(RAMP, rate=1))


# MP3 and FLAC


@pytest.mark.parametrize(
    "lead",
    [
        tag(FALSE_SYNC * 20_000),  # Symphonia 522: a picture in the tag that looks like frames
        tag(FALSE_FRAME * 50),
        tag(FALSE_SYNC * 10_000, size=1000),  # a size that is too small
        tag(b"", size=10**7),  # and one beyond the file
        b"ID3\x03\0\0" + struct.pack(">I", 70_000) + RNG.bytes(70_000),  # a size of eight bits a byte
        tag(bytes(10)) * 1000 + RNG.bytes(10),  # file-type 750: a thousand empty tags
        RNG.bytes(100_000),  # music-metadata 174: noise before the first frame
        bytes(200_000),
        b"\xff\xfb\x90\x00abc" * 1500,  # mutagen 376: headers without frames
    ],
    ids=range(9),
)
def test_the_first_frame_of_mp3_is_found(lead: bytes) -> None:
    content = recordings.make("mp3")
    assert (decode(lead + content)[0] == decode(content)[0]).all()


def test_tags_behind_flac_and_mp3_are_no_damage() -> None:
    for name in ("flac", "mp3"):
        content = recordings.make(name)
        samples, info = decode(tag(bytes(100)) + content + b"TAG" + bytes(125))
        assert (samples == decode(content)[0]).all() and not info.remarks


def test_flac_that_declares_too_little_is_read_whole() -> None:
    content = bytearray(recordings.make("flac", seconds=3))
    whole, _ = decode(bytes(content))
    content[22:26] = struct.pack(">I", recordings.RATE)
    samples, info = decode(bytes(content))
    assert (samples == whole).all()
    assert info.remarks == ("its header declares 1.00 of 3.00 s that are there; all are read",)
    content[22:26] = struct.pack(">I", 300 * recordings.RATE)
    with pytest.raises(Unreadable, match=r"3\.00 of 300\.00 s that the file holds could be decoded"):
        decode(bytes(content))


@pytest.mark.parametrize("cut", [10, 50, 500])
def test_an_incomplete_last_frame_of_flac_is_named(cut: int) -> None:
    """PyAV 2044: the last frame was dropped without a word."""
    content = recordings.make("flac", seconds=3)
    with pytest.raises(Unreadable, match=r"cut off or damaged: about 2\.\d+ of 3\.00 s could be decoded"):
        decode(content[:-cut])


def test_a_resource_fork_in_the_working_directory_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile opens "._" there for any stream, and then takes MP3 for damaged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "._").touch()
    (tmp_path / "a.mp3").write_bytes(recordings.make("mp3"))
    child = DecoderProcess(sound_io.DECODER.program, "sound", sound_io.INSTALL_SOUND, "soundfile")
    monkeypatch.setattr(sound_io, "DECODER", child)
    try:
        assert read_sound("a.mp3").info.seconds == pytest.approx(1)
    finally:
        child.close()


# Ogg and what FFmpeg reads


def test_ogg_without_an_end_has_its_length() -> None:
    """libsndfile 809 and 989: a length of 6.6 million years; libsndfile 888: none."""
    noise = RNG.normal(0, 0.1, (recordings.RATE * 5, 1)).astype(np.float32)
    for encoding in ("VORBIS", "OPUS"):
        content = recordings.by_soundfile(noise, recordings.RATE, "OGG", encoding)
        samples, info = decode(content[: content.rindex(b"OggS")])
        assert 1 < info.seconds < 5 and len(samples) == round(info.seconds * info.rate)
        assert info.remarks == ("its last page is not marked as the last, so it may be cut off",)


@pytest.mark.parametrize("count", [6, 8])
def test_all_channels_of_a_film_are_mixed(count: int) -> None:
    """PyAV reads a ninth plane behind the eighth and crashes."""
    layout, content = {6: "5.1", 8: "7.1"}[count], io.BytesIO()
    values = np.zeros((count, 16_384), np.float32)
    values[count - 1] = recordings.tone(seconds=1.024)[:, 0]
    with av.open(content, "w", format="mp4") as file:
        track = file.add_stream("aac", rate=16_000, layout=layout)
        for start in range(0, 16_384, 1024):
            frame = av.AudioFrame(format="fltp", layout=layout, samples=1024)
            for plane, channel in zip(frame.planes[:count], values, strict=True):
                plane.update(channel[start : start + 1024].tobytes())
            frame.sample_rate, frame.pts = 16_000, start
            file.mux(track.encode(frame))
        file.mux(track.encode())
    samples, info = decode(content.getvalue())
    assert info.channels == count and info.seconds == pytest.approx(1, abs=0.1)
    assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5
    assert "are silent and left out" in info.remarks[0]


def test_an_encrypted_track_is_named() -> None:
    content = recordings.make("m4a")
    with pytest.raises(Unreadable, match="encrypted"):
        decode(content.replace(b"mp4a", b"drms"))


@pytest.mark.parametrize(("container", "encoding"), [("AIFF", "GSM610"), ("AIFF", "IMA_ADPCM"), ("W64", "MS_ADPCM")])
def test_lengths_that_ffmpeg_computes_wrong_are_not_believed(container: str, encoding: str) -> None:
    content = recordings.by_soundfile(recordings.tone(8000), 8000, container, encoding)
    samples, info = decode(content)
    assert info.seconds == pytest.approx(1, abs=0.03) and abs(recordings.pitch_of(samples, info.rate) - 440) < 5


# What is no sound


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (base64.b64encode(recordings.wav(RAMP)), "base64"),
        (b"data:audio/wav;base64,UklGRiQA", "base64"),
        (recordings.wav(RAMP).decode(errors="replace").encode(), "read as text and written again"),
        ("你好，世界。".encode(), "no sound but text"),
        ("Grüße aus München, das ist kein Ton. ".encode("latin1") * 3, "no sound but text"),
        ("no sound".encode("utf-16"), "UTF-16"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(4000), r"\._name"),
        (b"SQLite format 3\0" + bytes(100), "Audacity"),
        (b"\x93NUMPY\x01\0v\0" + bytes(100), "an array of NumPy"),
        (b"\x80\x04\x95" + bytes(50), "a pickle, which is never opened"),
        (b"\0\0\0\x18ftypheic" + bytes(16), "a HEIC picture"),
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(30), "a WebP picture"),
        (b"a.wav".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0") + recordings.wav(RAMP), "a tar archive"),
        (b"Rar!\x1a\x07" + bytes(99), "a RAR archive"),
        (b"[playlist]\nFile1=a.mp3\n", "a playlist"),
    ],
    ids=range(15),
)
def test_other_files_are_named(content: bytes, name: str) -> None:
    with pytest.raises(BadCell, match=name):
        read_sound(content)


@pytest.mark.parametrize("cell", [np.nan, 3.5, True, {}, {"bytes": b""}, [], (), object(), {"array": None}])
def test_cells_of_other_types_are_bad_cells(cell: Any) -> None:
    with pytest.raises(BadCell):
        read_sound(cell)
