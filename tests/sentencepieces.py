"""Train small models of sentencepiece, and write the files of a published Marian folder."""

from __future__ import annotations

import io
import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mapsto.text.spm.model_proto import parse_model

ENGLISH = [
    "The river runs past the old mill, 17 times past a wise man.",
    "It was the best of times, it was the worst of times.",
]
OTHERS = [
    "Der Fluß fließt an der alten Mühle vorbei; schöne Grüße aus Köln.",
    "今天天气真好！我们去公园散步吧。",
    "服务员态度很差，房间也不干净，下次不会再来了。",
    "Ich weiß, dass er müßig ist.",
]
WORDS = "Fluß Mühle schöne Ünïcödé Việt tiếng ế 한국어"
# Texts as users write them, and such as break tokenizers.
TEXTS = [
    *ENGLISH,
    *OTHERS,
    "The river  runs",
    "  blanks around  ",
    "今天 天气真好！",
    "Ｆｕｌｌｗｉｄｔｈ　text ①② ﾎﾟｹｯﾄ",
    "emoji 😀👩‍👩‍👧 ❤️ 1️⃣",
    unicodedata.normalize("NFD", WORDS),
    unicodedata.normalize("NFC", WORDS),
    "tab\tand\nnewline\r\n x",
    "▁bar ▁ there",
    "",
    " ",
    "   ",
    "zażółć ﬁne ½ ™ x²",
    "<sep> mid <sep>end <x>  <sep>",
    "a<sep>b",
    "\u200b zero \u00ad soft \ufeff mark",
    "<0x41> bytes",
    "ſo ǅ ﬀ ﷺ ჯავა ወርቅ",
]


def train(texts: Sequence[str] = (*ENGLISH, *OTHERS), **settings: Any) -> bytes:
    """Return the file of a model of these texts. settings: those of the trainer. Skips the test without sentencepiece."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not here")
    file = io.BytesIO()
    settings = {"vocab_size": 300, "hard_vocab_limit": False, "minloglevel": 2, **settings}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([*texts] * 20), model_writer=file, **settings)
    return file.getvalue()


def make_marian(folder: Path, more: Sequence[str] = (), missing: Sequence[str] = ()) -> Any:
    """Write a Marian folder as the hub has them, with random weights, and return its model of `transformers`.

    more: further tokens of vocab.json. missing: pieces that it lacks.
    """
    from transformers import GenerationConfig, MarianConfig, MarianMTModel

    files = {"source.spm": train([*ENGLISH, OTHERS[0]]), "target.spm": train(OTHERS)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pieces = [piece.text for content in files.values() for piece in parse_model(content).pieces]
    names = [name for name in dict.fromkeys(pieces) if name not in ("<unk>", "<s>", "</s>", *missing)]
    random.Random(0).shuffle(names)
    ids = {name: number for number, name in enumerate(["</s>", "<unk>", *names, *more, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "tokenizer_config.json").write_text(json.dumps({"source_lang": "en", "target_lang": "de"}))
    pad = ids["<pad>"]
    both = {"attention_heads": 2, "ffn_dim": 24, "layers": 1}
    config = MarianConfig(
        vocab_size=len(ids), d_model=16, max_position_embeddings=64, pad_token_id=pad, eos_token_id=0,
        decoder_start_token_id=pad, forced_eos_token_id=0, scale_embedding=True, activation_function="swish",
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in both.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    model = MarianMTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.4 * torch.randn_like(parameter))
        model.final_logits_bias.normal_()
        # The likeliest token of all, which no answer may have.
        model.final_logits_bias[:, pad] = 50.0
    model.generation_config = GenerationConfig(
        bad_words_ids=[[pad]], forced_eos_token_id=0, eos_token_id=0, pad_token_id=pad, decoder_start_token_id=pad,
        max_length=12, num_beams=4,
    )  # fmt: skip
    model.save_pretrained(folder)
    return model
