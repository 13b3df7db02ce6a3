"""ModernBERT (Warner et al. 2024): pre-norm, rotary positions, gated feed-forward, no biases; the shape of our own models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, activation, share, whole
from mapsto.zoo.bert import foreign

GLOBAL_BASE, LOCAL_BASE = 160_000.0, 10_000.0


GLOBAL, LOCAL = "full_attention", "sliding_attention"


POOLING = {"cls": "first", "mean": "mean"}


LAYER = "model.layers.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    bias = bool(raw.get("attention_bias", False))
    if bias != bool(raw.get("mlp_bias", False)):
        raise CheckpointError("config.json: attention_bias and mlp_bias differ, which is not supported")
    if not raw.get("decoder_bias", True):
        raise CheckpointError("config.json: decoder_bias false is not supported")
    layers = whole(raw, "num_hidden_layers")
    every = _global_every(raw, layers)
    epsilon = share(raw, "norm_eps", 1e-5)
    norm_bias = bool(raw.get("norm_bias", False))
    shape = TransformerConfig(
        width=whole(raw, "hidden_size"),
        layers=layers,
        heads=whole(raw, "num_attention_heads"),
        hidden=whole(raw, "intermediate_size"),
        norm_epsilon=epsilon,
        norm_bias=norm_bias,
        bias=bias,
        activation=activation(raw.get("hidden_activation", "gelu")),
        max_positions=whole(raw, "max_position_embeddings", 8192),
        rotary_base=_base(raw, GLOBAL, "global_rope_theta", GLOBAL_BASE),
        rotary_base_local=_base(raw, LOCAL, "local_rope_theta", LOCAL_BASE),
        window=whole(raw, "local_attention", 128) // 2 if every > 1 else None,
        global_every=every,
        dropout=share(raw, "mlp_dropout", 0.0),
        attention_dropout=share(raw, "attention_dropout", 0.0),
    )
    pooling = raw.get("classifier_pooling", "cls")
    if pooling not in POOLING:
        raise CheckpointError(f"config.json: classifier_pooling is cls or mean, not {pooling!r}")
    head = TransformConfig(
        activation(raw.get("classifier_activation", "gelu")),
        bool(raw.get("classifier_bias", False)),
        True,
        norm_bias,
        epsilon,
    )
    return ModelConfig(transformer=shape, pooling=POOLING[pooling], pooler=head, vocabulary_head=head)  # type: ignore[arg-type]


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """A new model: the feed-forward part is as wide as without gates it would have as many weights at four widths."""
    hidden = max(64, round(width * 8 / 3 / 64) * 64)
    return ModelConfig(
        transformer=TransformerConfig(width=width, layers=layers, heads=heads, hidden=hidden, max_positions=longest)
    )


def _global_every(raw: Mapping[str, Any], layers: int) -> int:
    """Every how many layers attention is global. Raises CheckpointError for another pattern."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return whole(raw, "global_attn_every_n_layers", 3)
    if kinds == [GLOBAL] * layers:
        return 1
    # With one global layer, the first, any number from the depth on says the same.
    every = next((i for i, kind in enumerate(kinds) if i and kind == GLOBAL), max(layers, 2))
    if kinds != [LOCAL if i % every else GLOBAL for i in range(layers)]:
        raise CheckpointError("config.json: layer_types is no pattern of one global layer in every few")
    return every


def _base(raw: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    said = (raw.get("rope_parameters") or {}).get(kind) or {}
    if said.get("rope_type", "default") != "default" or raw.get("rope_scaling"):
        raise CheckpointError("config.json: scaled rotary positions are not supported")
    return float(said.get("rope_theta", raw.get(old, default)))


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape, head = config.transformer, config.pooler
    assert head is not None
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "norm_eps": shape.norm_epsilon,
        "norm_bias": shape.norm_bias,
        "attention_bias": shape.bias,
        "mlp_bias": shape.bias,
        "hidden_activation": foreign(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "rope_parameters": {
            GLOBAL: {"rope_type": "default", "rope_theta": shape.rotary_base},
            LOCAL: {"rope_type": "default", "rope_theta": shape.rotary_base_local},
        },
        "layer_types": [LOCAL if shape.is_local(i) else GLOBAL for i in range(shape.layers)],
        "local_attention": 2 * (shape.window or 64),
        "mlp_dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "classifier_pooling": next(theirs for theirs, ours in POOLING.items() if ours == config.pooling),
        "classifier_activation": foreign(head.activation),
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
    names={
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
    read=read,
    write=write,
    untied={"decoder.weight": "embedders.text.weight"},
    fresh=fresh,
)
