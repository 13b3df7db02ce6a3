"""VGG (Simonyan & Zisserman 2015): stages of 3 × 3 convolutions. Classification heads read the mean of the last grid.

Starting models are folders with weights of torchvision (vgg11 to vgg19, with batch norm or without). Their config.json has a
format of our own, since nobody publishes one. The published classifier is left out, because it works at only one size of
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.convolution import PlainConfig
from mapsto.zoo import Family
from mapsto.zoo.resnet import COUNTER, NETWORK, backbone_config, batch_norm_names, read_stages

REQUIRES = {
    "preprocessor_config.json": "it tells how to resize and scale pictures as in training; "
    "docs/picture-models.md has the one of torchvision's weights",
}


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes; missing sizes are those of VGG-16.

    Raises CheckpointError if the sizes are too large or make no sense.
    """
    stages = read_stages(raw, (64, 128, 256, 512, 512), (2, 2, 3, 3, 3))
    return backbone_config(PlainConfig(**stages, normed=bool(raw.get("batch_norm", False))))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    backbone = config.backbone
    assert isinstance(backbone, PlainConfig)
    return {"hidden_sizes": list(backbone.widths), "depths": list(backbone.depths), "batch_norm": backbone.normed}


family = Family(
    architectures={"body": "VGG", "label": "VGGForImageClassification"},
    prefix="",
    weight_names={
        # Convolutions and norms are numbered in one sequence; a convolution has no statistics to match.
        "body": batch_norm_names(f"{NETWORK}blocks.{{i}}", "features.{i}"),
        "label": (("classifier", "classifier"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=REQUIRES,
    source_kind="image",
    step_counter=COUNTER,
)
