"""VideoMAE (Tong et al. 2022): ViT over patches of two frames; classified by the mean of them. The shape of our own models of
videos.

Of folders with the decoder of its pretraining the body is opened alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.mapping import ModelConfig
from mapsto.transformer import TransformConfig, TransformerConfig
from mapsto.zoo import Family, vit

NORM = TransformConfig(norm_bias=True, dense=False)  # before the classes


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    if not raw.get("qv_bias", True):
        raise CheckpointError("config.json: qv_bias false is not supported")
    return _pooled(replace(vit.stack(raw), key_bias=False), mean=raw.get("use_mean_pooling", True))


def _pooled(shape: TransformerConfig, mean: bool) -> ModelConfig:
    """Read by the mean, with a norm behind it; else by the first token, with a norm before it."""
    shape = replace(shape, final_norm=not mean)
    return ModelConfig(
        transformer=shape, pooling="mean" if mean else "first", pooler=NORM if mean else None, vocabulary_head=None
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    sizes = vit.write(config)
    return sizes | {"qv_bias": sizes.pop("qkv_bias"), "use_mean_pooling": config.pooling == "mean"}


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """A new model."""
    shape = vit.stack({"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads})
    return _pooled(replace(shape, key_bias=False, max_positions=longest), mean=True)


BODY = "videomae."
ATTENTION = f"{BODY}encoder.layer.{{i}}.attention.attention."
family = Family(
    architectures={"body": "VideoMAEModel", "label": "VideoMAEForVideoClassification"},
    prefix=BODY,
    names={
        "body": (
            ("embedders.video.projection", f"{BODY}embeddings.patch_embeddings.projection"),
            ("transformer.blocks.{i}.attention.qv_bias", (f"{ATTENTION}query.bias", f"{ATTENTION}value.bias")),
            *vit.attention("transformer.", f"{BODY}encoder.layer.{{i}}."),
            *vit.rest("transformer.", f"{BODY}encoder.layer.{{i}}."),
            ("transformer.final_norm", f"{BODY}layernorm"),
        ),
        "label": (("pooler.norm", "fc_norm"), ("classifier", "classifier")),
    },
    read=read,
    write=write,
    untied={},
    requires=vit.REQUIRES,
    reads="video",
    fresh=fresh,
    # As the first published files have them.
    renamed=((r"\.attention\.q_bias$", ".attention.query.bias"), (r"\.attention\.v_bias$", ".attention.value.bias")),
)
