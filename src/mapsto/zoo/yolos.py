"""YOLOS (Fang et al. 2021): ViT with learnt tokens behind the patches, each of which tells one box or that there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Names, vit, whole


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    queries, between = whole(raw, "num_detection_tokens", 100), raw.get("use_mid_position_embeddings", True)
    return replace(vit.read(raw), queries=queries, between=bool(between))


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    own = {"num_detection_tokens": config.queries, "use_mid_position_embeddings": config.between}
    return {**vit.write(config), **own}


def _dense(ours: tuple[str, ...], theirs: str) -> Names:
    """The layers of one of the heads."""
    return tuple((f"box_head.{name}", f"{theirs}.layers.{layer}") for layer, name in enumerate(ours))


family = replace(
    vit.family,
    architectures={"body": "YolosModel", "boxes": "YolosForObjectDetection"},
    names={
        "body": (
            *vit.whole_body("vit."),
            ("embedders.image.query_tokens", "vit.embeddings.detection_tokens"),
            ("embedders.image.later_positions", "vit.encoder.mid_position_embeddings"),
        ),
        "boxes": (
            *_dense(("towards.0", "towards.1", "named"), "class_labels_classifier"),
            *_dense(("sides.0", "sides.1", "sides.2"), "bbox_predictor"),
        ),
    },
    read=read,
    write=write,
    # What transformers 5 calls it in memory.
    renamed=((r"\.interpolation\.mid_position", ".mid_position"),),
)
