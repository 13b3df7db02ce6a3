"""Configuration of a model: the Transformer stack, and how vectors are read from it.

Families in zoo/ translate a published `config.json` to these dataclasses and back. Numbers that follow from others are
properties, so that each is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.layers import Activation, TransformConfig


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer stack; its fields cover every published family in zoo/."""

    # Width of hidden states.
    width: int = 256
    # Width of the embeddings if a linear map brings them to `width` (ALBERT, ELECTRA); None: they are of `width` already.
    embedding_width: int | None = None
    layers: int = 6
    # Whether all layers use one set of weights (ALBERT).
    shared_layers: bool = False
    # Attention heads per layer; each is width / heads wide, which must be even.
    heads: int = 4
    # Width inside the feed-forward part, after gating.
    feed_forward_width: int = 688
    norm: Literal["layer", "rms"] = "layer"
    # Whether a norm stands before each part of a layer, or after its residual sum.
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = False
    # Whether the linear maps of a layer have biases.
    bias: bool = False
    activation: Activation = "gelu"
    # Whether the feed-forward part is gated (GLU variants, Shazeer 2020).
    gated: bool = True
    # Rotary angles, a learned table, or none where the embedder adds positions itself (pictures).
    positions: Literal["rotary", "absolute", "none"] = "rotary"
    max_positions: int = 512
    # Index in the table of positions of an example's first token (RoBERTa counts from behind the padding id).
    position_offset: int = 0
    # Base of the rotary angles in global layers, and in local ones.
    rotary_base: float = 10_000.0
    rotary_base_local: float = 10_000.0
    # Tokens seen to either side in local layers, which are those that are not a multiple of `global_every`; None: all global.
    window: int | None = None
    global_every: int = 1
    # Entries of the table of token types, one for each source of an arrow; 0: no table.
    token_types: int = 0
    # Entries of XLM's table of languages, which is stored but not added where no language is named; 0: no table.
    languages: int = 0
    # Whether a norm stands behind the embeddings.
    embedding_norm: bool = True
    # Whether the first pre-norm layer has its norm although the embeddings are normalised already.
    first_norm: bool = False
    # Whether a norm stands behind the last layer, and its epsilon if that is not `norm_epsilon`.
    final_norm: bool = True
    final_epsilon: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    # Initial scale, per channel, of what each part of a layer adds (CaiT, Touvron et al. 2021); None: no scale.
    layer_scale: float | None = None
    # Whether a bare model normalises its vector of the first token (CLIP). No head reads it, so it is not trained.
    vector_norm: bool = False
    # Whether keys have a bias where the other maps have one. It cannot change attention, and some families leave it out.
    key_bias: bool = True
    # Whether the linear map from another width to this one has a bias where the other maps have one.
    projection_bias: bool = True

    @property
    def max_tokens(self) -> int:
        """Tokens of an example that the stack can take at once."""
        return self.max_positions - self.position_offset

    @property
    def input_width(self) -> int:
        """Width of the embedded tokens that the stack takes."""
        return self.embedding_width or self.width

    @property
    def num_blocks(self) -> int:
        """Layers with weights of their own."""
        return 1 if self.shared_layers else self.layers

    def is_local(self, layer: int) -> bool:
        """Return whether attention in `layer` is limited to the window."""
        return self.window is not None and layer % self.global_every != 0


Pooling = Literal["first", "mean", "normed_mean", "rest_mean", "first_mean"]


@dataclass(frozen=True)
class SentenceConfig:
    """Readout of a sentence encoder, as it was trained."""

    # The first token, or the mean of all.
    pooling: Literal["first", "mean"]
    # Whether vectors are scaled to length 1.
    normalize: bool
    # Tokens of a text that are read; the rest is cut.
    max_tokens: int

    def __str__(self) -> str:
        place = "the first token" if self.pooling == "first" else "the mean"
        return f"{place} of at most {self.max_tokens} tokens{', scaled to length 1' if self.normalize else ''}"


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, without its vocabulary and its answers."""

    # Module name in zoo/: the model_type of config.json.
    family: str = "modernbert"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    # Vector that pooled answers read: the first token; the mean of the example's tokens, plain or normalised; the mean of all
    # but the prefix tokens; or the first token and that mean, concatenated.
    pooling: Pooling = "mean"
    # Dense layer between the pooled vector and its head; None: none.
    pooler: TransformConfig | None = field(default_factory=TransformConfig)
    # Dense layer between a hidden token and the vocabulary; None: none.
    vocabulary_head: TransformConfig | None = field(default_factory=TransformConfig)
    # Readout of a sentence encoder that was not trained further here.
    sentence: SentenceConfig | None = None
    # Tokens of an example that the model was fitted to, if fewer than the Transformer takes.
    length: int | None = None
    # Special tokens in front of a picture's patches (class and distillation tokens, registers).
    num_prefix_tokens: int = 1
    # Whether a norm with weights stands behind the pooling (ConvNeXt).
    pooled_norm: bool = False
    # Convolutional network that makes the embedded tokens; None: the embedder is a linear map or a table.
    backbone: ConvolutionConfig | None = None
    # Stack that restores hidden tokens (MAE); the Transformer then reads the visible ones alone. None: it reads mask tokens.
    decoder: TransformerConfig | None = None
    # Learned tokens behind the patches that answers about parts of a picture are read from (YOLOS).
    num_queries: int = 0
    # Whether the embedder adds position embeddings again behind every layer but the last (YOLOS).
    mid_positions: bool = False

    @property
    def pooled_width(self) -> int:
        """Width of the vector that pooled heads read."""
        return self.transformer.width * (2 if self.pooling == "first_mean" else 1)

    @property
    def max_tokens(self) -> int:
        """Tokens of an example that are read; a longer one is cut, or read in windows of this length."""
        return self.length or self.transformer.max_tokens

    @property
    def num_indices(self) -> int:
        """Upper bound of the indices in names of weights: layers of a stack, or modules of a convolutional stage."""
        decoder_layers = self.decoder.layers if self.decoder else 0
        return max(self.transformer.layers, decoder_layers, self.backbone.num_indices if self.backbone else 0)
