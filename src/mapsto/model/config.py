"""Config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.layers import Activation, TransformConfig


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that tells one published stack from another.

    hidden: width inside the feed-forward part (after gating). window: tokens seen to either side in local layers, for
    layers that are not a multiple of `global_every`. rotary_base_local: base of the rotary angles in local layers.
    embedding_width: width of the embeddings, where a linear map brings them to `width` (None: they have it already).
    shared_layers: all layers are one and the same. languages: rows of a table that is kept but not added, as the
    reference does where no language is named. layer_scale: what each part of a layer is multiplied by at first, channel by
    channel, before it is added (CaiT, Touvron et al. 2021); None where it is added as it is. vector_norm: of the first token
    alone, where the vector of a bare model is asked for; no head reads it, so it is kept and not trained. key_bias: whether keys
    have a bias where the rest of a layer has, which attention cannot tell. map_bias: likewise whether a linear map has one that
    brings tokens of another width to this one. final_epsilon: of the norm at the end, where it is another.
    """

    width: int = 256
    embedding_width: int | None = None
    layers: int = 6
    shared_layers: bool = False
    heads: int = 4
    hidden: int = 688
    norm: Literal["layer", "rms"] = "layer"
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = False
    bias: bool = False
    activation: Activation = "gelu"
    gated: bool = True
    positions: Literal["rotary", "absolute", "none"] = "rotary"
    max_positions: int = 512
    position_offset: int = 0
    axes: int = 1
    rotary_base: float = 10_000.0
    rotary_base_local: float = 10_000.0
    window: int | None = None
    global_every: int = 1
    token_types: int = 0
    languages: int = 0
    embedding_norm: bool = True
    first_norm: bool = False
    final_norm: bool = True
    cross_attention: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_scale: float | None = None
    vector_norm: bool = False
    key_bias: bool = True
    map_bias: bool = True
    final_epsilon: float | None = None

    @property
    def longest(self) -> int:
        """Tokens the stack can take at once."""
        return self.max_positions - self.position_offset

    @property
    def input_width(self) -> int:
        """Width of the embedded tokens that the stack takes."""
        return self.embedding_width or self.width

    @property
    def blocks(self) -> int:
        """Layers with weights of their own."""
        return 1 if self.shared_layers else self.layers

    def is_local(self, layer: int) -> bool:
        """Whether `layer` sees its window only."""
        return self.window is not None and layer % self.global_every != 0


Pooling = Literal["first", "mean", "normed_mean", "rest_mean", "first_mean"]


@dataclass(frozen=True)
class SentenceConfig:
    """How a sentence encoder was trained to make its vectors: from the first token or the mean of at most `longest` tokens,
    scaled to length 1 when `unit`."""

    pooling: Literal["first", "mean"]
    unit: bool
    longest: int

    def __str__(self) -> str:
        place = "the first token" if self.pooling == "first" else "the mean"
        return f"{place} of at most {self.longest} tokens{', scaled to length 1' if self.unit else ''}"


@dataclass(frozen=True)
class ModelConfig:
    """A model but for its vocabulary and its answers.

    pooling: where a pooled answer is read: the first token, the mean of the example's tokens, or that mean normalised;
    the mean of all but the `frame` first ones, or the first token and that mean, end to end.
    pooler: the dense layer behind it. vocabulary_head: the dense layer before the vocabulary. Either may be missing.
    sentence: the vectors of a sentence encoder that was not trained further here. length: the most tokens of an example
    that it was fitted to and reads, where the Transformer takes more. pooled_norm: whether a norm of its own, with weights,
    stands behind the pooling. front: the network that makes the embedded tokens, where it is one of its own. decoder: the stack
    that puts hidden tokens back; then the Transformer reads the others alone. None: it reads all, the hidden ones as a mask.
    queries: learnt tokens at the end of what is read, which answers about its parts are read from. between: whether the embedder
    tells behind every layer but the last where tokens stand.
    """

    family: str = "modernbert"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    pooling: Pooling = "mean"
    pooler: TransformConfig | None = field(default_factory=TransformConfig)
    vocabulary_head: TransformConfig | None = field(default_factory=TransformConfig)
    sentence: SentenceConfig | None = None
    length: int | None = None
    frame: int = 1
    pooled_norm: bool = False
    front: ConvolutionConfig | None = None
    decoder: TransformerConfig | None = None
    queries: int = 0
    between: bool = False

    @property
    def pooled_width(self) -> int:
        """Width of the vector that pooled heads read."""
        return self.transformer.width * (2 if self.pooling == "first_mean" else 1)

    @property
    def longest(self) -> int:
        """How many tokens of an example are read; what is longer is cut, or read in windows of so many."""
        return self.length or self.transformer.longest

    @property
    def counted(self) -> int:
        """How far names of weights count: the layers of a stack, or what stands in a stage of the network in front."""
        others = self.decoder.layers if self.decoder else 0, self.front.counted if self.front else 0
        return max(self.transformer.layers, *others)
