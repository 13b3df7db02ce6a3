"""BART (Lewis et al. 2020): encoder–decoder with post-norm layers and learned positions.

Starting models are facebook/bart-base, bart-large, bart-large-cnn and others of this family, such as Chinese ones. Marian uses
the functions of this file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation

# Index of a text's first token in the table of positions.
OFFSET = 2


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    config = read_stacks(raw, 1024)

    def with_table(stack: TransformerConfig) -> TransformerConfig:
        return replace(stack, embedding_norm=True, max_positions=stack.max_positions + OFFSET, position_offset=OFFSET)

    assert config.answer_decoder is not None
    return replace(config, transformer=with_table(config.transformer), answer_decoder=with_table(config.answer_decoder))


def read_stacks(raw: Mapping[str, Any], longest: int) -> ModelConfig:
    """Return the ModelConfig of an encoder–decoder with post-norm layers, without a norm of its embeddings.

    raw: a parsed config.json. longest: maximum number of tokens of a text if the file states none.
    Raises CheckpointError for unsupported settings.
    """
    if raw.get("normalize_before") or raw.get("add_final_layer_norm") or raw.get("normalize_embedding", True) is False:
        raise CheckpointError(
            "config.json: normalize_before, add_final_layer_norm and normalize_embedding are not supported"
        )
    width = read_positive_int(raw, "d_model")
    encoder = TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "encoder_layers"),
        heads=read_positive_int(raw, "encoder_attention_heads"),
        feed_forward_width=read_positive_int(raw, "encoder_ffn_dim"),
        norm_place="post",
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("activation_function", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=read_positive_int(raw, "max_position_embeddings", longest),
        embedding_scale=math.sqrt(width) if raw.get("scale_embedding") else None,
        embedding_norm=False,
        final_norm=False,
        dropout=read_fraction(raw, "dropout", 0.1),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.0),
    )
    start = raw.get("decoder_start_token_id")
    if not isinstance(start, int):
        raise CheckpointError(f"config.json: decoder_start_token_id must be the id of a token, not {start!r}")
    return ModelConfig(
        transformer=encoder,
        answer_decoder=read_decoder(raw, encoder),
        answer_start=start,
        pooling="normed_mean",
        pooler=None,
        vocabulary_head=TransformConfig(norm=False, dense=False),
    )


def read_decoder(raw: Mapping[str, Any], encoder: TransformerConfig) -> TransformerConfig:
    """Return the shape of the decoder, which differs from the encoder's in its sizes. raw: a parsed config.json."""
    return replace(
        encoder,
        layers=read_positive_int(raw, "decoder_layers"),
        heads=read_positive_int(raw, "decoder_attention_heads"),
        feed_forward_width=read_positive_int(raw, "decoder_ffn_dim"),
        causal=True,
        cross_attention=True,
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape, head = config.transformer, config.vocabulary_head
    # The encoder alone is saved as a model whose decoder no file has.
    decoder = config.answer_decoder or shape
    return {
        "d_model": shape.width,
        "encoder_layers": shape.layers,
        "encoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.feed_forward_width,
        "decoder_layers": decoder.layers,
        "decoder_attention_heads": decoder.heads,
        "decoder_ffn_dim": decoder.feed_forward_width,
        "activation_function": write_activation(shape.activation),
        "max_position_embeddings": shape.max_positions - shape.position_offset,
        "scale_embedding": shape.embedding_scale is not None,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "decoder_start_token_id": config.answer_start or 0,
        "tie_word_embeddings": head is None or not head.head_weight,
        "is_encoder_decoder": True,
    }


def stack_names(own: str, published: str) -> Names:
    """Return pairs (our name, published name) of the weights of one stack. own, published: start of their names."""
    block, layer = f"{own}blocks.{{i}}.", f"{published}layers.{{i}}."
    return (
        (f"{own}position_table", f"{published}embed_positions"),
        (f"{own}embedding_norm", f"{published}layernorm_embedding"),
        (f"{block}attention.qkv", tuple(f"{layer}self_attn.{part}_proj" for part in "qkv")),
        (f"{block}attention.out", f"{layer}self_attn.out_proj"),
        (f"{block}attention_norm", f"{layer}self_attn_layer_norm"),
        (f"{block}cross.query", f"{layer}encoder_attn.q_proj"),
        (f"{block}cross.key_value", (f"{layer}encoder_attn.k_proj", f"{layer}encoder_attn.v_proj")),
        (f"{block}cross.out", f"{layer}encoder_attn.out_proj"),
        (f"{block}cross_norm", f"{layer}encoder_attn_layer_norm"),
        (f"{block}feed.up", f"{layer}fc1"),
        (f"{block}feed.down", f"{layer}fc2"),
        (f"{block}feed_norm", f"{layer}final_layer_norm"),
    )


family = Family(
    architectures={"body": "BartModel", "text": "BartForConditionalGeneration"},
    encoder_architecture="BartModel",
    prefix="model.",
    weight_names={
        "body": (
            ("embedders.text", "model.shared"),
            *stack_names("transformer.", "model.encoder."),
            *stack_names("answer_decoder.", "model.decoder."),
        ),
        "text": (("vocabulary_head.bias", "final_logits_bias"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={
        "model.encoder.embed_tokens.weight": "embedders.text.weight",
        "model.decoder.embed_tokens.weight": "embedders.text.weight",
        "lm_head.weight": "embedders.text.weight",
    },
    untied_weights={"lm_head.weight": "vocabulary_head.weight"},
    ignored_weights=(r"model\.(en|de)coder\.version$",),
    leading_ones={"vocabulary_head.bias": -1},
)
