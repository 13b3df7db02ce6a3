"""Texts that are spoken: letters are found in recordings, durations and frames are learnt, and new texts are spoken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")

from images import SMALL_OPTIONS
from runs import run

import mapsto
from mapsto import kinds
from mapsto.audio.log_mel import HOP, RATE, log_mel
from mapsto.audio.sound_io import encode_wav
from mapsto.audio.sound_value import Sound, read_sound
from mapsto.audio.synthesis.sound_answers import SpokenSound
from mapsto.audio.synthesis.speech_alignment import SpeechAligner, spoken_units
from mapsto.audio.synthesis.spoken_text import STEP_FRAMES, SpokenTextTarget
from mapsto.data.checks import check_rows
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.kinds.text import TextSource
from mapsto.task.arrow import parse
from mapsto.task.readout import NUM_TIMES

LETTERS = "aeioumsß东"


def speak(text: str, seed: int = 0) -> tuple[Any, list[tuple[float, float]]]:
    """Return samples of a text of two tones a letter, with silence at both ends and between words; and each letter's seconds."""
    rng = np.random.default_rng([seed, *map(ord, text)])
    parts, times = [np.zeros(int(rng.uniform(0.05, 0.2) * RATE))], []
    for letter in text:
        at = sum(map(len, parts)) / RATE
        if letter not in LETTERS:
            parts.append(np.zeros(int(RATE * (rng.uniform(0.1, 0.2) if rng.random() < 0.5 else 0.0))))
        else:
            number = LETTERS.index(letter)
            # Each letter has a length of its own, from 60 to 140 ms, which varies by a tenth.
            steps = np.arange(int(RATE * (0.06 + 0.01 * number) * rng.uniform(0.9, 1.1))) / RATE
            pitches = 250 * (1 + number), 700 + 800 * (number % 4)
            parts.append(sum(0.2 * np.sin(2 * np.pi * pitch * steps) for pitch in pitches))
        times.append((at, sum(map(len, parts)) / RATE))
    parts.append(np.zeros(int(rng.uniform(0.05, 0.2) * RATE)))
    samples = np.concatenate(parts) + 1e-3 * rng.normal(size=sum(map(len, parts)))
    return samples.astype(np.float32), times


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of two or three made words each."""
    rng = np.random.default_rng(seed)
    words = lambda: ["".join(rng.choice(list(LETTERS), rng.integers(2, 5))) for _ in range(rng.integers(2, 4))]  # noqa: E731
    return [" ".join(words()).capitalize() + "." for _ in range(count)]


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "sound": (speak(text.casefold())[0], RATE)} for text in make_texts(count, seed)]


def frames_of(samples: Any) -> Any:
    return log_mel(samples, -(-len(samples) // HOP))


# When letters are spoken


def test_letters_are_found_where_they_are_spoken() -> None:
    """Without any times to learn from: on average within 15 ms, and every frame belongs to one character or to an end."""
    texts = [text.casefold() for text in make_texts(60)]
    spoken = [speak(text) for text in texts]
    recordings = [(text, frames_of(samples)) for text, (samples, _) in zip(texts, spoken, strict=True)]
    aligner = SpeechAligner.train(recordings)
    errors = []
    alignments = aligner.align(recordings)
    for (text, frames), (_, times), alignment in zip(recordings, spoken, alignments, strict=True):
        durations = alignment.durations
        assert len(durations) == len(text) + 2 and durations.sum() == len(frames)
        edges = np.cumsum(durations)[:-1] / 100
        errors += [abs(edges[place] - begin) for place, (begin, _) in enumerate(times) if text[place] in LETTERS]
    assert np.mean(errors) < 0.015, np.mean(errors)
    again = SpeechAligner(**json.loads(json.dumps(aligner.state())))
    for one, other in zip(again.align(recordings), alignments, strict=True):
        assert np.abs(one.durations - other.durations).max() <= 2 and one.fit == pytest.approx(other.fit, abs=0.05)
    (alone,) = aligner.align(recordings[:1])
    assert np.array_equal(alone.durations, alignments[0].durations), "a recording does not depend on its neighbours"


def test_recordings_of_other_texts_are_found() -> None:
    """Four of 60 recordings stand beside the text of one another; they are the rows that the data doctor names."""
    rows = make_rows(60)
    for number in range(4):
        rows[10 * number + 5]["text"] = make_texts(60)[10 * ((number + 1) % 4) + 5]
    table = read_table(rows)
    warnings = check_rows(load_rows(bind_to(parse("text -> sound"), table), table)).warnings
    named = [finding for finding in warnings if "hardly fits its text" in finding.reason]
    assert [finding.row for finding in named] == [6, 16, 26, 36] and {finding.column for finding in named} == {"sound"}


def test_unreadable_rows_do_not_stop_the_doctor() -> None:
    """Rows without a text, with one that does not fit into the recording, or with a broken file, are named; others are read."""
    rows = make_rows(40)
    rows[3]["text"], rows[5]["text"], rows[7]["sound"], rows[9]["text"] = None, "aeiou " * 60, b"", "🙂"
    table = read_table(rows)
    read = load_rows(bind_to(parse("text -> sound"), table), table)
    assert sorted({fault.row for fault in read.faults}) == [4, 6, 8, 10]
    assert not check_rows(read).errors


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Ab, ß!", ["a", "b", " ", " ", "ss", " "]),
        ("东 3", ["东", " ", "3"]),
        ("", []),
        ("İ", ["i̇"]),
        ("हि", ["ह", "ि"]),
    ],
)
def test_what_is_spoken_of_a_text(text: str, units: list[str]) -> None:
    assert spoken_units(text) == units and len(units) == len(text)


def test_a_recording_shorter_than_its_text_is_refused() -> None:
    recordings = [(text.casefold(), frames_of(speak(text.casefold())[0])) for text in make_texts(8)]
    aligner = SpeechAligner.train(recordings)
    with pytest.raises(ValueError, match="fewer frames"):
        aligner.align([("a" * 50, recordings[0][1][:20])])


# What is learnt


def test_each_letter_is_a_token_and_an_unknown_one_costs_no_other() -> None:
    source = TextSource.new_spelled(["aéo eß.", "éa ßo."])
    (piece,) = source.encode(["Éa oxß 东."], 0, aligned=True)
    assert source.token_names(piece) == ["[CLS]", "é", "##a", "o", "[UNK]", "##ß", "[UNK]", ".", "[SEP]"]
    assert piece.alignment is not None and piece.units is not None
    assert piece.alignment.regions[1:-1, 0].tolist() == [[0, 1], [1, 2], [3, 4], [4, 5], [5, 6], [7, 8], [8, 9]]
    assert piece.units.tolist() == [-1, 0, 0, 1, 1, 1, 2, 3, -1]


@pytest.mark.parametrize("length", [512, 8])
def test_tokens_and_steps_add_up_to_the_recording(length: int) -> None:
    """Also where a text is read in windows: each has the tokens and the frames of its part, none of which is there twice."""
    rows = make_rows(12)
    answers = [SpokenTextTarget.place(read_sound(row["sound"]), row["text"]) for row in rows]
    target, source = SpokenTextTarget(), TextSource.new_spelled([row["text"] for row in rows])
    target.learn(answers)
    mean, std = target.mean, target.std
    for answer in answers:
        (piece,) = source.encode([answer.text], 0, aligned=True)
        frames = frames_of(answer.sound.decode(RATE))
        parts = []
        for window in source.windows(piece, length):
            encoded = target.encode(answer, (window,))
            assert encoded.at is not None
            is_step = encoded.values[:, 0] > 0
            assert not is_step[: len(window)].any() and is_step[len(window) :].all()
            assert list(encoded.at[: len(window)]) == list(range(len(window)))
            assert (np.diff(encoded.at[len(window) :]) >= 0).all()
            durations = np.expm1(encoded.values[: len(window), NUM_TIMES])
            assert abs(durations.sum() - STEP_FRAMES * is_step.sum()) <= STEP_FRAMES / 2 + 1e-3 or is_step.sum() == 1
            parts.append((durations, encoded.values[len(window) :, NUM_TIMES:].reshape(-1, 80) * std + mean))
        total = sum(durations.sum() for durations, _ in parts)
        assert total == pytest.approx(len(frames), abs=0.01)
        if len(parts) == 1:
            count = min(len(frames), len(parts[0][1]))
            assert np.abs(parts[0][1][:count] - frames[:count]).max() < 0.01, "true frames come back from their answer"


@pytest.fixture(scope="module")
def speaker() -> mapsto.Model:
    return mapsto.fit("text -> sound", make_rows(96), steps=150, batch=16, **SMALL_OPTIONS)


def test_a_new_text_is_spoken(speaker: mapsto.Model, tmp_path: Path) -> None:
    """A text of letters in a new order takes about as long as its true recording, and each letter sounds as it does there."""
    rows = make_rows(16, seed=1)
    scores = speaker.evaluate(rows).scores
    assert scores["distance_removed"].low > 0.4 and scores["duration_error_ms"].high < 60
    assert scores["log_mel_distance"].high < scores["log_mel_distance_constant"].low
    answers = speaker.predict([row["text"] for row in rows])
    letters, silent = 0, 0
    for answer, row in zip(answers, rows, strict=True):
        samples, rate = answer["sound"]
        assert rate == RATE and np.abs(samples).max() <= 1
        assert len(samples) == pytest.approx(len(row["sound"][0]), rel=0.35)
        letters += sum(letter in LETTERS for letter in row["text"].casefold())
        silent += np.abs(samples).max() < 0.05
    assert letters > 100 and not silent
    # The tones of the letter of which a text consists are the loudest in its recording.
    for letter in "aom":
        ((made, _),) = (answer["sound"] for answer in speaker.predict([f"{letter}{letter} {letter}{letter}{letter}."]))
        spectrum = np.abs(np.fft.rfft(made))
        loudest = np.argmax(spectrum) * RATE / len(made)
        number = LETTERS.index(letter)
        assert min(abs(loudest - 250 * (1 + number)), abs(loudest - 700 - 800 * (number % 4))) < 120, (letter, loudest)
    speaker.save(tmp_path / "saved")
    opened = mapsto.load(tmp_path / "saved", precision="fp32")
    assert np.abs(opened(rows[0]["text"])["sound"][0] - answers[0]["sound"][0]).max() < 0.01, "but for rounding"
    assert opened.evaluate(rows).scores["distance_removed"].value == pytest.approx(
        scores["distance_removed"].value, abs=0.02
    ), "a saved voice finds the same letters"


def test_a_text_is_spoken_alone_as_among_others(speaker: mapsto.Model) -> None:
    texts = make_texts(7, seed=2)
    together = speaker.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        assert np.abs(speaker(text)["sound"][0] - answer["sound"][0]).max() < 1e-3


def test_a_long_text_is_spoken_in_parts() -> None:
    model = mapsto.fit("text -> sound", make_rows(8), steps=2, length=16, **SMALL_OPTIONS)
    text = " ".join(make_texts(6))
    made, rate = model(text)["sound"]
    assert rate == RATE and len(made) > 0 and np.isfinite(made).all()


def test_letters_that_were_never_heard_are_left_out_and_said(speaker: mapsto.Model) -> None:
    """A text of which nothing can be spoken is answered with the reason, and one with some such letters as without them."""
    texts = ["zzz", "7 % 🙂", "…", "ae zz iou.", "ae iou."]
    *unspoken, partly, whole = speaker.predict(texts, quiet=True)
    assert all("no letter of this text is one that the voice has heard" in answer["error"] for answer in unspoken)
    assert partly["left_out"] == 2 and "left_out" not in whole
    assert abs(len(partly["sound"][0]) - len(whole["sound"][0])) < 0.25 * len(whole["sound"][0])
    scores = speaker.evaluate([*make_rows(3, seed=5), {"text": "zzz", "sound": (speak("aei")[0], RATE)}]).scores
    assert scores["distance_removed"].n == 4, "what is not known has no time of its own"


def test_steps_read_no_other_example() -> None:
    """Also where an example has a single token, as a causal start reads a letter."""
    torch.manual_seed(0)
    head = SpokenTextTarget().head(16 + NUM_TIMES, None).double()

    def rows(*examples: tuple[int, int]) -> list[torch.Tensor]:
        parts = []
        for number, (tokens, steps) in enumerate(examples):
            part = torch.randn(tokens + steps, 16 + NUM_TIMES, generator=torch.Generator().manual_seed(number)).double()
            part[:, -NUM_TIMES] = torch.arange(tokens + steps) >= tokens
            parts.append(part)
        return parts

    parts = rows((1, 9), (1, 3), (2, 1), (5, 12))
    together = head(torch.cat(parts)).split([len(part) for part in parts])
    for part, output in zip(parts, together, strict=True):
        assert torch.allclose(head(part), output, atol=1e-9)


def test_wrong_rows_are_named() -> None:
    rows = make_rows(6)
    for text, reason in (("…!", "no letter or digit"), ("aeiou " * 60, "nobody speaks the 360 characters")):
        bad = [*rows[:3], {**rows[3], "text": text}, *rows[4:]]
        with pytest.raises(mapsto.MapstoError, match=f"row 4.*{reason}"):
            mapsto.fit("text -> sound", bad, steps=1, **SMALL_OPTIONS)
    with pytest.raises(mapsto.MapstoError, match="vocabulary= would change nothing"):
        mapsto.fit("text -> sound", rows, steps=1, vocabulary=300, **SMALL_OPTIONS)


def test_from_the_command_line(speaker: mapsto.Model, tmp_path: Path) -> None:
    speaker.save(tmp_path / "voice")
    for number, row in enumerate(make_rows(3, seed=3)):
        (tmp_path / f"声 {number}.wav").write_bytes(encode_wav(*row["sound"]))
    table = [{"text": row["text"], "sound": f"声 {number}.wav"} for number, row in enumerate(make_rows(3, seed=3))]
    write_rows(tmp_path / "lines.csv", ["text", "sound"], table)
    said = run("predict", str(tmp_path / "voice"), str(tmp_path / "lines.csv"), "--out", str(tmp_path / "said"))
    assert "wrote 3 files" in said.stderr + said.stdout
    assert all(read_sound(str(path)).info.rate == RATE for path in (tmp_path / "said").iterdir())
    page = tmp_path / "page.html"
    scored = run("evaluate", str(tmp_path / "voice"), str(tmp_path / "lines.csv"), "--json", "--out", str(page))
    assert json.loads(scored.stdout)["scores"]["duration_error_ms"]["n"] == 3
    assert page.read_text(encoding="utf-8").count("<audio") == 2 * 3, "answer and truth can be heard"
    other = tmp_path / "said" / "00001-lines-2.wav"
    again = run("predict", str(tmp_path / "voice"), str(tmp_path / "lines.csv"), "--out", str(tmp_path / "said"))
    assert again.returncode == 0, "the same rows may be answered again"
    other.write_bytes(b"mine")
    command = ["predict", str(tmp_path / "voice"), str(tmp_path / "lines.csv"), "--out"]
    refused = run(*command, str(tmp_path / "said"))
    assert refused.returncode == 2 and "is there with other content" in refused.stderr and other.read_bytes() == b"mine"
    assert run(*command, str(tmp_path / "said"), "--overwrite").returncode == 0 and other.read_bytes() != b"mine"
    refused = run(*command, str(tmp_path / "said.wav"))
    assert refused.returncode == 2 and "name a folder" in refused.stderr
    lines = run("predict", str(tmp_path / "voice"), "--text", "zz", "--text", "ae zz", "--out", str(tmp_path / "lines"))
    notes = lines.stderr + lines.stdout
    assert "no letter of this text" in notes and "for the reasons above" in notes and "left out" in notes
    refused = run("export", str(tmp_path / "voice"), "--out", str(tmp_path / "v.onnx"))
    assert refused.returncode == 2 and "is read twice for an answer" in refused.stderr


def test_only_texts_are_spoken() -> None:
    assert kinds.answering(parse("text -> sound"))[0] is SpokenTextTarget
    assert kinds.answering(parse("text, sound -> sound"))[0] is kinds.target("sound")
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(mapsto.MapstoError, match="or `text`, which is spoken"):
        mapsto.fit("image -> sound", [{"image": picture, "sound": (speak("a")[0], RATE)}] * 4, steps=1)
    answer = SpokenSound(Sound.from_samples(speak("ab")[0], RATE), "ab")
    assert SpokenTextTarget.key(answer) == answer.sound.digest
    assert torch.isfinite(SpokenTextTarget().head(64 + NUM_TIMES, None)(torch.zeros(9, 64 + NUM_TIMES))).all()
