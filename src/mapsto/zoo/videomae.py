"""VideoMAE (Tong et al. 2022): ViT over patches of two frames; classified by the mean of them; and the decoder that puts hidden
ones back. The shape of our own models of videos, but for their decoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, vit

NORM = TransformConfig(norm_bias=True, dense=False)  # before the classes


DECODER = dict(zip(vit.SIZES, (384, 4, 6, 1536), strict=True))  # where a config does not say it


DECODER_EPSILON = 1e-5  # of its last norm, whatever a config says


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    if not raw.get("qv_bias", True):
        raise CheckpointError("config.json: qv_bias false is not supported")
    shape = replace(vit.stack(raw), key_bias=False)
    small = replace(vit.behind(raw, DECODER), key_bias=False, map_bias=False, final_epsilon=DECODER_EPSILON)
    return replace(_pooled(shape, mean=raw.get("use_mean_pooling", True)), decoder=small)


def _pooled(shape: TransformerConfig, mean: bool) -> ModelConfig:
    """Read by the mean, with a norm behind it; else by the first token, with a norm before it."""
    shape = replace(shape, final_norm=not mean)
    return ModelConfig(
        transformer=shape, pooling="mean" if mean else "first", pooler=NORM if mean else None, vocabulary_head=None
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    sizes = vit.write(config) | vit.behind_sizes(config)
    return sizes | {"qv_bias": sizes.pop("qkv_bias"), "use_mean_pooling": config.pooling == "mean"}


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """A new model."""
    shape = vit.stack({"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads})
    return _pooled(replace(shape, key_bias=False, max_positions=longest), mean=True)


BODY = "videomae."


def layers(ours: str, theirs: str) -> Names:
    """The layers `theirs` of our stack `ours`."""
    biases = tuple(f"{theirs}attention.attention.{part}.bias" for part in ("query", "value"))
    return (
        (f"{ours}blocks.{{i}}.attention.qv_bias", biases),
        *vit.attention(ours, theirs),
        *vit.rest(ours, theirs),
    )


family = Family(
    architectures={
        "body": "VideoMAEModel",
        "video": "VideoMAEForPreTraining",
        "label": "VideoMAEForVideoClassification",
    },
    prefix=BODY,
    names={
        "body": (
            ("embedders.video.projection", f"{BODY}embeddings.patch_embeddings.projection"),
            *layers("transformer.", f"{BODY}encoder.layer.{{i}}."),
            ("transformer.final_norm", f"{BODY}layernorm"),
        ),
        "label": (("pooler.norm", "fc_norm"), ("classifier", "classifier")),
        "video": (
            ("decoder.embed", "encoder_to_decoder"),
            ("decoder.mask_token", "mask_token"),
            *layers("decoder.transformer.", "decoder.decoder_layers.{i}."),
            ("decoder.transformer.final_norm", "decoder.norm"),
            ("patch_head", "decoder.head"),
        ),
    },
    read=read,
    write=write,
    untied={},
    requires=vit.REQUIRES,
    reads="video",
    fresh=fresh,
    undecoded="videomae",
    # As the first published files have them.
    renamed=((r"\.attention\.q_bias$", ".attention.query.bias"), (r"\.attention\.v_bias$", ".attention.value.bias")),
)
