"""VideoMAE (Tong et al. 2022): ViT over patches that span two video frames, with the decoder that it was pretrained with.

Classification heads read the mean of the patches, or the first patch if config.json says so. Starting models are
MCG-NJU/videomae-base, its large and huge models, and those fitted to actions (-finetuned-kinetics, …). New models of videos
take this shape without the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, vit

# Layer between the mean of the patches and the head: only a norm.
POOLER = TransformConfig(norm_bias=True, dense=False)
# Values of the decoder's sizes that a config.json leaves out.
DECODER = dict(zip(vit.SIZES, (384, 4, 6, 1536), strict=True))
# Epsilon of the decoder's last norm, which does not follow config.json in `transformers`.
DECODER_EPSILON = 1e-5


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    if not raw.get("qv_bias", True):
        raise CheckpointError("config.json: qv_bias false is not supported")
    shape = replace(vit.read_stack(raw), key_bias=False)
    decoder = replace(
        vit.read_decoder(raw, DECODER), key_bias=False, projection_bias=False, final_epsilon=DECODER_EPSILON
    )
    return replace(_with_pooling(shape, mean=raw.get("use_mean_pooling", True)), decoder=decoder)


def _with_pooling(shape: TransformerConfig, mean: bool) -> ModelConfig:
    """Return the ModelConfig of a model whose heads read the mean of all tokens, or the first token if not `mean`.

    shape: the Transformer. The published model applies its last norm after the mean, but before the first token is read.
    """
    shape = replace(shape, final_norm=not mean)
    return ModelConfig(
        transformer=shape, pooling="mean" if mean else "first", pooler=POOLER if mean else None, vocabulary_head=None
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    sizes = vit.write(config) | vit.write_decoder(config)
    # VideoMAE calls the setting qv_bias, because keys have no bias.
    return sizes | {"qv_bias": sizes.pop("qkv_bias"), "use_mean_pooling": config.pooling == "mean"}


def fresh(width: int, layers: int, heads: int, longest: int) -> ModelConfig:
    """Return the ModelConfig of a new model of videos, without a decoder.

    width, layers, heads: those of its Transformer. longest: maximum number of tokens of an example.
    """
    shape = vit.read_stack({"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads})
    return _with_pooling(replace(shape, key_bias=False, max_positions=longest), mean=True)


BODY = "videomae."


def layer_names(module: str, published: str) -> Names:
    """Return pairs (our name, published name) of the weights of the layers of an encoder or decoder.

    module: our prefix of the stack, such as "transformer.". published: prefix of a published layer, with `{i}` for its
    number.
    """
    biases = tuple(f"{published}attention.attention.{part}.bias" for part in ("query", "value"))
    return (
        # One weight of ours holds the biases of queries and values, one after the other.
        (f"{module}blocks.{{i}}.attention.qv_bias", biases),
        *vit.attention_names(module, published),
        *vit.norm_and_feed_forward_names(module, published),
    )


family = Family(
    architectures={
        "body": "VideoMAEModel",
        "video": "VideoMAEForPreTraining",
        "label": "VideoMAEForVideoClassification",
    },
    prefix=BODY,
    weight_names={
        "body": (
            ("embedders.video.projection", f"{BODY}embeddings.patch_embeddings.projection"),
            *layer_names("transformer.", f"{BODY}encoder.layer.{{i}}."),
            ("transformer.final_norm", f"{BODY}layernorm"),
        ),
        "label": (("pooler.norm", "fc_norm"), ("classifier", "classifier")),
        "video": (
            ("decoder.embed", "encoder_to_decoder"),
            ("decoder.mask_token", "mask_token"),
            *layer_names("decoder.transformer.", "decoder.decoder_layers.{i}."),
            ("decoder.transformer.final_norm", "decoder.norm"),
            ("patch_head", "decoder.head"),
        ),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=vit.REQUIRES,
    source_kind="video",
    new_config=fresh,
    without_decoder="videomae",
    # Names in the first files that were published.
    aliases=((r"\.attention\.q_bias$", ".attention.query.bias"), (r"\.attention\.v_bias$", ".attention.value.bias")),
)
