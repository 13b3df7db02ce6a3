"""Laws over the families that write what is said: they generate the tokens that `transformers` does, and open there again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("transformers", reason="transformers is the oracle")

from mappings import make_sound
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

import mapsto
from mapsto.audio.log_mel import RATE
from mapsto.audio.sound_io import resample
from mapsto.text.tokenizer import Tokenizer

TEXTS = ["one two three", "two three four", "four five", "one one nine", "zero eight"]
# Tokens behind those of the tokenizer, as in the published vocabularies: start, two languages, two tasks, no times.
START, ENGLISH, CZECH, TRANSLATE, TRANSCRIBE, NO_TIMES = range(400, 406)
ENGLISH_ONLY: dict[str, Any] = {"is_multilingual": False, "no_timestamps_token_id": NO_TIMES}
MULTILINGUAL: dict[str, Any] = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": ENGLISH, "<|cs|>": CZECH},
    "task_to_id": {"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    "no_timestamps_token_id": NO_TIMES,
}


def make_transcriber(folder: Path, rules: dict[str, Any]) -> WhisperForConditionalGeneration:
    """Save a random model that writes text, with windows of two seconds; return it."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(TEXTS * 4, 300, "bytes")
    config = WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=2,
        decoder_attention_heads=4, decoder_ffn_dim=64, num_mel_bins=80, max_source_positions=100, max_target_positions=64,
        vocab_size=410, pad_token_id=0, bos_token_id=1, eos_token_id=3, decoder_start_token_id=START,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START, eos_token_id=3, pad_token_id=0, max_length=20, suppress_tokens=[7, 8, *range(400, 410)],
        begin_suppress_tokens=[9, 3], **rules,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save(folder, 64)
    WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
    return model


def clips() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz of five sounds."""
    return [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(5)]


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
