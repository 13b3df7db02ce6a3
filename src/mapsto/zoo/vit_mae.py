"""MAE (He et al. 2022): ViT that reads only the visible patches in pretraining, and a decoder that restores the hidden ones.

Starting models are facebook/vit-mae-base, -large and -huge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, vit

# Values of the decoder's sizes that a config.json leaves out.
DECODER = dict(zip(vit.SIZES, (512, 8, 16, 2048), strict=True))


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    return replace(vit.read(raw), decoder=vit.read_decoder(raw, DECODER))


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    return vit.write(config) | vit.write_decoder(config)


LAYER = "decoder.decoder_layers.{i}."


family = Family(
    architectures={"body": "ViTMAEModel", "image": "ViTMAEForPreTraining"},
    prefix="vit.",
    weight_names={
        "body": vit.family.weight_names["body"],
        "image": (
            ("decoder.embed", "decoder.decoder_embed"),
            ("decoder.mask_token", "decoder.mask_token"),
            # The decoder adds positions of its own, since hidden patches come without any.
            ("decoder.places.image.table", "decoder.decoder_pos_embed"),
            *vit.attention_names("decoder.transformer.", LAYER),
            *vit.norm_and_feed_forward_names("decoder.transformer.", LAYER),
            ("decoder.transformer.final_norm", "decoder.decoder_norm"),
            ("patch_head", "decoder.decoder_pred"),
        ),
    },
    read_config=read,
    write_config=write,
    tied_weights={},
    required_files=vit.REQUIRES,
    source_kind="image",
    # transformers 5 writes other names for the decoder's layers than were published; it reads both.
    aliases=(*vit.family.aliases, (r"\.decoder_encoder\.layer\.", ".decoder_layers.")),
    without_decoder="vit",
)
