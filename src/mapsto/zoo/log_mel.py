"""Encoder of sounds that new models take: convolutions over log-mel frames before layers in ModernBERT's shape.

The family is mapsto's own. Rotary positions let it read sounds of any length, and no part of it needs padding.
"""

from __future__ import annotations

from dataclasses import replace

from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, modernbert


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """Return the ModelConfig of a new model of sounds. width, layers, heads: those of its Transformer.

    longest: maximum number of tokens of an example.
    """
    return replace(modernbert.fresh(width, layers, heads, longest), family="log_mel", vocabulary_head=None)


EMBEDDER = ("conv1", "conv2", "join", "mask_token")
_BODY = tuple(pair for pair in modernbert.family.weight_names["body"] if pair[0] != "embedders.text")

family = Family(
    architectures={"body": "LogMelModel", "sound": "LogMelForPreTraining", "label": "LogMelForSequenceClassification"},
    prefix="model.",
    weight_names={
        "body": (*((f"embedders.sound.{part}", f"model.frames.{part}") for part in EMBEDDER), *_BODY),
        "sound": (("code_head", "code_head"),),
        "label": modernbert.family.weight_names["label"],
    },
    read_config=modernbert.read,
    write_config=modernbert.write,
    tied_weights={},
    source_kind="sound",
    new_config=fresh,
)
