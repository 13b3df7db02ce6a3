"""SigLIP's picture encoder (siglip.py) in folders that lack the text encoder; their model_type is siglip_vision_model."""

from __future__ import annotations

from mapsto.zoo import siglip

family = siglip.family
