"""mT5 (Xue et al. 2021): T5 v1.1 over 101 languages. Its output is never scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import t5


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    # transformers 5 states tied tables, by which T5 would be scaled.
    return t5.read({**raw, "scale_decoder_outputs": False})


family = replace(t5.make_family("MT5"), read_config=read)
