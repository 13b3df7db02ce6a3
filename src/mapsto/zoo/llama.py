"""Llama (Touvron et al. 2023): pre-norm decoder with rotary positions, RMS norms and gated feed-forward parts.

Starting models are those of Llama 1 to 3.2, SmolLM2, TinyLlama and others of this family. Grouped queries and scaled rotary
positions ("linear", "llama3") are supported; "dynamic", "yarn" and "longrope" are refused. Qwen 2 and 3 use the functions of this
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, RotaryScaling, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import (
    Family,
    Names,
    read_activation,
    read_fraction,
    read_positive_int,
    read_positive_number,
    write_activation,
)

# Base of the rotary angles if a file states none.
BASE = 10_000.0

LAYER = "model.layers.{i}."
ATTENTION, FEED = f"{LAYER}self_attn.", f"{LAYER}mlp."

# Published classifiers read the last token, by a linear map without a bias.
CLASSIFIER = TransformConfig(norm=False, dense=False, head_bias=False)


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    attention_bias = bool(raw.get("attention_bias", False))
    return read_decoder(
        raw, qkv_bias=attention_bias, out_bias=attention_bias, feed_bias=bool(raw.get("mlp_bias", False))
    )


def read_decoder(
    raw: Mapping[str, Any], qkv_bias: bool, out_bias: bool, feed_bias: bool, epsilon: float = 1e-6
) -> ModelConfig:
    """Return the ModelConfig of a decoder of this shape. Raises CheckpointError for unsupported settings.

    raw: a parsed config.json. qkv_bias, out_bias, feed_bias: whether the maps to queries, keys and values, the map behind
    attention, and those of the feed-forward part have biases. epsilon: that of the norms if the file states none.
    """
    heads, width = read_positive_int(raw, "num_attention_heads"), read_positive_int(raw, "hidden_size")
    # transformers writes null for settings that follow from others.
    stated = {name: value for name, value in raw.items() if value is not None}
    base, scaling = read_rotary(raw)
    if read_rotary_fraction(raw, 1.0) != 1:
        raise CheckpointError("config.json: partial_rotary_factor is not supported, all channels must rotate")
    shape = TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=read_positive_int(stated, "num_key_value_heads", heads),
        head_width=read_positive_int(stated, "head_dim", max(1, width // heads)),
        feed_forward_width=read_positive_int(raw, "intermediate_size"),
        norm="rms",
        norm_epsilon=read_fraction(raw, "rms_norm_eps", epsilon),
        bias=feed_bias,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        activation=read_activation(raw.get("hidden_act", "silu")),
        gated=True,
        causal=True,
        max_positions=read_positive_int(raw, "max_position_embeddings", 2048),
        rotary_base=base,
        rotary_scaling=scaling,
        embedding_norm=False,
        attention_dropout=read_fraction(stated, "attention_dropout", 0.0),
    )
    head = replace(CLASSIFIER, head_weight=not raw.get("tie_word_embeddings", False))
    return ModelConfig(transformer=shape, pooling="last", pooler=CLASSIFIER, vocabulary_head=head)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    return {**write_decoder(config), "attention_bias": bool(shape.qkv_bias), "mlp_bias": shape.bias}


def write_decoder(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json that all decoders of this shape have: the inverse of `read_decoder`."""
    shape, head = config.transformer, config.vocabulary_head
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.width_per_head,
        "intermediate_size": shape.feed_forward_width,
        "rms_norm_eps": shape.norm_epsilon,
        "hidden_act": write_activation(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "attention_dropout": shape.attention_dropout,
        "tie_word_embeddings": head is None or not head.head_weight,
        **write_rotary(shape),
    }


