"""The linear model that `--method linear` fits: classical features times a learnt matrix. The family is mapsto's own.

The features are TF-IDF weights of n-grams, or edges and colours of a picture's parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.zoo import MAX_SIZE, Family, read_positive_int


def linear_config(width: int) -> ModelConfig:
    """Return the ModelConfig of a linear model: no layers and no norms; the heads read the sum of the tokens' vectors.

    width: width of these vectors, the total number of outputs of all heads.
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
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for an invalid `hidden_size`."""
    return linear_config(read_positive_int(raw, "hidden_size"))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return {"hidden_size": config.transformer.width}


family = Family(
    architectures={"body": "LinearModel", "label": "LinearClassifier"},
    prefix="",
    weight_names={
        "body": (
            ("embedders.text", "features"),
            ("embedders.image", "image_features"),
            ("embedders.sound", "sound_features"),
        ),
        "label": (("classifier", "classifier"),),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    linear=True,
    new_config=lambda width, layers, heads, length: linear_config(width),
)
