"""ResNet (He et al. 2016), and what the other convolutional families share with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.convolution import ConvolutionConfig, ResidualConfig
from mapsto.zoo import Family, Names, whole
from mapsto.zoo.vit import REQUIRES

NETWORK = "embedders.image.network."


MOST_STAGES, DEEPEST, WIDEST = 6, 256, 2**16


COUNTER = (".running_var", ".num_batches_tracked")


def sizes(raw: Mapping[str, Any], widths: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The channels and layers of each stage that a config.json says. Raises CheckpointError."""
    if whole(raw, "num_channels", 3) != 3:
        raise CheckpointError("config.json: only pictures of three channels are supported")
    found = {}
    for field, name, usual, most in (("widths", "hidden_sizes", widths, WIDEST), ("depths", "depths", depths, DEEPEST)):
        given = raw.get(name, usual)
        if not isinstance(given, list | tuple) or not 0 < len(given) <= MOST_STAGES:
            raise CheckpointError(f"config.json: {name} must list 1 to {MOST_STAGES} stages, not {given!r}")
        found[field] = tuple(whole({name: number}, name) for number in given)
        if max(found[field]) > most:
            raise CheckpointError(f"config.json: {name} may be up to {most:,}, not {max(found[field]):,}")
    if len(found["widths"]) != len(found["depths"]):
        raise CheckpointError("config.json: hidden_sizes and depths speak of different numbers of stages")
    return found


def hosted(front: ConvolutionConfig) -> ModelConfig:
    """A network and nothing behind it: no layers, no norms, read at the mean of its last grid."""
    shape = TransformerConfig(
        width=front.width, layers=0, heads=1, positions="none", embedding_norm=False, final_norm=False
    )
    return ModelConfig(transformer=shape, pooling="mean", pooler=None, vocabulary_head=None, front=front)


def normed(ours: str, theirs: str) -> Names:
    """A batch norm's weights, and its statistics."""
    return tuple((f"{ours}{end}", f"{theirs}{end}") for end in ("", ".running_mean", ".running_var"))


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    if raw.get("hidden_act", "relu") != "relu":
        raise CheckpointError(f"config.json: hidden_act {raw['hidden_act']!r} is not supported for ResNet, only 'relu'")
    kind = raw.get("layer_type", "bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise CheckpointError(f"config.json: layer_type must be 'basic' or 'bottleneck', not {kind!r}")
    return hosted(
        ResidualConfig(
            **sizes(raw, (256, 512, 1024, 2048), (3, 4, 6, 3)),
            stem=whole(raw, "embedding_size", 64),
            bottleneck=kind == "bottleneck",
            halved_at_once=bool(raw.get("downsample_in_first_stage", False)),
            halved_early=bool(raw.get("downsample_in_bottleneck", False)),
        )
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    front = config.front
    assert isinstance(front, ResidualConfig)
    return {
        "embedding_size": front.stem,
        "hidden_sizes": list(front.widths),
        "depths": list(front.depths),
        "layer_type": "bottleneck" if front.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": front.halved_at_once,
        "downsample_in_bottleneck": front.halved_early,
    }


def _convolution(ours: str, theirs: str) -> Names:
    return ((f"{ours}.convolution", f"{theirs}.convolution"), *normed(f"{ours}.norm", f"{theirs}.normalization"))


def _stage(stage: int) -> Names:
    ours, theirs = f"{NETWORK}blocks.{stage}.{{i}}.", f"resnet.encoder.stages.{stage}.layers.{{i}}."
    parts = (_convolution(f"{ours}parts.{part}", f"{theirs}layer.{part}") for part in range(3))
    return (*_convolution(f"{ours}shortcut", f"{theirs}shortcut"), *(name for part in parts for name in part))


# What torchvision and timm call the same weights.
ELSEWHERE = (
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"^fc\.", "classifier.1."),
    *((rf"^layer{stage + 1}\.", f"resnet.encoder.stages.{stage}.layers.") for stage in range(4)),
    *((rf"\.conv{part + 1}\.", f".layer.{part}.convolution.") for part in range(3)),
    *((rf"\.bn{part + 1}\.", f".layer.{part}.normalization.") for part in range(3)),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
)


family = Family(
    architectures={"body": "ResNetModel", "label": "ResNetForImageClassification"},
    prefix="resnet.",
    names={
        "body": (
            *_convolution(f"{NETWORK}stem", "resnet.embedder.embedder"),
            *(name for stage in range(MOST_STAGES) for name in _stage(stage)),
        ),
        "label": (("classifier", "classifier.1"),),
    },
    read=read,
    write=write,
    untied={},
    requires=REQUIRES,
    reads="image",
    counter=COUNTER,
    renamed=ELSEWHERE,
)
