"""ELECTRA (Clark et al. 2020): BERT's encoder, with embeddings that may be narrower than its layers.

Starting models are google/electra-small-discriminator and its other sizes, their generators, and hfl's Chinese ELECTRAs. The
head by which a discriminator finds replaced tokens is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, bert, read_positive_int


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    config = bert.read(raw)
    embedded = read_positive_int(raw, "embedding_size", 128)
    # Embeddings of the model's own width are not mapped, and there is no weight for it.
    shape = replace(config.transformer, embedding_width=None if embedded == config.transformer.width else embedded)
    return replace(
        config,
        transformer=shape,
        # In `transformers` ELECTRA's heads use GELU, whatever the encoder's activation is.
        pooler=TransformConfig("gelu", bias=True, norm=False),
        vocabulary_head=TransformConfig("gelu", True, True, True, shape.norm_epsilon),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {**bert.write(config), "embedding_size": config.transformer.input_width}


family = Family(
    architectures={
        "body": "ElectraModel",
        "text": "ElectraForMaskedLM",
        "label": "ElectraForSequenceClassification",
        "tags": "ElectraForTokenClassification",
        "span": "ElectraForQuestionAnswering",
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
        "tags": (("tagger", "classifier"),),
        "span": (("span_head", "qa_outputs"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={"generator_lm_head.weight": "embedders.text.weight"},
    ignored_weights=(r"electra\.embeddings\.position_ids$", r"discriminator_predictions\."),
)
