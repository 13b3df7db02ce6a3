"""The picture encoder of CLIP (Radford et al. 2021): pre-norm ViT with a norm after the embeddings.

Classification heads read the mean of the patches. Starting models are openai/clip-vit-base-patch32 and its other sizes, and
those of LAION and OpenCLIP in the same format. The text encoder is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, Tower, write_activation
from mapsto.zoo.vit import REQUIRES, read_stack

PREFIX = "vision_model."

# Values of settings that a config.json leaves out. The config.json of a full model lists only settings that differ from these.
DEFAULTS = {"intermediate_size": 3072, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}


def read_tower(raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> TransformerConfig:
    """Return the shape of the Transformer of a picture encoder. Raises CheckpointError for unsupported settings.

    raw: the encoder's part of config.json. defaults: the family's values of missing settings.
    """
    return read_stack({**defaults, **raw, "attention_probs_dropout_prob": raw.get("attention_dropout", 0.0)})


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    shape = replace(read_tower(raw, DEFAULTS), embedding_norm=True, first_norm=True, final_norm=False, vector_norm=True)
    # The published classifier reads the mean of the patches, without the class token.
    return ModelConfig(transformer=shape, pooling="rest_mean", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": write_activation(shape.activation),
        "attention_dropout": shape.attention_dropout,
    }


def tower_names() -> Names:
    """Return pairs (our name, published name) of the weights that the picture encoders of CLIP and SigLIP both have."""
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
    weight_names={
        "body": (
            *tower_names(),
            ("embedders.image.cls_token", f"{PREFIX}embeddings.class_embedding"),
            ("transformer.embedding_norm", f"{PREFIX}pre_layrnorm"),
            ("transformer.vector_norm", f"{PREFIX}post_layernorm"),
        ),
        "label": (("classifier", "classifier"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    ignored_weights=(r"vision_model\.embeddings\.position_ids$",),
    required_files=REQUIRES,
    source_kind="image",
    # CLIP stores the class token as a vector and the positions as a matrix.
    leading_ones={"embedders.image.cls_token": 2, "embedders.image.position_embeddings": 1},
    tower=Tower("clip_vision_model", "clip", "vision_config"),
)
