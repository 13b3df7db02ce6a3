"""ConvNeXt (Liu et al. 2022): a convolutional network with layers like those of a Transformer; its mean is normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.model.convolution import ConvNextConfig
from mapsto.zoo import Family, Names, activation, share, whole
from mapsto.zoo.bert import foreign
from mapsto.zoo.resnet import MOST_STAGES, NETWORK, hosted, sizes
from mapsto.zoo.vit import REQUIRES


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    scale = raw.get("layer_scale_init_value", 1e-6)
    if not isinstance(scale, int | float):
        raise CheckpointError(f"config.json: layer_scale_init_value must be a number, not {scale!r}")
    front = ConvNextConfig(
        **sizes(raw, (96, 192, 384, 768), (3, 3, 9, 3)),
        patch=whole(raw, "patch_size", 4),
        activation=activation(raw.get("hidden_act", "gelu")),
        scale=float(scale) if scale > 0 else None,
    )
    if whole(raw, "num_stages", 4) != len(front.depths):
        raise CheckpointError(
            f"config.json: num_stages is {raw.get('num_stages', 4)}, depths lists {len(front.depths)}"
        )
    config = hosted(front)
    shape = replace(config.transformer, norm_epsilon=share(raw, "layer_norm_eps", 1e-12), norm_bias=True)
    return replace(config, transformer=shape, pooled_norm=True)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    front = config.front
    assert isinstance(front, ConvNextConfig)
    return {
        "patch_size": front.patch,
        "num_stages": len(front.depths),
        "hidden_sizes": list(front.widths),
        "depths": list(front.depths),
        "hidden_act": foreign(front.activation),
        "layer_norm_eps": config.transformer.norm_epsilon,
        "layer_scale_init_value": front.scale or 0.0,
    }


def _stage(stage: int) -> Names:
    ours, theirs = f"{NETWORK}blocks.{stage}.", f"convnext.encoder.stages.{stage}."
    layer, theirs_layer = f"{ours}layers.{{i}}.", f"{theirs}layers.{{i}}."
    return (
        (f"{ours}norm", f"{theirs}downsampling_layer.0"),
        (f"{ours}halving", f"{theirs}downsampling_layer.1"),
        (f"{layer}around", f"{theirs_layer}dwconv"),
        (f"{layer}norm", f"{theirs_layer}layernorm"),
        (f"{layer}up", f"{theirs_layer}pwconv1"),
        (f"{layer}down", f"{theirs_layer}pwconv2"),
        (f"{layer}scale", f"{theirs_layer}layer_scale_parameter"),
    )


family = Family(
    architectures={"body": "ConvNextModel", "label": "ConvNextForImageClassification"},
    prefix="convnext.",
    names={
        "body": (
            (f"{NETWORK}stem", "convnext.embeddings.patch_embeddings"),
            (f"{NETWORK}norm", "convnext.embeddings.layernorm"),
            *(name for stage in range(MOST_STAGES) for name in _stage(stage)),
            ("pooled_norm", "convnext.layernorm"),
        ),
        "label": (("classifier", "classifier"),),
    },
    read=read,
    write=write,
    untied={},
    requires=REQUIRES,
    reads="image",
)
