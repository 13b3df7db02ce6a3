"""HuBERT (Hsu et al. 2021): a wav2vec 2.0 that was pretrained to predict clusters of hidden tokens.

Starting models are facebook/hubert-base-ls960, hubert-large-ll60k and hubert-large-ls960-ft.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.wave.network import WaveConfig
from mapsto.zoo import wav2vec2


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `wav2vec2.read`."""
    assert isinstance(config.backbone, WaveConfig)
    return {**wav2vec2.write(config), "feat_proj_layer_norm": config.backbone.projection_epsilon is not None}


family = replace(wav2vec2.make_family("hubert.", "Hubert"), write_config=write)
