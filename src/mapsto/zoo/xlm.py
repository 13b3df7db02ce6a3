"""XLM (Conneau & Lample 2019): one encoder over many languages.

Its table of languages is kept and not added to the tokens, as `transformers` does where no `langs` are given. A table of
sinusoidal positions comes in the file like a learned one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, share, whole

FIXED = {
    "causal": False,
    "asm": False,
    "is_encoder": True,
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
}


TIMES = 4  # how much wider the feed-forward part is; no field of config.json says so


TOKENIZER = (
    "the vocab.json and merges.txt of XLM need rules that no tokenizer.json follows exactly (sacremoses and others); "
    "make one with the tokenizers library from the two files (BPE, end_of_word_suffix '</w>', framed as <s> … </s>)"
)


ATTENTION, FEED = "transformer.attentions.{i}.", "transformer.ffns.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    for name, only in FIXED.items():
        if raw.get(name, only) != only:
            raise CheckpointError(f"config.json: {name} {raw[name]!r} is not supported, only {only!r}")
    width, languages = whole(raw, "emb_dim"), whole(raw, "n_langs", 1)
    shape = TransformerConfig(
        width=width,
        layers=whole(raw, "n_layers"),
        heads=whole(raw, "n_heads"),
        hidden=TIMES * width,
        norm_place="post",
        norm_epsilon=share(raw, "layer_norm_eps", 1e-12),
        norm_bias=True,
        bias=True,
        activation="gelu" if raw.get("gelu_activation", True) else "relu",
        gated=False,
        positions="absolute",
        max_positions=whole(raw, "max_position_embeddings", 512),
        languages=languages if languages > 1 and raw.get("use_lang_emb", True) else 0,
        final_norm=False,
        dropout=share(raw, "dropout", 0.1),
        attention_dropout=share(raw, "attention_dropout", 0.1),
    )
    return ModelConfig(transformer=shape, pooling="first", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape = config.transformer
    return {
        "emb_dim": shape.width,
        "n_layers": shape.layers,
        "n_heads": shape.heads,
        "layer_norm_eps": shape.norm_epsilon,
        "gelu_activation": shape.activation == "gelu",
        "max_position_embeddings": shape.max_positions,
        "n_langs": max(1, shape.languages),
        "use_lang_emb": shape.languages > 0,
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        **FIXED,
    }


family = Family(
    architectures={"body": "XLMModel", "text": "XLMWithLMHeadModel", "label": "XLMForSequenceClassification"},
    prefix="transformer.",
    names={
        "body": (
            ("embedders.text", "transformer.embeddings"),
            ("transformer.position_table", "transformer.position_embeddings"),
            ("transformer.language_table", "transformer.lang_embeddings"),
            ("transformer.embedding_norm", "transformer.layer_norm_emb"),
            (
                "transformer.blocks.{i}.attention.qkv",
                (f"{ATTENTION}q_lin", f"{ATTENTION}k_lin", f"{ATTENTION}v_lin"),
            ),
            ("transformer.blocks.{i}.attention.out", f"{ATTENTION}out_lin"),
            ("transformer.blocks.{i}.attention_norm", "transformer.layer_norm1.{i}"),
            ("transformer.blocks.{i}.feed.up", f"{FEED}lin1"),
            ("transformer.blocks.{i}.feed.down", f"{FEED}lin2"),
            ("transformer.blocks.{i}.feed_norm", "transformer.layer_norm2.{i}"),
        ),
        "text": (("vocabulary_head.bias", "pred_layer.proj.bias"),),
        "label": (("classifier", "sequence_summary.summary"),),
    },
    read=read,
    write=write,
    untied={"pred_layer.proj.weight": "embedders.text.weight"},
    ignored=(r"transformer\.position_ids$",),
    requires={"tokenizer.json": TOKENIZER},
)
