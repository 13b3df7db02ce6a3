"""DINOv2 with registers (Darcet et al. 2024): DINOv2 with learnt tokens (registers) after the class token, which no head reads.

Starting models are facebook/dinov2-with-registers-small to -giant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, dinov2, read_positive_int


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    return dinov2.read(raw, num_prefix_tokens=1 + read_positive_int(raw, "num_register_tokens", 4))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    # The first prefix token is the class token, the others are registers.
    return {**dinov2.write(config), "num_register_tokens": config.num_prefix_tokens - 1}


family = Family(
    architectures={"body": "Dinov2WithRegistersModel", "label": "Dinov2WithRegistersForImageClassification"},
    prefix="dinov2_with_registers.",
    weight_names={"body": dinov2.body_names("dinov2_with_registers."), "label": (("classifier", "classifier"),)},
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=dinov2.family.required_files,
    source_kind="image",
    aliases=dinov2.family.aliases,
    gated_names=dinov2.gated_names("dinov2_with_registers."),
)
