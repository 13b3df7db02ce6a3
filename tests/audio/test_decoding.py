"""Sound files of every format are decoded to the samples that were written, at their own rate and in one channel."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import recordings

from mapsto.audio import sound_io
from mapsto.audio.decoding.limits import MAX_CHANNELS, MAX_RATE, MIN_RATE
from mapsto.media.cells import Unreadable

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")

FORMATS = [*recordings.SOUNDFILE, *recordings.PYAV]
# Formats whose encoder adds more than a frame of silence or padding.
PADDED = {"m4a", "mp4", "aac", "avi", "amr", "wma", "wav-adpcm"}


def decode(content: bytes) -> tuple[sound_io.Samples, sound_io.SoundInfo]:
    return sound_io.decode_sound(None, content)


@pytest.mark.parametrize("name", FORMATS)
def test_a_tone_is_decoded(name: str) -> None:
    samples, info = decode(recordings.make(name))
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5
    assert info.seconds == len(samples) / info.rate and info.channels == 1 and not info.remarks
    assert info.seconds == pytest.approx(1, abs=0.1 if name in PADDED else 1e-9)
    plain = name in recordings.SOUNDFILE and name not in ("caf", "w64")
    assert info.decoder.startswith("libsndfile 1." if plain else "libavcodec "), (
        "one decoder a format, with its version"
    )
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.16 if name in PADDED else 0.01)


@pytest.mark.parametrize("name", FORMATS)
def test_files_and_bytes_give_the_same(name: str, tmp_path: Path) -> None:
    content = recordings.make(name, seconds=0.3)
    path = tmp_path / "a.wav"  # what a file is, its content says
    path.write_bytes(content)
    samples, info = decode(content)
    from_file, file_info = sound_io.decode_sound(str(path), None)
    assert (samples == from_file).all() and info == file_info


@pytest.mark.parametrize("name", ["wav-16", "wav-float", "aiff", "flac", "vorbis"])
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_when_resampled(name: str, rate: int) -> None:
    samples, info = decode(recordings.make(name, rate=rate, channels=2))
    assert info.rate == rate and info.channels == 2
    for new_rate in (16_000, 24_000):
        resampled = sound_io.resample(samples, rate, new_rate)
        assert len(resampled) == pytest.approx(new_rate, abs=2) and resampled.dtype == np.float32
        assert abs(recordings.pitch_of(resampled, new_rate) - recordings.PITCH) < 5
        assert np.abs(resampled[1000:-1000]).max() == pytest.approx(0.5, abs=0.05)
    assert sound_io.resample(samples, rate, rate) is samples


@pytest.mark.parametrize("seconds", [0.05, 1.0, 5.3])
def test_lossy_sound_is_decoded_in_sequence(seconds: float) -> None:
    """MP3 needs the bits of the frames before, so a decoder must not jump between the blocks that are read."""
    import soundfile

    for name in ("mp3", "vorbis", "opus", "flac"):
        content = recordings.make(name, seconds=seconds)
        at_once, _ = soundfile.read(io.BytesIO(content), dtype="float32")
        assert np.abs(decode(content)[0] - at_once).max() < 1e-5, name


def test_encoded_samples_are_decoded_again() -> None:
    samples = np.array([0, 0.5, -0.5, 1, -1, 3, -3, 1 / 32768], np.float32)
    decoded, info = decode(sound_io.encode_wav(samples, 8000))
    assert decoded.tolist() == [0, 0.5, -0.5, 32767 / 32768, -1, 32767 / 32768, -1, 1 / 32768] and info.rate == 8000


def test_the_sound_of_a_video_is_read() -> None:
    for container in ("mp4", "matroska", "avi"):
        samples, info = decode(recordings.by_pyav(recordings.tone(), recordings.RATE, container, "mp3", video=True))
        assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5, container
    with pytest.raises(Unreadable, match="the video has no sound"):
        decode(recordings.by_pyav(recordings.tone(), recordings.RATE, "mp4", "aac", video=True, sound=False))


def test_tags_around_frames_of_mp3_are_skipped() -> None:
    content = recordings.make("mp3")
    samples, _ = decode(content)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 0]) + b"\xff\xfb\x90\x00" * 64
    ending = b"TAG" + bytes(125)
    for other in (tag + content, content + ending, tag + content + ending, bytes(300) + content, content + bytes(999)):
        assert (decode(other)[0] == samples).all()


def test_free_rates_of_aiff_and_wav_are_exact() -> None:
    for name in ("wav-16", "aiff", "au", "nist"):
        assert decode(recordings.make(name, rate=12_345, seconds=0.1))[1].rate == 12_345


@pytest.mark.parametrize("rate", [0, 999, MAX_RATE + 1, 3_000_000_000])
def test_rates_that_none_has_are_refused(rate: int) -> None:
    with pytest.raises(Unreadable, match=f"{MIN_RATE:,} to {MAX_RATE:,} Hz are read"):
        decode(recordings.wav(np.zeros((100, 1)), rate=rate))


def test_channels_are_limited() -> None:
    for count in (0, MAX_CHANNELS + 1, 2000):
        with pytest.raises(Unreadable, match=f"{count:,} channels, and 1 to {MAX_CHANNELS} are read"):
            decode(recordings.wav(np.zeros((100, 1)), channels=count))
    loud = np.tile(np.arange(100)[:, None], (1, MAX_CHANNELS))
    assert decode(recordings.wav(loud))[1].channels == MAX_CHANNELS


def test_lengths_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    from mapsto.audio.decoding import limits

    content = recordings.wav(np.zeros((2 * recordings.RATE, 1)))
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_SECONDS", 1)
        with pytest.raises(Unreadable, match="longer than the 0 hours"):
            decode(content)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_SAMPLES", 20_000)
        with pytest.raises(Unreadable, match="more than the 20,000 samples"):
            decode(content)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_BYTES", 1000)
        with pytest.raises(Unreadable, match="more than the 1,000"):
            decode(content)


def test_samples_are_finite_numbers_in_scale() -> None:
    for value, message in ((np.nan, "no finite"), (np.inf, "no finite"), (-np.inf, "no finite"), (3e4, "full scale")):
        samples = recordings.tone()
        samples[500] = value
        for encoding in ("FLOAT", "DOUBLE"):
            with pytest.raises(Unreadable, match=message):
                decode(recordings.by_soundfile(samples, recordings.RATE, "WAV", encoding))


def test_samples_of_a_header_alone_are_none() -> None:
    for name in ("wav-16", "aiff", "au", "flac", "mp3", "vorbis"):
        with pytest.raises(Unreadable):
            decode(recordings.make(name, seconds=0))
    with pytest.raises(Unreadable, match="it holds no samples"):
        decode(recordings.wav(np.zeros((0, 1))))


def test_floats_in_chunks_of_any_order_are_read() -> None:
    """Chunks of text and of peaks may stand before and behind the samples."""
    content = recordings.wav(np.arange(400)[:, None])
    chunk = struct.pack("<4sI", b"LIST", 5) + b"INFO?\0"
    samples, _ = decode(content)
    for changed in (content[:36] + chunk + content[36:], content + chunk, content[:12] + chunk + content[12:]):
        assert (decode(changed)[0] == samples).all()


def test_very_short_sounds_have_samples_at_every_rate() -> None:
    for count in (1, 2, 3):
        for rate in (1000, 8000, 48_000, 384_000):
            sound = sound_io.encode_wav(np.full(count, 0.5, np.float32), rate)
            samples, info = decode(sound)
            assert len(samples) == count and info.seconds == count / rate
            assert len(sound_io.resample(samples, rate, 16_000)) >= 1


def test_sounds_may_be_changed_in_place() -> None:
    """As torch.from_numpy expects it of an array."""
    for name in ("wav-16", "flac", "m4a"):
        samples, _ = decode(recordings.make(name, seconds=0.2))
        assert samples.flags.writeable and samples.flags.c_contiguous


def test_tags_in_another_encoding_do_no_harm() -> None:
    content = recordings.make("m4a")
    path = io.BytesIO()
    import av

    with av.open(io.BytesIO(content)) as source, av.open(path, "w", format="ipod") as copy:
        copy.metadata["title"] = "Grüße"
        track = copy.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = track
                copy.mux(packet)
    tagged = path.getvalue()
    assert "Grüße".encode() in tagged
    latin = tagged.replace("ü".encode(), b"\xfc\xfc")
    assert (decode(latin)[0] == decode(content)[0]).all()


def test_a_model_names_the_packages_that_decoded_its_files() -> None:
    from importlib.metadata import version

    from mapsto.pretrained.model_folder import versions

    assert {name: versions(["sound", "text"])[name] for name in ("soundfile", "soxr")} == {
        name: version(name) for name in ("soundfile", "soxr")
    }
    assert "soundfile" not in versions(["text"])
