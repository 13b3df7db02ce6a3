"""Qwen 3 (Yang et al. 2025): the shape of Llama, with norms on queries and keys and a head width of its own.

Starting models are the dense ones of Qwen 3, without sliding windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import llama, qwen2


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    qwen2.require_global(raw)
    bias = bool(raw.get("attention_bias", False))
    # The published default, which is not width / heads.
    config = llama.read_decoder({"head_dim": 128, **raw}, qkv_bias=bias, out_bias=bias, feed_bias=False)
    return replace(config, transformer=replace(config.transformer, qk_norm=True))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {**llama.write_decoder(config), "attention_bias": bool(config.transformer.qkv_bias)}


family = replace(
    llama.family,
    architectures={
        "body": "Qwen3Model",
        "text": "Qwen3ForCausalLM",
        "label": "Qwen3ForSequenceClassification",
    },
    read_config=read,
    write_config=write,
)
