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
class RotaryScaling:
    """Change of the rotary angles by which a model trained on short texts reads longer ones."""

    # "linear" divides all angles by `factor` (Chen et al. 2023). "llama3" (Llama Team 2024, section 3.4.2) divides only the slow
    # ones, and interpolates between slow and fast ones.
    kind: Literal["linear", "llama3"]
    factor: float
    # Only for "llama3": number of positions before the change, and how many turns an angle makes over them if it is slow (fewer
    # than the first number) or fast (more than the second).
    original_positions: int = 8192
    slow_turns: float = 1.0
    fast_turns: float = 4.0


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer stack. The fields cover all published families in zoo/."""

    # Width of hidden states.
    width: int = 256
    # Width of the embeddings, which a linear map then brings to `width` (ALBERT, ELECTRA); None: they have `width` already.
    embedding_width: int | None = None
    layers: int = 6
    # Whether all layers use one set of weights (ALBERT).
    shared_layers: bool = False
    # Attention heads per layer.
    heads: int = 4
    # Heads of keys and values, each shared by several heads of queries (grouped-query attention, Ainslie et al. 2023); None: one
    # for each head of queries.
    kv_heads: int | None = None
    # Width of a head, which must be even; None: width / heads.
    head_width: int | None = None
    # Whether the queries and keys of each head are normalised (RMS) before their rotation (Qwen 3).
    qk_norm: bool = False
    # Whether a token sees only itself and the tokens of its example before it, whatever their roles (decoder-only models).
    causal: bool = False
    # Whether each layer also attends to the states of the source tokens (the decoder of an encoder–decoder).
    cross_attention: bool = False
    # Width inside the feed-forward part, after gating.
    feed_forward_width: int = 688
    norm: Literal["layer", "rms"] = "layer"
    # Whether a norm stands before each part of a layer, or after its residual sum.
    norm_place: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    norm_bias: bool = False
    # Whether the linear maps of a layer have biases.
    bias: bool = False
    # Whether the maps to queries, keys and values have biases, and the map behind attention; None: as `bias` says.
    qkv_bias: bool | None = None
    out_bias: bool | None = None
    activation: Activation = "gelu"
    # Whether the feed-forward part is gated (GLU variants, Shazeer 2020).
    gated: bool = True
    # Rotary angles, a learned table, a table of sines and cosines, a learnt bias of attention for each bucket of distances
    # ("relative", T5), or none where the embedder adds positions itself (pictures).
    positions: Literal["rotary", "absolute", "sinusoidal", "relative", "none"] = "rotary"
    max_positions: int = 512
    # Index of an example's first token in the table of positions (RoBERTa: the padding id plus 1).
    position_offset: int = 0
    # Share of the channels of a head that rotary positions rotate: the first ones of each of its two halves (Moonshine).
    rotary_fraction: float = 1.0
    # Base of the rotary angles in global layers, and in local ones.
    rotary_base: float = 10_000.0
    rotary_base_local: float = 10_000.0
    # Scaling of the rotary angles, by which a model reads longer texts than it was first trained on; None: no scaling.
    rotary_scaling: RotaryScaling | None = None
    # Number of buckets of relative positions, and the distance from which on all tokens are in the last bucket.
    relative_buckets: int = 32
    relative_distance: int = 128
    # Whether each query scales the bias of its distances by a learnt gate (WavLM).
    gated_relative: bool = False
    # Span in tokens of the convolution whose output is added to tokens as their positions (wav2vec 2.0); None: no convolution.
    # Below: into how many groups it splits the channels, and its activation.
    position_kernel: int | None = None
    position_groups: int = 16
    position_activation: Activation = "gelu"
    # Whether attention scores are divided by the root of the head width (not in T5).
    scaled_scores: bool = True
    # Number of tokens seen on either side in local layers; None: all layers are global. The first layer and every
    # `global_every`-th after it are global, the others are local.
    window: int | None = None
    global_every: int = 1
    # Entries of the table of token types, one for each source of an arrow; 0: no table.
    token_types: int = 0
    # Entries of XLM's table of languages; 0: no table. It is only kept to be saved again, since no language is ever named.
    languages: int = 0
    # Factor by which embedded tokens are multiplied before positions are added (Marian: √width); None: no factor.
    embedding_scale: float | None = None
    # Whether a norm follows the embeddings.
    embedding_norm: bool = True
    # Whether the first pre-norm layer has a norm even if the embeddings are normalised already.
    first_norm: bool = False
    # Whether a norm follows the last layer, and its epsilon if it is not `norm_epsilon`.
    final_norm: bool = True
    final_epsilon: float | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    # Initial scale, per channel, of what each part of a layer adds (CaiT, Touvron et al. 2021); None: no scale.
    layer_scale: float | None = None
    # Whether a model without heads returns the first token's state after one more norm (CLIP). That norm is not trained.
    vector_norm: bool = False
    # Whether keys have a bias if queries and values have one. It cannot change attention, so some families leave it out.
    key_bias: bool = True
    # Whether the linear map from another width to `width` has a bias if `bias` is set.
    projection_bias: bool = True

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of an example, special tokens included, that the stack can take."""
        return self.max_positions - self.position_offset

    @property
    def width_per_head(self) -> int:
        """Width of an attention head."""
        return self.head_width or self.width // self.heads

    @property
    def rotary_width(self) -> int:
        """Number of channels of a head that rotary positions rotate; it is even."""
        return int(self.width_per_head * self.rotary_fraction)

    @property
    def has_qkv_bias(self) -> bool:
        """Return whether the maps to queries, keys and values have biases."""
        return self.bias if self.qkv_bias is None else self.qkv_bias

    @property
    def has_out_bias(self) -> bool:
        """Return whether the map behind attention has a bias."""
        return self.bias if self.out_bias is None else self.out_bias

    @property
    def num_kv_heads(self) -> int:
        """Number of heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def query_width(self) -> int:
        """Width of the queries of all heads together."""
        return self.heads * self.width_per_head

    @property
    def key_width(self) -> int:
        """Width of the keys of all their heads together, and of the values."""
        return self.num_kv_heads * self.width_per_head

    @property
    def fits_heads(self) -> bool:
        """Return whether heads are of one even width and divide into groups.

        They must divide the width of hidden states if they have no width of their own.
        """
        is_divided = self.head_width is not None or self.width % self.heads == 0
        return is_divided and self.width_per_head % 2 == 0 and self.heads % self.num_kv_heads == 0

    @property
    def input_width(self) -> int:
        """Width of the embedded tokens, which are the input of the stack."""
        return self.embedding_width or self.width

    @property
    def num_blocks(self) -> int:
        """Number of blocks with separate weights: 1 if all layers share them."""
        return 1 if self.shared_layers else self.layers

    def is_local(self, layer: int) -> bool:
        """Return whether attention in layer number `layer`, from 0, is limited to the window."""
        return self.window is not None and layer % self.global_every != 0


Pooling = Literal["first", "last", "mean", "normed_mean", "prefix_mean", "rest_mean", "first_mean", "sum"]


# Names of the prompts of queries and of the texts that are searched.
QUERY_PROMPTS, PASSAGE_PROMPTS = ("query",), ("document", "passage", "corpus")


@dataclass(frozen=True)
class SentenceConfig:
    """Pooling, normalisation and maximum length with which a sentence encoder was trained."""

    # Whether the vector of a text is the state of its first token or the mean of all tokens.
    pooling: Literal["first", "mean"]
    # Whether vectors are scaled to unit norm.
    normalize: bool
    # Maximum number of tokens of a text; the rest is cut.
    max_tokens: int
    # Texts to put before a text, by name, such as ("query", "query: "); and the name of the one for texts of no side.
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None

    def prompt(self, side: int | None) -> str:
        """Return the text to put before a text: of a query (side 0), of what is searched (1 and above), or of neither (None).

        The names are those that sentence-transformers looks for in `encode_query` and `encode_document`.
        """
        prompts = dict(self.prompts)
        names = () if side is None else QUERY_PROMPTS if side == 0 else PASSAGE_PROMPTS
        of_side = [prompts[name] for name in names if name in prompts]
        default = "" if self.default_prompt is None else prompts[self.default_prompt]
        # sentence-transformers writes an empty "document" beside the "passage" of others.
        return next(filter(None, of_side), "") if of_side else default

    def __str__(self) -> str:
        place = "the first token" if self.pooling == "first" else "the mean"
        prompts = ", ".join(f"{name} {text!r}" for name, text in self.prompts if text)
        scaled = ", scaled to length 1" if self.normalize else ""
        return f"{place} of at most {self.max_tokens} tokens{scaled}{f'; prompts: {prompts}' if prompts else ''}"


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model: the Transformer and the layers around it, without the vocabulary and the classes.

    The vocabulary belongs to the source, and the classes to the targets.
    """

    # Name of the published family's module in zoo/: the model_type of config.json.
    family: str = "modernbert"
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    # Vector of an example: the first token ("first"); the last one ("last"); the mean of all tokens, plain ("mean") or normalised
    # ("normed_mean"); the mean of the prefix tokens ("prefix_mean"), or of all but these ("rest_mean"); the first token and the
    # latter mean, concatenated ("first_mean"); or the sum of all tokens ("sum").
    pooling: Pooling = "mean"
    # Dense layer between the pooled vector and its head; None: no layer.
    pooler: TransformConfig | None = field(default_factory=TransformConfig)
    # Dense layer between the state of a hidden token and its vocabulary logits; None: no layer.
    vocabulary_head: TransformConfig | None = field(default_factory=TransformConfig)
    # Readout of a published sentence encoder, unless it was trained further here.
    sentence: SentenceConfig | None = None
    # Maximum number of tokens of an example in training, if lower than the Transformer's limit.
    length: int | None = None
    # Special tokens in front of the patches of a picture or spectrogram (class and distillation tokens, registers).
    num_prefix_tokens: int = 1
    # Whether a norm with trained weights follows the pooling (ConvNeXt).
    pooled_norm: bool = False
    # Convolutional network that computes the embedded tokens; None: the embedder is a linear map or a table.
    backbone: ConvolutionConfig | None = None
    # Decoder that restores hidden tokens (MAE). The Transformer then reads only visible tokens. None: it reads mask tokens.
    decoder: TransformerConfig | None = None
    # Decoder of an encoder–decoder: it reads the tokens of an answer, and attends to the Transformer's states of the
    # sources. None: the Transformer itself reads answers, behind their sources.
    answer_decoder: TransformerConfig | None = None
    # Token that begins every answer of a published encoder–decoder; None: the target that generates the answers chooses it.
    answer_start: int | None = None
    # Number of learnt query tokens after the patches; each predicts one box of a picture (YOLOS).
    num_queries: int = 0
    # Whether position embeddings are added again after every layer but the last (YOLOS).
    mid_positions: bool = False

    @property
    def is_linear(self) -> bool:
        """Return whether the model has neither Transformer layers nor a backbone: heads read the sum of its embedded tokens.

        Such a model is a linear model of classical features, such as TF-IDF.
        """
        return self.transformer.layers == 0 and self.backbone is None

    @property
    def pooled_width(self) -> int:
        """Width of an example's pooled vector before the pooler.

        It is the Transformer's width, or twice that for the pooling "first_mean".
        """
        return self.transformer.width * (2 if self.pooling == "first_mean" else 1)

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of an example, special tokens included. Training cuts longer examples to this length.

        So does prediction by default; with `--long window` it reads a long example in windows of this length.
        """
        return self.length or self.transformer.max_tokens

    @property
    def answer_stack(self) -> TransformerConfig:
        """Shape of the stack that reads the tokens of generated answers."""
        return self.answer_decoder or self.transformer

    @property
    def num_indices(self) -> int:
        """Exclusive upper bound of the number that replaces `{i}` in the names of weights in zoo/.

        The number counts the layers of the Transformer or decoder, or the modules of a backbone's stage.
        """
        decoder_layers = max((stack.layers for stack in (self.decoder, self.answer_decoder) if stack), default=0)
        return max(self.transformer.layers, decoder_layers, self.backbone.num_indices if self.backbone else 0)
