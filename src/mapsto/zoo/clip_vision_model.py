"""CLIP's tower for pictures (clip.py) in a folder of its own, model_type clip_vision_model."""

from __future__ import annotations

from mapsto.zoo import clip

family = clip.family
