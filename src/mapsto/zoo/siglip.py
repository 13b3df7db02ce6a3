"""The picture encoder of SigLIP (Zhai et al. 2023): pre-norm ViT without a class token.

Classification heads read the mean of the patches. Starting models are google/siglip-base-patch16-224 and its other sizes. The
text encoder and the head that pools by attention are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Tower, clip

PREFIX = clip.PREFIX

# Values of settings that a config.json leaves out.
DEFAULTS = {"intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    shape = clip.read_tower(raw, DEFAULTS)
    return ModelConfig(transformer=shape, pooling="mean", pooler=None, vocabulary_head=None, num_prefix_tokens=0)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    # The pooling head is not kept, so `transformers` must not expect its weights.
    return {**clip.write(config), "vision_use_head": False}


family = replace(
    clip.family,
    architectures={"body": "SiglipVisionModel", "label": "SiglipForImageClassification"},
    weight_names={
        "body": (*clip.tower_names(), ("transformer.final_norm", f"{PREFIX}post_layernorm")),
        "label": clip.family.weight_names["label"],
    },
    read_config=read,
    write_config=write,
    ignored_weights=(*clip.family.ignored_weights, r"vision_model\.head\."),
    leading_ones={"embedders.image.position_embeddings": 1},
    tower=Tower("siglip_vision_model", "siglip", "vision_config"),
)
