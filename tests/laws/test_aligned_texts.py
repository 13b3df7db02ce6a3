"""Laws over texts that are read along a sound (CTC): fitted, saved, opened, scored, cut into windows and decoded."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")


import mapsto
from mapsto import files, kinds
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.fitting.answer_way import choose_answer_way
from mapsto.fitting.starting_model import StartingModel, open_start
from mapsto.task.arrow import parse
from mapsto.text.transcripts.aligned_text import MAX_SYMBOLS, AlignedTextTarget, Transcript, normalise
from mapsto.text.transcripts.language_model import CharacterModel

RATE = 8000
SMALL: dict[str, Any] = {"layers": 2, "width": 64, "heads": 2, "device": "cpu", "precision": "fp32"}
# A tone of its own for each letter.
PITCHES = {"a": 350.0, "b": 700.0, "é": 1400.0, "中": 2800.0}


def say(text: str, seconds: float = 0.12) -> tuple[Any, int]:
    """Return a sound in which each letter is a tone, and pauses are between them."""
    times = np.arange(round(RATE * seconds)) / RATE
    pause = np.zeros(round(RATE * seconds / 2), np.float32)
    parts = [np.zeros(1, np.float32)]
    for letter in text:
        tone = 0 * times if letter == " " else 0.4 * np.sin(2 * np.pi * PITCHES[letter] * times)
        parts += [pause, tone.astype(np.float32)]
    return np.concatenate([*parts, pause]), RATE


def make_rows(count: int, seed: int, seconds: float = 0.12) -> list[dict[str, Any]]:
    """Return rows of tones and the letters that they stand for. seconds: duration of a tone."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice([*PITCHES, " "], size=rng.integers(2, 6))) for _ in range(count)]
    texts = [normalise(text) or "ab" for text in texts]
    return [{"sound": say(text, seconds), "text": text} for text in texts]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fit a small model to tones; return its folder."""
    folder = tmp_path_factory.mktemp("aligned") / "run"
    mapsto.fit("sound -> text", make_rows(100, 0), folder, steps=300, batch=20, augment="none", **SMALL)
    return folder


def test_a_new_model_reads_tones_as_letters(fitted: Path) -> None:
    model = mapsto.load(fitted, "cpu", "fp32")
    assert str(model.mapping.arrow) == "sound:sound -> text:text" and model.mapping.arrow.targets[0].aligned
    scores = model.evaluate(make_rows(30, 1)).scores
    assert scores["cer"].value < 0.05
    rows = make_rows(5, 2)
    answers = model.predict(rows)
    assert {*answers[0]} >= {"text", "probability"} and "words" not in answers[0]
    assert all(0 < answer["probability"] <= 1 for answer in answers)


def test_words_have_times_and_a_search_finds_no_less_likely_texts(fitted: Path) -> None:
    model = mapsto.load(fitted, "cpu", "fp32")
    sound = {"sound": say("ab éa")}
    (answer,) = model.predict([sound], decoding=mapsto.Decoding(times=True))
    assert answer["text"] == "ab éa"
    first, second = answer["words"]
    assert (first["text"], second["text"]) == ("ab", "éa")
    # Tones begin 0.06 seconds after each other's end; a token is 0.04 seconds.
    assert first["start"] == pytest.approx(0.06, abs=0.13) and second["start"] == pytest.approx(0.6, abs=0.13)
    assert first["start"] < first["end"] <= second["start"] < second["end"]
    noisy = [
        {"sound": (0.02 * np.random.default_rng(seed).normal(size=4000).astype(np.float32), RATE)} for seed in range(4)
    ]
    greedy, searched = model.predict(noisy), model.predict(noisy, decoding=mapsto.Decoding(beams=20))
    assert all(b["probability"] >= a["probability"] * 0.999 for a, b in zip(greedy, searched, strict=True))
    with pytest.raises(mapsto.MapstoError, match="samples= would change nothing"):
        model.predict([sound], decoding=mapsto.Decoding(samples=3))


def test_a_language_model_prefers_usual_spellings(fitted: Path) -> None:
    """Of two letters that sound at the same time, the one is read that the texts have there."""
    model = mapsto.load(fitted, "cpu", "fp32")
    both = {"sound": (say("aba")[0] / 2 + say("aéa")[0] / 2, RATE)}
    for text in ("aba", "aéa"):
        decoding = mapsto.Decoding(language_model=[text] * 50)
        (answer,) = model.predict([both], decoding=decoding)
        assert answer["text"] == text
    # What is heard well stays as it is.
    clear = make_rows(6, 8)
    kept = model.predict(clear, decoding=mapsto.Decoding(language_model=[row["text"] for row in make_rows(200, 9)]))
    assert [a["text"] for a in kept] == [a["text"] for a in model.predict(clear)]
    for texts in ([], [""], ["x" * 3_000_000]):
        with pytest.raises(mapsto.MapstoError, match="language model"):
            model.predict(clear, decoding=mapsto.Decoding(language_model=texts))


def test_probabilities_of_characters_are_those_of_witten_and_bell() -> None:
    """Each context's followers, with what the texts lack, sum to 1."""
    model = CharacterModel(["abab", "ba"])
    # "ab" is followed by "a" once and by the end once: two kinds of two; "b" by "a" twice and the end once.
    behind_b = (2 + 2 * math.exp(model.log_probability("", "a"))) / (3 + 2)
    assert math.exp(model.log_probability("b", "a")) == pytest.approx(behind_b)
    assert math.exp(model.log_probability("ab", "a")) == pytest.approx((1 + 2 * behind_b) / (2 + 2))
    known = sum(math.exp(model.log_probability("ab", character)) for character in "ab\n")
    assert known < 1 and known + math.exp(model.log_probability("ab", "?")) == pytest.approx(1)


