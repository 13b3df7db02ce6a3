"""Qwen 2 (Yang et al. 2024): the shape of Llama, with biases of queries, keys and values alone.

Starting models are those of Qwen 1.5, 2 and 2.5 without sliding windows. Qwen 3 uses the functions of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import llama

GLOBAL = "full_attention"


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    require_global(raw)
    return llama.read_decoder(raw, qkv_bias=True, out_bias=False, feed_bias=False)


def require_global(raw: Mapping[str, Any]) -> None:
    """Raise CheckpointError if some layers of the model that `raw` describes see only a window of tokens."""
    if raw.get("use_sliding_window") or any(kind != GLOBAL for kind in raw.get("layer_types") or ()):
        raise CheckpointError("config.json: sliding windows (use_sliding_window, layer_types) are not supported")


family = replace(
    llama.family,
    architectures={
        "body": "Qwen2Model",
        "text": "Qwen2ForCausalLM",
        "label": "Qwen2ForSequenceClassification",
    },
    read_config=read,
    write_config=llama.write_decoder,
)
