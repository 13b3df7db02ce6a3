"""WavLM (Chen et al. 2022): a wav2vec 2.0 whose queries scale a bias of relative positions by a gate.

The bias is learnt for 320 buckets of distances, and shared by all layers. Starting models are microsoft/wavlm-base,
wavlm-base-plus and wavlm-large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig
from mapsto.zoo import read_positive_int, wav2vec2
from mapsto.zoo.wav2vec2 import BLOCK, LAYER

PREFIX = "wavlm."

# The least buckets: a quarter of them holds one distance each, on either side.
MIN_BUCKETS = 4


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    front = wav2vec2.read_front(raw)
    buckets = read_positive_int(raw, "num_buckets", 320)
    distance = read_positive_int(raw, "max_bucket_distance", 800)
    if buckets < MIN_BUCKETS or distance <= buckets // 4:
        raise CheckpointError(
            f"config.json: num_buckets must be at least {MIN_BUCKETS}, and max_bucket_distance more than a quarter of it, "
            f"not {buckets:,} and {distance:,}"
        )
    stack = replace(
        wav2vec2.read_stack(raw, front),
        positions="relative",
        relative_buckets=buckets,
        relative_distance=distance,
        gated_relative=True,
    )
    return wav2vec2.model_config(stack, front)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    stack = config.transformer
    sizes = {"num_buckets": stack.relative_buckets, "max_bucket_distance": stack.relative_distance}
    return {**wav2vec2.write(config), **sizes}


_FAMILY = wav2vec2.make_family(PREFIX, "WavLM")

family = replace(
    _FAMILY,
    weight_names={
        **_FAMILY.weight_names,
        "body": (
            *_FAMILY.weight_names["body"],
            # The first layer holds the bias of all layers.
            ("transformer.relative_table", f"{PREFIX}encoder.layers.0.attention.rel_attn_embed"),
            (f"{BLOCK}attention.bias_gate.constant", f"{PREFIX}{LAYER}attention.gru_rel_pos_const"),
            (f"{BLOCK}attention.bias_gate.linear", f"{PREFIX}{LAYER}attention.gru_rel_pos_linear"),
        ),
    },
    read_config=read,
    write_config=write,
)
