"""YOLOS (Fang et al. 2021): ViT with learned query tokens behind the patches, each of which answers one box or "no object".

Opens hustvl/yolos-tiny, -small and -base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Names, read_positive_int, vit


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes. Raises CheckpointError."""
    num_queries = read_positive_int(raw, "num_detection_tokens", 100)
    return replace(
        vit.read(raw), num_queries=num_queries, mid_positions=bool(raw.get("use_mid_position_embeddings", True))
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a configuration: the inverse of `read`."""
    settings = {"num_detection_tokens": config.num_queries, "use_mid_position_embeddings": config.mid_positions}
    return {**vit.write(config), **settings}


def _head_names(modules: tuple[str, ...], published: str) -> Names:
    """Return the names of a head's linear maps, in their order."""
    return tuple((f"box_head.{name}", f"{published}.layers.{layer}") for layer, name in enumerate(modules))


family = replace(
    vit.family,
    architectures={"body": "YolosModel", "boxes": "YolosForObjectDetection"},
    weight_names={
        "body": (
            *vit.body_names("vit."),
            ("embedders.image.query_tokens", "vit.embeddings.detection_tokens"),
            ("embedders.image.later_positions", "vit.encoder.mid_position_embeddings"),
        ),
        "boxes": (
            *_head_names(("towards.0", "towards.1", "named"), "class_labels_classifier"),
            *_head_names(("sides.0", "sides.1", "sides.2"), "bbox_predictor"),
        ),
    },
    read_config=read,
    write_config=write,
    # Name in the memory of transformers 5.
    aliases=((r"\.interpolation\.mid_position", ".mid_position"),),
)
