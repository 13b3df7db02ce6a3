"""T5 (Raffel et al. 2020): encoder–decoder with a learnt bias of attention for each bucket of relative positions.

Starting models are T5, T5 v1.1 and FLAN-T5; mT5 uses the functions of this file. All layers of a stack share the bias, which is
stored in the first one. Scores are not divided by the root of the head width. The first T5 ties its output weights to the
embeddings and scales them, the others have output weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation

ENCODER, DECODER = "encoder.block.{i}.layer.", "decoder.block.{i}.layer."

# Files say "gated-gelu" but mean the approximation by tanh.
GATED = "gated-"


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    stated = {name: value for name, value in raw.items() if value is not None}
    dropout, is_gated, activation = read_fraction(raw, "dropout_rate", 0.1), *_read_feed_forward(raw)
    encoder = TransformerConfig(
        width=read_positive_int(raw, "d_model"),
        layers=read_positive_int(raw, "num_layers"),
        heads=read_positive_int(raw, "num_heads"),
        head_width=read_positive_int(raw, "d_kv"),
        feed_forward_width=read_positive_int(raw, "d_ff"),
        norm="rms",
        norm_epsilon=read_fraction(raw, "layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=is_gated,
        positions="relative",
        max_positions=read_positive_int(raw, "n_positions", 512),
        relative_buckets=read_positive_int(raw, "relative_attention_num_buckets", 32),
        relative_distance=read_positive_int(raw, "relative_attention_max_distance", 128),
        scaled_scores=False,
        embedding_norm=False,
        dropout=dropout,
        attention_dropout=dropout,
    )
    if encoder.relative_buckets % 4 or encoder.relative_distance <= encoder.relative_buckets:
        raise CheckpointError(
            "config.json: relative_attention_num_buckets must be a multiple of 4 below relative_attention_max_distance"
        )
    decoder_layers = read_positive_int(stated, "num_decoder_layers", encoder.layers)
    # transformers 5 states tied tables in any case, so the weights decide that; the scale has a setting of its own.
    is_scaled = bool(raw.get("scale_decoder_outputs", raw.get("tie_word_embeddings") is not False))
    return ModelConfig(
        transformer=encoder,
        answer_decoder=replace(encoder, layers=decoder_layers, causal=True, cross_attention=True),
        answer_start=int(stated.get("decoder_start_token_id", stated.get("pad_token_id", 0))),
        pooling="mean",
        pooler=None,
        vocabulary_head=TransformConfig(norm=False, dense=False, head_bias=False, head_scaled=is_scaled),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape, head, decoder = config.transformer, config.vocabulary_head, config.answer_decoder
    activation = "gelu" if shape.gated and shape.activation == "gelu_tanh" else write_activation(shape.activation)
    is_scaled = head is not None and head.head_scaled
    return {
        "d_model": shape.width,
        "num_layers": shape.layers,
        "num_decoder_layers": (decoder or shape).layers,
        "num_heads": shape.heads,
        "d_kv": shape.width_per_head,
        "d_ff": shape.feed_forward_width,
        "feed_forward_proj": (GATED if shape.gated else "") + activation,
        "layer_norm_epsilon": shape.norm_epsilon,
        "n_positions": shape.max_positions,
        "relative_attention_num_buckets": shape.relative_buckets,
        "relative_attention_max_distance": shape.relative_distance,
        "dropout_rate": shape.dropout,
        "decoder_start_token_id": config.answer_start or 0,
        "scale_decoder_outputs": is_scaled,
        # Earlier versions of transformers know the scale by this.
        "tie_word_embeddings": is_scaled,
        "is_encoder_decoder": True,
    }


def _read_feed_forward(raw: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return whether the feed-forward part is gated, and our name of its activation."""
    name = str(raw.get("feed_forward_proj", "relu"))
    if name == "gated-gelu":
        return True, "gelu_tanh"
    return name.startswith(GATED), read_activation(name.removeprefix(GATED))


def _stack_names(own: str, published: str, stack: str, last: int) -> Names:
    """Return pairs (our name, published name) of the weights of one stack.

    own: start of our names, such as "transformer.". published: start of the published names of a layer.
    stack: start of the published names of the stack. last: number of the feed-forward part within a layer.
    """
    block, attention, feed = f"{own}blocks.{{i}}.", f"{published}0.SelfAttention.", f"{published}{last}."
    return (
        (f"{block}attention_norm", f"{published}0.layer_norm"),
        (f"{block}attention.qkv", tuple(f"{attention}{part}" for part in "qkv")),
        (f"{block}attention.out", f"{attention}o"),
        (f"{block}feed_norm", f"{feed}layer_norm"),
        (f"{block}feed.up", f"{feed}DenseReluDense.wi"),
        (f"{block}feed.down", f"{feed}DenseReluDense.wo"),
        (f"{own}relative_table", f"{stack}block.0.layer.0.SelfAttention.relative_attention_bias"),
        (f"{own}final_norm", f"{stack}final_layer_norm"),
    )


def _cross_names(published: str) -> Names:
    """Return pairs (our name, published name) of the weights of cross-attention. published: start of their names."""
    block, attention = "answer_decoder.blocks.{i}.", f"{published}1.EncDecAttention."
    return (
        (f"{block}cross_norm", f"{published}1.layer_norm"),
        (f"{block}cross.query", f"{attention}q"),
        (f"{block}cross.key_value", (f"{attention}k", f"{attention}v")),
        (f"{block}cross.out", f"{attention}o"),
    )


def make_family(stem: str) -> Family:
    """Return a Family with T5's config.json and names of weights. stem: start of the names of its classes in `transformers`."""
    return Family(
        architectures={"body": f"{stem}Model", "text": f"{stem}ForConditionalGeneration"},
        encoder_architecture=f"{stem}EncoderModel",
        prefix="",
        weight_names={
            "body": (
                ("embedders.text", "shared"),
                *_stack_names("transformer.", ENCODER, "encoder.", 1),
                *_stack_names("answer_decoder.", DECODER, "decoder.", 2),
                *_cross_names(DECODER),
            ),
            "text": (),
        },
        gated_names=(
            ("transformer.blocks.{i}.feed.up", tuple(f"{ENCODER}1.DenseReluDense.wi_{part}" for part in "01")),
            ("answer_decoder.blocks.{i}.feed.up", tuple(f"{DECODER}2.DenseReluDense.wi_{part}" for part in "01")),
        ),
        read_config=read,
        write_config=write,
        tied_weights={
            "encoder.embed_tokens.weight": "embedders.text.weight",
            "decoder.embed_tokens.weight": "embedders.text.weight",
            "lm_head.weight": "embedders.text.weight",
        },
        untied_weights={"lm_head.weight": "vocabulary_head.weight"},
        # Old files have a bias that cross-attention never used.
        ignored_weights=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
    )


family = make_family("T5")
