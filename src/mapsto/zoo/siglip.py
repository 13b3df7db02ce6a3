"""SigLIP (Zhai et al. 2023): its tower for pictures, without the head that pools by attention; the tower for texts is left out.
Classified by the mean of the patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Tower, clip

PREFIX = clip.PREFIX


USUAL = {"intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    shape = clip.tower(raw, USUAL)
    return ModelConfig(transformer=shape, pooling="mean", pooler=None, vocabulary_head=None, frame=0)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return {**clip.write(config), "vision_use_head": False}


family = replace(
    clip.family,
    architectures={"body": "SiglipVisionModel", "label": "SiglipForImageClassification"},
    names={
        "body": (*clip.body(), ("transformer.final_norm", f"{PREFIX}post_layernorm")),
        "label": clip.family.names["label"],
    },
    read=read,
    write=write,
    ignored=(*clip.family.ignored, r"vision_model\.head\."),
    flat={"embedders.image.position_embeddings": 1},
    tower=Tower("siglip_vision_model", "siglip", "vision_config"),
)
