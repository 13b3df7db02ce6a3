"""The linear model: TF-IDF weights of n-grams times a table, which `--method linear` fits. It is mapsto's own family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import MAX_SIZE, Family, read_positive_int


def linear_config(width: int) -> ModelConfig:
    """Return the configuration of a linear model: no layers and no norms; the head reads the sum of the tokens' vectors.

    width: the number of outputs of all heads.
    """
    shape = TransformerConfig(
        width=width,
        layers=0,
        heads=1,
        positions="none",
        max_positions=MAX_SIZE,
        embedding_norm=False,
        final_norm=False,
    )
    return ModelConfig(family="linear", transformer=shape, pooling="sum", pooler=None, vocabulary_head=None)


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that a config.json describes. Raises CheckpointError."""
    return linear_config(read_positive_int(raw, "hidden_size"))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the config.json of a configuration: the inverse of `read`."""
    return {"hidden_size": config.transformer.width}


family = Family(
    architectures={"body": "LinearModel", "label": "LinearClassifier"},
    prefix="",
    weight_names={"body": (("embedders.text", "features"),), "label": (("classifier", "classifier"),)},
    read_config=read,
    write_config=write,
    tied_weights={},
    linear=True,
    new_config=lambda width, layers, heads, length: linear_config(width),
)
