"""CLIP (Radford et al. 2021): its tower for pictures; the one for texts is left out. Classified by the mean of the patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, Tower
from mapsto.zoo.bert import foreign
from mapsto.zoo.vit import REQUIRES, stack

PREFIX = "vision_model."


# What a config.json leaves out; that of a whole model names what differs alone.
USUAL = {"intermediate_size": 3072, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def tower(raw: Mapping[str, Any], usual: Mapping[str, Any]) -> TransformerConfig:
    """The stack that a config.json of one of the towers for pictures says. Raises CheckpointError."""
    return stack({**usual, **raw, "attention_probs_dropout_prob": raw.get("attention_dropout", 0.0)})


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    shape = replace(tower(raw, USUAL), embedding_norm=True, first_norm=True, final_norm=False, vector_norm=True)
    return ModelConfig(transformer=shape, pooling="rest_mean", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape = config.transformer
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": foreign(shape.activation),
        "attention_dropout": shape.attention_dropout,
    }


def body() -> Names:
    """What the towers for pictures share."""
    layer = f"{PREFIX}encoder.layers.{{i}}."
    return (
        ("embedders.image.projection", f"{PREFIX}embeddings.patch_embedding"),
        ("embedders.image.position_embeddings", f"{PREFIX}embeddings.position_embedding.weight"),
        ("transformer.blocks.{i}.attention_norm", f"{layer}layer_norm1"),
        ("transformer.blocks.{i}.attention.qkv", tuple(f"{layer}self_attn.{part}_proj" for part in "qkv")),
        ("transformer.blocks.{i}.attention.out", f"{layer}self_attn.out_proj"),
        ("transformer.blocks.{i}.feed_norm", f"{layer}layer_norm2"),
        ("transformer.blocks.{i}.feed.up", f"{layer}mlp.fc1"),
        ("transformer.blocks.{i}.feed.down", f"{layer}mlp.fc2"),
    )


family = Family(
    architectures={"body": "CLIPVisionModel", "label": "CLIPForImageClassification"},
    prefix=PREFIX,
    names={
        "body": (
            *body(),
            ("embedders.image.cls_token", f"{PREFIX}embeddings.class_embedding"),
            ("transformer.embedding_norm", f"{PREFIX}pre_layrnorm"),
            ("transformer.vector_norm", f"{PREFIX}post_layernorm"),
        ),
        "label": (("classifier", "classifier"),),
    },
    read=read,
    write=write,
    untied={},
    ignored=(r"vision_model\.embeddings\.position_ids$",),
    requires=REQUIRES,
    reads="image",
    flat={"embedders.image.cls_token": 2, "embedders.image.position_embeddings": 1},
    tower=Tower("clip_vision_model", "clip", "vision_config"),
)
