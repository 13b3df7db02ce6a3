"""wav2vec 2.0 (Baevski et al. 2020): Transformer over convolutions of the waveform, pretrained without transcripts.

The body is read, also from folders of models with a head (CTC, speakers) or of the pretraining, whose heads are left out.
Classifiers read the mean of all hidden states behind a linear map, which is the published mean of mapped states. Those that read
a weighted sum of layers, or behind a narrower map, are left out too. Sounds are read up to 30 seconds at once, without padding.
Starting models are facebook/wav2vec2-base, wav2vec2-base-960h, wav2vec2-large-lv60, wav2vec2-large-xlsr-53 and
wav2vec2-xls-r-300m. The files of HuBERT and WavLM use functions of this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mapsto.errors import CheckpointError
from mapsto.model.config import ModelConfig, TransformerConfig
from mapsto.model.layers import TransformConfig
from mapsto.model.wave.network import WaveConfig
from mapsto.zoo import Family, Names, read_activation, read_fraction, read_positive_int, write_activation

# The most tokens that are read at once: 30 seconds of 20 ms. Attention has no limit of its own, but its cost is quadratic.
MAX_POSITIONS = 1500

# Shape of the convolutions where config.json is silent, and the largest values that are accepted: channels, samples of a kernel
# or stride, convolutions, and samples that a token depends on (one second).
WIDTHS, KERNELS, STRIDES = (512,) * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
MAX_WIDTH, MAX_KERNEL, MAX_LAYERS, MAX_FIELD = 2**14, 2**10, 16, 16_000

# The largest span, in tokens, of the convolution over positions.
MAX_POSITION_KERNEL = 2**12

# The linear map in front of a classifier.
PROJECTOR = TransformConfig(activation="identity", bias=True, norm=False)

REQUIRES = {
    "preprocessor_config.json": "it says how samples are prepared; copy it from the published model, or save the feature "
    "extractor beside the weights (extractor.save_pretrained)"
}


def _read_numbers(raw: Mapping[str, Any], name: str, default: tuple[int, ...], maximum: int) -> tuple[int, ...]:
    """Return a list of positive numbers in a config.json, one for each convolution. Raises CheckpointError for others.

    default: value of a missing setting. maximum: largest number that is accepted.
    """
    numbers = raw.get(name, default)
    if not isinstance(numbers, list | tuple) or not 0 < len(numbers) <= MAX_LAYERS:
        raise CheckpointError(f"config.json: {name} must list 1 to {MAX_LAYERS} convolutions, not {numbers!r:.80}")
    # Checked one by one, so that the error message names the setting.
    checked = tuple(read_positive_int({name: number}, name) for number in numbers)
    if max(checked) > maximum:
        raise CheckpointError(f"config.json: {name} may be up to {maximum:,}, not {max(checked):,}")
    return checked


def _read_flag(raw: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Return a setting that is true or false. Raises CheckpointError for other values. default: value of a missing setting."""
    value = raw.get(name, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} must be true or false, not {value!r}")
    return value


def read_front(raw: Mapping[str, Any]) -> WaveConfig:
    """Return the shape of the convolutions that a config.json describes. Raises CheckpointError if it is not supported."""
    norm: Literal["group", "layer"]
    match raw.get("feat_extract_norm", "group"):
        case "group":
            norm = "group"
        case "layer":
            norm = "layer"
        case other:
            raise CheckpointError(f"config.json: feat_extract_norm must be 'group' or 'layer', not {other!r}")
    widths = _read_numbers(raw, "conv_dim", WIDTHS, MAX_WIDTH)
    front = WaveConfig(
        widths=widths,
        depths=(1,) * len(widths),
        kernels=_read_numbers(raw, "conv_kernel", KERNELS, MAX_KERNEL),
        strides=_read_numbers(raw, "conv_stride", STRIDES, MAX_KERNEL),
        bias=_read_flag(raw, "conv_bias"),
        norm=norm,
        activation=read_activation(raw.get("feat_extract_activation", "gelu")),
        projection_epsilon=_read_epsilon(raw) if _read_flag(raw, "feat_proj_layer_norm", True) else None,
    )
    if not len(front.widths) == len(front.kernels) == len(front.strides):
        raise CheckpointError(
            "config.json: conv_dim, conv_kernel and conv_stride list different numbers of convolutions"
        )
    if max(front.field, front.stride) > MAX_FIELD:
        raise CheckpointError(
            f"config.json: tokens of {front.field:,} samples, {front.stride:,} apart, are not supported, only up to {MAX_FIELD:,}"
        )
    return front


