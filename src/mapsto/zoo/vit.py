"""ViT (Dosovitskiy et al. 2021): pre-norm encoder over patches. Classification heads read the class token.

The files of related families use functions of this one. Starting models are google/vit-base-patch16-224 and its other sizes.
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

# Settings of config.json that exist for a decoder too, with the prefix "decoder_".
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

# Names of weights in models of transformers 5 → names in the files.
RENAMED = (
    (r"\.layers\.(\d+)\.", r".encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def read_stack(raw: Mapping[str, Any]) -> TransformerConfig:
    """Return the shape of the Transformer that `raw`, a vision model's parsed config.json, describes.

    The maximum number of tokens keeps its default: it follows from the size of pictures, which the image source reads.
    Raises CheckpointError for unsupported or invalid settings.
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
    """Return the settings of config.json that describe a Transformer's shape.

    `intermediate_size` is left out, because DINOv2 writes a ratio instead. The image source writes the settings of pictures
    and patches.
    """
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
    """Return the shape of the decoder of a masked autoencoder.

    raw: the parsed config.json. Its settings `decoder_*` are the decoder's sizes; all others hold for encoder and decoder.
    defaults: values of missing sizes, by name without "decoder_". Raises CheckpointError for unsupported or invalid settings.
    """
    # A decoder's sizes take the place of the encoder's; it has all other settings in common with it.
    return read_stack(
        {**raw, **{name: read_positive_int(raw, f"decoder_{name}", size) for name, size in defaults.items()}}
    )


def write_decoder(config: ModelConfig) -> dict[str, Any]:
    """Return the settings `decoder_*` of config.json for the decoder of a model; an empty dict if the model has none."""
    if config.decoder is None:
        return {}
    # The decoder is written as if it were the encoder, and its sizes get the prefix.
    raw = write(replace(config, transformer=config.decoder))
    return {f"decoder_{name}": raw[name] for name in SIZES}


def shared_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of the weights that ViT and DINOv2 name alike: embeddings, attention and last norm.

    prefix: start of the published names, such as "vit.".
    """
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
    """Return pairs (our name, published name) of the attention weights in the layers of an encoder or decoder.

    module: our prefix of the stack, such as "transformer.". published: prefix of a published layer, with `{i}` for its
    number.
    """
    parts = tuple(f"{published}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        (f"{module}blocks.{{i}}.attention.qkv", parts),
        (f"{module}blocks.{{i}}.attention.out", f"{published}attention.output.dense"),
    )


def norm_and_feed_forward_names(module: str, published: str) -> Names:
    """Return pairs (our name, published name) of the norms and feed-forward parts in the layers of an encoder or decoder.

    module: our prefix of the stack, such as "transformer.". published: prefix of a published layer, with `{i}` for its
    number.
    """
    return (
        (f"{module}blocks.{{i}}.attention_norm", f"{published}layernorm_before"),
        (f"{module}blocks.{{i}}.feed_norm", f"{published}layernorm_after"),
        (f"{module}blocks.{{i}}.feed.up", f"{published}intermediate.dense"),
        (f"{module}blocks.{{i}}.feed.down", f"{published}output.dense"),
    )


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    return ModelConfig(transformer=read_stack(raw), pooling="first", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {**write_stack(config.transformer), "intermediate_size": config.transformer.feed_forward_width}


def body_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of all weights but the heads'. prefix: start of the published names."""
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
    # No published classifier reads the pooler.
    ignored_weights=(r"vit\.pooler\.",),
    required_files=REQUIRES,
    source_kind="image",
    aliases=(*RENAMED, (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")),
)
