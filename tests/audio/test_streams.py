"""Sounds that are streams: recordings that follow each other in one file, live streams and parts of them are read whole."""

import contextlib
import io
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import recordings

from mapsto.audio import sound_io
from mapsto.media.cells import Unreadable

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
av = pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")


def decode(content: bytes) -> tuple[sound_io.Samples, sound_io.SoundInfo]:
    return sound_io.decode_sound(None, content)


# Recordings that follow each other


@pytest.mark.parametrize("name", sorted(recordings.READ_JOINED - {"aac"}))
def test_joined_recordings_are_read_whole(name: str) -> None:
    first, second = recordings.make(name), recordings.make(name, seconds=2, pitch=700.0)
    samples, info = decode(first + second)
    assert info.seconds == pytest.approx(3) and len(samples) == 3 * info.rate
    assert info.remarks == ("2 recordings are joined in it, of 1.00, 2.00 s; all are read",)
    assert np.abs(samples - np.concatenate([decode(first)[0], decode(second)[0]])).max() < 1e-6


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\0\x0a" + bytes(10), bytes(500)])
@pytest.mark.parametrize("second", [{"rate": 44_100}, {"channels": 2}, {"rate": 8_000, "channels": 2}])
def test_joined_mp3_may_differ_in_rate_and_channels(tag: bytes, second: dict[str, int]) -> None:
    """As reported of faster-whisper (its issue 1451), which fails where the rate changes."""
    files = [recordings.make("mp3", seconds=2), recordings.make("mp3", seconds=1, **second, pitch=700.0)]
    for parts in (files, files[::-1]):
        samples, info = decode(parts[0] + tag + parts[1])
        lengths = "2.00, 1.00" if parts is files else "1.00, 2.00"
        assert info.remarks[0].startswith(f"2 recordings are joined in it, of {lengths} s")
        assert ("resampled to" in info.remarks[0]) == ("rate" in second) and len(info.remarks) == 1
        rate = max(16_000, second.get("rate", 0))
        assert info.rate == rate and info.seconds == pytest.approx(3, abs=0.01)
        edge = round((2 if parts is files else 1) * rate)
        pitches = [recordings.pitch_of(part, rate) for part in (samples[: edge - 500], samples[edge + 500 :])]
        assert pitches == pytest.approx([440, 700] if parts is files else [700, 440], abs=5)


def test_frames_that_no_header_counts_are_read() -> None:
    """A second file without a header is joined to one with a header, or a header was written too early."""
    sound = recordings.make("mp3", seconds=2)
    place = sound.index(b"Xing") if b"Xing" in sound else sound.index(b"Info")
    bare = sound[:place] + bytes(4) + sound[place + 4 :]
    samples, info = decode(sound + bare)
    assert info.seconds == pytest.approx(4, abs=0.2)
    assert re.fullmatch(r"its header declares 2\.\d+ of 4\.\d+ s that are there; all are read", info.remarks[0])
    assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5
    early = sound[: place + 8] + bytes(4) + sound[place + 12 :]
    assert decode(early)[1].seconds == pytest.approx(2, abs=0.2) and not decode(early)[1].remarks
    # Bytes between frames, as RTLSDR-Airband writes them (its issue 410).
    middle = len(bare) // 2
    while bare[middle : middle + 2] != bare[:2]:
        middle += 1
    assert decode(bare[:middle] + b"\xaa" * 26 + bare[middle:])[1].remarks == (
        "26 bytes between its frames are damaged and left out",
    )


# Live streams


def clusters_of(webm: bytes) -> list[int]:
    """Return the offsets of the clusters of a WebM file."""
    return [match.start() for match in re.finditer(rb"\x1fC\xb6u", webm)]


def test_live_streams_are_read_whole() -> None:
    opus = recordings.by_pyav(recordings.tone(48_000, 6), 48_000, "webm", "libopus")
    aac = recordings.make("m4a", seconds=6)
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
    for content in (
        recordings.remux(opus, "webm", live=True),
        recordings.remux(opus, "matroska", live=True),
        recordings.remux(opus, "ogg", live=True),
        recordings.remux(aac, "mpegts", live=True),
        recordings.remux(aac, "mp4", live=True, **fragmented),
    ):
        samples, info = decode(content)
        assert info.seconds == pytest.approx(6, abs=0.15) and not info.remarks
        assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5


