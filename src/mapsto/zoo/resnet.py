"""ResNet (He et al. 2016): convolutional network. Classification heads read the mean of its last grid.

The files of the other convolutional families use functions of this one. Starting models are microsoft/resnet-18 to -152, and
weights of torchvision and timm if they are put into such a folder; their names of weights are translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.convolution import ConvolutionConfig, ResidualConfig
from mapsto.zoo import Family, Names, read_positive_int
from mapsto.zoo.vit import REQUIRES

# Prefix of our names of the network's weights.
NETWORK = "embedders.image.network."
# Largest sizes that are accepted in a config.json.
MAX_STAGES, MAX_DEPTH, MAX_WIDTH = 6, 256, 2**16
# Suffixes of a batch norm's variance and of its count of batches; see Family.step_counter.
COUNTER = (".running_var", ".num_batches_tracked")


def read_stages(raw: Mapping[str, Any], widths: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return {"widths": channels of each stage, "depths": layers of each stage}, read from a parsed config.json.

    widths, depths: values of missing settings. Raises CheckpointError if the sizes are too large or make no sense.
    """
    if read_positive_int(raw, "num_channels", 3) != 3:
        raise CheckpointError("config.json: only pictures of three channels are supported")
    stages = {}
    limits = (("widths", "hidden_sizes", widths, MAX_WIDTH), ("depths", "depths", depths, MAX_DEPTH))
    for field, name, default, maximum in limits:
        sizes = raw.get(name, default)
        if not isinstance(sizes, list | tuple) or not 0 < len(sizes) <= MAX_STAGES:
            raise CheckpointError(f"config.json: {name} must list 1 to {MAX_STAGES} stages, not {sizes!r}")
        # Checked one by one, so that the error message names the setting.
        stages[field] = tuple(read_positive_int({name: number}, name) for number in sizes)
        if max(stages[field]) > maximum:
            raise CheckpointError(f"config.json: {name} may be up to {maximum:,}, not {max(stages[field]):,}")
    if len(stages["widths"]) != len(stages["depths"]):
        raise CheckpointError("config.json: hidden_sizes and depths list different numbers of stages")
    return stages


def backbone_config(backbone: ConvolutionConfig) -> ModelConfig:
    """Return the ModelConfig of a model that consists of a convolutional network, without Transformer layers.

    Heads read the mean over the cells of the network's last grid.
    """
    shape = TransformerConfig(
        width=backbone.width, layers=0, heads=1, positions="none", embedding_norm=False, final_norm=False
    )
    return ModelConfig(transformer=shape, pooling="mean", pooler=None, vocabulary_head=None, backbone=backbone)


def batch_norm_names(module: str, published: str) -> Names:
    """Return three pairs (our name, published name): of a batch norm's module, its running mean, and its running variance.

    The first pair stands for weight and bias. module, published: our name and the published name of the norm.
    """
    return tuple((f"{module}{end}", f"{published}{end}") for end in ("", ".running_mean", ".running_var"))


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    if raw.get("hidden_act", "relu") != "relu":
        raise CheckpointError(f"config.json: hidden_act {raw['hidden_act']!r} is not supported for ResNet, only 'relu'")
    layer_type = raw.get("layer_type", "bottleneck")
    if layer_type not in ("basic", "bottleneck"):
        raise CheckpointError(f"config.json: layer_type must be 'basic' or 'bottleneck', not {layer_type!r}")
    return backbone_config(
        ResidualConfig(
            **read_stages(raw, (256, 512, 1024, 2048), (3, 4, 6, 3)),
            stem=read_positive_int(raw, "embedding_size", 64),
            bottleneck=layer_type == "bottleneck",
            halved_at_once=bool(raw.get("downsample_in_first_stage", False)),
            halved_early=bool(raw.get("downsample_in_bottleneck", False)),
        )
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    backbone = config.backbone
    assert isinstance(backbone, ResidualConfig)
    return {
        "embedding_size": backbone.stem,
        "hidden_sizes": list(backbone.widths),
        "depths": list(backbone.depths),
        "layer_type": "bottleneck" if backbone.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": backbone.halved_at_once,
        "downsample_in_bottleneck": backbone.halved_early,
    }


def _convolution_names(module: str, published: str) -> Names:
    """Return pairs (our name, published name) of a convolution and the batch norm that follows it.

    module, published: our name and the published name of the module that holds both.
    """
    return (
        (f"{module}.convolution", f"{published}.convolution"),
        *batch_norm_names(f"{module}.norm", f"{published}.normalization"),
    )


def _stage_names(stage: int) -> Names:
    """Return pairs (our name, published name) of the weights of stage number `stage`, from 0."""
    module, published = f"{NETWORK}blocks.{stage}.{{i}}.", f"resnet.encoder.stages.{stage}.layers.{{i}}."
    # Layers of two convolutions lack part 2, whose names then match no weight.
    parts = (_convolution_names(f"{module}parts.{part}", f"{published}layer.{part}") for part in range(3))
    return (
        *_convolution_names(f"{module}shortcut", f"{published}shortcut"),
        *(name for part in parts for name in part),
    )


# Names of the same weights in torchvision and timm.
ALIASES = (
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
    weight_names={
        "body": (
            *_convolution_names(f"{NETWORK}stem", "resnet.embedder.embedder"),
            *(name for stage in range(MAX_STAGES) for name in _stage_names(stage)),
        ),
        # The published classifier is a sequence of a flattening and the linear map.
        "label": (("classifier", "classifier.1"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=REQUIRES,
    source_kind="image",
    step_counter=COUNTER,
    aliases=ALIASES,
)
