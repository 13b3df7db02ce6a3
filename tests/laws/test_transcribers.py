"""Laws over the families that write what is said: they generate the tokens that `transformers` does, and open there again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

from transcribers import (
    CZECH,
    ENGLISH,
    ENGLISH_ONLY,
    MULTILINGUAL,
    NO_TIMES,
    START,
    TEXTS,
    TRANSCRIBE,
    TRANSLATE,
    clips,
    make_transcriber,
)
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.cli.prediction.subtitles import join_words, render
from mapsto.inference.decoding.search import SearchRules
from mapsto.task.generation import Generated, GeneratedAnswer
from mapsto.task.transcription import Transcriber
from mapsto.text.tokenizer import Tokenizer


def expected_texts(model: Any, folder: Path) -> list[str]:
    """Return what `transformers` generates for each clip alone, padded to the window."""
    extractor, tokenizer = WhisperFeatureExtractor.from_pretrained(folder), Tokenizer.open(folder)
    texts = []
    for clip in clips():
        features = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
        task = {"task": "transcribe"} if model.generation_config.is_multilingual else {}
        (tokens,) = model.generate(features, do_sample=False, num_beams=1, **task)
        texts.append(tokenizer.decode([token for token in tokens.tolist() if token < tokenizer.size]).strip())
    return texts


@pytest.mark.parametrize("rules", [ENGLISH_ONLY, MULTILINGUAL], ids=["english", "multilingual"])
def test_transcripts_are_those_of_transformers(tmp_path: Path, rules: dict[str, Any]) -> None:
    model = make_transcriber(tmp_path, rules)
    opened = mapsto.load(tmp_path, "cpu", "fp32")
    assert str(opened.mapping.arrow) == "sound -> text"
    answers = opened.predict([{"sound": (clip, RATE)} for clip in clips()])
    texts = [answer["text"] for answer in answers]
    assert texts == expected_texts(model, tmp_path)
    assert len(set(texts)) > 1 and all(texts)


def test_a_fit_writes_what_it_has_learnt_and_its_folder_opens_in_transformers(tmp_path: Path) -> None:
    make_transcriber(tmp_path / "start", ENGLISH_ONLY)
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips(), TEXTS, strict=True)] * 2
    mapsto.fit(
        "sound -> text", rows, tmp_path / "run", start=tmp_path / "start", steps=150, rate=3e-3, batch=10, device="cpu",
        precision="fp32",
    )  # fmt: skip
    loaded = mapsto.load(tmp_path / "run", "cpu", "fp32")
    texts = [answer["text"] for answer in loaded.predict(rows[:5])]
    assert texts == TEXTS
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert torch.equal(again.proj_out.weight, again.model.decoder.embed_tokens.weight)
    assert torch.equal(again.model.encoder.conv1.weight, loaded.mapping.embedders["sound"].conv1.weight)
    # It has learnt sounds with a second of silence behind them, not with 30.
    settings = json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    assert settings["silence_tokens"] == 64
    scores = loaded.evaluate(rows[:5]).scores
    assert scores["wer"].value == scores["cer"].value == 0


def test_silence_has_no_words_and_long_sounds_are_transcribed_in_windows(tmp_path: Path) -> None:
    make_transcriber(tmp_path, ENGLISH_ONLY)
    model = mapsto.load(tmp_path, "cpu", "fp32")
    silence, clip = np.zeros(RATE * 5, np.float32), np.resize(clips()[0], RATE * 3)
    empty, spoken = model.predict([{"sound": (silence, RATE)}, {"sound": (clip, RATE)}])
    assert empty["text"] == "" and empty["ended"] == "end"
    source = model.mapping.sources["sound"]
    (piece,) = source.encode([source.read((clip, RATE))], 0)
    windows = source.windows(piece, 100)
    assert len(windows) == 2
    edge = len(windows[0]) - source.silence if len(windows[0]) < 100 else 100
    assert edge <= 100
    assert spoken["text"]


def test_a_folder_without_its_tokenizer_still_gives_labels(tmp_path: Path) -> None:
    make_transcriber(tmp_path / "start", ENGLISH_ONLY)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "start" / name).unlink()
    rows = [{"sound": (clip, RATE), "label": "ab"[n % 2]} for n, clip in enumerate(clips() * 2)]
    fitted = mapsto.fit("sound -> label", rows, tmp_path / "run", start=tmp_path / "start", steps=2, device="cpu")
    assert {answer["label"] for answer in fitted.predict(rows)} <= {"a", "b"}
    spoken = [{"sound": (clip, RATE), "text": text[:9]} for clip, text in zip(clips(), TEXTS, strict=True)]
    read = mapsto.fit("sound -> text", spoken, tmp_path / "text", start=tmp_path / "start", steps=2, device="cpu")
    assert read.mapping.arrow.targets[0].aligned and read.mapping.answer_decoder is None
    opened = mapsto.load(tmp_path / "text", "cpu", "fp32").mapping
    assert opened.arrow.targets[0].aligned and opened.config.family == "whisper"
    with pytest.raises(mapsto.MapstoError, match="writes no text"):
        mapsto.fit(
            "sound -> text",
            spoken,
            tmp_path / "other",
            start=tmp_path / "start",
            steps=1,
            architecture="encoder-decoder",
        )


def test_a_fit_hears_the_language_and_finds_the_task(tmp_path: Path) -> None:
    make_transcriber(tmp_path / "start", MULTILINGUAL)
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips(), TEXTS, strict=True)] * 2
    fitted = mapsto.fit("sound -> text", rows, tmp_path / "run", start=tmp_path / "start", steps=1, device="cpu")
    opening = fitted.mapping.targets[0].opening
    assert opening[0] == START and opening[1] in (ENGLISH, CZECH) and opening[2] in (TRANSLATE, TRANSCRIBE)
    assert opening[3] == NO_TIMES and len(opening) == 4
    # The choice is saved, and the language is no part of an answer.
    loaded = mapsto.load(tmp_path / "run").mapping.targets[0]
    assert loaded.opening == opening and not loaded.rules.beginning
    chosen = mapsto.fit(
        "sound -> text", rows, tmp_path / "chosen", start=tmp_path / "start", steps=1, device="cpu", language="cs",
        task="translate",
    )  # fmt: skip
    assert chosen.mapping.targets[0].opening == (START, CZECH, TRANSLATE, NO_TIMES)


def test_languages_and_tasks_that_there_are_not_are_refused_in_words(tmp_path: Path) -> None:
    make_transcriber(tmp_path, MULTILINGUAL)
    model = mapsto.load(tmp_path, "cpu", "fp32")
    rows = [{"sound": (clips()[0], RATE)}]
    for decoding, message in (
        (mapsto.Decoding(language="xx"), r"no language='xx'.*cs, en"),
        (mapsto.Decoding(task="sing"), r"no task='sing'.*transcribe, translate"),
    ):
        with pytest.raises(mapsto.MapstoError, match=message):
            list(model.predict(rows, decoding=decoding))
    (czech,) = model.predict(rows, decoding=mapsto.Decoding(language="cs", task="translate"))
    assert czech["text"]


def test_a_language_is_refused_where_none_is_chosen(tmp_path: Path) -> None:
    make_transcriber(tmp_path / "start", ENGLISH_ONLY)
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips(), TEXTS, strict=True)]
    with pytest.raises(mapsto.MapstoError, match="knows one language"):
        mapsto.fit("sound -> text", rows, tmp_path / "run", start=tmp_path / "start", steps=1, language="en")


def test_times_are_those_of_transformers_and_become_subtitles(tmp_path: Path) -> None:
    """Tokens from 406 on are times. A random model writes few, and the rules put them where they belong."""
    model = make_transcriber(tmp_path, ENGLISH_ONLY)
    opened = mapsto.load(tmp_path, "cpu", "fp32")
    target = opened.mapping.targets[0]
    assert isinstance(target, Generated)
    # As in published vocabularies, the end token stands behind all words.
    end = 399
    rules = SearchRules(target.with_decoding(mapsto.Decoding(times=True)).rules, (end,))
    model.generation_config.eos_token_id = end
    processor = WhisperTimeStampLogitsProcessor(model.generation_config, begin_index=1)
    generator = torch.Generator().manual_seed(0)
    for answer in ([], [406], [406, 20], [406, 20, 408], [406, 20, 408, 408], [406, 20, 408, 408, 21], [407, 20, 21]):
        for _ in range(20):
            scores = 3 * torch.randn(410, generator=generator)
            # Never written: the tokens that begin an answer.
            scores[START : NO_TIMES + 1] = -torch.inf
            expected = processor(torch.tensor([[START, *answer]]), scores[None].clone())[0]
            own = scores.clone()
            rules._apply_times(own, answer, NO_TIMES + 1)
            assert torch.equal(own, expected), answer
    windows = ((0.0, (406, 20, 408, 408, 21)), (2.0, (407, 22, 409)))
    answer = GeneratedAnswer((), -1.0, False, windows=windows)
    phrases = target.phrases(answer)
    assert [(phrase["start"], phrase["end"]) for phrase in phrases] == [(0.0, 0.04), (0.04, 0.04), (2.02, 2.06)]
    words = [
        {"text": text, "start": start, "end": start + 0.2}
        for text, start in (("one", 0.0), ("two", 0.3), ("three", 1.6))
    ]
    joined = [(phrase["text"], phrase["start"], phrase["end"]) for phrase in join_words(words)]
    assert joined == [("one two", 0.0, 0.5), ("three", 1.6, 1.8)]
    assert render(phrases, ".srt").startswith("1\n00:00:00,000 --> 00:00:00,040\n")
    assert render(phrases, ".vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.040\n")
    rows = [{"sound": (np.resize(clips()[0], RATE * 3), RATE)}]
    (answer_with_times,) = opened.predict(rows, decoding=mapsto.Decoding(times=True))
    starts = [phrase["start"] for phrase in answer_with_times["phrases"]]
    assert starts == sorted(starts) and all(start < 3 for start in starts)


def test_a_cell_of_hugging_face_is_one_value_and_no_row(tmp_path: Path) -> None:
    make_transcriber(tmp_path, ENGLISH_ONLY)
    model = mapsto.load(tmp_path, "cpu", "fp32")
    cell = {"array": clips()[0], "sampling_rate": RATE, "path": None}
    expected = model({"sound": (clips()[0], RATE)})
    answers = [model(cell), model((clips()[0], RATE)), *model.predict([cell, cell])]
    assert [answer["text"] for answer in answers] == [expected["text"]] * 4


def test_vectors_are_of_the_sound_alone(tmp_path: Path) -> None:
    """The same as those of the encoder alone, which reads no silence behind a sound."""
    make_transcriber(tmp_path, ENGLISH_ONLY)
    clip = [(clips()[0], RATE)]
    whole = mapsto.load(tmp_path, "cpu", "fp32").embed(clip)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    assert np.allclose(whole, mapsto.load(tmp_path, "cpu", "fp32").embed(clip), atol=1e-5)


def test_answers_of_a_list_are_written_in_a_language(tmp_path: Path) -> None:
    make_transcriber(tmp_path, MULTILINGUAL)
    model = mapsto.load(tmp_path, "cpu", "fp32")
    rows = [{"sound": (clips()[0], RATE)}]
    with pytest.raises(mapsto.MapstoError, match="answers= and schema= with language="):
        model.predict(rows, decoding=mapsto.Decoding(answers=["one", "two"]))
    (answer,) = model.predict(rows, decoding=mapsto.Decoding(answers=["one", "two"], language="cs"))
    assert answer["text"] in ("one", "two") and answer["ended"] == "end"


def test_windows_of_a_long_sound_end_with_it(tmp_path: Path) -> None:
    """A window behind the end would be silence, in which a recognizer hears words."""
    make_transcriber(tmp_path, ENGLISH_ONLY)
    source = mapsto.load(tmp_path).mapping.sources["sound"]
    for seconds in (2.1, 3.0, 3.9, 4.1, 7.3):
        noise = np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
        (piece,) = source.encode([source.read((noise, RATE))], 0, aligned=True)
        windows = source.windows(piece, 100)
        begins = [float(window.alignment.regions[0, 0, 0]) for window in windows if window.alignment is not None]
        assert len(piece) == -(-len(noise) // 320) and max(begins) < seconds
        assert all(len(window) == 100 for window in windows) and begins == sorted(set(begins))


def test_times_are_no_words_in_a_vocabulary_that_does_not_mark_them(tmp_path: Path) -> None:
    make_transcriber(tmp_path, MULTILINGUAL)
    target = mapsto.load(tmp_path).mapping.targets[0]
    assert isinstance(target, Transcriber)
    timed = target.with_decoding(mapsto.Decoding(times=True))
    # Tokens of words in place of those of times.
    timed.rules = replace(timed.rules, first_time=20)
    assert timed.to_value([25, 10, 21]) == target.to_value([10])


def test_recordings_too_long_to_be_learnt_whole_are_named(tmp_path: Path) -> None:
    make_transcriber(tmp_path / "start", ENGLISH_ONLY)
    rows = [{"sound": (clip, RATE), "text": text} for clip, text in zip(clips(), TEXTS, strict=True)]
    rows[3]["sound"] = (np.resize(clips()[3], 3 * RATE), RATE)
    with pytest.raises(mapsto.MapstoError, match="row 4.*longer than the model reads at once"):
        mapsto.fit("sound -> text", rows, tmp_path / "run", start=tmp_path / "start", steps=1)


def test_an_answer_in_english_is_no_translation(tmp_path: Path) -> None:
    make_transcriber(tmp_path, MULTILINGUAL)
    target = mapsto.load(tmp_path).mapping.targets[0]
    assert isinstance(target, Transcriber)
    assert target.beginnings(ENGLISH, None) == [(ENGLISH, TRANSCRIBE, NO_TIMES)]
    assert target.beginnings(CZECH, None) == [(CZECH, TRANSCRIBE, NO_TIMES), (CZECH, TRANSLATE, NO_TIMES)]
    target.begin_transcripts((CZECH, TRANSLATE, NO_TIMES))
    assert target.describe_beginning() == "language cs, task translate"


def test_a_recording_that_is_not_held_has_the_same_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are read while others are transcribed, and memory is the same for any length."""
    import soundfile

    from mapsto.audio.decoding import limits
    from mapsto.inference import forward, generation

    make_transcriber(tmp_path / "model", MULTILINGUAL)
    path = tmp_path / "talk.flac"
    soundfile.write(path, np.resize(np.concatenate(clips()), 20 * RATE), RATE)
    loaded = mapsto.load(tmp_path / "model", "cpu", "fp32")
    rows = [{"sound": str(path)}, {"sound": (clips()[0], RATE)}]
    times = mapsto.Decoding(times=True)
    expected = loaded.predict(rows), loaded.predict(rows, decoding=times)
    assert len(expected[1][0]["phrases"]) > 5
    monkeypatch.setattr(limits, "MAX_HELD", 4000)
    # Two windows are encoded ahead, and two are generated at a time.
    monkeypatch.setattr(forward, "MAX_CHUNK_BYTES", 200_000)
    monkeypatch.setattr(generation, "MAX_MEMORY_BYTES", 1)
    monkeypatch.setattr(generation, "MIN_AT_ONCE", 2)
    at_once = []
    choose = generation.Greedy.choose
    monkeypatch.setattr(
        generation.Greedy, "choose", lambda self, x: at_once.append(self.num_examples) or choose(self, x)
    )
    texts = loaded.predict(rows), loaded.predict(rows, decoding=times)
    for answers, others in zip(texts, expected, strict=True):
        for answer, other in zip(answers, others, strict=True):
            assert answer["text"] == other["text"] and answer.get("phrases") == other.get("phrases")
    assert max(at_once) <= 4