def test_parts_of_live_streams_that_begin_in_the_middle_are_read() -> None:
    """Behind the header of a stream follow its later parts, whose times do not begin at zero."""
    opus = recordings.by_pyav(recordings.tone(48_000, 6), 48_000, "webm", "libopus")
    webm = recordings.remux(opus, "webm", live=True, cluster_time_limit="1000")
    clusters = clusters_of(webm)
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
    mp4 = recordings.remux(recordings.make("m4a", seconds=6), "mp4", live=True, **fragmented)
    moofs = [match.start() - 4 for match in re.finditer(b"moof", mp4)]
    ogg = [b"OggS" + page for page in recordings.remux(opus, "ogg").split(b"OggS")[1:]]
    assert len(clusters) > 4 and len(moofs) > 4 and len(ogg) > 6
    for content, seconds, start in (
        (webm[: clusters[0]] + webm[clusters[3] :], 3, 3),
        (mp4[: moofs[0]] + mp4[moofs[3] :], 3, 3),
        (b"".join(ogg[:2] + ogg[5:]), 3, 3),
        (recordings.remux(opus, "webm", start=3600), 6, 3600),
        (recordings.remux(opus, "webm", start=3600, live=True), 6, 3600),
        (recordings.remux(opus, "ogg", start=3600), 6, 3600),
        (recordings.remux(recordings.make("m4a", seconds=6), "mpegts", start=3600), 6, 3600),
    ):
        samples, info = decode(content)
        assert info.seconds == pytest.approx(seconds, abs=0.2)
        (remark,) = info.remarks
        begin = float(re.fullmatch(r"it is a part of a longer stream, from about ([\d.]+) s on", remark)[1])  # type: ignore[index]
        assert begin == pytest.approx(start, abs=1.5)
        assert abs(recordings.pitch_of(samples, info.rate) - recordings.PITCH) < 5


def test_a_part_of_vorbis_is_read() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (44_100 * 20, 1)).astype(np.float32)
    content = recordings.by_soundfile(noise, 44_100, "OGG", "VORBIS")
    pages = [b"OggS" + page for page in content.split(b"OggS")[1:]]
    whole, _ = decode(content)
    samples, info = decode(b"".join(pages[:2] + pages[30:]))
    (remark,) = info.remarks
    assert remark.startswith("it is a part of a longer stream") and 4 < info.seconds < 19
    # The first packet gives no samples, and the second only half of its own.
    assert np.abs(samples[-44_100:] - whole[-44_100:]).max() < 1e-4


def test_parts_without_a_header_are_named() -> None:
    opus = recordings.by_pyav(recordings.tone(48_000, 3), 48_000, "webm", "libopus")
    webm = recordings.remux(opus, "webm", live=True, cluster_time_limit="1000")
    fragmented = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "1000000"}
    mp4 = recordings.remux(recordings.make("m4a", seconds=3), "mp4", live=True, **fragmented)
    ogg = recordings.remux(opus, "ogg")
    for content, name in (
        (webm[clusters_of(webm)[1] :], "WebM"),
        (mp4[mp4.index(b"moof") - 4 :], "MP4"),
        (ogg[ogg.rindex(b"OggS") :], "Ogg"),
    ):
        with pytest.raises(Unreadable, match=f"a part of a live recording in {name} without the header"):
            decode(content)


def test_parts_that_a_stream_lost_are_remarked() -> None:
    opus = recordings.by_pyav(recordings.tone(48_000, 6), 48_000, "webm", "libopus")
    webm = recordings.remux(opus, "webm", live=True, cluster_time_limit="1000")
    clusters = clusters_of(webm)
    _, info = decode(webm[: clusters[2]] + webm[clusters[4] :])
    (remark,) = info.remarks
    assert re.fullmatch(r"by its time stamps 4\.\d+ of 6\.\d+ s are there: parts within it are missing", remark)


@pytest.mark.parametrize("container", ["webm", "matroska", "mpegts"])
def test_a_file_that_grows_while_it_is_read_ends(container: str, tmp_path: Path) -> None:
    """A recorder still writes into it, faster than it is decoded."""
    opus = recordings.by_pyav(recordings.tone(48_000, 2), 48_000, "webm", "libopus")
    content = recordings.remux(
        opus if container != "mpegts" else recordings.make("m4a", seconds=2), container, live=True
    )
    part, path, is_over = content[len(content) // 2 :], tmp_path / "growing.webm", threading.Event()
    path.write_bytes(content)

    def grow() -> None:
        with path.open("ab") as file:
            while not is_over.wait(1e-4) and file.tell() < 2**27:
                file.write(part * 50)
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        # Of the file as it was when it was opened, all is read, or its length is a finding.
        with contextlib.suppress(Unreadable):
            assert sound_io.decode_sound(str(path), None)[1].seconds > 0.5
    finally:
        is_over.set()
        writer.join()


def test_several_tracks_of_sound_are_remarked() -> None:
    content = io.BytesIO()
    with av.open(content, "w", format="matroska") as file:
        for track in [file.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(3)]:
            values = np.rint(recordings.tone()[:, 0] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            file.mux(track.encode(frame))
            file.mux(track.encode())
    assert decode(content.getvalue())[1].remarks == ("it has 3 tracks of sound, of which number 1 is read",)
