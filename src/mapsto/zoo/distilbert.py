"""DistilBERT (Sanh et al. 2019): BERT with half of the layers and no token types.

Starting models are distilbert-base-uncased, distilbert-base-multilingual-cased and others of this family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, read_activation, read_fraction, read_positive_int, write_activation

EPSILON = 1e-12


LAYER = "distilbert.transformer.layer.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    shape = TransformerConfig(
        width=read_positive_int(raw, "dim", 768),
        layers=read_positive_int(raw, "n_layers", 6),
        heads=read_positive_int(raw, "n_heads", 12),
        feed_forward_width=read_positive_int(raw, "hidden_dim", 3072),
        norm_place="post",
        norm_epsilon=EPSILON,
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("activation", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=read_positive_int(raw, "max_position_embeddings", 512),
        final_norm=False,
        dropout=read_fraction(raw, "dropout", 0.1),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.1),
    )
    return ModelConfig(
        transformer=shape,
        pooling="first",
        # The published classifier reads [CLS] through a dense layer with ReLU.
        pooler=TransformConfig("relu", bias=True, norm=False),
        vocabulary_head=TransformConfig(shape.activation, True, True, True, EPSILON),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    return {
        "dim": shape.width,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "hidden_dim": shape.feed_forward_width,
        "activation": write_activation(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
    }


family = Family(
    architectures={
        "body": "DistilBertModel",
        "text": "DistilBertForMaskedLM",
        "label": "DistilBertForSequenceClassification",
        "tags": "DistilBertForTokenClassification",
        "span": "DistilBertForQuestionAnswering",
    },
    prefix="distilbert.",
    weight_names={
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
        "tags": (("tagger", "classifier"),),
        "span": (("span_head", "qa_outputs"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={"vocab_projector.weight": "embedders.text.weight"},
)
