"""DistilBERT (Sanh et al. 2019): half of BERT's layers, no token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, activation, share, whole
from mapsto.zoo.bert import foreign

EPSILON = 1e-12


LAYER = "distilbert.transformer.layer.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    shape = TransformerConfig(
        width=whole(raw, "dim", 768),
        layers=whole(raw, "n_layers", 6),
        heads=whole(raw, "n_heads", 12),
        hidden=whole(raw, "hidden_dim", 3072),
        norm_place="post",
        norm_epsilon=EPSILON,
        norm_bias=True,
        bias=True,
        activation=activation(raw.get("activation", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=whole(raw, "max_position_embeddings", 512),
        final_norm=False,
        dropout=share(raw, "dropout", 0.1),
        attention_dropout=share(raw, "attention_dropout", 0.1),
    )
    return ModelConfig(
        transformer=shape,
        pooling="first",
        pooler=TransformConfig("relu", bias=True, norm=False),
        vocabulary_head=TransformConfig(shape.activation, True, True, True, EPSILON),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape = config.transformer
    return {
        "dim": shape.width,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "hidden_dim": shape.hidden,
        "activation": foreign(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
    }


family = Family(
    architectures={
        "body": "DistilBertModel",
        "text": "DistilBertForMaskedLM",
        "label": "DistilBertForSequenceClassification",
    },
    prefix="distilbert.",
    names={
        "body": (
            ("embedders.text", "distilbert.embeddings.word_embeddings"),
            ("transformer.position_table", "distilbert.embeddings.position_embeddings"),
            ("transformer.embedding_norm", "distilbert.embeddings.LayerNorm"),
            (
                "transformer.blocks.{i}.attention.qkv",
                (f"{LAYER}attention.q_lin", f"{LAYER}attention.k_lin", f"{LAYER}attention.v_lin"),
            ),
            ("transformer.blocks.{i}.attention.out", f"{LAYER}attention.out_lin"),
            ("transformer.blocks.{i}.attention_norm", f"{LAYER}sa_layer_norm"),
            ("transformer.blocks.{i}.feed.up", f"{LAYER}ffn.lin1"),
            ("transformer.blocks.{i}.feed.down", f"{LAYER}ffn.lin2"),
            ("transformer.blocks.{i}.feed_norm", f"{LAYER}output_layer_norm"),
        ),
        "text": (
            ("vocabulary_head.transform.dense", "vocab_transform"),
            ("vocabulary_head.transform.norm", "vocab_layer_norm"),
            ("vocabulary_head.bias", "vocab_projector.bias"),
        ),
        "label": (("pooler.dense", "pre_classifier"), ("classifier", "classifier")),
    },
    read=read,
    write=write,
    untied={"vocab_projector.weight": "embedders.text.weight"},
)
