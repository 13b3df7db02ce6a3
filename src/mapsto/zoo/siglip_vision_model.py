"""SigLIP's tower for pictures (siglip.py) in a folder of its own, model_type siglip_vision_model."""

from __future__ import annotations

from mapsto.zoo import siglip

family = siglip.family
