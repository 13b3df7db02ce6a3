"""ELECTRA (Clark et al. 2020): BERT's encoder behind embeddings that may be narrower; discriminators and generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, bert, whole


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    config = bert.read(raw)
    embedded = whole(raw, "embedding_size", 128)
    shape = replace(config.transformer, embedding_width=None if embedded == config.transformer.width else embedded)
    return replace(
        config,
        transformer=shape,
        pooler=TransformConfig("gelu", bias=True, norm=False),
        vocabulary_head=TransformConfig("gelu", True, True, True, shape.norm_epsilon),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return {**bert.write(config), "embedding_size": config.transformer.input_width}


family = Family(
    architectures={
        "body": "ElectraModel",
        "text": "ElectraForMaskedLM",
        "label": "ElectraForSequenceClassification",
    },
    prefix="electra.",
    names={
        "body": (*bert.body("electra."), ("transformer.embedding_map", "electra.embeddings_project")),
        "text": (
            ("vocabulary_head.transform.dense", "generator_predictions.dense"),
            ("vocabulary_head.transform.norm", "generator_predictions.LayerNorm"),
            ("vocabulary_head.bias", "generator_lm_head.bias"),
        ),
        "label": (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
    },
    read=read,
    write=write,
    untied={"generator_lm_head.weight": "embedders.text.weight"},
    ignored=(r"electra\.embeddings\.position_ids$", r"discriminator_predictions\."),
)
