"""SigLIP's tower for pictures under its own model_type."""

from __future__ import annotations

from mapsto.zoo import siglip

family = siglip.family
