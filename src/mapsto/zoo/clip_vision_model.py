"""CLIP's picture encoder (clip.py) when it is published without the text encoder, model_type clip_vision_model."""

from __future__ import annotations

from mapsto.zoo import clip

family = clip.family
