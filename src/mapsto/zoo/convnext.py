"""ConvNeXt (Liu et al. 2022): convolutional network with layers like those of a Transformer.

Classification heads read the mean of the last grid, after a layer norm. Starting models are facebook/convnext-tiny-224 and
its other sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.model.convolution import ConvNextConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation
from mapsto.zoo.resnet import MAX_STAGES, NETWORK, backbone_config, read_stages
from mapsto.zoo.vit import REQUIRES


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    scale = raw.get("layer_scale_init_value", 1e-6)
    if not isinstance(scale, int | float):
        raise CheckpointError(f"config.json: layer_scale_init_value must be a number, not {scale!r}")
    backbone = ConvNextConfig(
        **read_stages(raw, (96, 192, 384, 768), (3, 3, 9, 3)),
        patch=read_positive_int(raw, "patch_size", 4),
        activation=read_activation(raw.get("hidden_act", "gelu")),
        # The published code has no scale if the initial value is 0 or less.
        scale=float(scale) if scale > 0 else None,
    )
    if read_positive_int(raw, "num_stages", 4) != len(backbone.depths):
        raise CheckpointError(
            f"config.json: num_stages is {raw.get('num_stages', 4)}, depths lists {len(backbone.depths)}"
        )
    config = backbone_config(backbone)
    shape = replace(config.transformer, norm_epsilon=read_fraction(raw, "layer_norm_eps", 1e-12), norm_bias=True)
    return replace(config, transformer=shape, pooled_norm=True)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    backbone = config.backbone
    assert isinstance(backbone, ConvNextConfig)
    return {
        "patch_size": backbone.patch,
        "num_stages": len(backbone.depths),
        "hidden_sizes": list(backbone.widths),
        "depths": list(backbone.depths),
        "hidden_act": write_activation(backbone.activation),
        "layer_norm_eps": config.transformer.norm_epsilon,
        "layer_scale_init_value": backbone.scale or 0.0,
    }


def _stage_names(stage: int) -> Names:
    """Return pairs (our name, published name) of the weights of stage number `stage`, from 0."""
    module, published = f"{NETWORK}blocks.{stage}.", f"convnext.encoder.stages.{stage}."
    module_layer, published_layer = f"{module}layers.{{i}}.", f"{published}layers.{{i}}."
    return (
        (f"{module}norm", f"{published}downsampling_layer.0"),
        (f"{module}halving", f"{published}downsampling_layer.1"),
        (f"{module_layer}around", f"{published_layer}dwconv"),
        (f"{module_layer}norm", f"{published_layer}layernorm"),
        (f"{module_layer}up", f"{published_layer}pwconv1"),
        (f"{module_layer}down", f"{published_layer}pwconv2"),
        (f"{module_layer}scale", f"{published_layer}layer_scale_parameter"),
    )


family = Family(
    architectures={"body": "ConvNextModel", "label": "ConvNextForImageClassification"},
    prefix="convnext.",
    weight_names={
        "body": (
            (f"{NETWORK}stem", "convnext.embeddings.patch_embeddings"),
            (f"{NETWORK}norm", "convnext.embeddings.layernorm"),
            # Names of stages that a model lacks match no weight.
            *(name for stage in range(MAX_STAGES) for name in _stage_names(stage)),
            ("pooled_norm", "convnext.layernorm"),
        ),
        "label": (("classifier", "classifier"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=REQUIRES,
    source_kind="image",
)
