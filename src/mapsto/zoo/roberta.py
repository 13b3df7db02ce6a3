"""RoBERTa (Liu et al. 2019): BERT's encoder, but the first token of an example has the position padding id + 1, and not 0.

Starting models are FacebookAI/roberta-base and its other sizes, and sentence encoders and classifiers made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import MAX_SIZE, Family, bert


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    return bert.read(raw, position_offset=_padding(raw) + 1)


def _padding(raw: Mapping[str, Any]) -> int:
    """Return the id of the padding token in a parsed config.json, by default 1. Raises CheckpointError if it is no valid id."""
    # A config.json may state null, for which `get` would not return a default.
    padding = raw.get("pad_token_id")
    padding = 1 if padding is None else padding
    if not isinstance(padding, int) or not 0 <= padding <= MAX_SIZE:
        raise CheckpointError(f"config.json: pad_token_id must be a whole number from 0, not {padding!r}")
    return padding


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {**bert.write(config), "pad_token_id": config.transformer.position_offset - 1}


def make_family(stem: str) -> Family:
    """Return a Family with RoBERTa's config.json and names of weights.

    stem: start of the names of its classes in `transformers`, such as "XLMRoberta".
    """
    return Family(
        architectures={
            "body": f"{stem}Model",
            "text": f"{stem}ForMaskedLM",
            "label": f"{stem}ForSequenceClassification",
            "tags": f"{stem}ForTokenClassification",
            "span": f"{stem}ForQuestionAnswering",
        },
        prefix="roberta.",
        weight_names={
            "body": bert.body_names("roberta."),
            "text": (
                ("vocabulary_head.transform.dense", "lm_head.dense"),
                ("vocabulary_head.transform.norm", "lm_head.layer_norm"),
                ("vocabulary_head.bias", "lm_head.bias"),
            ),
            "label": (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
            "tags": (("tagger", "classifier"),),
            "span": (("span_head", "qa_outputs"),),
        },
        read_config=read,
        write_config=write,
        tied_weights={
            "lm_head.decoder.weight": "embedders.text.weight",
            "lm_head.decoder.bias": "vocabulary_head.bias",
        },
        ignored_weights=(r"roberta\.embeddings\.position_ids$", r"roberta\.pooler\."),
    )


family = make_family("Roberta")
