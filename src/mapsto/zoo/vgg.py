"""VGG (Simonyan & Zisserman 2015), under the names of torchvision, up to its classifier: that reads the last grid cell by cell,
through layers of 4096, so what answers here is new and reads the mean. Its config.json is ours, since no one publishes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.convolution import PlainConfig
from mapsto.zoo import Family
from mapsto.zoo.resnet import COUNTER, NETWORK, hosted, normed, sizes

REQUIRES = {
    "preprocessor_config.json": "it says how pictures are brought to the size that the model was trained on; "
    "docs/images.md has the one of torchvision's weights",
}


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says; VGG-16 by default. Raises CheckpointError."""
    stages = sizes(raw, (64, 128, 256, 512, 512), (2, 2, 3, 3, 3))
    return hosted(PlainConfig(**stages, normed=bool(raw.get("batch_norm", False))))


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    front = config.front
    assert isinstance(front, PlainConfig)
    return {"hidden_sizes": list(front.widths), "depths": list(front.depths), "batch_norm": front.normed}


family = Family(
    architectures={"body": "VGG", "label": "VGGForImageClassification"},
    prefix="",
    names={"body": normed(f"{NETWORK}blocks.{{i}}", "features.{i}"), "label": (("classifier", "classifier"),)},
    read=read,
    write=write,
    untied={},
    requires=REQUIRES,
    reads="image",
    counter=COUNTER,
)
