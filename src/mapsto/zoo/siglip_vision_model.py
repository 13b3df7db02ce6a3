"""SigLIP's picture encoder (siglip.py) when it is published without the text encoder, model_type siglip_vision_model."""

from __future__ import annotations

from mapsto.zoo import siglip

family = siglip.family
