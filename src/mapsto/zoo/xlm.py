"""XLM (Conneau & Lample 2019): post-norm encoder over many languages.

Starting models are FacebookAI/xlm-mlm-xnli15-1024, xlm-mlm-100-1280 and others of this family. The table of languages is kept
but not added to the tokens, as in `transformers` if no `langs` are given. Sinusoidal positions are stored in the file as a
table, like learnt ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import Family, read_fraction, read_positive_int

# Settings of which only one value is supported.
FIXED = {
    "causal": False,
    "asm": False,
    "is_encoder": True,
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
}

# Width of the feed-forward part relative to the model's width, which no setting of config.json says.
FEED_FORWARD_RATIO = 4

TOKENIZER = (
    "the vocab.json and merges.txt of XLM need rules that no tokenizer.json follows exactly (sacremoses and others); "
    "make one with the tokenizers library from the two files (BPE, end_of_word_suffix '</w>', framed as <s> … </s>)"
)


ATTENTION, FEED = "transformer.attentions.{i}.", "transformer.ffns.{i}."


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    for name, supported in FIXED.items():
        if raw.get(name, supported) != supported:
            raise CheckpointError(f"config.json: {name} {raw[name]!r} is not supported, only {supported!r}")
    width, languages = read_positive_int(raw, "emb_dim"), read_positive_int(raw, "n_langs", 1)
    shape = TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "n_layers"),
        heads=read_positive_int(raw, "n_heads"),
        feed_forward_width=FEED_FORWARD_RATIO * width,
        norm_place="post",
        norm_epsilon=read_fraction(raw, "layer_norm_eps", 1e-12),
        norm_bias=True,
        bias=True,
        activation="gelu" if raw.get("gelu_activation", True) else "relu",
        gated=False,
        positions="absolute",
        max_positions=read_positive_int(raw, "max_position_embeddings", 512),
        # `transformers` has no table of languages if there is only one.
        languages=languages if languages > 1 and raw.get("use_lang_emb", True) else 0,
        final_norm=False,
        dropout=read_fraction(raw, "dropout", 0.1),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.1),
    )
    return ModelConfig(transformer=shape, pooling="first", pooler=None, vocabulary_head=None)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
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
    weight_names={
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
    read_config=read,
    write_config=write,
    tied_weights={"pred_layer.proj.weight": "embedders.text.weight"},
    ignored_weights=(r"transformer\.position_ids$",),
    required_files={"tokenizer.json": TOKENIZER},
)
