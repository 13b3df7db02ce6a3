"""Make random models that write what is said (Whisper, Moonshine), and short sounds for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mappings import make_sound
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, processors, trainers
from tokenizers.models import BPE

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


def make_transcriber(folder: Path, rules: dict[str, Any]) -> Any:
    """Save a random model that writes text, with windows of two seconds; return it."""
    # Only where a model is made, since transformers is an extra of the tests.
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

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


# The ids of the tokens that begin and end an answer of Moonshine, and the sizes of a random one.
MOONSHINE_START, MOONSHINE_END = 1, 2
MOONSHINE_SIZES: dict[str, Any] = {
    "hidden_size": 72, "intermediate_size": 96, "encoder_num_hidden_layers": 2, "decoder_num_hidden_layers": 3,
    "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip


def make_llama_tokenizer(folder: Path) -> int:
    """Save a tokenizer as Llama has it: BPE over "▁" for blanks, and bytes for unknown characters. Return its size."""
    special, names = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    trained = Backend(BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=60, show_progress=False))
    parts = json.loads(trained.to_str())["model"]
    pieces = [*special, *names, *sorted(parts["vocab"], key=parts["vocab"].get)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in parts["merges"]]
    backend = Backend(BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = trained.normalizer
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", MOONSHINE_START)])
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    return len(pieces)


def make_moonshine(folder: Path, **changes: Any) -> Any:
    """Save a random Moonshine, of whose weights no two are equal, with its tokenizer and feature extractor; return the model."""
    from transformers import (
        GenerationConfig,
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        Wav2Vec2FeatureExtractor,
    )

    size = make_llama_tokenizer(folder)
    torch.manual_seed(0)
    config = MoonshineConfig(vocab_size=size, pad_token_id=MOONSHINE_END, **{**MOONSHINE_SIZES, **changes})
    model = MoonshineForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(
        bos_token_id=MOONSHINE_START, decoder_start_token_id=MOONSHINE_START, eos_token_id=MOONSHINE_END,
        pad_token_id=MOONSHINE_END, max_length=config.max_position_embeddings,
    )  # fmt: skip
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return model


def clips() -> list[np.ndarray]:
    """Return samples (n,) at 16 kHz of five sounds."""
    return [resample(make_sound(number, number % 2 == 0), 8000, RATE) for number in range(5)]


def write_speech(folder: Path) -> None:
    """Write two random models, recordings with texts in a table, and a longer recording to a folder."""
    import soundfile

    make_transcriber(folder / "whisper-tiny", MULTILINGUAL)
    make_moonshine(folder / "moonshine-tiny")
    rows = ["sound,text"]
    for number, (clip, text) in enumerate(zip(clips() * 2, TEXTS * 2, strict=True)):
        # Long enough to be read with a character in each of few tokens.
        soundfile.write(folder / f"{number}.wav", np.resize(clip, RATE + 1600 * number), RATE)
        rows.append(f"{number}.wav,{text}")
    (folder / "recordings.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    soundfile.write(folder / "talk.wav", np.resize(np.concatenate(clips()), 5 * RATE), RATE)
