"""Sounds as answers: frames become samples again, a sound follows its source, and what is said is said in another voice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")

from hypothesis import given, settings
from hypothesis import strategies as st
from images import SMALL_OPTIONS
from recordings import pitch_of, tone, voice
from runs import run

import mapsto
from mapsto import kinds
from mapsto.audio.log_mel import HOP, RATE, log_mel
from mapsto.audio.sound_io import encode_wav, resample
from mapsto.audio.sound_value import Sound, read_sound
from mapsto.audio.synthesis.griffin_lim import synthesise
from mapsto.audio.synthesis.sound_answers import FrameCache
from mapsto.cli.predict import predict
from mapsto.data.table import write_rows
from mapsto.inference.voice_conversion import NEIGHBOURS, VoiceConverter
from mapsto.metrics.mel_distance import log_mel_distance, mel_cepstral_distortion


def speech(speaker: int, take: int, seconds: float = 0.5) -> Any:
    """Return samples (n,) of a made voice at 16 kHz."""
    return resample(voice(speaker, take, seconds)[:, 0], 8000, RATE)


def frames_of(samples: Any) -> Any:
    return log_mel(samples, max(1, -(-len(samples) // HOP)))


def noisy_pairs(count: int) -> list[dict[str, Any]]:
    """Return rows of made voices with and without noise."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        clean = speech(number % 4, number, 0.4)
        noise = rng.normal(0, 0.2 * clean.std(), len(clean)).astype(np.float32)
        rows.append({"noisy": (clean + noise, RATE), "clean": (clean, RATE)})
    return rows


# From frames to samples


def test_a_tone_keeps_its_pitch() -> None:
    samples = tone(RATE, 0.6, 700.0)[:, 0]
    again = synthesise(frames_of(samples), len(samples))
    assert pitch_of(again, RATE) == pytest.approx(700, abs=20) and again.std() == pytest.approx(samples.std(), rel=0.1)


@pytest.mark.parametrize("number", range(4))
def test_frames_of_a_sound_come_back(number: int) -> None:
    """Analysis, synthesis, analysis: the frames differ by less than 2 dB (0.05) on average."""
    samples = 0.5 * speech(number, 0)
    frames = frames_of(samples)
    again = synthesise(frames, len(samples))
    assert len(again) == len(samples) and np.abs(again).max() <= 1
    off = np.abs(frames_of(again) - frames)
    assert off.mean() < 0.05, off.mean()
    assert np.array_equal(again, synthesise(frames, len(samples))), "the same frames give the same samples"
    rough = np.abs(frames_of(synthesise(frames, len(samples), rounds=0)) - frames)
    assert off.mean() < 0.7 * rough.mean(), "rounds bring it nearer"


@pytest.mark.parametrize("value", [-1.5, 0.0, 9.0, 1e6])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_any_frames_give_samples_within_full_scale(value: float, count: int) -> None:
    samples = synthesise(np.full((count, 80), value, np.float32))
    assert len(samples) == count * HOP and np.isfinite(samples).all() and np.abs(samples).max(initial=0) <= 1
    assert value > -1 or np.abs(samples).max(initial=0) < 1e-3


