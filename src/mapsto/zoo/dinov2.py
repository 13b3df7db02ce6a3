"""DINOv2 (Oquab et al. 2023): ViT with layer scale. Classification heads read the class token and the mean of the patches.

Starting models are facebook/dinov2-small to -giant. New models of pictures take this shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, read_positive_int, vit
from mapsto.zoo.vit import RENAMED, REQUIRES, read_stack, write_stack

EPSILON = 1e-6


def read(raw: Mapping[str, Any], num_prefix_tokens: int = 1) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings.

    num_prefix_tokens: number of tokens before the patches: the class token and the registers.
    """
    # "layer_norm_eps" of `raw`, if it is there, replaces the default.
    shape = read_stack({"layer_norm_eps": EPSILON, **raw})
    scale = raw.get("layerscale_value", 1.0)
    if not isinstance(scale, int | float):
        raise CheckpointError(f"config.json: layerscale_value must be a number, not {scale!r}")
    shape = replace(
        shape, feed_forward_width=shape.width * read_positive_int(raw, "mlp_ratio", 4), layer_scale=float(scale)
    )
    if raw.get("use_swiglu_ffn"):
        shape = replace(shape, feed_forward_width=gated_width(shape.feed_forward_width), gated=True, activation="silu")
    return ModelConfig(
        transformer=shape, pooling="first_mean", pooler=None, vocabulary_head=None, num_prefix_tokens=num_prefix_tokens
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    ratio = shape.feed_forward_width // shape.width
    if shape.gated:
        # Several widths are rounded to one gated width; any ratio that gives it is right.
        ratio = next(ratio for ratio in count(1) if gated_width(shape.width * ratio) >= shape.feed_forward_width)
    return {
        **write_stack(shape), "mlp_ratio": ratio, "layerscale_value": shape.layer_scale, "use_swiglu_ffn": shape.gated,
    }  # fmt: skip


def gated_width(width: int) -> int:
    """Return the width of a gated feed-forward part that has about as many weights as an ungated one of the width `width`.

    It is a multiple of 8, as in the published code.
    """
    return (int(width * 2 / 3) + 7) // 8 * 8


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """Return the ModelConfig of a new model of pictures.

    width, layers, heads: those of its Transformer. longest: maximum number of tokens of an example.
    """
    shape = TransformerConfig(
        width=width,
        layers=layers,
        heads=heads,
        feed_forward_width=4 * width,
        norm_epsilon=EPSILON,
        norm_bias=True,
        bias=True,
        gated=False,
        # The embedder of the patches adds the positions.
        positions="none",
        max_positions=longest,
        embedding_norm=False,
        layer_scale=1.0,
    )
    return ModelConfig(transformer=shape, pooling="first_mean", pooler=None, vocabulary_head=None)


def body_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of all weights but the heads'. prefix: start of the published names."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *vit.shared_names(prefix),
        ("embedders.image.register_tokens", f"{prefix}embeddings.register_tokens"),
        ("transformer.blocks.{i}.attention_norm", f"{layer}norm1"),
        ("transformer.blocks.{i}.attention_scale", f"{layer}layer_scale1.lambda1"),
        ("transformer.blocks.{i}.feed_norm", f"{layer}norm2"),
        ("transformer.blocks.{i}.feed_scale", f"{layer}layer_scale2.lambda1"),
        ("transformer.blocks.{i}.feed.up", f"{layer}mlp.fc1"),
        ("transformer.blocks.{i}.feed.down", f"{layer}mlp.fc2"),
    )


def gated_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of gated feed-forward parts, which only the giant model has.

    prefix: start of the published names.
    """
    layer = f"{prefix}encoder.layer.{{i}}.mlp."
    return (
        ("transformer.blocks.{i}.feed.up", f"{layer}weights_in"),
        ("transformer.blocks.{i}.feed.down", f"{layer}weights_out"),
    )


family = Family(
    architectures={"body": "Dinov2Model", "label": "Dinov2ForImageClassification"},
    prefix="dinov2.",
    weight_names={"body": body_names("dinov2."), "label": (("classifier", "classifier"),)},
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=REQUIRES,
    source_kind="image",
    # The shape for new models of pictures.
    new_config=fresh,
    aliases=RENAMED,
    gated_names=gated_names("dinov2."),
)
