"""AST (Gong et al. 2021): a ViT over overlapping patches of a spectrogram; heads read the mean of its two special tokens.

Starting models are MIT/ast-finetuned-audioset-10-10-0.4593, other AudioSet models and ast-finetuned-speech-commands-v2, with
their heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.model.config import ModelConfig
from mapsto.model.layers import TransformConfig
from mapsto.zoo import Family, vit
from mapsto.zoo.wav2vec2 import REQUIRES

PREFIX = "audio_spectrogram_transformer."

# The special tokens, which are the two rows of one weight here.
SPECIAL_TOKENS = tuple(f"{PREFIX}embeddings.{name}_token" for name in ("cls", "distillation"))


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    stack = vit.read_stack(raw)
    # A norm stands between the mean and the classifier.
    head = TransformConfig(dense=False, norm=True, norm_bias=True, norm_epsilon=stack.norm_epsilon)
    return ModelConfig(
        transformer=stack,
        pooling="prefix_mean",
        pooler=head,
        vocabulary_head=None,
        num_prefix_tokens=len(SPECIAL_TOKENS),
    )


_LAYER = f"{PREFIX}encoder.layer.{{i}}."

family = Family(
    architectures={"body": "ASTModel", "label": "ASTForAudioClassification"},
    prefix=PREFIX,
    weight_names={
        "body": (
            ("embedders.sound.special_tokens", SPECIAL_TOKENS),
            ("embedders.sound.position_embeddings", f"{PREFIX}embeddings.position_embeddings"),
            ("embedders.sound.projection", f"{PREFIX}embeddings.patch_embeddings.projection"),
            *vit.attention_names("transformer.", _LAYER),
            *vit.norm_and_feed_forward_names("transformer.", _LAYER),
            ("transformer.final_norm", f"{PREFIX}layernorm"),
        ),
        "label": (("pooler.norm", "classifier.layernorm"), ("classifier", "classifier.dense")),
    },
    read_config=read,
    write_config=vit.write,
    tied_weights={},
    required_files=REQUIRES,
    source_kind="sound",
    source_variant="patches",
    aliases=vit.family.aliases,
)
