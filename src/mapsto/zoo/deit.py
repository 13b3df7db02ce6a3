"""DeiT (Touvron et al. 2021): ViT with a distillation token beside the class token, classified by the class token.

Opens facebook/deit-base-patch16-224 and its like. Of folders with a head for each of the two tokens only the body is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import vit


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes. Raises CheckpointError."""
    return replace(vit.read(raw), num_prefix_tokens=2)


# Their two tokens, which are the two rows of our one weight.
PREFIX_TOKENS = tuple(f"deit.embeddings.{name}_token" for name in ("cls", "distillation"))


family = replace(
    vit.family,
    architectures={"body": "DeiTModel", "label": "DeiTForImageClassification"},
    prefix="deit.",
    weight_names={
        "body": (*vit.body_names("deit."), ("embedders.image.cls_token", PREFIX_TOKENS)),
        "label": vit.family.weight_names["label"],
    },
    read_config=read,
    ignored_weights=(r"deit\.pooler\.",),
)
