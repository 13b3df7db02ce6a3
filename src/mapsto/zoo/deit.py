"""DeiT (Touvron et al. 2021): ViT with a second token in front, which learnt from a teacher; classified by the first one.

Of folders with a head for either token the body is opened alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import vit


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    return replace(vit.read(raw), frame=2)


BOTH = tuple(f"deit.embeddings.{name}_token" for name in ("cls", "distillation"))


family = replace(
    vit.family,
    architectures={"body": "DeiTModel", "label": "DeiTForImageClassification"},
    prefix="deit.",
    names={
        "body": (*vit.whole_body("deit."), ("embedders.image.cls_token", BOTH)),
        "label": vit.family.names["label"],
    },
    read=read,
    ignored=(r"deit\.pooler\.",),
)
