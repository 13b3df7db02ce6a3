"""Cells that hold sounds: files, bytes, dicts of Hugging Face, and samples with their rate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

import mapsto
from mapsto.audio import sound_io, sound_value
from mapsto.audio.sound_value import Sound, fits_sounds, read_sound, sample_sounds
from mapsto.errors import BadCell
from mapsto.media.decoded_cache import DecodedCache

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("soxr", reason="the extra [sound] is not here: no soxr")

TONE = recordings.tone(seconds=0.2)


def test_samples_are_four_different_sounds() -> None:
    sounds = [read_sound(cell) for cell in sample_sounds()]
    assert len({sound.digest for sound in sounds}) == 4
    assert all(0.1 <= sound.info.seconds <= 0.4 and 8000 <= sound.info.rate <= 16_000 for sound in sounds)
    assert not any(sound.remarks for sound in sounds) and fits_sounds(sample_sounds())


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a.wav", "b.MP3", None], True),
        (["a.wav", "b.txt"], False),
        (["a.mp4"], False),
        ([b"RIFF", {"bytes": b"x", "path": None}], True),
        ([{"array": [0.1, 0.2], "sampling_rate": 8000}, None], True),
        ([{"array": [0.1], "sampling_rate": 8000}, {"array": [0.1], "sampling_rate": 0}], True),
        ([(TONE, 16_000), (16_000, TONE)], True),
        ([(TONE, 16_000), "a.flac"], True),
        ([TONE], False),
        ([[0.1, 0.2]], False),
        ([[1, 2], [3, 4]], False),
        ([("a", "b")], False),
        ([(["a", "b"], 3)], False),
        ([1.0], False),
        ([None, None], False),
        ([], False),
    ],
)
def test_columns_of_sounds_are_recognised(cells: list[Any], expected: bool) -> None:
    assert fits_sounds(cells) == expected


@pytest.mark.parametrize(
    "cell",
    [
        {"array": TONE[:, 0], "sampling_rate": 16_000, "path": "gone.wav"},
        {"array": TONE[:, 0].tolist(), "sampling_rate": 16_000},
        (TONE[:, 0], 16_000),
        (16_000, TONE[:, 0]),
        [TONE[:, 0].tolist(), 16_000.0],
        (16_000, TONE),
        (TONE.T, np.int64(16_000)),
        (16_000, np.rint(TONE * 32768).astype(np.int16)),
        (16_000, np.rint(TONE * 2.0**31).astype(np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32)),
        (TONE[:, 0].astype(np.float64), 16_000),
        (TONE[:, 0].astype(np.float16), 16_000),
        (16_000, np.concatenate([TONE, TONE], 1)),
        (np.rint(TONE * 128 + 128).astype(np.uint8), 16_000),
    ],
    ids=range(13),
)
def test_samples_with_their_rate_are_read(cell: Any) -> None:
    sound = read_sound(cell)
    assert sound.info.rate == 16_000 and sound.info.seconds == 0.2
    assert np.abs(sound.decode(16_000) - TONE[:, 0]).max() < 6e-3
    assert len(sound.decode(8_000)) == 1600 and str(sound) == "a sound of 0.20 s at 16,000 Hz"
    assert read_sound(cell).digest == sound.digest and read_sound(sound) is sound


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (TONE, "samples need their rate: give the pair"),
        (TONE[:, 0].tolist(), "samples need their rate"),
        ({"array": TONE}, "whole number of Hz, not None"),
        ((TONE, 16_000.5), "whole number of Hz"),
        ((TONE, float("nan")), "whole number of Hz"),
        ((TONE, float("inf")), "whole number of Hz"),
        ((TONE, True), "whole number of Hz"),
        ((TONE, "16000"), "samples need their rate"),
        ((TONE, 0), "1,000 to 384,000 Hz are read"),
        ((np.zeros(0), 8000), "no samples"),
        ((np.zeros((2, 2, 2)), 8000), "samples are"),
        ((np.zeros(9, complex), 8000), "samples are"),
        ((np.array(["a", "b"]), 8000), "samples are"),
        ((np.zeros((3000, 2000)), 8000), "2,000 channels"),
        ((np.array([np.nan, 0.0]), 8000), "no finite"),
        ((np.array([9000.0, 0.0]), 8000), "full scale"),
        (([[1, 2], [3]], 8000), "samples are"),
    ],
)
def test_samples_that_are_no_sound_are_refused(cell: Any, message: str) -> None:
    with pytest.raises(BadCell, match=message):
        read_sound(cell)


def test_a_file_is_decoded_once_and_its_samples_are_handed_out_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache, decoded = DecodedCache(4 * 3200 * 3), []
    monkeypatch.setattr(sound_value, "SAMPLE_CACHE", cache)
    decode = sound_io.check_sound
    monkeypatch.setattr(sound_io, "check_sound", lambda *cell: decoded.append(cell) or decode(*cell))
    contents = [sound_io.encode_wav(level * TONE[:, 0], 16_000) for level in (0.1, 0.2, 0.3, 0.4)]
    sounds = [read_sound({"bytes": content, "path": None}) for content in contents]
    assert len(decoded) == 4 and len(cache.entries) == 3, "the first made room for the fourth"
    for level, sound in zip((0.1, 0.2, 0.3, 0.4), sounds, strict=True):
        assert np.abs(sound.decode(16_000) - level * TONE[:, 0]).max() < 1e-4
    assert len(decoded) == 5 and not cache.entries
    # A recording beyond the capacity drives nothing out.
    read_sound(contents[0])
    read_sound(sound_io.encode_wav(np.tile(TONE[:, 0], 9), 16_000))
    assert len(cache.entries) == 1


def test_a_file_that_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_value, "SAMPLE_CACHE", DecodedCache(0))
    path = tmp_path / "a.wav"
    path.write_bytes(sound_io.encode_wav(TONE[:, 0], 16_000))
    sound = read_sound(str(path))
    assert str(sound) == str(path) and sound == read_sound(path.read_bytes())
    assert len(sound.decode(16_000)) == len(TONE)
    path.write_bytes(b"RIFF")
    with pytest.raises(mapsto.MapstoError, match="changed while it was read"):
        sound.decode(16_000)
    path.unlink()
    with pytest.raises(mapsto.MapstoError, match="changed while it was read"):
        sound.decode(16_000)


def test_a_missing_resampler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    sound = Sound.from_samples(TONE, 16_000)
    assert len(sound.decode(16_000)) == len(TONE)
    with pytest.raises(mapsto.MapstoError, match=r"pip install .*\[sound\]"):
        sound.decode(8_000)