@given(m=st.integers(1, 6), b=st.integers(2, 80), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_distances_are_what_they_are_by_hand(m: int, b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.normal(size=(m, b)).astype(np.float32) for _ in range(2))
    decibels = [
        [40 * abs(float(x) - float(y)) for x, y in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)
    ]
    assert log_mel_distance(one, other) == pytest.approx(np.mean(decibels))
    distortions = []
    for rows in zip(one, other, strict=True):
        total = 0.0
        for order in range(1, min(24, b - 1) + 1):
            # The logarithm of amplitudes is half of that of energies, and a frame is (log10(energy) + 4) / 4.
            series = [
                2
                / b
                * sum(np.log(10) * 4 * float(x) / 2 * np.cos(np.pi * order * (i + 0.5) / b) for i, x in enumerate(row))
                for row in rows
            ]
            total += (series[0] - series[1]) ** 2
        distortions.append(10 / np.log(10) * np.sqrt(2 * total))
    assert mel_cepstral_distortion(one, other) == pytest.approx(np.mean(distortions), rel=1e-6)
    assert mel_cepstral_distortion(one, one + 0.3) == pytest.approx(0, abs=1e-4), "loudness does not count"


def test_frames_of_true_answers_are_kept_within_a_bound() -> None:
    sounds = [Sound.from_samples(speech(number, 0), RATE) for number in range(4)]
    cache = FrameCache(capacity=2 * 50 * 80 * 2)
    for sound in (*sounds, sounds[0]):
        assert np.abs(cache.frames(sound, 80) - frames_of(sound.decode(RATE))).max() < 2e-3
        assert cache.size == sum(entry.nbytes for entry in cache.entries.values()) <= cache.capacity


# A sound that follows its source


@pytest.fixture(scope="module")
def cleaner() -> mapsto.Model:
    return mapsto.fit("noisy:sound -> clean:sound", noisy_pairs(48), steps=80, batch=16, **SMALL_OPTIONS)


def test_noise_is_removed(cleaner: mapsto.Model, tmp_path: Path) -> None:
    rows = noisy_pairs(64)[48:]
    scores = cleaner.evaluate(rows).scores
    assert scores["distance_removed"].low > 0.15 and scores["distance_removed"].n == 16
    assert scores["mel_cepstral_distortion"].high < scores["mcd_unchanged"].low
    unchanged = [log_mel_distance(*(frames_of(row[name][0]) for name in ("noisy", "clean"))) for row in rows]
    assert scores["log_mel_distance_unchanged"].value == pytest.approx(np.mean(unchanged), rel=0.02)
    answers = cleaner.predict([row["noisy"] for row in rows])
    for answer, row in zip(answers, rows, strict=True):
        samples, rate = answer["sound"]
        assert rate == RATE and len(samples) == len(row["noisy"][0])
    nearer = [
        log_mel_distance(frames_of(answer["sound"][0]), frames_of(row["clean"][0])) < before
        for answer, row, before in zip(answers, rows, unchanged, strict=True)
    ]
    assert all(nearer), "also what is heard"
    cleaner.save(tmp_path / "saved")
    opened = mapsto.load(tmp_path / "saved", precision="fp32")
    assert np.abs(opened(rows[0]["noisy"])["sound"][0] - answers[0]["sound"][0]).max() < 0.01, "but for rounding"


def test_a_new_head_answers_the_source_also_in_windows() -> None:
    """Of sounds longer than the model reads, each window is answered, and the answer is as long as the sound."""
    rows = [{"a": (speech(n, n), RATE), "b": (speech(n, n), RATE)} for n in range(8)]
    model = mapsto.fit("a:sound -> b:sound", rows, steps=1, length=32, **SMALL_OPTIONS)
    long = np.concatenate([speech(1, take, 0.7) for take in range(5)])
    answers = model.predict([(long, RATE), (long[:3000], RATE), (long[::-1].copy(), RATE)])
    for samples, sound in zip(answers, (long, long[:3000], long[::-1]), strict=True):
        assert len(samples["sound"][0]) == len(sound)
        assert np.abs(frames_of(samples["sound"][0]) - frames_of(sound)).mean() < 0.08
    scores = model.evaluate([{"a": (long, RATE), "b": (long, RATE)}] * 3).scores
    # Each window is analysed alone, with its own edges; a window that is one token off would be 10 dB away.
    assert scores["log_mel_distance"].value < 2 and scores["mcd_unchanged"].value < 2


def test_source_and_answer_take_the_same_time() -> None:
    rows = noisy_pairs(6)
    rows[3]["clean"] = (speech(0, 0, 0.9), RATE)
    with pytest.raises(mapsto.MapstoError, match=r"row 4.*the answer takes 0.90 seconds and its source 0.40"):
        mapsto.fit("noisy:sound -> clean:sound", rows, steps=1, **SMALL_OPTIONS)


def test_recordings_are_written_as_files(
    cleaner: mapsto.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a table beside the files, with one that is none, and of a folder, whose column the arrow need not name."""
    for number, row in enumerate(noisy_pairs(3)):
        for name, (samples, rate) in row.items():
            (tmp_path / f"声 {number} {name}.wav").write_bytes(encode_wav(samples, rate))
    files = [{"noisy": f"声 {number} noisy.wav", "clean": f"声 {number} clean.wav"} for number in range(3)]
    write_rows(tmp_path / "pairs.csv", ["noisy", "clean"], files)
    write_rows(tmp_path / "new.csv", ["noisy"], [files[0], {"noisy": "none.wav"}])
    cleaner.save(tmp_path / "model")
    out = str(tmp_path / "model")
    given = {"device": "cpu", "precision": "fp32", "long": "cut"}
    predict(out, [tmp_path / "new.csv"], out=tmp_path / "made", **given)
    notes = capsys.readouterr().err
    assert "new.csv, row 3: noisy: " in notes and "wrote 1 file to " in notes
    (path,) = (tmp_path / "made").iterdir()
    made = read_sound(str(path))
    assert made.info.rate == RATE and made.info.seconds == pytest.approx(0.4, abs=0.001)
    page = tmp_path / "page.html"
    scored = run("evaluate", out, str(tmp_path / "pairs.csv"), "--json", "--out", str(page))
    assert json.loads(scored.stdout)["scores"]["mcd_unchanged"]["n"] == 3
    assert page.read_text(encoding="utf-8").count("<audio") == 3 * 3, "source, answer and truth can be heard"
    predict(out, [tmp_path / "声 1 noisy.wav"], out=tmp_path / "one", **given)
    assert len(list((tmp_path / "one").iterdir())) == 1
    for into in (None, Path("a.csv")):
        with pytest.raises(mapsto.MapstoError, match="name a folder"):
            predict(out, [tmp_path / "new.csv"], out=into, **given)


# Another voice


@pytest.fixture(scope="module")
def listener() -> mapsto.Model:
    rows = [{"sound": (speech(number % 3, number), RATE)} for number in range(12)]
    return mapsto.pretrain("sound", rows, steps=3, length=64, **SMALL_OPTIONS)


def test_tokens_become_the_mean_of_their_nearest(listener: mapsto.Model) -> None:
    wanted, source = [speech(1, take) for take in range(3)], speech(0, 0, 0.6)
    own = listener.mapping.sources["sound"]

    def read(samples: Any) -> tuple[Any, Any]:
        """Return the vectors (t, d) and frames (t, k · b) of a sound that is read alone."""
        from mapsto.sequence.batch import Example
        from mapsto.sequence.packing import make_batches

        (piece,) = own.encode([Sound.from_samples(samples, RATE)], 0)
        (batch,) = make_batches([Example((piece,), (), 0)], 4096)
        with torch.no_grad():
            mapping = listener.mapping.eval()
            states = mapping.states(mapping.embed(batch), batch, every_layer=True)[1][0, : len(piece)].numpy()
        return states / np.linalg.norm(states, axis=1, keepdims=True), log_mel(samples, 4 * len(piece)).reshape(
            len(piece), -1
        )

    vectors, frames = (np.concatenate(parts) for parts in zip(*map(read, wanted), strict=True))
    recording = np.repeat(np.arange(3), len(vectors) // 3)
    nearest = [np.argsort(-vectors @ vector)[:NEIGHBOURS] for vector in read(source)[0]]
    expected = []
    for place in range(len(nearest)):
        # Neighbours of the token itself, and what stands behind those of the token before and before those of the next one.
        counted = [(1.0, index) for index in nearest[place]]
        for other, step in ((place - 1, 1), (place + 1, -1)):
            for index in nearest[other] if 0 <= other < len(nearest) else ():
                if 0 <= index + step < len(vectors) and recording[index] == recording[index + step]:
                    counted.append((0.5, index + step))
        expected.append(sum(weight * frames[index] for weight, index in counted) / sum(weight for weight, _ in counted))
    samples = synthesise(np.stack(expected).reshape(-1, 80), len(source))
    ((made, rate),) = listener.convert([(source, RATE)], [(part, RATE) for part in wanted], layer=1)
    assert rate == RATE and len(made) == len(source) and np.abs(made - samples).max() < 1e-3


def test_a_converted_recording_sounds_like_the_other_voice(listener: mapsto.Model) -> None:
    """Its mean spectrum is nearer to that of the wanted voice; sounds beyond the window are read in parts."""
    wanted, source = [(speech(1, take, 0.6), RATE) for take in range(6)], speech(0, 0, 4.0)
    ((made, _),) = listener.convert([(source, RATE)], wanted)
    silence = (np.zeros(RATE, np.float32), RATE)
    assert np.abs(listener.convert([silence], wanted)[0][0]).max() < 1e-3, "silence stays silent"
    means = [
        frames_of(samples).mean(0) for samples in (made, np.concatenate([samples for samples, _ in wanted]), source)
    ]
    assert len(made) == len(source)
    assert np.abs(means[0] - means[1]).mean() < 0.5 * np.abs(means[0] - means[2]).mean()


def test_conversion_from_the_command_line(
    listener: mapsto.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.save(tmp_path / "model")
    (tmp_path / "voice").mkdir()
    for take in range(3):
        (tmp_path / "voice" / f"{take}.wav").write_bytes(encode_wav(speech(1, take), RATE))
    (tmp_path / "in.wav").write_bytes(encode_wav(speech(0, 0), RATE))
    (tmp_path / "words.csv").write_text("text,label\na,b\n")
    model = str(tmp_path / "model")
    given = {"device": "cpu", "precision": "fp32", "long": "cut"}
    predict(model, [tmp_path / "in.wav"], like=tmp_path / "voice", out=tmp_path / "out", **given)
    assert "the recordings of the voice take 2 seconds" in capsys.readouterr().err
    (path,) = (tmp_path / "out").iterdir()
    assert path.suffix == ".wav" and read_sound(str(path)).info.seconds == pytest.approx(0.5, abs=0.001)
    (tmp_path / "empty").mkdir()
    for like, more, reason in (
        (tmp_path / "nowhere", {}, "nowhere"),
        (tmp_path / "empty", {}, "empty"),
        (tmp_path / "words.csv", {}, "no column"),
        (tmp_path / "voice", {"hide": 0.5}, "leave .*hide"),
        (tmp_path / "voice", {"out": None}, "name a folder"),
    ):
        with pytest.raises(mapsto.MapstoError, match=reason):
            predict(model, [tmp_path / "in.wav"], **{**given, "out": tmp_path / "x", "like": like, **more})


def test_what_cannot_convert_is_refused(listener: mapsto.Model) -> None:
    wanted = [(speech(1, 0), RATE)]
    with pytest.raises(mapsto.MapstoError, match="a number from 1 to"):
        listener.convert(wanted, wanted, layer=9)
    with pytest.raises(mapsto.MapstoError, match=r"value 0 \(counted from 0\)"):
        listener.convert(["none.wav"], wanted)
    rows = [{"text": f"row {number}", "label": "ab"[number % 2], "sound": wanted[0]} for number in range(12)]
    texts = mapsto.fit("text -> label", rows, method="linear", device="cpu")
    with pytest.raises(mapsto.MapstoError, match="for models that read one sound"):
        texts.convert(["a"], wanted)
    linear = mapsto.fit("sound -> label", rows, method="linear", device="cpu")
    with pytest.raises(mapsto.MapstoError, match="needs a model whose tokens"):
        VoiceConverter(linear.mapping, [{"sound": wanted[0]}])


def test_the_target_is_that_of_the_registry() -> None:
    assert kinds.target("sound").kind == "sound" and kinds.target("sound", restored=True) is not kinds.target("sound")
