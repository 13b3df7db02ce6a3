"""Moonshine (Jeffries et al. 2024): recognizer of speech that reads samples, and a sound costs as much as it is long.

Three convolutions make a token of 24 ms. Both stacks are pre-norm, with rotary positions for a part of each head's channels.
No sound is padded, where Whisper pads each to 30 seconds. At most 30 seconds are read at once.
Starting models are UsefulSensors/moonshine-tiny, moonshine-base and those of single languages, such as moonshine-tiny-zh.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mapsto.audio.sources.spoken_wave_source import max_wave_tokens
from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.model.wave.network import WaveConfig
from mapsto.zoo import (
    Family,
    Names,
    RowOrder,
    llama,
    read_activation,
    read_fraction,
    read_positive_int,
    wav2vec2,
    write_activation,
)

# Values of settings that config.json may leave out: tokens of an answer, the token that begins it, the rotated share of channels.
MAX_ANSWER_POSITIONS, START, ROTARY_FRACTION = 512, 1, 0.9


def read_front(width: int) -> WaveConfig:
    """Return the shape of the convolutions in front of an encoder of this width; it is the same in all published models."""
    return WaveConfig(
        widths=(width, 2 * width, width),
        depths=(1, 1, 1),
        kernels=(127, 7, 3),
        strides=(64, 3, 2),
        bias=True,
        first_bias=False,
        norm="clip",
        first_activation="tanh",
        projected=False,
        projection_epsilon=None,
    )


def read_heads(raw: Mapping[str, Any], width: int) -> int:
    """Return the number of heads, the same in encoder and decoder. Raises CheckpointError for heads that are not supported.

    `transformers` computes neither grouped queries of this family nor stacks with other numbers of heads: it gives both stacks
    the heads of the encoder.
    """
    heads = read_positive_int(raw, "encoder_num_attention_heads")
    for name in (
        "decoder_num_attention_heads",
        "encoder_num_key_value_heads",
        "decoder_num_key_value_heads",
    ):
        if raw.get(name) not in (None, heads):
            raise CheckpointError(f"config.json: {name} must be {heads}, the heads of the encoder, not {raw[name]!r}")
    if width % heads or width // heads % 2 or raw.get("head_dim") not in (None, width // heads):
        raise CheckpointError(f"config.json: {heads} heads of an even width must make up the hidden_size, {width}")
    return heads


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    width, bias = read_positive_int(raw, "hidden_size"), raw.get("attention_bias", False)
    if not isinstance(bias, bool):
        raise CheckpointError(f"config.json: attention_bias must be true or false, not {bias!r}")
    front, (base, scaling) = read_front(width), llama.read_rotary(raw)
    encoder = TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "encoder_num_hidden_layers"),
        heads=read_heads(raw, width),
        feed_forward_width=read_positive_int(raw, "intermediate_size"),
        bias=True,
        qkv_bias=bias,
        out_bias=False,
        activation=read_activation(raw.get("encoder_hidden_act", "gelu")),
        gated=False,
        max_positions=max_wave_tokens(front),
        rotary_fraction=llama.read_rotary_fraction(raw, ROTARY_FRACTION),
        rotary_base=base,
        rotary_scaling=scaling,
        embedding_norm=False,
        attention_dropout=read_fraction(raw, "attention_dropout", 0.0),
    )
    if encoder.rotary_width < 2 or encoder.rotary_width % 2:
        raise CheckpointError(
            f"config.json: partial_rotary_factor {encoder.rotary_fraction} rotates {encoder.rotary_width} of the "
            f"{encoder.width_per_head} channels of a head, which are not pairs of channels"
        )
    decoder = replace(
        encoder,
        layers=read_positive_int(raw, "decoder_num_hidden_layers"),
        activation=read_activation(raw.get("decoder_hidden_act", "silu")),
        gated=True,
        max_positions=read_positive_int(raw, "max_position_embeddings", MAX_ANSWER_POSITIONS),
        causal=True,
        cross_attention=True,
    )
    start = raw.get("decoder_start_token_id", START)
    if not isinstance(start, int):
        raise CheckpointError(f"config.json: decoder_start_token_id must be the id of a token, not {start!r}")
    return ModelConfig(
        transformer=encoder,
        backbone=front,
        answer_decoder=decoder,
        answer_start=start,
        pooling="mean",
        pooler=None,
        vocabulary_head=TransformConfig(norm=False, dense=False, head_bias=False),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape, head = config.transformer, config.vocabulary_head
    # The encoder alone is saved as a model whose decoder no file has.
    decoder = config.answer_decoder or replace(shape, activation="silu", max_positions=MAX_ANSWER_POSITIONS)
    return {
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward_width,
        "encoder_num_hidden_layers": shape.layers,
        "encoder_num_attention_heads": shape.heads,
        "encoder_num_key_value_heads": shape.heads,
        "encoder_hidden_act": write_activation(shape.activation),
        "decoder_num_hidden_layers": decoder.layers,
        "decoder_num_attention_heads": decoder.heads,
        "decoder_num_key_value_heads": decoder.heads,
        "decoder_hidden_act": write_activation(decoder.activation),
        "max_position_embeddings": decoder.max_positions,
        "attention_bias": bool(shape.qkv_bias),
        "attention_dropout": shape.attention_dropout,
        "partial_rotary_factor": shape.rotary_fraction,
        **llama.write_rotary(shape),
        "decoder_start_token_id": START if config.answer_start is None else config.answer_start,
        "tie_word_embeddings": head is None or not head.head_weight,
        "is_encoder_decoder": True,
    }


def row_orders(config: ModelConfig) -> dict[str, RowOrder]:
    """Return the order of rows of published weights that ours have in another order; see `Family.row_orders`.

    Rotated pairs of channels are published side by side, and ours are half a head apart. Of the gated feed-forward part the
    linear half is published first, and ours is the activated one.
    """
    head_width = config.transformer.width_per_head

    def separate_pairs(rows: Tensor) -> Tensor:
        # Another number of rows than config.json says is refused later, by the shape of the weight.
        fits = len(rows) % head_width == 0
        return rows.view(-1, head_width // 2, 2).transpose(1, 2).flatten() if fits else rows

    return {
        r"model\.(en|de)coder\.layers\.\d+\.self_attn\.[qk]_proj\.": separate_pairs,
        r"model\.decoder\.layers\.\d+\.mlp\.fc1\.": lambda rows: rows.roll(len(rows) // 2),
    }


def _stack_names(stack: str, published: str) -> Names:
    """Return pairs (our name, published name) of the weights that both stacks have. stack, published: start of their names."""
    block, layer = f"{stack}blocks.{{i}}.", f"{published}layers.{{i}}."
    return (
        (f"{block}attention_norm", f"{layer}input_layernorm"),
        (f"{block}attention.qkv", tuple(f"{layer}self_attn.{part}_proj" for part in "qkv")),
        (f"{block}attention.out", f"{layer}self_attn.o_proj"),
        (f"{block}feed.up", f"{layer}mlp.fc1"),
        (f"{block}feed.down", f"{layer}mlp.fc2"),
    )


CONVOLUTIONS, ENCODER, DECODER = "embedders.sound.network.blocks.", "transformer.", "answer_decoder."
BLOCK, LAYER = f"{DECODER}blocks.{{i}}.", "model.decoder.layers.{i}."

family = Family(
    architectures={"body": "MoonshineModel", "text": "MoonshineForConditionalGeneration"},
    prefix="model.",
    weight_names={
        "body": (
            *((f"{CONVOLUTIONS}{i}.conv", f"model.encoder.conv{i + 1}") for i in range(3)),
            (f"{CONVOLUTIONS}0.norm", "model.encoder.groupnorm"),
            *_stack_names(ENCODER, "model.encoder."),
            (f"{ENCODER}blocks.{{i}}.feed_norm", "model.encoder.layers.{i}.post_attention_layernorm"),
            (f"{ENCODER}final_norm", "model.encoder.layer_norm"),
            ("embedders.text", "model.decoder.embed_tokens"),
            *_stack_names(DECODER, "model.decoder."),
            (f"{BLOCK}cross_norm", f"{LAYER}post_attention_layernorm"),
            (f"{BLOCK}cross.query", f"{LAYER}encoder_attn.q_proj"),
            (f"{BLOCK}cross.key_value", (f"{LAYER}encoder_attn.k_proj", f"{LAYER}encoder_attn.v_proj")),
            (f"{BLOCK}cross.out", f"{LAYER}encoder_attn.o_proj"),
            (f"{BLOCK}feed_norm", f"{LAYER}final_layernorm"),
            (f"{DECODER}final_norm", "model.decoder.norm"),
        ),
        "text": (),
    },
    read_config=read,
    write_config=write,
    row_orders=row_orders,
    tied_weights={"proj_out.weight": "embedders.text.weight"},
    untied_weights={"proj_out.weight": "vocabulary_head.weight"},
    required_files=wav2vec2.REQUIRES,
    source_kind="sound",
    source_variant="spoken_waves",
    answer_kind="text",
)