def read_rotary(raw: Mapping[str, Any]) -> tuple[float, RotaryScaling | None]:
    """Return the base of the rotary angles, and their scaling or None.

    raw: the parsed config.json. transformers 5 writes both in `rope_parameters`, earlier versions in `rope_theta` and
    `rope_scaling`. Raises CheckpointError for a scaling that is not supported.
    """
    rope = _rope_settings(raw)
    kind, positions = (
        rope.get("rope_type", rope.get("type", "default")),
        read_positive_int(raw, "max_position_embeddings", 2048),
    )
    base = read_positive_number({"rope_theta": rope.get("rope_theta", raw.get("rope_theta", BASE))}, "rope_theta")
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, RotaryScaling("linear", read_positive_number(rope, "factor"))
    if kind != "llama3":
        raise CheckpointError(
            f"config.json: rotary positions scaled by {kind!r} are not supported; supported are: default, linear, llama3"
        )
    scaling = RotaryScaling(
        "llama3",
        read_positive_number(rope, "factor"),
        read_positive_int(rope, "original_max_position_embeddings", positions),
        read_positive_number(rope, "low_freq_factor"),
        read_positive_number(rope, "high_freq_factor"),
    )
    if scaling.fast_turns <= scaling.slow_turns:
        raise CheckpointError("config.json: high_freq_factor of rotary positions must be larger than low_freq_factor")
    return base, scaling


def _rope_settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of rotary positions that stand in an entry of their own. raw: the parsed config.json."""
    settings: Mapping[str, Any] = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    return settings


def read_rotary_fraction(raw: Mapping[str, Any], default: float) -> float:
    """Return the share of the channels of a head that are rotated, from `partial_rotary_factor`.

    raw: the parsed config.json. default: value of a missing setting. Raises CheckpointError unless it is above 0 and at most 1.
    """
    stated = (settings.get("partial_rotary_factor") for settings in (_rope_settings(raw), raw))
    fraction = next((value for value in stated if value is not None), default)
    if not isinstance(fraction, int | float) or isinstance(fraction, bool) or not 0 < fraction <= 1:
        raise CheckpointError(f"config.json: partial_rotary_factor must be above 0 and at most 1, not {fraction!r}")
    return float(fraction)


def write_rotary(shape: TransformerConfig) -> dict[str, Any]:
    """Return the settings of rotary positions, under the names of transformers 5 and those of earlier versions."""
    scaling = shape.rotary_scaling
    rope: dict[str, Any] = {"rope_type": "default" if scaling is None else scaling.kind}
    if scaling is not None:
        rope["factor"] = scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        rope["original_max_position_embeddings"] = scaling.original_positions
        rope |= {"low_freq_factor": scaling.slow_turns, "high_freq_factor": scaling.fast_turns}
    theta = {"rope_theta": shape.rotary_base}
    return {**theta, "rope_scaling": None if scaling is None else rope | theta, "rope_parameters": rope | theta}


def body_names() -> Names:
    """Return pairs (our name, published name) of all weights but the heads', with those that only Qwen 3 has."""
    return (
        ("embedders.text", "model.embed_tokens"),
        ("transformer.blocks.{i}.attention_norm", f"{LAYER}input_layernorm"),
        ("transformer.blocks.{i}.attention.qkv", (f"{ATTENTION}q_proj", f"{ATTENTION}k_proj", f"{ATTENTION}v_proj")),
        ("transformer.blocks.{i}.attention.query_norm", f"{ATTENTION}q_norm"),
        ("transformer.blocks.{i}.attention.key_norm", f"{ATTENTION}k_norm"),
        ("transformer.blocks.{i}.attention.out", f"{ATTENTION}o_proj"),
        ("transformer.blocks.{i}.feed_norm", f"{LAYER}post_attention_layernorm"),
        ("transformer.blocks.{i}.feed.up", (f"{FEED}gate_proj", f"{FEED}up_proj")),
        ("transformer.blocks.{i}.feed.down", f"{FEED}down_proj"),
        ("transformer.final_norm", "model.norm"),
    )


family = Family(
    architectures={
        "body": "LlamaModel",
        "text": "LlamaForCausalLM",
        "label": "LlamaForSequenceClassification",
    },
    prefix="model.",
    weight_names={"body": body_names(), "text": (), "label": (("classifier", "score"),)},
    read_config=read,
    write_config=write,
    tied_weights={"lm_head.weight": "embedders.text.weight"},
    untied_weights={"lm_head.weight": "vocabulary_head.weight"},
    # Old files have a copy of the rotary angles.
    ignored_weights=(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq$",),
)
