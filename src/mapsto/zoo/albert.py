"""ALBERT (Lan et al. 2020): BERT with narrow embeddings and one set of weights for all layers.

Starting models are albert/albert-base-v2 and its other sizes, and the Chinese ALBERTs with one group of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, bert, read_positive_int

# Values of settings that a config.json leaves out, where they differ from BERT's.
DEFAULTS = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

# Published prefix of the one layer.
LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    for name in ("num_hidden_groups", "inner_group_num"):
        if raw.get(name, 1) != 1:
            raise CheckpointError(f"config.json: {name} must be 1, one layer shared by all, not {raw[name]!r}")
    # Settings of `raw` replace the defaults.
    config = bert.read({**DEFAULTS, **raw})
    shape = replace(
        config.transformer, embedding_width=read_positive_int(raw, "embedding_size", 128), shared_layers=True
    )
    return replace(config, transformer=shape)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {
        **bert.write(config),
        "embedding_size": config.transformer.input_width,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    }


family = Family(
    architectures={
        "body": "AlbertModel",
        "text": "AlbertForMaskedLM",
        "label": "AlbertForSequenceClassification",
        "tags": "AlbertForTokenClassification",
        "span": "AlbertForQuestionAnswering",
    },
    prefix="albert.",
    weight_names={
        "body": (
            *bert.embedding_names("albert."),
            ("transformer.embedding_map", "albert.encoder.embedding_hidden_mapping_in"),
            (
                "transformer.blocks.0.attention.qkv",
                (f"{LAYER}attention.query", f"{LAYER}attention.key", f"{LAYER}attention.value"),
            ),
            # There is one block, number 0, because all layers share its weights.
            ("transformer.blocks.0.attention.out", f"{LAYER}attention.dense"),
            ("transformer.blocks.0.attention_norm", f"{LAYER}attention.LayerNorm"),
            ("transformer.blocks.0.feed.up", f"{LAYER}ffn"),
            ("transformer.blocks.0.feed.down", f"{LAYER}ffn_output"),
            ("transformer.blocks.0.feed_norm", f"{LAYER}full_layer_layer_norm"),
        ),
        "text": (
            ("vocabulary_head.transform.dense", "predictions.dense"),
            ("vocabulary_head.transform.norm", "predictions.LayerNorm"),
            ("vocabulary_head.bias", "predictions.bias"),
        ),
        "label": (("pooler.dense", "albert.pooler"), ("classifier", "classifier")),
        "tags": (("tagger", "classifier"),),
        "span": (("span_head", "qa_outputs"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={
        "predictions.decoder.weight": "embedders.text.weight",
        "predictions.decoder.bias": "vocabulary_head.bias",
    },
    ignored_weights=(r"albert\.embeddings\.position_ids$", r"sop_classifier\."),
)
