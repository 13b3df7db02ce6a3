"""RoBERTa (Liu et al. 2019): BERT's encoder, positions counted from behind the padding id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import LARGEST_NUMBER, Family, bert


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    return bert.read(raw, position_offset=_padding(raw) + 1)


def _padding(raw: Mapping[str, Any]) -> int:
    given = raw.get("pad_token_id")
    given = 1 if given is None else given
    if not isinstance(given, int) or not 0 <= given <= LARGEST_NUMBER:
        raise CheckpointError(f"config.json: pad_token_id must be a whole number from 0, not {given!r}")
    return given


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return {**bert.write(config), "pad_token_id": config.transformer.position_offset - 1}


def make(stem: str) -> Family:
    """RoBERTa or one of its like, whose classes begin with `stem`."""
    return Family(
        architectures={
            "body": f"{stem}Model",
            "text": f"{stem}ForMaskedLM",
            "label": f"{stem}ForSequenceClassification",
        },
        prefix="roberta.",
        names={
            "body": bert.body("roberta."),
            "text": (
                ("vocabulary_head.transform.dense", "lm_head.dense"),
                ("vocabulary_head.transform.norm", "lm_head.layer_norm"),
                ("vocabulary_head.bias", "lm_head.bias"),
            ),
            "label": (("pooler.dense", "classifier.dense"), ("classifier", "classifier.out_proj")),
        },
        read=read,
        write=write,
        untied={"lm_head.decoder.weight": "embedders.text.weight", "lm_head.decoder.bias": "vocabulary_head.bias"},
        ignored=(r"roberta\.embeddings\.position_ids$", r"roberta\.pooler\."),
    )


family = make("Roberta")
