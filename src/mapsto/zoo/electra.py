"""ELECTRA (Clark et al. 2020): BERT's encoder, with embeddings that may be narrower than its layers.

Opens google/electra-small-discriminator and its like, generators too; hfl's Chinese ELECTRAs. The discriminator's own head is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, bert, read_positive_int


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the shape of the model that `raw`, a parsed config.json, describes. Raises CheckpointError."""
    config = bert.read(raw)
    embedded = read_positive_int(raw, "embedding_size", 128)
    shape = replace(config.transformer, embedding_width=None if embedded == config.transformer.width else embedded)
    return replace(
        config,
        transformer=shape,
        pooler=TransformConfig("gelu", bias=True, norm=False),
        vocabulary_head=TransformConfig("gelu", True, True, True, shape.norm_epsilon),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the content of config.json for a model shape: the inverse of `read`."""
    return {**bert.write(config), "embedding_size": config.transformer.input_width}


family = Family(
    architectures={
        "body": "ElectraModel",
        "text": "ElectraForMaskedLM",
        "label": "ElectraForSequenceClassification",
    },
    prefix="electra.",
    weight_names={
        "body": (*bert.body_names("electra."), ("transformer.embedding_map", "electra.embeddings_project")),
        "text": (
            ("vocabulary_head.transform.dense", "generator_predictions.dense"),
            ("vocabulary_head.transform.norm", "generator_predictions.LayerNorm"),
            ("vocabulary_head.bias", "generator_lm_head.bias"),
        ),
        "label": (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
    },
    read_config=read,
    write_config=write,
    tied_weights={"generator_lm_head.weight": "embedders.text.weight"},
    ignored_weights=(r"electra\.embeddings\.position_ids$", r"discriminator_predictions\."),
)
