"""Whisper (Radford et al. 2022): pre-norm encoder over log-mel frames, and a decoder that writes what is said.

Both stacks have tables of positions. The encoder reads at most 30 seconds at once. For labels, numbers and vectors it is read
alone, and sounds without the silence to which the published model pads them.
Starting models are openai/whisper-tiny, tiny.en, base and larger ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, bart, read_activation, read_fraction, read_positive_int, write_activation

# Positions of the published models: 30 seconds of 20 ms, and the tokens of an answer.
MAX_POSITIONS, MAX_ANSWER_POSITIONS = 1500, 448

# The token that begins every answer, where config.json names none.
START = 50257


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
    longest = read_positive_int(raw, "max_target_positions", MAX_ANSWER_POSITIONS)
    start = raw.get("decoder_start_token_id", START)
    if not isinstance(start, int):
        raise CheckpointError(f"config.json: decoder_start_token_id must be the id of a token, not {start!r}")
    return ModelConfig(
        transformer=encoder,
        answer_decoder=replace(bart.read_decoder(raw, encoder), max_positions=longest),
        answer_start=start,
        pooling="mean",
        pooler=None,
        vocabulary_head=TransformConfig(norm=False, dense=False, head_bias=False),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    # The encoder alone is saved as a model whose decoder no file has.
    decoder = config.answer_decoder or replace(shape, max_positions=MAX_ANSWER_POSITIONS)
    return {
        "d_model": shape.width,
        "encoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.feed_forward_width,
        "decoder_layers": decoder.layers,
        "decoder_attention_heads": decoder.heads,
        "decoder_ffn_dim": decoder.feed_forward_width,
        "activation_function": write_activation(shape.activation),
        "max_source_positions": shape.max_positions,
        "max_target_positions": decoder.max_positions,
        "decoder_start_token_id": START if config.answer_start is None else config.answer_start,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }


def _stack_names(own: str, published: str) -> Names:
    """Return pairs (our name, published name) of the weights of one stack: those of BART, a last norm, and biases but of keys.

    own, published: start of their names.
    """
    block, layer = f"{own}blocks.{{i}}.", f"{published}layers.{{i}}."
    return (
        # One weight of ours holds the biases of queries and values, one after the other.
        (f"{block}attention.qv_bias", tuple(f"{layer}self_attn.{part}_proj.bias" for part in "qv")),
        (f"{block}cross.value_bias", f"{layer}encoder_attn.v_proj.bias"),
        (f"{own}final_norm", f"{published}layer_norm"),
        *bart.stack_names(own, published),
    )


family = Family(
    # `transformers` has a classifier over 30 seconds with a layer more; ours has a name of its own, so that no one mistakes it.
    architectures={
        "body": "WhisperModel",
        "sound": "WhisperEncoderForPreTraining",
        "label": "WhisperEncoderForSequenceClassification",
        "text": "WhisperForConditionalGeneration",
    },
    prefix="model.",
    weight_names={
        "body": (
            ("embedders.sound.conv1", "model.encoder.conv1"),
            ("embedders.sound.conv2", "model.encoder.conv2"),
            ("embedders.text", "model.decoder.embed_tokens"),
            *_stack_names("transformer.", "model.encoder."),
            *_stack_names("answer_decoder.", "model.decoder."),
        ),
        "sound": (("code_head", "code_head"),),
        "label": (("classifier", "classifier"),),
        "text": (),
    },
    read_config=read,
    write_config=write,
    tied_weights={"proj_out.weight": "embedders.text.weight"},
    source_kind="sound",
    answer_kind="text",
)
