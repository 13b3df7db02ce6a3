"""GPT-2 (Radford et al. 2019): pre-norm decoder with learned positions.

Starting models are openai-community/gpt2 (all sizes), distilgpt2 and others of this family. The published matrices of the layers
are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, read_activation, read_fraction, read_positive_int, write_activation
from mapsto.zoo.llama import CLASSIFIER

# Settings of which only one value is supported.
FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}

# Width of the feed-forward part relative to the model's width, if the file states none.
FEED_FORWARD_RATIO = 4

LAYER = "transformer.h.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    for name, supported in FIXED.items():
        if raw.get(name, supported) != supported:
            raise CheckpointError(f"config.json: {name} {raw[name]!r} is not supported, only {supported!r}")
    width = read_positive_int(raw, "n_embd", 768)
    stated = {name: value for name, value in raw.items() if value is not None}
    shape = TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "n_layer", 12),
        heads=read_positive_int(raw, "n_head", 12),
        feed_forward_width=read_positive_int(stated, "n_inner", FEED_FORWARD_RATIO * width),
        norm_epsilon=read_fraction(raw, "layer_norm_epsilon", 1e-5),
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("activation_function", "gelu_new")),
        gated=False,
        causal=True,
        positions="absolute",
        max_positions=read_positive_int(raw, "n_positions", 1024),
        embedding_norm=False,
        dropout=read_fraction(raw, "resid_pdrop", 0.1),
        attention_dropout=read_fraction(raw, "attn_pdrop", 0.1),
    )
    head = replace(CLASSIFIER, head_weight=not raw.get("tie_word_embeddings", True))
    return ModelConfig(transformer=shape, pooling="last", pooler=CLASSIFIER, vocabulary_head=head)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape, head = config.transformer, config.vocabulary_head
    return {
        "n_embd": shape.width,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "n_inner": shape.feed_forward_width,
        "n_positions": shape.max_positions,
        "layer_norm_epsilon": shape.norm_epsilon,
        "activation_function": write_activation(shape.activation),
        "resid_pdrop": shape.dropout,
        "embd_pdrop": shape.dropout,
        "attn_pdrop": shape.attention_dropout,
        "tie_word_embeddings": head is None or not head.head_weight,
        **FIXED,
    }


family = Family(
    architectures={
        "body": "GPT2Model",
        "text": "GPT2LMHeadModel",
        "label": "GPT2ForSequenceClassification",
    },
    prefix="transformer.",
    weight_names={
        "body": (
            ("embedders.text", "transformer.wte"),
            ("transformer.position_table", "transformer.wpe"),
            ("transformer.blocks.{i}.attention_norm", f"{LAYER}ln_1"),
            ("transformer.blocks.{i}.attention.qkv", f"{LAYER}attn.c_attn"),
            ("transformer.blocks.{i}.attention.out", f"{LAYER}attn.c_proj"),
            ("transformer.blocks.{i}.feed_norm", f"{LAYER}ln_2"),
            ("transformer.blocks.{i}.feed.up", f"{LAYER}mlp.c_fc"),
            ("transformer.blocks.{i}.feed.down", f"{LAYER}mlp.c_proj"),
            ("transformer.final_norm", "transformer.ln_f"),
        ),
        "text": (),
        "label": (("classifier", "score"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={"lm_head.weight": "embedders.text.weight"},
    untied_weights={"lm_head.weight": "vocabulary_head.weight"},
    transposed=("attention.qkv.weight", "attention.out.weight", "feed.up.weight", "feed.down.weight"),
    # Old files have the causal mask of each layer.
    ignored_weights=(r"transformer\.h\.\d+\.attn\.(masked_)?bias$",),
)
