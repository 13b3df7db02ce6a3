"""ModernBERT (Warner et al. 2024): pre-norm encoder with rotary positions, gated feed-forward parts and no biases.

In every third layer, from the first on, tokens attend to all tokens; in the other layers only to near ones (a window).
Starting models are answerdotai/ModernBERT-base and -large. New models of text take this shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, read_activation, read_fraction, read_positive_int, write_activation

# Bases of the rotary angles, if a config.json leaves them out.
GLOBAL_BASE, LOCAL_BASE = 160_000.0, 10_000.0
# Published names of the two types of layers.
GLOBAL, LOCAL = "full_attention", "sliding_attention"
# Published names of poolings → ours.
POOLING = {"cls": "first", "mean": "mean"}


LAYER = "model.layers.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    bias = bool(raw.get("attention_bias", False))
    if bias != bool(raw.get("mlp_bias", False)):
        raise CheckpointError("config.json: attention_bias and mlp_bias differ, which is not supported")
    if not raw.get("decoder_bias", True):
        raise CheckpointError("config.json: decoder_bias false is not supported")
    layers = read_positive_int(raw, "num_hidden_layers")
    global_every = _global_every(raw, layers)
    epsilon = read_fraction(raw, "norm_eps", 1e-5)
    norm_bias = bool(raw.get("norm_bias", False))
    shape = TransformerConfig(
        width=read_positive_int(raw, "hidden_size"),
        layers=layers,
        heads=read_positive_int(raw, "num_attention_heads"),
        feed_forward_width=read_positive_int(raw, "intermediate_size"),
        norm_epsilon=epsilon,
        norm_bias=norm_bias,
        bias=bias,
        activation=read_activation(raw.get("hidden_activation", "gelu")),
        max_positions=read_positive_int(raw, "max_position_embeddings", 8192),
        rotary_base=_rotary_base(raw, GLOBAL, "global_rope_theta", GLOBAL_BASE),
        rotary_base_local=_rotary_base(raw, LOCAL, "local_rope_theta", LOCAL_BASE),
        # The published number counts both sides of the window, ours one side.
        window=read_positive_int(raw, "local_attention", 128) // 2 if global_every > 1 else None,
        global_every=global_every,
        dropout=read_fraction(raw, "mlp_dropout", 0.0),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.0),
    )
    pooling = raw.get("classifier_pooling", "cls")
    if pooling not in POOLING:
        raise CheckpointError(f"config.json: classifier_pooling is cls or mean, not {pooling!r}")
    head = TransformConfig(
        read_activation(raw.get("classifier_activation", "gelu")),
        bool(raw.get("classifier_bias", False)),
        True,
        norm_bias,
        epsilon,
    )
    return ModelConfig(transformer=shape, pooling=POOLING[pooling], pooler=head, vocabulary_head=head)  # type: ignore[arg-type]


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """Return the ModelConfig of a new model of text. width, layers, heads: those of its Transformer.

    Its gated feed-forward parts have about as many weights as ungated ones of four times the width.
    longest: maximum number of tokens of an example.
    """
    # A gated part has three matrices instead of two: 2/3 of 4 × width, in multiples of 64.
    hidden = max(64, round(width * 8 / 3 / 64) * 64)
    return ModelConfig(
        transformer=TransformerConfig(
            width=width, layers=layers, heads=heads, feed_forward_width=hidden, max_positions=longest
        )
    )


def _global_every(raw: Mapping[str, Any], layers: int) -> int:
    """Return n, where layers 0, n, 2n, … have global attention and all others local attention.

    raw: the parsed config.json. layers: number of layers. Raises CheckpointError if its `layer_types` have no such pattern.
    """
    types = raw.get("layer_types")
    if types is None:
        return read_positive_int(raw, "global_attn_every_n_layers", 3)
    if types == [GLOBAL] * layers:
        return 1
    # If the first layer is the only global one, every n from the depth on describes that.
    global_every = next((i for i, layer_type in enumerate(types) if i and layer_type == GLOBAL), max(layers, 2))
    if types != [LOCAL if i % global_every else GLOBAL for i in range(layers)]:
        raise CheckpointError("config.json: layer_types must have one global layer in every n, from the first on")
    return global_every


def _rotary_base(raw: Mapping[str, Any], layer_type: str, old_key: str, default: float) -> float:
    """Return the base of the rotary angles in the layers with global or with local attention.

    raw: the parsed config.json. layer_type: GLOBAL or LOCAL. old_key: name of this setting in older files.
    default: the base if the file states none. Raises CheckpointError if the file scales rotary positions, as for long texts.
    """
    rope = (raw.get("rope_parameters") or {}).get(layer_type) or {}
    if rope.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise CheckpointError("config.json: scaled rotary positions are not supported")
    return float(rope.get("rope_theta", raw.get(old_key, default)))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape, head = config.transformer, config.pooler
    assert head is not None
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward_width,
        "norm_eps": shape.norm_epsilon,
        "norm_bias": shape.norm_bias,
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "hidden_activation": write_activation(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "rope_parameters": {
            GLOBAL: {"rope_type": "default", "rope_theta": shape.rotary_base},
            LOCAL: {"rope_type": "default", "rope_theta": shape.rotary_base_local},
        },
        "layer_types": [LOCAL if shape.is_local(i) else GLOBAL for i in range(shape.layers)],
        # A model without local layers needs a number here too; 128 is the published one.
        "local_attention": 2 * (shape.window or 64),
        "mlp_dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "classifier_pooling": next(name for name, pooling in POOLING.items() if pooling == config.pooling),
        "classifier_activation": write_activation(head.activation),
        "classifier_bias": head.bias,
        "decoder_bias": True,
    }


family = Family(
    architectures={
        "body": "ModernBertModel",
        "text": "ModernBertForMaskedLM",
        "label": "ModernBertForSequenceClassification",
    },
    prefix="model.",
    weight_names={
        "body": (
            ("embedders.text", "model.embeddings.tok_embeddings"),
            ("transformer.embedding_norm", "model.embeddings.norm"),
            ("transformer.blocks.{i}.attention_norm", f"{LAYER}attn_norm"),
            ("transformer.blocks.{i}.attention.qkv", f"{LAYER}attn.Wqkv"),
            ("transformer.blocks.{i}.attention.out", f"{LAYER}attn.Wo"),
            ("transformer.blocks.{i}.feed_norm", f"{LAYER}mlp_norm"),
            ("transformer.blocks.{i}.feed.up", f"{LAYER}mlp.Wi"),
            ("transformer.blocks.{i}.feed.down", f"{LAYER}mlp.Wo"),
            ("transformer.final_norm", "model.final_norm"),
        ),
        "text": (
            ("vocabulary_head.transform.dense", "head.dense"),
            ("vocabulary_head.transform.norm", "head.norm"),
            ("vocabulary_head.bias", "decoder.bias"),
        ),
        "label": (("pooler.dense", "head.dense"), ("pooler.norm", "head.norm"), ("classifier", "classifier")),
    },
    read_config=read,
    write_config=write,
    tied_weights={"decoder.weight": "embedders.text.weight"},
    new_config=fresh,
)
