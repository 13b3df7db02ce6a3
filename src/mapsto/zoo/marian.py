"""Marian (Junczys-Dowmunt et al. 2018): encoder–decoder for translation with post-norm layers and sinusoidal positions.

Starting models are those of Helsinki-NLP (opus-mt-en-de, …) with one vocabulary for both languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import bart

# Sines and cosines are computed, not read.
POSITIONS = (r"model\.(en|de)coder\.embed_positions\.weight$",)


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    sizes = {raw.get("vocab_size"), raw.get("decoder_vocab_size") or raw.get("vocab_size")}
    if raw.get("share_encoder_decoder_embeddings", True) is False or len(sizes) > 1:
        raise CheckpointError(
            "config.json: vocabularies of two languages (share_encoder_decoder_embeddings, decoder_vocab_size) are not supported"
        )
    # The files of Marian state that the embeddings are not normalised, as is always so here.
    config = bart.read_stacks({**raw, "normalize_embedding": True}, 512)
    assert config.answer_decoder is not None
    return replace(
        config,
        transformer=replace(config.transformer, positions="sinusoidal"),
        answer_decoder=replace(config.answer_decoder, positions="sinusoidal"),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {**bart.write(config), "share_encoder_decoder_embeddings": True}


family = replace(
    bart.family,
    architectures={"body": "MarianModel", "text": "MarianMTModel"},
    encoder_architecture="MarianModel",
    read_config=read,
    write_config=write,
    weight_names={
        **bart.family.weight_names,
        "body": tuple(names for names in bart.family.weight_names["body"] if not names[0].endswith("position_table")),
    },
    ignored_weights=(*bart.family.ignored_weights, *POSITIONS),
)