def _read_epsilon(raw: Mapping[str, Any]) -> float:
    """Return the epsilon of the norms."""
    return read_fraction(raw, "layer_norm_eps", 1e-5)


def read_stack(raw: Mapping[str, Any], front: WaveConfig) -> TransformerConfig:
    """Return the shape of the Transformer that a config.json describes. Raises CheckpointError if it is not supported.

    front: shape of the convolutions, whose activation the convolution over positions shares.
    """
    for name in ("add_adapter", "adapter_attn_dim", "conv_pos_batch_norm"):
        if raw.get(name):
            raise CheckpointError(f"config.json: {name} is not supported")
    is_pre = _read_flag(raw, "do_stable_layer_norm")
    width = read_positive_int(raw, "hidden_size", 768)
    kernel = read_positive_int(raw, "num_conv_pos_embeddings", 128)
    groups = read_positive_int(raw, "num_conv_pos_embedding_groups", 16)
    if kernel > MAX_POSITION_KERNEL or width % groups:
        raise CheckpointError(
            f"config.json: the convolution over positions must span up to {MAX_POSITION_KERNEL:,} tokens, in groups that divide "
            f"the width {width:,}, not {kernel:,} tokens in {groups:,} groups"
        )
    return TransformerConfig(
        width=width,
        layers=read_positive_int(raw, "num_hidden_layers", 12),
        heads=read_positive_int(raw, "num_attention_heads", 12),
        feed_forward_width=read_positive_int(raw, "intermediate_size", 3072),
        norm_place="pre" if is_pre else "post",
        norm_epsilon=_read_epsilon(raw),
        norm_bias=True,
        bias=True,
        activation=read_activation(raw.get("hidden_act", "gelu")),
        gated=False,
        positions="none",
        position_kernel=kernel,
        position_groups=groups,
        position_activation=front.activation,
        max_positions=MAX_POSITIONS,
        embedding_norm=not is_pre,
        first_norm=is_pre,
        final_norm=is_pre,
        dropout=read_fraction(raw, "hidden_dropout", 0.1),
        attention_dropout=read_fraction(raw, "attention_dropout", 0.1),
    )


def model_config(stack: TransformerConfig, front: WaveConfig) -> ModelConfig:
    """Return the ModelConfig of a model of this family or one like it."""
    return ModelConfig(transformer=stack, pooling="mean", pooler=PROJECTOR, vocabulary_head=None, backbone=front)


def reads_classifier(raw: Mapping[str, Any]) -> bool:
    """Return whether the classifier of a config.json reads the last layer, behind a linear map that keeps its width."""
    return not raw.get("use_weighted_layer_sum") and raw.get("classifier_proj_size", 256) == raw.get("hidden_size", 768)


def read(raw: Mapping[str, Any]) -> ModelConfig:
    """Return the ModelConfig that `raw`, a parsed config.json, describes. Raises CheckpointError for unsupported settings."""
    front = read_front(raw)
    return model_config(read_stack(raw, front), front)


