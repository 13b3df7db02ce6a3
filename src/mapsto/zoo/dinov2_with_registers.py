"""DINOv2 with registers (Darcet et al. 2024): tokens in front that are read by nobody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, dinov2, whole


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    return dinov2.read(raw, frame=1 + whole(raw, "num_register_tokens", 4))


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return {**dinov2.write(config), "num_register_tokens": config.frame - 1}


family = Family(
    architectures={"body": "Dinov2WithRegistersModel", "label": "Dinov2WithRegistersForImageClassification"},
    prefix="dinov2_with_registers.",
    names={"body": dinov2.body("dinov2_with_registers."), "label": (("classifier", "classifier"),)},
    read=read,
    write=write,
    untied={},
    requires=dinov2.family.requires,
    reads="image",
    renamed=dinov2.family.renamed,
    gated=dinov2.gated("dinov2_with_registers."),
)