def test_silence_has_no_text_and_long_sounds_are_read_in_windows(fitted: Path) -> None:
    model = mapsto.load(fitted, "cpu", "fp32")
    limit = model.mapping.config.max_tokens * model.mapping.sources["sound"].token_seconds
    texts = [row["text"] for row in make_rows(60, 3)]
    pause = np.zeros(RATE // 2, np.float32)
    whole = np.concatenate([part for text in texts for part in (say(text)[0], pause)])
    assert len(whole) / RATE > 1.5 * limit, "several windows"
    silence = np.zeros(RATE, np.float32)
    answers = model.predict([{"sound": (silence, RATE)}, {"sound": (whole, RATE)}])
    assert answers[0]["text"] == "" and answers[0]["probability"] == 1
    said = "".join(texts).replace(" ", "")
    found = answers[1]["text"].replace(" ", "")
    assert abs(len(found) - len(said)) < 0.3 * len(said) and found[:3] == said[:3] and found[-2:] == said[-2:]


def test_a_fit_goes_on_from_its_own_head_and_refuses_what_cannot_be_said(fitted: Path, tmp_path: Path) -> None:
    rows = make_rows(20, 4)
    again = mapsto.fit(
        "sound -> text", rows, tmp_path / "again", start=fitted, steps=1, rate=1e-9, augment="none", device="cpu"
    )
    assert again.evaluate(make_rows(20, 5)).scores["cer"].value < 0.1, "the head was kept"
    long = "ab" * 40
    with pytest.raises(DataError, match=r"row 3.*80 characters for 0\.\d+ seconds.*no transcript"):
        mapsto.fit("sound -> text", [*rows[:2], {"sound": say("ab"), "text": long}], steps=1)
    with pytest.raises(DataError, match="longer than the model reads at once"):
        slow = {"sound": (np.tile(say("ab")[0], 200), RATE), "text": "ab"}
        mapsto.fit("sound -> text", [*rows[:4], slow], steps=1, **SMALL)
    with pytest.raises(UsageError, match='architecture="ctc" reads an answer along a sound'):
        mapsto.fit("sound -> label", [{"sound": say("ab"), "label": "x"}] * 2, steps=1, architecture="ctc")


def test_the_way_is_chosen_by_start_and_option(fitted: Path) -> None:
    arrow = parse("sound -> text, label")
    assert [port.aligned for port in choose_answer_way(arrow, StartingModel()).targets] == [True, False]
    assert choose_answer_way(arrow, StartingModel()) == arrow and str(choose_answer_way(arrow, StartingModel())) == str(
        arrow
    )
    assert choose_answer_way(arrow, open_start(fitted)).targets[0].aligned
    written = StartingModel(sources={"sound": None, "text": None})  # type: ignore[dict-item]
    assert not choose_answer_way(arrow, written).targets[0].aligned
    assert choose_answer_way(arrow, written, "ctc").targets[0].aligned
    for architecture in ("prefix", "encoder-decoder"):
        assert not choose_answer_way(arrow, StartingModel(), architecture).targets[0].aligned
    assert not choose_answer_way(parse("text -> text"), StartingModel()).targets[0].aligned
    assert kinds.answering(choose_answer_way(arrow, StartingModel()))[0] is AlignedTextTarget


def test_fast_speech_gets_several_outputs_a_token(fitted: Path) -> None:
    model = mapsto.load(fitted, "cpu", "fp32")
    source = model.mapping.sources["sound"]
    for rate, expected in ((5, 1), (20, 2)):
        target = AlignedTextTarget()
        target.bind({"sound": source}, None)
        target.learn([Transcript("ab" * rate + "a" * n, 2.0) for n in range(4)])
        assert target.outputs == expected


@pytest.mark.parametrize(
    "state",
    [
        {"classes": "abc"}, {"classes": ["", "a", "a"]}, {"classes": ["a", "b"]}, {"classes": ["", "ab"]}, {"classes": ["", 3]},
        {"classes": ["", *map(chr, range(0x4E00, 0x4E00 + MAX_SYMBOLS))]}, {"outputs": 0}, {"outputs": 10**9}, {"outputs": True},
    ],
    ids=lambda state: str(state)[:24],
)  # fmt: skip
def test_a_damaged_state_is_refused(fitted: Path, tmp_path: Path, state: dict[str, Any]) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in fitted.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    manifest = files.read_sealed(folder / "mapsto.json")
    manifest["targets"][0]["state"] |= state
    (folder / "mapsto.json").write_bytes(files.seal(manifest))
    with pytest.raises(CheckpointError, match="holds no answers of kind"):
        mapsto.load(folder)


def test_a_port_of_another_kind_is_not_read_along_a_source(fitted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in fitted.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    manifest = files.read_sealed(folder / "mapsto.json")
    manifest["arrow"] = "sound -> label"
    manifest["targets"][0] |= {"kind": "label"}
    (folder / "mapsto.json").write_bytes(files.seal(manifest))
    with pytest.raises(CheckpointError, match="not read along a source"):
        mapsto.load(folder)


def test_own_pretraining_is_a_start_and_a_killed_fit_goes_on(tmp_path: Path) -> None:
    rows = make_rows(20, 6)
    base = mapsto.pretrain("sound", [{"sound": row["sound"]} for row in rows], tmp_path / "base", steps=2, **SMALL)
    options = {
        "start": tmp_path / "base",
        "steps": 4,
        "save_every": 2,
        "batch": 8,
        "device": "cpu",
        "precision": "fp32",
    }
    whole = mapsto.fit("sound -> text", rows, tmp_path / "whole", **options)
    assert whole.mapping.arrow.targets[0].aligned and base.mapping.config.transformer.width == 64
    mapsto.fit("sound -> text", rows, tmp_path / "half", **options)
    # As a kill after step 2 leaves it: without the model, and without later checkpoints.
    for path in (tmp_path / "half").iterdir():
        if path.is_file() and path.name not in ("run.json", "metrics.jsonl"):
            path.unlink()
    for path in (tmp_path / "half" / "checkpoints").iterdir():
        if not path.name.endswith("2"):
            shutil.rmtree(path)
    again = mapsto.fit("sound -> text", rows, tmp_path / "half", **options)
    weights = dict(whole.mapping.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in again.mapping.named_parameters())


def test_ways_are_compared_with_each_other_and_with_the_nearest_row(fitted: Path, tmp_path: Path) -> None:
    found = mapsto.compare(
        "sound -> text", make_rows(24, 7, 0.13), tmp_path / "out", starts=["scratch", str(fitted)],
        test=make_rows(12, 8, 0.14), labels=["all"], seeds=1, epochs=1, augment="none", device="cpu", precision="fp32", jobs=1,
    )  # fmt: skip
    assert found is not None and (tmp_path / "out" / "report.html").stat().st_size > 1000
    report = (tmp_path / "out" / "results.json").read_text()
    assert "nearest training row" in report
