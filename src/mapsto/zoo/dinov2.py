"""DINOv2 (Oquab et al. 2023): ViT with scaled layers; classified by its first token and the mean of the patches. The shape of
our own models of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, vit, whole
from mapsto.zoo.vit import RENAMED, REQUIRES, sizes, stack

EPSILON = 1e-6


def read(raw: Mapping[str, Any], frame: int = 1) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    shape = stack({"layer_norm_eps": EPSILON, **raw})
    scale = raw.get("layerscale_value", 1.0)
    if not isinstance(scale, int | float):
        raise CheckpointError(f"config.json: layerscale_value must be a number, not {scale!r}")
    shape = replace(shape, hidden=shape.width * whole(raw, "mlp_ratio", 4), layer_scale=float(scale))
    if raw.get("use_swiglu_ffn"):
        shape = replace(shape, hidden=gated_width(shape.hidden), gated=True, activation="silu")
    return ModelConfig(transformer=shape, pooling="first_mean", pooler=None, vocabulary_head=None, frame=frame)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape = config.transformer
    ratio = shape.hidden // shape.width
    if shape.gated:
        ratio = next(ratio for ratio in count(1) if gated_width(shape.width * ratio) >= shape.hidden)
    return {
        **sizes(shape), "mlp_ratio": ratio, "layerscale_value": shape.layer_scale, "use_swiglu_ffn": shape.gated,
    }  # fmt: skip


def gated_width(width: int) -> int:
    """Of a gated feed-forward part that has about as many weights as one of this `width` without gates."""
    return (int(width * 2 / 3) + 7) // 8 * 8


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """A new model."""
    shape = TransformerConfig(
        width=width,
        layers=layers,
        heads=heads,
        hidden=4 * width,
        norm_epsilon=EPSILON,
        norm_bias=True,
        bias=True,
        gated=False,
        positions="none",
        max_positions=longest,
        embedding_norm=False,
        layer_scale=1.0,
    )
    return ModelConfig(transformer=shape, pooling="first_mean", pooler=None, vocabulary_head=None)


def body(prefix: str) -> Names:
    """All but the heads under `prefix`."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *vit.body(prefix),
        ("embedders.image.register_tokens", f"{prefix}embeddings.register_tokens"),
        ("transformer.blocks.{i}.attention_norm", f"{layer}norm1"),
        ("transformer.blocks.{i}.attention_scale", f"{layer}layer_scale1.lambda1"),
        ("transformer.blocks.{i}.feed_norm", f"{layer}norm2"),
        ("transformer.blocks.{i}.feed_scale", f"{layer}layer_scale2.lambda1"),
        ("transformer.blocks.{i}.feed.up", f"{layer}mlp.fc1"),
        ("transformer.blocks.{i}.feed.down", f"{layer}mlp.fc2"),
    )


def gated(prefix: str) -> Names:
    """The feed-forward parts under `prefix` where they are gated, as the giant model has them."""
    layer = f"{prefix}encoder.layer.{{i}}.mlp."
    return (
        ("transformer.blocks.{i}.feed.up", f"{layer}weights_in"),
        ("transformer.blocks.{i}.feed.down", f"{layer}weights_out"),
    )


family = Family(
    architectures={"body": "Dinov2Model", "label": "Dinov2ForImageClassification"},
    prefix="dinov2.",
    names={"body": body("dinov2."), "label": (("classifier", "classifier"),)},
    read=read,
    write=write,
    untied={},
    requires=REQUIRES,
    reads="image",
    fresh=fresh,
    renamed=RENAMED,
    gated=gated("dinov2."),
)
