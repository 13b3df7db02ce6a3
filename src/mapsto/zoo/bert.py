"""BERT (Devlin et al. 2019), and with it MiniLM and the Chinese BERTs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import ACTIVATIONS, Family, Names, activation, share, whole


def read(raw: Mapping[str, Any], position_offset: int = 0) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    if raw.get("position_embedding_type", "absolute") != "absolute" or raw.get("is_decoder"):
        raise CheckpointError("relative positions and decoders of this family are not supported")
    epsilon = share(raw, "layer_norm_eps", 1e-12)
    shape = TransformerConfig(
        width=whole(raw, "hidden_size"),
        layers=whole(raw, "num_hidden_layers"),
        heads=whole(raw, "num_attention_heads"),
        hidden=whole(raw, "intermediate_size"),
        norm_place="post",
        norm_epsilon=epsilon,
        norm_bias=True,
        bias=True,
        activation=activation(raw.get("hidden_act", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=whole(raw, "max_position_embeddings", 512),
        position_offset=position_offset,
        token_types=whole(raw, "type_vocab_size", 2),
        final_norm=False,
        dropout=share(raw, "hidden_dropout_prob", 0.1),
        attention_dropout=share(raw, "attention_probs_dropout_prob", 0.1),
    )
    return ModelConfig(
        transformer=shape,
        pooling="first",
        pooler=TransformConfig("tanh", bias=True, norm=False),
        vocabulary_head=TransformConfig(shape.activation, True, True, True, epsilon),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    shape = config.transformer
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": foreign(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "type_vocab_size": shape.token_types,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
    }


def foreign(ours: str) -> str:
    """Their name of one of our activations."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def embeddings(prefix: str) -> Names:
    """The embeddings under `prefix`."""
    return (
        ("embedders.text", f"{prefix}embeddings.word_embeddings"),
        ("transformer.position_table", f"{prefix}embeddings.position_embeddings"),
        ("transformer.type_table", f"{prefix}embeddings.token_type_embeddings"),
        ("transformer.embedding_norm", f"{prefix}embeddings.LayerNorm"),
    )


def body(prefix: str) -> Names:
    """The encoder under `prefix`, which RoBERTa and ELECTRA share."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *embeddings(prefix),
        (
            "transformer.blocks.{i}.attention.qkv",
            (f"{layer}attention.self.query", f"{layer}attention.self.key", f"{layer}attention.self.value"),
        ),
        ("transformer.blocks.{i}.attention.out", f"{layer}attention.output.dense"),
        ("transformer.blocks.{i}.attention_norm", f"{layer}attention.output.LayerNorm"),
        ("transformer.blocks.{i}.feed.up", f"{layer}intermediate.dense"),
        ("transformer.blocks.{i}.feed.down", f"{layer}output.dense"),
        ("transformer.blocks.{i}.feed_norm", f"{layer}output.LayerNorm"),
    )


family = Family(
    architectures={"body": "BertModel", "text": "BertForMaskedLM", "label": "BertForSequenceClassification"},
    prefix="bert.",
    names={
        "body": body("bert."),
        "text": (
            ("vocabulary_head.transform.dense", "cls.predictions.transform.dense"),
            ("vocabulary_head.transform.norm", "cls.predictions.transform.LayerNorm"),
            ("vocabulary_head.bias", "cls.predictions.bias"),
        ),
        "label": (("pooler.dense", "bert.pooler.dense"), ("classifier", "classifier")),
    },
    read=read,
    write=write,
    untied={
        "cls.predictions.decoder.weight": "embedders.text.weight",
        "cls.predictions.decoder.bias": "vocabulary_head.bias",
    },
    ignored=(r"bert\.embeddings\.position_ids$", r"cls\.seq_relationship\."),
)
