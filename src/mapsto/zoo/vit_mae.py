"""MAE (He et al. 2022): ViT that reads the patches which are left, and the decoder that puts the hidden ones back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.zoo import Family, vit

DECODER = dict(zip(vit.SIZES, (512, 8, 16, 2048), strict=True))  # where a config does not say it


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """The configuration that a config.json of this family says. Raises CheckpointError."""
    return replace(vit.read(raw), decoder=vit.behind(raw, DECODER))


def write(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read`."""
    return vit.write(config) | vit.behind_sizes(config)


LAYER = "decoder.decoder_layers.{i}."


family = Family(
    architectures={"body": "ViTMAEModel", "image": "ViTMAEForPreTraining"},
    prefix="vit.",
    names={
        "body": vit.family.names["body"],
        "image": (
            ("decoder.embed", "decoder.decoder_embed"),
            ("decoder.mask_token", "decoder.mask_token"),
            ("decoder.places.image.table", "decoder.decoder_pos_embed"),
            *vit.attention("decoder.transformer.", LAYER),
            *vit.rest("decoder.transformer.", LAYER),
            ("decoder.transformer.final_norm", "decoder.decoder_norm"),
            ("patch_head", "decoder.decoder_pred"),
        ),
    },
    read=read,
    write=write,
    untied={},
    requires=vit.REQUIRES,
    reads="image",
    # transformers 5 writes other names for the decoder's layers than were published; it reads both.
    renamed=(*vit.family.renamed, (r"\.decoder_encoder\.layer\.", ".decoder_layers.")),
    undecoded="vit",
)
