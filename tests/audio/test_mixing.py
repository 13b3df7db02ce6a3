"""Channels are mixed to one, and what a user should know about a recording is remarked."""

from typing import Any

import numpy as np
import pytest
import recordings

from mapsto.audio.sound_value import Sound


def mixed(*channels: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the samples and remarks of channels, (n,) each."""
    sound = Sound.from_samples(np.stack(channels, 1).astype(np.float32), 16_000)
    assert sound.samples is not None
    return sound.samples, sound.remarks


TONE = recordings.tone()[:, 0]
OTHER = recordings.tone(pitch=700)[:, 0]
SILENCE = np.zeros_like(TONE)


def test_the_mean_of_the_channels_is_taken() -> None:
    samples, remarks = mixed(TONE, OTHER)
    assert np.abs(samples - (TONE + OTHER) / 2).max() < 1e-6 and not remarks


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_silent_channel_is_left_out(place: int) -> None:
    channels = [TONE, TONE]
    channels.insert(place, SILENCE)
    samples, remarks = mixed(*channels)
    assert np.abs(samples - TONE).max() < 1e-6
    assert remarks == (f"channel {place + 1} of 3 is silent and left out",)
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(len(TONE))
    assert mixed(TONE, hiss)[1] == ("channel 2 of 2 is silent and left out",)


def test_channels_that_cancel_give_the_louder_one() -> None:
    samples, remarks = mixed(TONE, -TONE)
    assert (samples == TONE).all() and remarks == ("its channels cancel out, so channel 1 of 2 is taken",)
    samples, remarks = mixed(-0.98 * TONE, TONE)
    assert (samples == TONE).all() and remarks == ("its channels cancel out, so channel 2 of 2 is taken",)
    # Channels that are only alike in part are mixed.
    assert not mixed(TONE, -0.5 * TONE)[1]


@pytest.mark.parametrize("name", ["wav-16", "flac", "vorbis"])
def test_files_are_mixed_alike(name: str) -> None:
    from mapsto.audio import sound_io

    container, encoding, order = recordings.SOUNDFILE[name]
    tone = recordings.tone(seconds=2)
    for second, remark in ((0 * tone, "channel 2 of 2 is silent and left out"), (-tone, "its channels cancel out")):
        content = recordings.by_soundfile(np.concatenate([tone, second], 1), 16_000, container, encoding, order)
        samples, info = sound_io.decode_sound(None, content)
        assert info.remarks[0].startswith(remark)
        assert np.abs(samples - tone[:, 0]).max() < (0.05 if name == "vorbis" else 1e-3)


@pytest.mark.parametrize(
    ("samples", "remark"),
    [
        (SILENCE, "it is silent"),
        (1e-6 * TONE, "it is silent"),
        (1e-3 * TONE, "it is very quiet (-69 dB of full scale)"),
        (np.clip(3 * TONE, -1, 1), "% of its samples are clipped"),
        (np.clip(2.2 * TONE, -0.999, 0.999), "% of its samples are clipped"),
        (TONE + 0.25, "it has an offset (DC) of 0.25 of full scale"),
    ],
)
def test_levels_are_remarked(samples: Any, remark: str) -> None:
    _, (text,) = mixed(samples)
    assert remark in text


@pytest.mark.parametrize("level", [0.05, 1.0, 1.9])
def test_sounds_in_order_have_no_remarks(level: float) -> None:
    assert not mixed(level * TONE)[1]
    noise = np.random.default_rng(0).uniform(-0.9999, 0.9999, len(TONE))
    assert not mixed(noise)[1]
