"""Small models with random weights that generate texts."""

from __future__ import annotations

from typing import Any

import torch

from mapsto.kinds.text import TextSource
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.mapping import Mapping
from mapsto.pretrained.huggingface import make_answer_decoder
from mapsto.sequence.batch import Example
from mapsto.task.arrow import parse
from mapsto.text.generated_text import GeneratedTextTarget

TEXTS = ["ein Haus am See", "二十只小鸟在树上唱歌", "a", "the quick brown fox jumps over the lazy dog again and again"]
SHAPES: dict[str, dict[str, Any]] = {
    "rotary": {},
    "grouped": {"kv_heads": 2, "head_width": 8, "qk_norm": True},
    "causal": {"causal": True},
    "causal, absolute": {"causal": True, "positions": "absolute"},
    "window": {"window": 4, "global_every": 2},
    "absolute": {"positions": "absolute", "norm_place": "post", "token_types": 2, "gated": False, "bias": True},
}


def make_model(shape: str, cross: bool, seed: int = 0, longest: int = 12) -> Mapping:
    """Return a small model with random weights that generates texts, large enough weights to have distinct likeliest tokens."""
    torch.manual_seed(seed)
    config = TransformerConfig(width=32, layers=2, heads=4, feed_forward_width=48, **SHAPES[shape])
    decoder = make_answer_decoder(config, 2) if cross else None
    source = TextSource.new_reversible(TEXTS * 3, 300)
    target = GeneratedTextTarget(longest=longest)
    arrow = parse("source:text -> answer:text")
    mapping = Mapping(arrow, ModelConfig(transformer=config, answer_decoder=decoder), {"text": source}, [target]).eval()
    with torch.no_grad():
        for parameter in mapping.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return mapping


def examples_of(mapping: Mapping) -> list[Example]:
    pieces = mapping.sources["text"].encode(TEXTS, 0)
    return [Example((piece,), (mapping.targets[0].questions((piece,)),), row) for row, piece in enumerate(pieces)]
