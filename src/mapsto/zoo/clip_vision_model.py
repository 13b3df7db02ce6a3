"""CLIP's picture encoder (clip.py) in folders that lack the text encoder; their model_type is clip_vision_model."""

from __future__ import annotations

from mapsto.zoo import clip

family = clip.family
