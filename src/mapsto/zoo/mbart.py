"""mBART (Liu et al. 2020): the names of BART, with pre-norm layers and a norm behind the last one.

Starting models are facebook/mbart-large-cc25, mbart-large-50 and others of this family. Their tokenizers mark the language of
a text by a special token; that of an answer is forced_bos_token_id in generation_config.json, or the token that begins it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import bart


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    # Files of both families may state where norms stand, but no version of transformers follows them.
    config = bart.read({**raw, "normalize_before": False, "add_final_layer_norm": False})

    def with_norms(stack: TransformerConfig) -> TransformerConfig:
        return replace(stack, norm_place="pre", first_norm=True, final_norm=True)

    assert config.answer_decoder is not None
    return replace(
        config,
        transformer=with_norms(config.transformer),
        answer_decoder=with_norms(config.answer_decoder),
        pooling="mean",
    )


family = replace(
    bart.family,
    architectures={"body": "MBartModel", "text": "MBartForConditionalGeneration"},
    encoder_architecture="MBartModel",
    weight_names={
        **bart.family.weight_names,
        "body": (
            *bart.family.weight_names["body"],
            ("transformer.final_norm", "model.encoder.layer_norm"),
            ("answer_decoder.final_norm", "model.decoder.layer_norm"),
        ),
    },
    read_config=read,
)