def write(config: ModelConfig) -> dict[str, Any]:
    """Return the settings of config.json for a ModelConfig, as a dict: the inverse of `read`."""
    stack, front = config.transformer, config.backbone
    assert isinstance(front, WaveConfig)
    return {
        "hidden_size": stack.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.heads,
        "intermediate_size": stack.feed_forward_width,
        "hidden_act": write_activation(stack.activation),
        "do_stable_layer_norm": stack.norm_place == "pre",
        "layer_norm_eps": stack.norm_epsilon,
        "hidden_dropout": stack.dropout,
        "attention_dropout": stack.attention_dropout,
        "classifier_proj_size": stack.width,
        "use_weighted_layer_sum": False,
        # Layers are never left out in training here.
        "layerdrop": 0.0,
        "num_conv_pos_embeddings": stack.position_kernel,
        "num_conv_pos_embedding_groups": stack.position_groups,
        "conv_dim": list(front.widths),
        "conv_kernel": list(front.kernels),
        "conv_stride": list(front.strides),
        "conv_bias": front.bias,
        "feat_extract_norm": front.norm,
        "feat_extract_activation": write_activation(front.activation),
    }


LAYER, BLOCK = "encoder.layers.{i}.", "transformer.blocks.{i}."
NETWORK, CONVOLUTION = "embedders.sound.network.blocks.{i}.", "feature_extractor.conv_layers.{i}."
POSITIONS = "encoder.pos_conv_embed.conv"


def body_names(prefix: str) -> Names:
    """Return pairs (our name, published name) of the body's weights. prefix: that of published names, such as "wav2vec2."."""
    names: Names = (
        (f"{NETWORK}conv", f"{CONVOLUTION}conv"),
        (f"{NETWORK}norm", f"{CONVOLUTION}layer_norm"),
        ("embedders.sound.norm", "feature_projection.layer_norm"),
        ("embedders.sound.projection", "feature_projection.projection"),
        ("embedders.sound.mask_token", "masked_spec_embed"),
        ("transformer.position_convolution.scale", f"{POSITIONS}.parametrizations.weight.original0"),
        ("transformer.position_convolution.direction", f"{POSITIONS}.parametrizations.weight.original1"),
        ("transformer.position_convolution.bias", f"{POSITIONS}.bias"),
        (f"{BLOCK}attention.qkv", tuple(f"{LAYER}attention.{part}_proj" for part in "qkv")),
        (f"{BLOCK}attention.out", f"{LAYER}attention.out_proj"),
        (f"{BLOCK}attention_norm", f"{LAYER}layer_norm"),
        (f"{BLOCK}feed.up", f"{LAYER}feed_forward.intermediate_dense"),
        (f"{BLOCK}feed.down", f"{LAYER}feed_forward.output_dense"),
        (f"{BLOCK}feed_norm", f"{LAYER}final_layer_norm"),
    )
    return tuple((name, _with_prefix(prefix, published)) for name, published in names)


def _with_prefix(prefix: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return published names with the prefix in front."""
    return prefix + names if isinstance(names, str) else tuple(prefix + name for name in names)


def norm_names(prefix: str) -> dict[str, Names]:
    """Return the names of the norm of the whole encoder, by the place of norms: behind all layers, or in front of them."""
    published = f"{prefix}encoder.layer_norm"
    return {"pre": (("transformer.final_norm", published),), "post": (("transformer.embedding_norm", published),)}


# Names of the two parts of a weight norm before torch 2.0, which published files have.
ALIASES = (
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
)


def make_family(prefix: str, name: str) -> Family:
    """Return the Family of models like wav2vec 2.0. prefix: that of their published names. name: that of their classes."""
    return Family(
        architectures={
            "body": f"{name}Model",
            "label": f"{name}ForSequenceClassification",
        },
        prefix=prefix,
        weight_names={
            "body": body_names(prefix),
            "label": (("pooler.dense", "projector"), ("classifier", "classifier")),
        },
        read_config=read,
        write_config=write,
        tied_weights={},
        required_files=REQUIRES,
        aliases=ALIASES,
        norm_names=norm_names(prefix),
        reads_classifier=reads_classifier,
        source_kind="sound",
        source_variant="waves",
    )


family = make_family("wav2vec2.", "Wav2Vec2")
