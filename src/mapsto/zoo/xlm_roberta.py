"""XLM-RoBERTa (Conneau et al. 2020): RoBERTa over a hundred languages."""

from __future__ import annotations

from mapsto.zoo import roberta

family = roberta.make("XLMRoberta")
