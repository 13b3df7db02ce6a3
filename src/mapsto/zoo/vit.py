"""ViT (Dosovitskiy et al. 2021): pre-norm encoder over patches, classified by its first token; with helpers of its relatives.

Opens google/vit-base-patch16-224 and its like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation

REQUIRES = {
    "preprocessor_config.json": "it tells how to resize and scale pictures as in training; "
    "take it from where the model was published",
}

# Settings of config.json that a decoder has too, there with the prefix "decoder_".
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

# Names of weights in the memory of transformers 5, and in the files it writes.
RENAMED = (
    (r"\.layers\.(\d+)\.", r".encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def read_stack(raw: Mapping[str, Any]) -> TransformerConfig:
    """Return the stack of a vision Transformer's config.json. Raises CheckpointError.

    The length of an example follows from the pictures' size, which the source reads.
    """
    if not raw.get("qkv_bias", True):
        raise CheckpointError("config.json: qkv_bias false is not supported")
    if read_positive_int(raw, "num_channels", 3) != 3:
        raise CheckpointError("config.json: only pictures of three channels are supported")
    width = read_positive_int(raw, "hidden_size", 768)
    return TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "num_hidden_layers", 12),
        heads=read_positive_int(raw, "num_attention_heads", 12),
        feed_forward_width=read_positive_int(raw, "intermediate_size", 4 * width),
        norm_epsilon=read_fraction(raw, "layer_norm_eps", 1e-12),
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("hidden_act", "gelu")),
        gated=False,
        positions="none",
        embedding_norm=False,
        dropout=read_fraction(raw, "hidden_dropout_prob", 0.0),
        attention_dropout=read_fraction(raw, "attention_probs_dropout_prob", 0.0),
    )


def write_stack(shape: TransformerConfig) -> dict[str, Any]:
    """Return the config.json of a stack, without the settings that the source of pictures writes."""
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": write_activation(shape.activation),
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
        "qkv_bias": True,
    }


def read_decoder(raw: Mapping[str, Any], defaults: Mapping[str, int]) -> TransformerConfig:
    """Return the stack of a masked autoencoder's decoder, whose sizes are the settings `decoder_*`. Raises CheckpointError."""
    return read_stack(
        {**raw, **{name: read_positive_int(raw, f"decoder_{name}", size) for name, size in defaults.items()}}
    )


def write_decoder(config: ModelConfig) -> dict[str, Any]:
    """Return the settings `decoder_*`; empty without a decoder."""
    if config.decoder is None:
        return {}
    raw = write(replace(config, transformer=config.decoder))
    return {f"decoder_{name}": raw[name] for name in SIZES}


def shared_names(prefix: str) -> Names:
    """Return the names of embeddings, attention and last norm under `prefix`, which ViT's relatives share."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        ("embedders.image.cls_token", f"{prefix}embeddings.cls_token"),
        ("embedders.image.mask_token", f"{prefix}embeddings.mask_token"),
        ("embedders.image.position_embeddings", f"{prefix}embeddings.position_embeddings"),
        ("embedders.image.projection", f"{prefix}embeddings.patch_embeddings.projection"),
        *attention_names("transformer.", layer),
        ("transformer.final_norm", f"{prefix}layernorm"),
    )


def attention_names(module: str, published: str) -> Names:
    """Return the names of the attention in the layers `published` of our stack `module`."""
    parts = tuple(f"{published}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        (f"{module}blocks.{{i}}.attention.qkv", parts),
        (f"{module}blocks.{{i}}.attention.out", f"{published}attention.output.dense"),
    )


def norm_and_feed_forward_names(module: str, published: str) -> Names:
    """Return pairs of names, ours and the published one, for the norms and the feed-forward part of each layer.

    module: the prefix of our stack. published: the prefix of the checkpoint's layers, with `{i}` for the layer number.
    """
    return (
        (f"{module}blocks.{{i}}.attention_norm", f"{published}layernorm_before"),
        (f"{module}blocks.{{i}}.feed_norm", f"{published}layernorm_after"),
        (f"{module}blocks.{{i}}.feed.up", f"{published}intermediate.dense"),
        (f"{module}blocks.{{i}}.feed.down", f"{published}output.dense"),
    )


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes. Raises CheckpointError."""
    return ModelConfig(transformer=read_stack(raw), pooling="first", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a configuration: the inverse of `read`."""
    return {**write_stack(config.transformer), "intermediate_size": config.transformer.feed_forward_width}


def body_names(prefix: str) -> Names:
    """Return the names of all weights but the heads under `prefix`."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *shared_names(prefix),
        *norm_and_feed_forward_names("transformer.", layer),
    )


family = Family(
    architectures={"body": "ViTModel", "label": "ViTForImageClassification"},
    prefix="vit.",
    weight_names={"body": body_names("vit."), "label": (("classifier", "classifier"),)},
    read_config=read,
    write_config=write,
    tied_weights={},
    ignored_weights=(r"vit\.pooler\.",),
    required_files=REQUIRES,
    source_kind="image",
    aliases=(*RENAMED, (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")),
)
