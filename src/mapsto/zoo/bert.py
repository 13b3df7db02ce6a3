"""BERT (Devlin et al. 2019): post-norm encoder with learned positions and token types.

Starting models are those of google-bert (bert-base-uncased, bert-base-chinese, …), MiniLM, BGE, and the Chinese BERTs of hfl,
including those named RoBERTa whose model_type is bert. ALBERT, RoBERTa and ELECTRA use the functions of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation


def read(raw: Mapping[str, Any], position_offset: int = 0) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings.

    position_offset: index of an example's first token in the table of positions; 0 except in RoBERTa.
    """
    if raw.get("position_embedding_type", "absolute") != "absolute" or raw.get("is_decoder"):
        raise CheckpointError("relative positions and decoders of this family are not supported")
    epsilon = read_fraction(raw, "layer_norm_eps", 1e-12)
    shape = TransformerConfig(
        width=read_positive_int(raw, "hidden_size"),
        layers=read_positive_int(raw, "num_hidden_layers"),
        heads=read_positive_int(raw, "num_attention_heads"),
        feed_forward_width=read_positive_int(raw, "intermediate_size"),
        norm_place="post",
        norm_epsilon=epsilon,
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("hidden_act", "gelu")),
        gated=False,
        positions="absolute",
        max_positions=read_positive_int(raw, "max_position_embeddings", 512),
        position_offset=position_offset,
        token_types=read_positive_int(raw, "type_vocab_size", 2),
        final_norm=False,
        dropout=read_fraction(raw, "hidden_dropout_prob", 0.1),
        attention_dropout=read_fraction(raw, "attention_probs_dropout_prob", 0.1),
    )
    return ModelConfig(
        transformer=shape,
        # The published classifiers read [CLS] through a dense tanh layer.
        pooling="first",
        pooler=TransformConfig("tanh", bias=True, norm=False),
        vocabulary_head=TransformConfig(shape.activation, True, True, True, epsilon),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    shape = config.transformer
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward_width,
        "layer_norm_eps": shape.norm_epsilon,
        "hidden_act": write_activation(shape.activation),
        "max_position_embeddings": shape.max_positions,
        "type_vocab_size": shape.token_types,
        "hidden_dropout_prob": shape.dropout,
        "attention_probs_dropout_prob": shape.attention_dropout,
    }


def embedding_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of the token, position and type embeddings and their norm.

    prefix: start of the published names, such as "bert.".
    """
    return (
        ("embedders.text", f"{prefix}embeddings.word_embeddings"),
        ("transformer.position_table", f"{prefix}embeddings.position_embeddings"),
        ("transformer.type_table", f"{prefix}embeddings.token_type_embeddings"),
        ("transformer.embedding_norm", f"{prefix}embeddings.LayerNorm"),
    )


def body_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of all weights but the heads': the embeddings and the layers.

    prefix: start of the published names, such as "bert.".
    """
    layer = f"{prefix}encoder.layer.{{i}}."
    return (
        *embedding_names(prefix),
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
    architectures={
        "body": "BertModel",
        "text": "BertForMaskedLM",
        "label": "BertForSequenceClassification",
        "tags": "BertForTokenClassification",
        "span": "BertForQuestionAnswering",
    },
    prefix="bert.",
    weight_names={
        "body": body_names("bert."),
        "text": (
            ("vocabulary_head.transform.dense", "cls.predictions.transform.dense"),
            ("vocabulary_head.transform.norm", "cls.predictions.transform.LayerNorm"),
            ("vocabulary_head.bias", "cls.predictions.bias"),
        ),
        "label": (("pooler.dense", "bert.pooler.dense"), ("classifier", "classifier")),
        "tags": (("tagger", "classifier"),),
        "span": (("span_head", "qa_outputs"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={
        "cls.predictions.decoder.weight": "embedders.text.weight",
        "cls.predictions.decoder.bias": "vocabulary_head.bias",
    },
    # Position ids are no weights, and no task here predicts the next sentence.
    ignored_weights=(r"bert\.embeddings\.position_ids$", r"cls\.seq_relationship\."),
)
