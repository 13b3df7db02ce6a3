"""Whisper (Radford et al. 2022): pre-norm encoder over log-mel frames, with a table of sinusoidal positions.

The encoder alone is read, from folders of the whole model too: for labels, numbers and vectors of sounds. It reads at most 30
seconds at once, and shorter sounds without the silence to which the published model pads them.
Starting models are openai/whisper-tiny, tiny.en, base and larger ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, read_activation, read_fraction, read_positive_int, write_activation

# Positions of the published models: 30 seconds of 20 ms.
MAX_POSITIONS = 1500


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    if raw.get("scale_embedding"):
        raise CheckpointError("config.json: scale_embedding is not supported")
    encoder = TransformerConfig(
        width=read_positive_int(raw, "d_model"),
        layers=read_positive_int(raw, "encoder_layers"),
        heads=read_positive_int(raw, "encoder_attention_heads"),
        feed_forward_width=read_positive_int(raw, "encoder_ffn_dim"),
        norm_bias=True,
        bias=True,
        key_bias=False,
        activation=read_activation(raw.get("activation_function", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=read_positive_int(raw, "max_source_positions", MAX_POSITIONS),
        embedding_norm=False,
        first_norm=True,
        dropout=read_fraction(raw, "dropout", 0.0),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.0),
    )
    return ModelConfig(transformer=encoder, pooling="mean", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    return {
        "d_model": shape.width,
        "encoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.feed_forward_width,
        # The encoder alone is saved as a model whose decoder no file has.
        "decoder_layers": shape.layers,
        "decoder_attention_heads": shape.heads,
        "decoder_ffn_dim": shape.feed_forward_width,
        "activation_function": write_activation(shape.activation),
        "max_source_positions": shape.max_positions,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }


LAYER, BLOCK = "model.encoder.layers.{i}.", "transformer.blocks.{i}."

family = Family(
    # `transformers` has a classifier over 30 seconds with a layer more; ours has a name of its own, so that no one mistakes it.
    architectures={
        "body": "WhisperModel",
        "sound": "WhisperEncoderForPreTraining",
        "label": "WhisperEncoderForSequenceClassification",
    },
    prefix="model.",
    weight_names={
        "body": (
            ("embedders.sound.conv1", "model.encoder.conv1"),
            ("embedders.sound.conv2", "model.encoder.conv2"),
            ("transformer.position_table", "model.encoder.embed_positions"),
            (f"{BLOCK}attention_norm", f"{LAYER}self_attn_layer_norm"),
            # One weight of ours holds the biases of queries and values, one after the other.
            (f"{BLOCK}attention.qv_bias", tuple(f"{LAYER}self_attn.{part}_proj.bias" for part in "qv")),
            (f"{BLOCK}attention.qkv", tuple(f"{LAYER}self_attn.{part}_proj" for part in "qkv")),
            (f"{BLOCK}attention.out", f"{LAYER}self_attn.out_proj"),
            (f"{BLOCK}feed_norm", f"{LAYER}final_layer_norm"),
            (f"{BLOCK}feed.up", f"{LAYER}fc1"),
            (f"{BLOCK}feed.down", f"{LAYER}fc2"),
            ("transformer.final_norm", "model.encoder.layer_norm"),
        ),
        "sound": (("code_head", "code_head"),),
        "label": (("classifier", "classifier"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    ignored_weights=(r"(model\.)?decoder\.", r"proj_out\."),
    source_kind="sound",
)
