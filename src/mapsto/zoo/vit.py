"""ViT (Dosovitskiy et al. 2021), and what the other families of pictures share with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, Names, activation, share, whole
from mapsto.zoo.bert import foreign

REQUIRES = {
    "preprocessor_config.json": "it says how pictures are brought to the size that the model was trained on; "
    "take it from where the model was published",
}


SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


# What transformers 5 calls its weights in memory, and what it writes.
RENAMED = (
    (r"\.layers\.(\d+)\.", r".encoder.layer.\1."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)


def stack(raw: Mapping[str, Any]) -> TransformerConfig:
    """The stack that a config.json of a vision Transformer says; its longest example is the source's. Raises CheckpointError."""
    if not raw.get("qkv_bias", True):
        raise CheckpointError("config.json: qkv_bias false is not supported")
    if whole(raw, "num_channels", 3) != 3:
        raise CheckpointError("config.json: only pictures of three channels are supported")
    width = whole(raw, "hidden_size", 768)
    return TransformerConfig(
        width=width,
        layers=whole(raw, "num_hidden_layers", 12),
        heads=whole(raw, "num_attention_heads", 12),
        hidden=whole(raw, "intermediate_size", 4 * width),
        norm_epsilon=share(raw, "layer_norm_eps", 1e-12),
        norm_bias=True,
        bias=True,
        activation=activation(raw.get("hidden_act", "gelu")),
        gated=False,
        positions="none",
        embedding_norm=False,
        dropout=share(raw, "hidden_dropout_prob", 0.0),
        attention_dropout=share(raw, "attention_probs_dropout_prob", 0.0),
    )


def sizes(shape: TransformerConfig) -> dict[str, Any]:
    """The inverse of `stack`, but for what the source of pictures writes."""
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": foreign(shape.activation),
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
        "qkv_bias": True,
    }


def behind(raw: Mapping[str, Any], usual: Mapping[str, int]) -> TransformerConfig:
    """The stack of a decoder behind such a one, whose sizes stand behind `decoder_`, or are the usual ones. Raises
    CheckpointError."""
    return stack({**raw, **{name: whole(raw, f"decoder_{name}", size) for name, size in usual.items()}})


def behind_sizes(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `behind`; nothing without a decoder."""
    if config.decoder is None:
        return {}
    small = write(replace(config, transformer=config.decoder))
    return {f"decoder_{name}": small[name] for name in SIZES}


def body(prefix: str) -> Names:
    """The embeddings and attention under `prefix`, which the vision families share."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        ("embedders.image.cls_token", f"{prefix}embeddings.cls_token"),
        ("embedders.image.mask_token", f"{prefix}embeddings.mask_token"),
        ("embedders.image.position_embeddings", f"{prefix}embeddings.position_embeddings"),
        ("embedders.image.projection", f"{prefix}embeddings.patch_embeddings.projection"),
        *attention("transformer.", layer),
        ("transformer.final_norm", f"{prefix}layernorm"),
    )


def attention(ours: str, theirs: str) -> Names:
    """The attention of the layers `theirs` of our stack `ours`."""
    parts = tuple(f"{theirs}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        (f"{ours}blocks.{{i}}.attention.qkv", parts),
        (f"{ours}blocks.{{i}}.attention.out", f"{theirs}attention.output.dense"),
    )


def rest(ours: str, theirs: str) -> Names:
    """All but the attention of the layers `theirs` of our stack `ours`."""
    return (
        (f"{ours}blocks.{{i}}.attention_norm", f"{theirs}layernorm_before"),
        (f"{ours}blocks.{{i}}.feed_norm", f"{theirs}layernorm_after"),
        (f"{ours}blocks.{{i}}.feed.up", f"{theirs}intermediate.dense"),
        (f"{ours}blocks.{{i}}.feed.down", f"{theirs}output.dense"),
    )


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    return ModelConfig(transformer=stack(raw), pooling="first", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return {**sizes(config.transformer), "intermediate_size": config.transformer.hidden}


def whole_body(prefix: str) -> Names:
    """All but the heads under `prefix`."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *body(prefix),
        *rest("transformer.", layer),
    )


family = Family(
    architectures={"body": "ViTModel", "label": "ViTForImageClassification"},
    prefix="vit.",
    names={"body": whole_body("vit."), "label": (("classifier", "classifier"),)},
    read=read,
    write=write,
    untied={},
    ignored=(r"vit\.pooler\.",),
    requires=REQUIRES,
    reads="image",
    renamed=(*RENAMED, (r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")),
)
