"""XLM-RoBERTa (Conneau et al. 2020): RoBERTa over a hundred languages.

Starting models are FacebookAI/xlm-roberta-base and -large, multilingual E5, BGE-M3 and others of this family.
"""

from __future__ import annotations

from mapsto.zoo import roberta

family = roberta.make_family("XLMRoberta")
