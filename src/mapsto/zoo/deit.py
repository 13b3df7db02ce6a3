"""DeiT (Touvron et al. 2021): ViT with a distillation token after the class token; classification heads read the class token.

Starting models are facebook/deit-base-patch16-224 and its other sizes. If a folder has one head for each of the two tokens,
as models trained by distillation do, both heads are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import vit


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    return replace(vit.read(raw), num_prefix_tokens=2)


# Published names of the two tokens, which are the two rows of one weight here.
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
    # No published head reads the pooler's output.
    ignored_weights=(r"deit\.pooler\.",),
)
