"""YOLOS (Fang et al. 2021): ViT with learnt query tokens after the patches. Each query predicts one box, or that there is none.

Starting models are hustvl/yolos-tiny, -small and -base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Names, read_positive_int, vit


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    num_queries = read_positive_int(raw, "num_detection_tokens", 100)
    return replace(
        vit.read(raw), num_queries=num_queries, mid_positions=bool(raw.get("use_mid_position_embeddings", True))
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    settings = {"num_detection_tokens": config.num_queries, "use_mid_position_embeddings": config.mid_positions}
    return {**vit.write(config), **settings}


def _head_names(modules: tuple[str, ...], published: str) -> Names:
    """Return pairs (our name, published name) of the linear maps of one of YOLOS's two heads, for classes and for boxes.

    modules: our names of the maps, in their order in the published head. published: the published name of the head.
    """
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
    # Name in models of transformers 5 → name in the files.
    aliases=((r"\.interpolation\.mid_position", ".mid_position"),),
)