@pytest.mark.parametrize("heads", [None, [[0, 1], [1, 3]]], ids=["upper half", "named"])
def test_times_of_tokens_are_those_of_transformers(tmp_path: Path, heads: list[list[int]] | None) -> None:
    """Equal to `_extract_token_timestamps` over the cross-attention of the same tokens."""
    from types import SimpleNamespace

    class Generation(SimpleNamespace):
        def __contains__(self, name: str) -> bool:
            return hasattr(self, name)

    named = {} if heads is None else {"alignment_heads": heads}
    model = make_transcriber(tmp_path, {**ENGLISH_ONLY, **named})
    model.config._attn_implementation = "eager"
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager").eval()
    opened = mapsto.load(tmp_path, "cpu", "fp32")
    extractor = WhisperFeatureExtractor.from_pretrained(tmp_path)
    expected_heads = heads or [[1, head] for head in range(4)]
    for clip in clips():
        from mapsto.inference.generation import generate_answers
        from mapsto.sequence.batch import Example

        source, (own_target,) = opened.mapping.sources["sound"], opened.mapping.targets
        (piece,) = source.encode([source.read((clip, RATE))], 0, aligned=True)
        decoding = mapsto.Decoding(times=True, words=True)
        example = Example((piece,), (None,), 0)
        ((_, (answer,)),) = generate_answers(opened.mapping, [example], 0, torch.device("cpu"), decoding)
        assert isinstance(own_target, Transcriber) and len(answer.token_ends) == len(answer.tokens) > 3
        ids = torch.tensor([[START, *answer.tokens]])
        features = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.no_grad():
            output = model(features, decoder_input_ids=ids, output_attentions=True)
        generated = Generation(cross_attentions=[output.cross_attentions], sequences=ids)
        times = model._extract_token_timestamps(
            generated, expected_heads, num_frames=-(-len(clip) // 320) * 2, num_input_ids=1
        )
        assert np.allclose(answer.token_ends, times[0, 1:-1].tolist(), atol=1e-4)
    words = opened.predict([{"sound": (clips()[0], RATE)}], decoding=mapsto.Decoding(times=True, words=True))[0][
        "words"
    ]
    assert words and all(word["start"] <= word["end"] for word in words)
